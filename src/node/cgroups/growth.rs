//! How fast the use of a cgroup grows toward its limit, and what follows from that. Pure: the time is passed
//! in.
//!
//! What a container maps has to be read before it reaches its limit: a walk through the pages of a process
//! that is killed meanwhile keeps its memory charged until the walk ends, so the kernel may kill a second
//! process (11 of 12 trials with 256 MiB). A leak of 50 MB/s into 64 MB takes 0.2 s from 86% of the limit on.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What the container maps is read from this many thousandths of the limit on, and again after each further
/// [`STEP`]. Mapped memory is a little less than the use: read from 850 on, 6 of 86 leaks had just under 85%
/// of the limit in their record.
const CLOSE: u64 = 860;
const STEP: u64 = 50;
/// Below this, reading begins again at [`CLOSE`].
const FAR: u64 = 800;
/// Growth is the largest between two looks within this time.
const WINDOW: Duration = Duration::from_secs(5);
/// The longest time between two looks.
pub const MAX_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time between two looks.
pub const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// What one look at a cgroup shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The bytes that are charged.
    pub current: u64,
    /// The bytes of page cache that the kernel can take back at once; `None` if they were not read.
    pub inactive: Option<u64>,
}

/// What is charged to a cgroup, and its limit, in bytes; `None` where it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UseAndLimit {
    /// The bytes that are charged.
    pub current: Option<u64>,
    /// The cgroup's own limit.
    pub limit: Option<u64>,
}

impl Look {
    /// Returns the bytes that count toward the limit.
    fn used(&self) -> u64 {
        self.current.saturating_sub(self.inactive.unwrap_or(0))
    }
}

/// The use of one cgroup over the last looks.
#[derive(Debug, Default)]
pub struct Growth {
    limit: Option<u64>,
    last: Option<(Instant, Look)>,
    /// Growth in bytes per second, and when it was seen: those within [`WINDOW`] that no later one exceeds.
    rates: VecDeque<(Instant, u64)>,
    /// The use at which what is mapped was last due to be read.
    read_at: Option<u64>,
    /// When the kernel last reported that the limit was reached.
    hit_at: Option<Instant>,
}

impl Growth {
    /// Returns the growth of a cgroup that was created within the last second and was empty.
    pub fn of_new(now: Instant) -> Self {
        let before = now.checked_sub(MAX_INTERVAL);
        let empty = Look { current: 0, inactive: Some(0) };
        Self { last: before.map(|before| (before, empty)), ..Self::default() }
    }

    /// Sets the limit; `None` means that there is none. Returns whether it is another one than before.
    pub fn set_limit(&mut self, limit: Option<u64>) -> bool {
        let before = std::mem::replace(&mut self.limit, limit);
        if limit.is_none() {
            *self = Self::default();
        }
        limit != before
    }

    /// Whether there is a limit. Without one, looking at the use is not worth its time.
    pub fn has_limit(&self) -> bool {
        self.limit.is_some()
    }

    /// Whether so much is charged that it matters how much of it is inactive page cache. Reading that takes
    /// seven times as long as reading what is charged.
    pub fn needs_inactive(&self, current: u64) -> bool {
        self.limit.is_some_and(|limit| current >= part_of(limit, CLOSE))
    }

    /// Takes a look. Returns whether it is time to read what the container maps.
    pub fn see(&mut self, look: Look, now: Instant) -> bool {
        let is_first = self.last.is_none();
        if let Some((before_at, before)) = self.last.replace((now, look)) {
            // Looks with and without inactive page cache are not comparable.
            let has_both = before.inactive.is_some() && look.inactive.is_some();
            let of = |look: Look| if has_both { look.used() } else { look.current };
            let elapsed = now.saturating_duration_since(before_at).max(MIN_INTERVAL / 4);
            let rate = (of(look).saturating_sub(of(before)) as f64 / elapsed.as_secs_f64()) as u64;
            self.rates.retain(|&(at, other)| now < at + WINDOW && other > rate);
            if rate > 0 {
                self.rates.push_back((now, rate));
            }
        }
        let (Some(limit), used) = (self.limit, look.used()) else { return false };
        if used < part_of(limit, FAR) {
            self.read_at = None;
        }
        // At the first look it is not known whether the use grows.
        let may_grow = is_first || self.rate(now) > 0;
        let is_due = (self.next_read(limit)..limit).contains(&used) && may_grow;
        if is_due {
            self.read_at = Some(used);
        }
        is_due
    }

