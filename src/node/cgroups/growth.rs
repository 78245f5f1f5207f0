//! Measures how fast the memory use of a cgroup grows toward its limit. From the growth, this module decides
//! when to measure again and when to read the processes in the cgroup. It does no I/O: the time is passed in.
//!
//! The processes have to be read before their container reaches its limit. If the kernel kills a process
//! while its smaps are read, the memory of that process stays charged until the read ends, so the kernel may
//! kill a second process. A second process was killed in 11 of 12 trials with a limit of 256 MiB. There is
//! little time: in a container with a limit of 64 MB, a leak of 50 MB/s needs 0.2 s from 86% of the limit to
//! the limit.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The processes are read when the memory use reaches this many thousandths of the limit, and again after
/// each further [`STEP`] of memory use. The number is 860, and not 850, because an OOM record should show
/// mapped memory of at least 85% of the limit, and a container maps a little less memory than it uses. With
/// 850, 6 of 86 records showed just under 85%.
const CLOSE: u64 = 860;
const STEP: u64 = 50;
/// After the processes were read at [`CLOSE`], the memory use must fall below this many thousandths of the
/// limit before they are read at [`CLOSE`] again. Otherwise a memory use that varies around [`CLOSE`] would
/// cause many reads.
const FAR: u64 = 800;
/// How long a measured growth rate is kept. The growth rate of a cgroup is the highest rate that is kept.
const WINDOW: Duration = Duration::from_secs(5);
/// The size of a huge page in bytes, which is the largest piece of memory that the kernel charges at once. A
/// growing cgroup that is at most this far below its limit is treated as if it had reached the limit. The
/// reason is that a measurement rarely shows a memory use exactly at the limit: with a limit of 256 MB and a
/// leak of 1 MB/s, no measurement in a test did.
const PIECE: u64 = 2 << 20;
/// The longest time between two measurements.
pub const MAX_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time between two measurements.
pub const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// One measurement of a cgroup's memory use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// The bytes that are charged to the cgroup.
    pub current: u64,
    /// The bytes of page cache that the kernel can reclaim at once; `None` if they were not read.
    pub inactive: Option<u64>,
}

/// The memory use and the limit of a cgroup, in bytes. A value that is unknown is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UseAndLimit {
    /// The bytes that are charged to the cgroup.
    pub current: Option<u64>,
    /// The cgroup's own limit.
    pub limit: Option<u64>,
}

impl Measurement {
    /// Returns the bytes that count toward the limit.
    fn used(&self) -> u64 {
        self.current.saturating_sub(self.inactive.unwrap_or(0))
    }
}

/// The memory use of one cgroup in the last measurements.
#[derive(Debug, Default)]
pub struct Growth {
    limit: Option<u64>,
    last: Option<(Instant, Measurement)>,
    /// The growth rates, in bytes per second, each with the time when it was measured. Only rates that can
    /// still be the highest are kept: a rate is dropped after [`WINDOW`], or when a later rate is at least as
    /// high.
    rates: VecDeque<(Instant, u64)>,
    /// How many bytes the memory use grew between the last two measurements.
    grown: u64,
    /// Whether this growth is assumed to have taken only [`MIN_INTERVAL`] (see [`Growth::assume_sudden`]).
    is_sudden: bool,
    /// The memory use in bytes at which the processes were last due to be read. `None` if they were never
    /// due, or if a later measurement showed a memory use below [`FAR`] thousandths of the limit.
    read_at: Option<u64>,
    /// When the kernel last reported that the limit was reached.
    hit_at: Option<Instant>,
}

impl Growth {
    /// Creates the state of a cgroup that was created within the last second. The growth is measured as if
    /// the cgroup had used 0 bytes a second ago.
    pub fn of_new(now: Instant) -> Self {
        let before = now.checked_sub(MAX_INTERVAL);
        let empty = Measurement { current: 0, inactive: Some(0) };
        Self { last: before.map(|before| (before, empty)), ..Self::default() }
    }

