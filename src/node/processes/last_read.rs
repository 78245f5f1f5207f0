//! The last read of a process: its cost, the values that it returned, and what to read next. This module does
//! no I/O.

use std::time::{Duration, Instant};

use super::change_check::{ChangeCheck, Check, Fingerprint};
use super::job::Detail;
use super::read_state::Pause;
use crate::totals::reading::ReadingId;

/// After a long read, the process is not read for this many times the duration of the read. As a result, its
/// memory-map lock is held at most 1% of the time.
const REST: u32 = 100;

/// After the mappings of a process were counted, this many further reads of `smaps_rollup` use the same
/// count. `smaps_rollup` does not show the number of mappings, and counting them makes a read take 50%
/// longer.
const MAX_COUNT_USES: u32 = 9;

/// A program, identified by the start addresses of its code and its stack, as `stat` shows them.
pub type Program = [u64; 2];

/// The duration of a read is estimated as [`READ_OF_GIB`] for each GiB of resident memory, plus
/// [`READ_OF_MAPPINGS`], which is 5 us for each of 200 mappings. The real number of mappings is not used,
/// because counting them would take the memory-map lock.
const READ_OF_GIB: Duration = Duration::from_millis(15);
const READ_OF_MAPPINGS: Duration = Duration::from_micros(5 * 200);

/// The time and the CPU time that a read took.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// When the read began.
    pub began_at: Instant,
    /// How long the read took.
    pub elapsed: Duration,
    /// The CPU time of the reading thread from the end of its previous read to the end of this read.
    pub cpu_time: Duration,
}

/// What kind of values a read of the memory returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing was read, because nothing has changed.
    Unchanged,
    /// Every mapping.
    Mappings,
    /// The kernel's sum over all mappings.
    Sum,
    /// The kernel's sum over all mappings, which was read because printing each mapping took too long.
    SumOfSlow,
}

/// What a read of the memory returned. The values of the smaps fields are returned separately.
#[derive(Clone, Copy, Debug)]
pub struct MemoryRead {
    /// What was read.
    pub content: Content,
    /// The number of mappings. If the kernel took too long to print them, a lower bound of that number.
    pub n_mappings: u64,
    /// The fingerprint that the change check took before the read, if it took one.
    pub fingerprint: Option<Fingerprint>,
    /// The program that the process ran during the read. `None` if `stat` was not read, or did not show the
    /// addresses that identify a program.
    pub program: Option<Program>,
}

/// What the last reads of a process have found: its current memory values, when they were read, how long that
/// took, and what the next read must read.
#[derive(Debug, Default)]
pub struct LastRead {
    /// When the last read began, even if the read failed. Reads that found overlapping mappings do not count.
    /// If the process has values, the last read that counts returned or confirmed them.
    at: Option<Instant>,
    /// The beginning of the last read that found overlapping mappings. Such a read returns no values, so the
    /// process keeps its previous values.
    torn_at: Option<Instant>,
    /// How long the read that returned the values took.
    took: Duration,
    /// The id under which the snapshot stores the values. `None` if the process has no values.
    reading: Option<ReadingId>,
    /// Whether the last read found that the process maps nothing.
    maps_nothing: bool,
    /// The program that the process ran when its values were read. `None` if `stat` was not read, or did not
    /// show the addresses that identify a program.
    program: Option<Program>,
    /// Set after the kernel took too long to print the mappings. The first value is the time until which only
    /// the sum over all mappings is read (from `smaps_rollup`). The second value is the number of mappings
    /// that the slow read had found when it was cancelled. The process has at least this many mappings.
    summed_until: Option<(Instant, u64)>,
    count: MappingCount,
    check: ChangeCheck,
}

/// The number of mappings when they were last counted, and how many more reads of `smaps_rollup` may use that
/// number until the mappings are counted again.
#[derive(Clone, Copy, Debug, Default)]
struct MappingCount {
    n_mappings: u64,
    n_uses_left: u32,
}

impl LastRead {
    /// Returns the time at which the last read began, even if the read failed. A read that found overlapping
    /// mappings does not count, because the process keeps its previous values after such a read.
    pub fn at(&self) -> Option<Instant> {
        self.at
    }

    /// Returns how long the next read will probably take. The last read found `before` resident bytes, and
    /// now there are `now`. If the process was never read, `before` is 0.
    ///
    /// If the process has grown, the read takes longer in proportion, but not longer than the estimate from
    /// its resident memory. That estimate alone is 8 times too long for a process with huge pages.
    pub fn expected_duration(&self, before: u64, now: u64) -> Duration {
        let estimate = READ_OF_MAPPINGS + READ_OF_GIB.mul_f64(now as f64 / f64::from(1 << 30));
        if self.took.is_zero() || before == 0 {
            return estimate.max(self.took);
        }
        self.took.max(estimate.min(self.took.mul_f64(now as f64 / before as f64)))
    }