    /// Returns the time until the next look.
    pub fn interval(&self, now: Instant) -> Duration {
        let (Some(limit), Some((_, look))) = (self.limit, self.last) else { return MAX_INTERVAL };
        let next = self.next_read(limit).min(limit);
        let is_soon = self.time_to(next, look, now).is_some_and(|time| time < MAX_INTERVAL);
        if is_soon { MIN_INTERVAL } else { MAX_INTERVAL }
    }

    /// Returns the use from which on it is next time to read what the container maps.
    fn next_read(&self, limit: u64) -> u64 {
        self.read_at.map_or(part_of(limit, CLOSE), |read_at| read_at + part_of(limit, STEP))
    }

    /// Notes that the limit was reached.
    pub fn note_hit(&mut self, now: Instant) {
        self.hit_at = Some(now);
    }

    /// Returns how long the cgroup takes to reach its limit if it grows on; `None` if it has no limit or did
    /// not grow.
    pub fn time_to_limit(&self, now: Instant) -> Option<Duration> {
        if self.hit_at.is_some_and(|hit_at| now < hit_at + MAX_INTERVAL) {
            return Some(Duration::ZERO);
        }
        self.time_to(self.limit?, self.last?.1, now)
    }

    /// Returns how many thousandths of the limit are used.
    pub fn permille(&self) -> Option<u64> {
        Some(self.last?.1.used().saturating_mul(1000) / self.limit?.max(1))
    }

    /// Returns what is charged, and the limit, as of the last look.
    pub fn use_and_limit(&self) -> UseAndLimit {
        UseAndLimit { current: self.last.map(|(_, look)| look.current), limit: self.limit }
    }

    fn time_to(&self, target: u64, look: Look, now: Instant) -> Option<Duration> {
        let rate = Some(self.rate(now)).filter(|&rate| rate > 0)?;
        Some(Duration::from_secs_f64(target.saturating_sub(look.used()) as f64 / rate as f64))
    }

    /// Returns the growth in bytes per second.
    fn rate(&self, now: Instant) -> u64 {
        let recent = self.rates.iter().find(|(at, _)| now < *at + WINDOW);
        recent.map_or(0, |&(_, rate)| rate)
    }
}

