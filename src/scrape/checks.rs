//! Schedules the checks between scrapes. A check has the same steps as a scrape, but reads only the processes
//! of containers that come close to their memory limit. This module does no I/O: the time is passed in.

use std::time::{Duration, Instant};

/// How soon the next check must begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The check begins at once, because a container comes close to its limit.
    Urgent,
    /// The check begins after the usual interval.
    Usual,
    /// The check begins after twice the usual interval, because no container was created for a while. Fewer
    /// checks save CPU time: with 250 containers, even a check that finds nothing takes a millisecond.
    Calm,
}

/// The schedule of checks.
#[derive(Debug)]
pub struct CheckSchedule {
    /// The shortest time from the start of a scrape or a check to the start of the next check, unless that
    /// check is urgent; `None` if there are no checks.
    interval: Option<Duration>,
    /// When the last scrape or check began.
    began_at: Option<Instant>,
}

impl CheckSchedule {
    /// Creates a schedule with this interval; `None` means that there are no checks.
    pub fn new(interval: Option<Duration>) -> Self {
        Self { interval, began_at: None }
    }

    /// Notes that a scrape or a check begins.
    pub fn begin(&mut self, now: Instant) {
        self.began_at = Some(now);
    }

    /// Returns the time at which the next check is due. If a scrape begins before that time, the time must be
    /// computed again. An urgent check is due at once. Other checks are due one interval after the last
    /// scrape or check began, or two intervals after that for [`Need::Calm`]. The CPU budget allows no check
    /// before `allowed_at`. Returns `None` before the first scrape, and for checks that are not urgent if
    /// there is no interval.
    pub fn next_check(&self, allowed_at: Option<Instant>, need: Need) -> Option<Instant> {
        let interval = match need {
            Need::Urgent => Duration::ZERO,
            Need::Usual => self.interval?,
            Need::Calm => 2 * self.interval?,
        };
        let soonest = self.began_at? + interval;
        Some(allowed_at.map_or(soonest, |allowed_at| allowed_at.max(soonest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    #[test]
    fn a_check_follows_an_interval_after_the_last_scrape_or_check() {
        let now = Instant::now();
        let mut schedule = CheckSchedule::new(Some(INTERVAL));
        assert_eq!(schedule.next_check(None, Need::Usual), None, "the first scrape comes first");
        for begun in [now, now + 7 * INTERVAL] {
            schedule.begin(begun);
            assert_eq!(schedule.next_check(None, Need::Usual), Some(begun + INTERVAL));
            assert_eq!(schedule.next_check(Some(begun), Need::Usual), Some(begun + INTERVAL));
            assert_eq!(schedule.next_check(None, Need::Calm), Some(begun + 2 * INTERVAL));
            let allowed_at = begun + 3 * INTERVAL;
            assert_eq!(
                schedule.next_check(Some(allowed_at), Need::Usual),
                Some(allowed_at),
                "the budget is used up"
            );
            assert_eq!(
                schedule.next_check(None, Need::Urgent),
                Some(begun),
                "a container comes close to its limit"
            );
            assert_eq!(
                schedule.next_check(Some(allowed_at), Need::Urgent),
                Some(allowed_at),
                "an urgent check waits for the budget, too"
            );
        }
    }

    #[test]
    fn no_check_is_due_without_an_interval() {
        let now = Instant::now();
        let mut schedule = CheckSchedule::new(None);
        schedule.begin(now);
        assert_eq!(schedule.next_check(None, Need::Usual), None);
    }
}