    /// Returns how long the read that returned the values took.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// Whether the process has values.
    pub fn has_values(&self) -> bool {
        self.reading.is_some()
    }

    /// Whether a read has shown what the process maps. This is also true if the process maps nothing.
    pub fn is_known(&self) -> bool {
        self.has_values() || self.maps_nothing
    }

    /// Drops the values, because the process maps nothing.
    pub fn drop_reading(&mut self) {
        (self.reading, self.maps_nothing) = (None, true);
    }

    /// Returns the id under which the snapshot stores the values, if the process has values.
    pub fn reading(&self) -> Option<&ReadingId> {
        self.reading.as_ref()
    }

    /// Returns a mutable reference to the id under which the snapshot stores the values.
    pub fn reading_mut(&mut self) -> &mut Option<ReadingId> {
        &mut self.reading
    }

    /// Returns the program that the process ran when its values were read. `None` if `stat` was not read, or
    /// did not show the addresses that identify a program.
    pub fn program(&self) -> Option<Program> {
        self.program
    }

    /// Whether the kernel has ever taken too long to print the mappings of the program that the process runs
    /// now.
    pub fn was_slow(&self) -> bool {
        self.summed_until.is_some()
    }

    /// Returns the time at which the last read of the process began. A read that found overlapping mappings
    /// also counts, although it returned no values.
    pub fn due_since(&self) -> Option<Instant> {
        self.at.max(self.torn_at)
    }

    /// Returns what the next read must read.
    pub fn next(&mut self, with_rollup: bool, always_reads: bool, now: Instant) -> Detail {
        match self.summed_until {
            Some((until, n_printed)) if now < until => Detail::Other { n_printed },
            _ if with_rollup => {
                let MappingCount { n_mappings, n_uses_left } = self.count;
                self.count.n_uses_left = n_uses_left.saturating_sub(1);
                Detail::Rollup { known_count: (n_uses_left > 0).then_some(n_mappings) }
            }
            _ if always_reads => Detail::Mappings(Check::ReadAll),
            _ => Detail::Mappings(self.check.next(now)),
        }
    }

    /// Notes that a read succeeded. Returns the pause before the next read.
    pub fn note(&mut self, detail: Detail, read: &MemoryRead, cost: &Cost, interval: Duration) -> Pause {
        self.at = Some(cost.began_at);
        self.program = read.program;
        match detail {
            Detail::Mappings(_) if read.content == Content::Unchanged => {
                self.check.note_confirmed(cost.cpu_time);
            }
            Detail::Mappings(check) => {
                self.check.note_read(check, read.fingerprint, cost.cpu_time, cost.began_at);
            }
            _ => self.check.forget(),
        }
        if read.content != Content::Unchanged {
            self.took = cost.elapsed;
        }
        if detail == (Detail::Rollup { known_count: None }) {
            self.count = MappingCount { n_mappings: read.n_mappings, n_uses_left: MAX_COUNT_USES };
        }
        if read.content == Content::SumOfSlow {
            self.summed_until = Some((end_of_rest(cost), read.n_mappings));
            return Pause::None; // the sum is cheap
        }
        rest_after(cost, interval)
    }

    /// Notes that a read found overlapping mappings. The previous values are kept. Returns the pause before
    /// the next read.
    pub fn note_torn(&mut self, cost: &Cost, was_slow: bool, interval: Duration) -> Pause {
        self.torn_at = Some(cost.began_at);
        if was_slow { Pause::Resting { until: end_of_rest(cost) } } else { rest_after(cost, interval) }
    }

    /// Notes that a read failed for a reason other than overlapping mappings. The values are dropped.
    pub fn note_failed(&mut self, cost: &Cost) {
        self.forget_values();
        self.at = Some(cost.began_at);
    }

    /// Drops the memory values of the process. Also drops what was stored to find out later whether the
    /// values have changed.
    pub fn forget_values(&mut self) {
        self.count = MappingCount::default();
        self.check.forget();
        (self.reading, self.maps_nothing) = (None, false);
    }

    /// Drops the values of a process that is no longer selected. If a filter selects the process again later,
    /// the process counts as new.
    pub fn forget(&mut self) {
        (self.at, self.torn_at) = (None, None);
        self.forget_values();
    }