    /// Sets the limit; `None` means no limit. Returns whether the limit has changed.
    pub fn set_limit(&mut self, limit: Option<u64>) -> bool {
        let before = std::mem::replace(&mut self.limit, limit);
        if limit.is_none() {
            *self = Self::default();
        }
        limit != before
    }

    /// Whether the cgroup has a limit. If not, its memory use need not be measured.
    pub fn has_limit(&self) -> bool {
        self.limit.is_some()
    }

    /// Whether the memory use is so close to the limit that the inactive page cache has to be known. Reading
    /// the page cache takes seven times as long as reading the memory use.
    pub fn needs_inactive(&self, current: u64) -> bool {
        self.limit.is_some_and(|limit| current >= part_of(limit, CLOSE))
    }

    /// Whether the cgroup was measured within [`MIN_INTERVAL`].
    pub fn is_recent(&self, now: Instant) -> bool {
        self.last.is_some_and(|(measured_at, _)| now < measured_at + MIN_INTERVAL)
    }

    /// Adds a measurement. Returns whether the processes are due to be read.
    pub fn add(&mut self, measurement: Measurement, now: Instant) -> bool {
        let is_first = self.last.is_none();
        if let Some((before_at, before)) = self.last.replace((now, measurement)) {
            // The inactive page cache is subtracted from the memory use only if it is known in both
            // measurements. If it were subtracted from only one of them, the growth rate would be wrong.
            let has_both = before.inactive.is_some() && measurement.inactive.is_some();
            let of =
                |measurement: Measurement| if has_both { measurement.used() } else { measurement.current };
            self.grown = of(measurement).saturating_sub(of(before));
            self.is_sudden = false;
            let elapsed = now.saturating_duration_since(before_at).max(MIN_INTERVAL);
            let rate = (self.grown as f64 / elapsed.as_secs_f64()) as u64;
            self.rates.retain(|&(at, other)| now < at + WINDOW && other > rate);
            if rate > 0 {
                self.rates.push_back((now, rate));
            }
        }
        let (Some(limit), used) = (self.limit, measurement.used()) else { return false };
        if used < part_of(limit, FAR) {
            self.read_at = None;
        }
        // The first measurement cannot show whether the memory use grows, so the memory use is assumed to
        // grow.
        let may_grow = is_first || self.rate(now) > 0;
        let is_due = (self.next_read(limit)..limit).contains(&used) && may_grow;
        if is_due {
            self.read_at = Some(used);
        }
        is_due
    }

    /// Returns how long to wait before the next measurement.
    pub fn interval(&self, now: Instant) -> Duration {
        let (Some(limit), Some((_, measurement))) = (self.limit, self.last) else { return MAX_INTERVAL };
        let next = self.next_read(limit).min(limit);
        let is_soon = time_to(next, measurement, self.rate(now)).is_some_and(|time| time < MAX_INTERVAL);
        if is_soon { MIN_INTERVAL } else { MAX_INTERVAL }
    }

    /// Returns the memory use at which the processes are due to be read next.
    fn next_read(&self, limit: u64) -> u64 {
        self.read_at.map_or(part_of(limit, CLOSE), |read_at| read_at + part_of(limit, STEP))
    }

    /// Whether the cgroup is close to its limit. This is the case from the time at which [`Growth::add`]
    /// returns true, until a measurement shows a memory use below [`FAR`].
    pub fn is_close(&self) -> bool {
        self.read_at.is_some()
    }

    /// Notes that the limit was reached.
    pub fn note_hit(&mut self, now: Instant) {
        self.hit_at = Some(now);
    }