/// Returns this many thousandths of a limit.
pub fn part_of(limit: u64, permille: u64) -> u64 {
    (u128::from(limit) * u128::from(permille) / 1000) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;
    const MS: Duration = Duration::from_millis(1);

    /// A simulated cgroup with this limit in MB.
    struct Simulated {
        growth: Growth,
        now: Instant,
        n_looks: u32,
    }

    impl Simulated {
        fn new(limit: u64) -> Self {
            let mut growth = Growth::default();
            growth.set_limit(Some(limit * MB));
            Self { growth, now: Instant::now(), n_looks: 0 }
        }

        fn look(&mut self, mb: f64) -> bool {
            self.n_looks += 1;
            self.growth.see(Look { current: (mb * MB as f64) as u64, inactive: None }, self.now)
        }

        /// Looks at the use in MB, which `of` returns for each second, as often as is due. Returns the uses
        /// at which what is mapped is read.
        fn run(&mut self, seconds: f64, of: impl Fn(f64) -> f64) -> Vec<f64> {
            let (start, mut read) = (self.now, Vec::new());
            loop {
                let mb = of((self.now - start).as_secs_f64());
                if self.look(mb) {
                    read.push(mb);
                }
                let next = self.now + self.growth.interval(self.now);
                if next > start + Duration::from_secs_f64(seconds) {
                    return read;
                }
                self.now = next;
            }
        }
    }

    /// The leaks that the records have to explain: from 70% of the limit, after three seconds of rest.
    #[test]
    fn a_leak_is_read_between_85_percent_and_the_limit() {
        for limit in [64.0, 256.0, 1000.0] {
            for rate in [1.0, 10.0, 50.0] {
                let mut leak = Simulated::new(limit as u64);
                leak.growth = Growth::of_new(leak.now);
                leak.growth.set_limit(Some(limit as u64 * MB));
                let of = |second: f64| limit * 0.7 + rate * (second - 3.0).max(0.0);
                let read = leak.run(3.0 + 0.3 * limit / rate, of);
                assert!((0.85..0.93).contains(&(read[0] / limit)), "{rate} MB/s of {limit}: {read:?}");
                let is_last = *read.last().unwrap() >= 0.93 * limit || rate / limit > 0.7;
                assert!(is_last && read.len() <= 3, "{rate} MB/s of {limit}: {read:?}");
            }
        }
    }

    #[test]
    fn a_container_at_half_of_its_limit_is_looked_at_once_a_second() {
        let mut quiet = Simulated::new(1000);
        // Its use goes up and down by 2 MB each second.
        assert_eq!(quiet.run(60.0, |second| 500.0 + second.rem_euclid(2.0)), [0.0; 0]);
        assert_eq!(quiet.n_looks, 61);
        let mut full = Simulated::new(1000);
        assert_eq!(full.run(60.0, |_| 990.0), [990.0], "it does not grow");
        assert_eq!(full.n_looks, 61);
    }

    #[test]
    fn inactive_page_cache_does_not_count() {
        let (mut growth, now) = (Growth::default(), Instant::now());
        growth.set_limit(Some(1000));
        assert!(!growth.needs_inactive(859) && growth.needs_inactive(860));
        let looks = [(500, None), (990, Some(930)), (995, Some(930)), (995, Some(100))];
        let seen = (0..).zip(looks).map(|(second, (current, inactive))| {
            let now = now + second * MAX_INTERVAL;
            (growth.see(Look { current, inactive }, now), growth.permille().unwrap())
        });
        assert_eq!(seen.collect::<Vec<_>>(), [(false, 500), (false, 60), (false, 65), (true, 895)]);
    }

    #[test]
    fn the_time_to_the_limit_is_that_of_the_fastest_growth_in_five_seconds() {
        let mut leak = Simulated::new(100);
        let start = leak.now;
        leak.look(10.0);
        assert_eq!(leak.growth.time_to_limit(leak.now), None, "one look shows no growth");
        for (ms, mb, expected) in [
            (1000, 20.0, Some(8000)),
            (2000, 40.0, Some(3000)),
            (3000, 40.0, Some(3000)),
            (6999, 50.0, Some(2500)),
            (7001, 50.0, Some(20_000)),
            (13_000, 50.0, None),
        ] {
            leak.now = start + ms * MS;
            leak.look(mb);
            let time = leak.growth.time_to_limit(leak.now);
            let time = time.map(|time| (time.as_secs_f64() * 1000.0).round() as u64);
            let is_near = |expected: u64| time.is_some_and(|time| time.abs_diff(expected) <= expected / 50);
            assert!(expected.map_or(time.is_none(), is_near), "{ms}: {time:?}");
        }
        leak.growth.note_hit(leak.now);
        assert_eq!(leak.growth.time_to_limit(leak.now + 999 * MS), Some(Duration::ZERO));
        assert_eq!(leak.growth.time_to_limit(leak.now + MAX_INTERVAL), None);
    }

    #[test]
    fn a_limit_that_is_lowered_makes_a_container_close_to_it() {
        let mut lowered = Simulated::new(1000);
        lowered.look(500.0);
        lowered.now += MAX_INTERVAL;
        assert!(!lowered.look(501.0));
        assert_eq!(lowered.growth.permille(), Some(501));
        lowered.growth.set_limit(Some(520 * MB));
        lowered.now += MAX_INTERVAL;
        assert!(lowered.look(502.0));
        assert_eq!(lowered.growth.permille(), Some(965));
        assert!(lowered.growth.set_limit(None) && !lowered.growth.set_limit(None));
        assert!(!lowered.growth.has_limit() && lowered.growth.time_to_limit(lowered.now).is_none());
    }

    #[test]
    fn a_container_that_is_close_at_the_first_look_is_read() {
        assert!(Simulated::new(100).look(86.0));
        assert!(!Simulated::new(100).look(84.0));
    }

    #[test]
    fn a_container_that_falls_below_80_percent_is_read_again() {
        let mut leak = Simulated::new(100);
        let uses = [70.0, 86.0, 89.0, 91.0, 81.0, 86.0, 79.0, 86.0];
        let read = uses.map(|mb| {
            leak.now += MAX_INTERVAL;
            leak.look(mb)
        });
        assert_eq!(read, [false, true, false, true, false, false, false, true]);
    }
}
