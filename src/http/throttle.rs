//! Bounds the CPU time of the thread that answers: a bucket of credit that fills at a fraction of a core.
//!
//! One thread does all that a client can cause, so its CPU clock knows the whole cost: accepting, reading, compressing,
//! writing. What a response costs is known only afterwards, so the credit may become negative; then everybody waits.

use std::thread;
use std::time::{Duration, Instant};

use super::limits::Limits;
use crate::procfs::this_process::thread_cpu_time;

/// The credit of the thread that made it.
pub struct Throttle {
    fraction: f64,
    burst: f64,
    /// In seconds of CPU time.
    credit: f64,
    at: Instant,
    cpu: Duration,
}

impl Throttle {
    /// With a full bucket.
    pub fn new(limits: &Limits) -> Self {
        let burst = limits.cpu_burst.as_secs_f64();
        Throttle { fraction: limits.cpu, burst, credit: burst, at: Instant::now(), cpu: thread_cpu_time() }
    }

    /// Charges what this thread has used since the last call, and says how much that was.
    pub fn charge(&mut self) -> Duration {
        self.advance(Instant::now(), thread_cpu_time())
    }

    fn advance(&mut self, at: Instant, cpu: Duration) -> Duration {
        let used = cpu.saturating_sub(self.cpu);
        let earned = at.saturating_duration_since(self.at).as_secs_f64() * self.fraction;
        self.credit = (self.credit + earned).min(self.burst) - used.as_secs_f64();
        (self.at, self.cpu) = (at, cpu);
        used
    }

    /// Whether there is credit left.
    pub fn has_credit(&self) -> bool {
        self.credit > 0.0
    }

    /// Sleeps until there is credit.
    pub fn wait(&mut self) {
        self.charge();
        while !self.has_credit() {
            thread::sleep(self.pause());
            self.charge();
        }
    }

    /// How long it takes to earn what is missing; a little more, so that a pause is worth its own cost.
    fn pause(&self) -> Duration {
        Duration::from_secs_f64(-self.credit / self.fraction) + Duration::from_millis(5)
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::LIMITS;
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn no_more_than_the_fraction_and_one_burst_is_used() {
        let mut throttle = Throttle::new(&Limits { cpu: 0.1, cpu_burst: 100 * MS, ..LIMITS });
        let (begin, mut cpu) = (throttle.at, throttle.cpu);
        let mut now = begin;
        // A thread that uses 7 ms of CPU time whenever it may.
        while now < begin + 10_000 * MS {
            while throttle.has_credit() {
                (now, cpu) = (now + 7 * MS, cpu + 7 * MS);
                assert_eq!(throttle.advance(now, cpu), 7 * MS);
            }
            now += throttle.pause();
            throttle.advance(now, cpu);
        }
        let used = cpu.as_secs_f64() - thread_cpu_time().as_secs_f64();
        assert!((0.9..1.2).contains(&used), "{used} s in 10 s");
    }

    #[test]
    fn a_debt_is_paid_before_anything_else() {
        let mut throttle = Throttle::new(&Limits { cpu: 0.1, cpu_burst: 100 * MS, ..LIMITS });
        let (now, cpu) = (throttle.at, throttle.cpu);
        throttle.advance(now, cpu + 150 * MS);
        assert!(!throttle.has_credit());
        assert!((500 * MS..510 * MS).contains(&throttle.pause()), "{:?}", throttle.pause());
        throttle.advance(now + 499 * MS, cpu + 150 * MS);
        assert!(!throttle.has_credit());
        throttle.advance(now + 501 * MS, cpu + 150 * MS);
        assert!(throttle.has_credit());
    }

    #[test]
    fn credit_does_not_pile_up() {
        let mut throttle = Throttle::new(&Limits { cpu: 0.1, cpu_burst: 100 * MS, ..LIMITS });
        let (now, cpu) = (throttle.at + 3_600_000 * MS, throttle.cpu);
        throttle.advance(now, cpu);
        throttle.advance(now, cpu + 101 * MS);
        assert!(!throttle.has_credit());
    }
}