    /// Returns how long the cgroup takes to reach its limit if it keeps growing. For one second after
    /// [`Growth::note_hit`], the result is 0. The result is `None` if the cgroup has no limit or did not
    /// grow.
    pub fn time_to_limit(&self, now: Instant) -> Option<Duration> {
        if self.hit_at.is_some_and(|hit_at| now < hit_at + MAX_INTERVAL) {
            return Some(Duration::ZERO);
        }
        let (measured_at, measurement) = self.last?;
        let sudden = if self.is_sudden { self.grown as f64 / MIN_INTERVAL.as_secs_f64() } else { 0.0 };
        let time = time_to(self.limit?, measurement, self.rate(now).max(sudden as u64))?;
        Some(time.saturating_sub(now.saturating_duration_since(measured_at)))
    }

    /// Assumes the worst until the next measurement: that the growth before the last measurement took only
    /// [`MIN_INTERVAL`].
    pub fn assume_sudden(&mut self) {
        self.is_sudden = true;
    }

    /// Whether the cgroup may reach its limit before the next measurement.
    pub fn may_reach_limit(&self, now: Instant) -> bool {
        let (Some(limit), Some((_, measurement))) = (self.limit, self.last) else { return false };
        let is_near = measurement.used() + PIECE.min(part_of(limit, STEP)) >= limit;
        self.time_to_limit(now).is_some_and(|time| time < MIN_INTERVAL || is_near)
    }

    /// Returns the memory use in thousandths of the limit.
    pub fn permille(&self) -> Option<u64> {
        Some(self.last?.1.used().saturating_mul(1000) / self.limit?.max(1))
    }

    /// Returns the memory use and the limit at the last measurement.
    pub fn use_and_limit(&self) -> UseAndLimit {
        UseAndLimit { current: self.last.map(|(_, measurement)| measurement.current), limit: self.limit }
    }

    /// Returns the growth rate in bytes per second.
    fn rate(&self, now: Instant) -> u64 {
        let recent = self.rates.iter().find(|(at, _)| now < *at + WINDOW);
        recent.map_or(0, |&(_, rate)| rate)
    }
}

/// Returns how long a cgroup takes to reach the memory use `target` at this growth rate; `None` if it does
/// not grow.
fn time_to(target: u64, measurement: Measurement, rate: u64) -> Option<Duration> {
    let left = target.saturating_sub(measurement.used());
    (rate > 0).then(|| Duration::from_secs_f64(left as f64 / rate as f64))
}

