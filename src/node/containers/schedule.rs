//! Decides when to list the containers again. This module does no I/O: the time is passed in.

use std::time::{Duration, Instant};

/// Proc may show a change that the listed containers do not explain, such as a process in an unknown cgroup.
/// The containers are then listed repeatedly for this long. A listing within this time may still lack a new
/// container, although the container's first process already exists.
const LAG: Duration = Duration::from_secs(2);
/// The longest time between two listings.
const MAX_AGE: Duration = Duration::from_secs(60);
/// The pause is the shortest time from the beginning of a listing to the beginning of the next one. It is
/// usually this long. The pause doubles with each listing that fails or has a container that had not started
/// yet, up to the longest pause.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// When the next listing is due.
#[derive(Debug, Default)]
pub struct Schedule {
    /// The last time at which something showed that the containers must be listed again. Either proc showed a
    /// change that the listed containers do not explain, such as a process in an unknown cgroup. Or a listing
    /// had a container that had not started yet.
    unexplained_since: Option<Instant>,
    /// When the last successful listing began.
    listed_at: Option<Instant>,
    began_at: Option<Instant>,
    pause: Duration,
}

impl Schedule {
    /// Whether a listing is due.
    pub fn is_due(&self, now: Instant) -> bool {
        if self.began_at.is_some_and(|began| now < began + self.pause) {
            return false;
        }
        let Some(listed) = self.listed_at else { return true };
        now >= listed + MAX_AGE || self.unexplained_since.is_some_and(|since| listed < since + LAG)
    }

    /// Notes that a listing begins.
    pub fn begin(&mut self, now: Instant) {
        self.began_at = Some(now);
    }

    /// Returns the time at which the last listing began.
    pub fn began_at(&self) -> Option<Instant> {
        self.began_at
    }

    /// Notes that a container seems to have started or ended since the last listing.
    pub fn see_unexplained(&mut self, now: Instant) {
        self.unexplained_since = Some(now);
    }

    /// Notes that the listing has succeeded. `more_to_come` says that the listing includes a container that
    /// had not started yet.
    pub fn succeed(&mut self, more_to_come: bool, now: Instant) {
        self.listed_at = self.began_at;
        if more_to_come {
            self.unexplained_since = Some(now);
            self.lengthen_pause(); // a task may stay in the state "created" for good
        } else {
            self.pause = SHORTEST_PAUSE;
        }
    }

    /// Notes that the listing has failed. The next listing begins after a pause.
    pub fn fail(&mut self) {
        self.listed_at = None;
        self.lengthen_pause();
    }

    /// Notes that the runtime has ended. The next listing begins as soon as possible.
    pub fn note_runtime_end(&mut self) {
        self.listed_at = None;
    }

    fn lengthen_pause(&mut self) {
        self.pause = (2 * self.pause).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A schedule, and a clock in milliseconds.
    struct Clock(Schedule, Instant);

    impl Clock {
        /// Returns a schedule with successful listings at 0 and 3,000 milliseconds.
        fn quiet() -> Self {
            let mut clock = Self(Schedule::default(), Instant::now());
            clock.list(0, false);
            clock.list(3000, false);
            clock
        }

        fn at(&self, ms: u64) -> Instant {
            self.1 + Duration::from_millis(ms)
        }

        fn list(&mut self, ms: u64, more_to_come: bool) {
            let now = self.at(ms);
            self.0.begin(now);
            self.0.succeed(more_to_come, now);
        }

        fn is_due(&self, ms: u64) -> bool {
            self.0.is_due(self.at(ms))
        }
    }

    #[test]
    fn quiet_node_is_listed_once_a_minute() {
        assert!(Schedule::default().is_due(Instant::now()));
        let clock = Clock::quiet();
        assert!(!clock.is_due(10_000) && !clock.is_due(62_999));
        assert!(clock.is_due(63_000));
    }

    #[test]
    fn listing_two_seconds_later_explains_what_was_seen() {
        let mut clock = Clock::quiet();
        clock.0.see_unexplained(clock.at(11_000));
        assert!(clock.is_due(11_000));
        clock.list(11_000, false);
        assert!(!clock.is_due(11_249), "not so soon");
        assert!(clock.is_due(12_000), "the source may not have known yet");
        clock.list(12_999, false);
        assert!(clock.is_due(13_500));
        clock.list(13_500, false);
        assert!(!clock.is_due(14_000), "it is no container");
    }

    #[test]
    fn failed_listings_come_at_longer_and_longer_intervals() {
        let mut clock = Clock::quiet();
        let mut ms = 100_000;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            clock.0.begin(clock.at(ms));
            clock.0.fail();
            let pause = (0..).step_by(250).find(|pause| clock.is_due(ms + pause)).unwrap();
            pauses.push(pause);
            ms += pause;
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 4000, 4000, 4000, 4000]);
        clock.list(ms, false);
        assert!(!clock.is_due(ms + 59_999), "what was seen before is explained");
    }

    #[test]
    fn listing_follows_the_end_of_the_runtime_immediately() {
        let mut clock = Clock::quiet();
        clock.0.note_runtime_end();
        assert!(clock.is_due(3250) && !clock.is_due(3249));
        assert_eq!(clock.0.began_at(), Some(clock.at(3000)));
    }

    #[test]
    fn created_task_causes_fewer_and_fewer_listings() {
        let mut clock = Clock::quiet();
        let mut n_listings = 0;
        clock.list(20_000, true);
        for tick in (20_000..80_000).step_by(250) {
            if clock.is_due(tick) {
                clock.list(tick, true);
                n_listings += 1;
            }
        }
        assert!((14..=18).contains(&n_listings), "{n_listings} in a minute");
    }
}
