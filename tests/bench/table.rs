//! Runs rounds of measurements and prints a table of the results.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Whether everything is measured only once and on little data. A short run shows that the bench works. Its
/// figures mean nothing.
pub static IS_SHORT: AtomicBool = AtomicBool::new(false);

/// Returns `full` in a full run, and `short` in a short run.
pub fn full_or_short<T>(full: T, short: T) -> T {
    if IS_SHORT.load(Ordering::Relaxed) { short } else { full }
}

/// Runs the parts one after another, and repeats this `n_rounds` times. Returns the CPU seconds, user and
/// system, that this thread used for each part in each round.
pub fn rounds<const N: usize>(n_rounds: usize, mut parts: [&mut dyn FnMut(); N]) -> [Vec<f64>; N] {
    let n_rounds = full_or_short(n_rounds, 1);
    let mut seconds = [(); N].map(|()| Vec::with_capacity(n_rounds));
    for round in 0..=n_rounds {
        for (part, seconds) in parts.iter_mut().zip(&mut seconds) {
            let before = cpu_time();
            part();
            let spent = cpu_time() - before;
            if round > 0 {
                seconds.push(spent.as_secs_f64()); // the first round is a warm-up
            }
        }
    }
    seconds
}

/// Returns the CPU time, user and system, that the calling thread has used.
pub fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The bound that a figure should meet.
#[derive(Clone, Copy)]
pub enum Target {
    AtLeast(f64),
    AtMost(f64),
    None,
}

/// Prints the heading of a group of figures.
pub fn heading(text: &str) {
    println!("\n{text}\n{:60}{:>12}{:>12}  {:12}", "", "best", "median", "target");
}

/// Prints a figure: its value in the best round, and the median of all rounds.
pub fn row(what: &str, best: f64, median: f64, unit: &str, target: Target) {
    let (bound, is_met) = match target {
        Target::AtLeast(bound) => (format!(">= {bound}"), median >= bound),
        Target::AtMost(bound) => (format!("<= {bound}"), median <= bound),
        Target::None => (String::new(), true),
    };
    let verdict = match (target, is_met) {
        (Target::None, _) => "",
        (_, true) => "met",
        (_, false) => "MISSED",
    };
    let line = format!("  {what:58}{:>12}{:>12}  {bound:12}{unit:8}{verdict}", number(best), number(median));
    println!("{}", line.trim_end());
}

/// Prints a figure that was measured once.
pub fn single(what: &str, value: f64, unit: &str, target: Target) {
    row(what, value, value, unit, target);
}

/// Prints how much was done per second. `amount` was done in each round, and `seconds` has the duration of
/// each round.
pub fn rate(what: &str, amount: f64, seconds: &[f64], unit: &str, target: Target) {
    row(what, amount / min(seconds), amount / median(seconds), unit, target);
}

/// Prints the shortest and the median of these times. The times in `seconds` are multiplied by `a_second`,
/// which is 1000 if `unit` is ms.
pub fn time(what: &str, seconds: &[f64], a_second: f64, unit: &str, target: Target) {
    row(what, min(seconds) * a_second, median(seconds) * a_second, unit, target);
}

/// Prints the ratio of `a` to `b` in two forms: the ratio of their best rounds, and the median of the ratios
/// in all rounds.
pub fn ratio(what: &str, a: &[f64], b: &[f64], target: Target) {
    let by_round: Vec<f64> = a.iter().zip(b).map(|(a, b)| a / b).collect();
    row(what, min(a) / min(b), median(&by_round), "times", target);
}

pub fn min(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

fn number(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        value if value < 10.0 => format!("{value:.3}"),
        value if value < 1000.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}
