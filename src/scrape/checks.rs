//! The schedule of checks between scrapes. Pure: the time is passed in.

use std::time::{Duration, Instant};

/// The interval for reading kill counters that may soon disappear: the cgroup of a container exists for about
/// 30 ms after the kernel has killed its init process.
const WATCH_INTERVAL: Duration = Duration::from_millis(10);

/// The schedule of checks, and of reading kill counters in between.
#[derive(Debug)]
pub struct CheckSchedule {
    /// The shortest time from the start of a scrape or a check to the next check; `None` without checks.
    interval: Option<Duration>,
    /// When the last scrape or check began.
    began_at: Option<Instant>,
    /// When the kill counters were last read, or the start of the program.
    watched_at: Instant,
}

impl CheckSchedule {
    /// Creates a schedule with this interval, or without checks.
    pub fn new(interval: Option<Duration>, now: Instant) -> Self {
        Self { interval, began_at: None, watched_at: now }
    }

    /// Notes that a scrape or a check begins.
    pub fn begin(&mut self, now: Instant) {
        self.began_at = Some(now);
    }

    /// Returns when the next check is due if no scrape comes first. `allowed_at` is when the CPU budget
    /// allows one.
    pub fn next_check(&self, allowed_at: Option<Instant>) -> Option<Instant> {
        let soonest = self.began_at? + self.interval?;
        Some(allowed_at.map_or(soonest, |allowed_at| allowed_at.max(soonest)))
    }

    /// Returns when the kill counters are due; `None` unless `has_watched` is true. The time may be in the
    /// past.
    pub fn next_watch(&self, has_watched: bool) -> Option<Instant> {
        (self.interval.is_some() && has_watched).then(|| self.watched_at + WATCH_INTERVAL)
    }

    /// Notes that the kill counters are read.
    pub fn watch(&mut self, now: Instant) {
        self.watched_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    #[test]
    fn a_check_follows_an_interval_after_the_last_scrape_or_check() {
        let now = Instant::now();
        let mut schedule = CheckSchedule::new(Some(INTERVAL), now);
        assert_eq!(schedule.next_check(None), None, "the first scrape comes first");
        for begun in [now, now + 7 * INTERVAL] {
            schedule.begin(begun);
            assert_eq!(schedule.next_check(None), Some(begun + INTERVAL));
            assert_eq!(schedule.next_check(Some(begun)), Some(begun + INTERVAL));
            let allowed_at = begun + 3 * INTERVAL;
            assert_eq!(schedule.next_check(Some(allowed_at)), Some(allowed_at), "the budget is used up");
        }
    }

    #[test]
    fn kill_counters_are_read_only_if_there_are_any() {
        let now = Instant::now();
        let mut schedule = CheckSchedule::new(Some(INTERVAL), now);
        for watched_at in [now, now + INTERVAL] {
            schedule.watch(watched_at);
            assert_eq!(schedule.next_watch(false), None);
            assert_eq!(schedule.next_watch(true), Some(watched_at + WATCH_INTERVAL));
        }
    }

    #[test]
    fn without_checks_nothing_is_due() {
        let now = Instant::now();
        let mut schedule = CheckSchedule::new(None, now);
        schedule.begin(now);
        assert_eq!(schedule.next_check(None), None);
        assert_eq!(schedule.next_watch(true), None);
    }
}