    /// Drops everything that applies only to the program that the process ran before.
    pub fn start_over(&mut self) {
        self.forget();
        (self.program, self.summed_until) = (None, None);
    }
}

/// Returns the pause after a read. If the read used more CPU time than a hundredth of `interval`, the pause
/// is [`REST`] times as long as the read took. Otherwise there is no pause.
fn rest_after(cost: &Cost, interval: Duration) -> Pause {
    let is_long = REST * cost.cpu_time > interval;
    if is_long { Pause::Resting { until: end_of_rest(cost) } } else { Pause::None }
}

fn end_of_rest(cost: &Cost) -> Instant {
    cost.began_at + cost.elapsed + REST * cost.elapsed
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn read(content: Content) -> MemoryRead {
        MemoryRead { content, n_mappings: 500, fingerprint: None, program: None }
    }

    /// Returns the cost of a read that took `ms` milliseconds, and used the CPU all the time.
    fn cost(began_at: Instant, ms: u64) -> Cost {
        let elapsed = Duration::from_millis(ms);
        Cost { began_at, elapsed, cpu_time: elapsed }
    }

    #[test]
    fn count_of_mappings_is_used_for_nine_sums() {
        let (mut last, now) = (LastRead::default(), Instant::now());
        for known_count in [None].into_iter().chain([Some(500); 9]).chain([None]) {
            let detail = last.next(true, false, now);
            assert_eq!(detail, Detail::Rollup { known_count });
            last.note(detail, &read(Content::Sum), &cost(now, 1), INTERVAL);
        }
        assert_eq!(last.next(false, false, now), Detail::Mappings(Check::CompareWith(None)));
        last.forget_values();
        assert_eq!(last.next(true, false, now), Detail::Rollup { known_count: None });
    }

    #[test]
    fn long_read_is_followed_by_a_rest_of_100_times_its_duration() {
        let (mut last, now) = (LastRead::default(), Instant::now());
        let detail = last.next(false, false, now);
        for (ms, rest) in [(100, None), (101, Some(101 + 10_100)), (1, None)] {
            let pause = last.note(detail, &read(Content::Mappings), &cost(now, ms), INTERVAL);
            let until = |ms| Pause::Resting { until: now + Duration::from_millis(ms) };
            assert_eq!(pause, rest.map_or(Pause::None, until), "{ms}");
            assert_eq!((last.at(), last.took()), (Some(now), Duration::from_millis(ms)));
        }
    }

    #[test]
    fn slow_mappings_are_summed_for_a_while() {
        let (mut last, now) = (LastRead::default(), Instant::now());
        let detail = last.next(false, false, now);
        let pause = last.note(detail, &read(Content::SumOfSlow), &cost(now, 1000), INTERVAL);
        assert_eq!(pause, Pause::None, "the sum is cheap");
        let until = now + Duration::from_millis(1000 + 100_000);
        let just_before = until - Duration::from_nanos(1);
        for with_rollup in [false, true] {
            assert_eq!(last.next(with_rollup, false, just_before), Detail::Other { n_printed: 500 });
        }
        assert_eq!(last.next(false, false, until), Detail::Mappings(Check::CompareWith(None)));
    }

    #[test]
    fn torn_read_keeps_the_age_of_the_values() {
        let (mut last, now) = (LastRead::default(), Instant::now());
        last.note(Detail::Mappings(Check::ReadAll), &read(Content::Mappings), &cost(now, 1), INTERVAL);
        let later = now + Duration::from_secs(1);
        assert_eq!(last.note_torn(&cost(later, 1), false, INTERVAL), Pause::None);
        assert_eq!((last.at(), last.due_since()), (Some(now), Some(later)));
        let pause = last.note_torn(&cost(later, 101), false, INTERVAL);
        assert_eq!(pause, Pause::Resting { until: later + Duration::from_millis(101 + 10_100) });
        last.note_failed(&cost(later, 1));
        assert_eq!(last.at(), Some(later));
        last.forget();
        assert_eq!(last.due_since(), None);
    }

    #[test]
    fn a_read_of_a_process_that_has_grown_takes_longer() {
        const MIB: u64 = 1 << 20;
        for (took, before, now, expected) in [
            (0, 0, 1024 * MIB, 16_000), // never read
            (100, 2 * MIB, 256 * MIB, 4750),
            (400_000, 240 << 30, 252 << 30, 420_000), // with huge pages
            (10_000, 256 * MIB, 2 * MIB, 10_000),
        ] {
            let last = LastRead { took: Duration::from_micros(took), ..LastRead::default() };
            assert_eq!(last.expected_duration(before, now), Duration::from_micros(expected), "{took}");
        }
    }
}