/// Returns `permille` thousandths of `limit`.
pub fn part_of(limit: u64, permille: u64) -> u64 {
    (u128::from(limit) * u128::from(permille) / 1000) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;
    const MS: Duration = Duration::from_millis(1);

    /// A simulated cgroup with a limit in MB.
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

        fn measure(&mut self, mb: f64) -> bool {
            self.n_looks += 1;
            self.growth.add(Measurement { current: (mb * MB as f64) as u64, inactive: None }, self.now)
        }

        /// Simulates this many seconds. `of` returns the memory use in MB at a given second. The memory use
        /// is measured whenever a measurement is due. Returns the memory use at each time when the processes
        /// are due to be read.
        fn run(&mut self, seconds: f64, of: impl Fn(f64) -> f64) -> Vec<f64> {
            let (start, mut read) = (self.now, Vec::new());
            loop {
                let mb = of((self.now - start).as_secs_f64());
                if self.measure(mb) {
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

    /// The memory use stays at 70% of the limit for three seconds, and then grows up to the limit. The
    /// processes must be read late enough that an OOM record shows most of this growth.
    #[test]
    fn a_leak_is_read_between_86_percent_and_the_limit() {
        for limit in [64.0, 256.0, 1000.0] {
            for rate in [1.0, 10.0, 50.0] {
                let mut leak = Simulated::new(limit as u64);
                leak.growth = Growth::of_new(leak.now);
                leak.growth.set_limit(Some(limit as u64 * MB));
                let of = |second: f64| limit * 0.7 + rate * (second - 3.0).max(0.0);
                let read = leak.run(3.0 + 0.3 * limit / rate, of);
                // Reads begin at 86% of the limit. The fastest leak is 50 MB/s with a limit of 64 MB. It
                // grows by just under 8% of the limit between two measurements, which are 0.1 s apart. So the
                // first read sees less than 94%.
                assert!((0.86..0.94).contains(&(read[0] / limit)), "{rate} MB/s of {limit}: {read:?}");
                let is_last = *read.last().unwrap() >= 0.93 * limit || rate / limit > 0.7;
                assert!(is_last && read.len() <= 3, "{rate} MB/s of {limit}: {read:?}");
            }
        }
    }

    #[test]
    fn a_container_at_half_of_its_limit_is_measured_once_a_second() {
        let mut quiet = Simulated::new(1000);
        // Every two seconds, the memory use rises from 500 MB to 502 MB, and then drops to 500 MB.
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
        let measurements = [(500, None), (990, Some(930)), (995, Some(930)), (995, Some(100))];
        let due = (0..).zip(measurements).map(|(second, (current, inactive))| {
            let now = now + second * MAX_INTERVAL;
            (growth.add(Measurement { current, inactive }, now), growth.permille().unwrap())
        });
        assert_eq!(due.collect::<Vec<_>>(), [(false, 500), (false, 60), (false, 65), (true, 895)]);
    }

    #[test]
    fn the_time_to_the_limit_follows_from_the_fastest_growth_in_five_seconds() {
        let mut leak = Simulated::new(100);
        let start = leak.now;
        leak.measure(10.0);
        assert_eq!(leak.growth.time_to_limit(leak.now), None, "one measurement shows no growth");
        for (ms, mb, expected) in [
            (1000, 20.0, Some(8000)),
            (2000, 40.0, Some(3000)),
            (3000, 40.0, Some(3000)),
            (6999, 50.0, Some(2500)),
            (7001, 50.0, Some(20_000)),
            (13_000, 50.0, None),
        ] {
            leak.now = start + ms * MS;
            leak.measure(mb);
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
    fn a_growing_container_may_reach_its_limit_from_2_mib_before_it() {
        for (limit, mb, growth, expected) in [
            (256, 253.8, 0.25, false),
            (256, 254.0, 0.25, true),
            (256, 254.0, 0.0, false),
            (10, 9.4, 0.25, false),
            (10, 9.5, 0.25, true),
            (1000, 950.0, 490.0, false),
            (1000, 950.0, 510.0, true),
        ] {
            let mut leak = Simulated::new(limit);
            leak.measure(mb - growth);
            leak.now += MAX_INTERVAL;
            leak.measure(mb);
            assert_eq!(leak.growth.may_reach_limit(leak.now), expected, "{growth} to {mb} of {limit} MB");
        }
    }

    #[test]
    fn lowering_the_limit_makes_a_read_due() {
        let mut lowered = Simulated::new(1000);
        lowered.measure(500.0);
        lowered.now += MAX_INTERVAL;
        assert!(!lowered.measure(501.0));
        assert_eq!(lowered.growth.permille(), Some(501));
        lowered.growth.set_limit(Some(520 * MB));
        lowered.now += MAX_INTERVAL;
        assert!(lowered.measure(502.0));
        assert_eq!(lowered.growth.permille(), Some(965));
        assert!(lowered.growth.set_limit(None) && !lowered.growth.set_limit(None));
        assert!(!lowered.growth.has_limit() && lowered.growth.time_to_limit(lowered.now).is_none());
    }

    #[test]
    fn a_container_that_is_close_at_the_first_measurement_is_read() {
        assert!(Simulated::new(100).measure(86.0));
        assert!(!Simulated::new(100).measure(84.0));
    }

    #[test]
    fn a_container_that_falls_below_80_percent_is_read_again() {
        let mut leak = Simulated::new(100);
        let uses = [70.0, 86.0, 89.0, 91.0, 81.0, 86.0, 79.0, 86.0];
        let read = uses.map(|mb| {
            leak.now += MAX_INTERVAL;
            leak.measure(mb)
        });
        assert_eq!(read, [false, true, false, true, false, false, false, true]);
    }
}
