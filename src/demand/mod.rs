//! Decides when the next scrape begins. A scrape begins only if it was requested: no timer starts one.
//!
//! The HTTP thread requests scrapes, and the scrape thread runs them. Each of the two threads wakes the
//! other. If the last result is fresh, a request gets it immediately. Otherwise the request waits for the
//! next scrape, together with all other waiting requests.

mod wake;

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use self::wake::Wake;

/// A scrape's result is served without a new scrape for at least this long after the scrape's end. If the
/// scrape interval is shorter, the interval counts instead.
const MIN_FRESH: Duration = Duration::from_millis(200);
/// For this long after a request that needs the paths of mappings, every scrape reads paths.
const PATHS_PERIOD: Duration = Duration::from_secs(300);

/// The requests for scrapes. The scrape thread and the HTTP thread share them.
#[derive(Debug)]
pub struct Demand {
    /// The shortest time between the starts of two scrapes. For this long after the start of a scrape,
    /// requests get the scrape's result without a new scrape.
    interval: Duration,
    state: Mutex<State>,
    /// Wakes the scrape thread when a scrape is requested.
    requested: Wake,
    /// Wakes the HTTP thread when a scrape has succeeded.
    done: Wake,
}

/// Whether the last result can answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The last result is fresh.
    Fresh,
    /// A scrape is needed and has been requested. The request can be answered as soon as the number of
    /// successful scrapes is larger than this number.
    WaitFor(u64),
}

#[derive(Debug)]
struct State {
    /// The number of scrapes that have succeeded.
    n_succeeded: u64,
    /// When the oldest unanswered request came. Only a successful scrape answers requests.
    requested_since: Option<Instant>,
    /// When the last scrape began.
    began_at: Option<Instant>,
    /// When the last result stops being fresh.
    fresh_until: Option<Instant>,
    is_running: bool,
    /// The time before which the CPU budget allows no scrape.
    not_before: Option<Instant>,
    /// The time until which scrapes read the paths of mappings, and how many scrapes had succeeded or were
    /// running when paths were requested. These scrapes may lack paths. `None` before the first request for
    /// paths.
    paths: Option<(Instant, u64)>,
    /// Whether another scrape must follow the running scrape, because a request needs paths. The running
    /// scrape may have begun before paths were requested, and then it possibly reads no paths.
    is_another_requested: bool,
}

impl Demand {
    /// Creates a `Demand`, and requests the first scrape. `interval` is the shortest time between the starts
    /// of two scrapes.
    ///
    /// Fails with the system's error if no file descriptor is left.
    pub fn new(interval: Duration, now: Instant) -> io::Result<Self> {
        let state = State {
            n_succeeded: 0,
            requested_since: Some(now),
            began_at: None,
            fresh_until: None,
            is_running: false,
            not_before: None,
            paths: None,
            is_another_requested: false,
        };
        Ok(Self { interval, state: Mutex::new(state), requested: Wake::new()?, done: Wake::new()? })
    }

    /// Returns whether the last result is fresh. If the result is not fresh, requests a scrape.
    pub fn request(&self, now: Instant) -> Freshness {
        let mut state = self.lock();
        if state.fresh_until.is_some_and(|until| now < until) {
            return Freshness::Fresh;
        }
        self.request_in(&mut state, now);
        Freshness::WaitFor(state.n_succeeded)
    }

    /// Does the same as [`request`](Self::request), for a request that needs the paths of mappings. A result
    /// without paths cannot answer this request.
    pub fn request_paths(&self, now: Instant) -> Freshness {
        let mut state = self.lock();
        // Paths are read only on request, so the scrapes until now, and the running one, may lack paths.
        // `n_without` is the number of these scrapes. Once more than `n_without` scrapes have succeeded, the
        // last result has paths. If an earlier request has already switched on the reading of paths, its
        // `n_without` is used here, too, because the scrapes after it have read paths.
        let n_without = state.n_succeeded + u64::from(state.is_running);
        let n_without = state.paths.filter(|(until, _)| now < *until).map_or(n_without, |(_, n)| n);
        state.paths = Some((now + PATHS_PERIOD, n_without));
        if state.n_succeeded > n_without {
            drop(state);
            return self.request(now);
        }
        match n_without > state.n_succeeded {
            true => state.is_another_requested = true,
            false => self.request_in(&mut state, now),
        }
        Freshness::WaitFor(n_without)
    }

    /// Whether scrapes must read the paths of mappings.
    pub fn needs_paths(&self, now: Instant) -> bool {
        self.lock().paths.is_some_and(|(until, _)| now < until)
    }

    /// Requests a scrape, even if the last result is fresh.
    pub fn request_another(&self, now: Instant) {
        self.request_in(&mut self.lock(), now);
    }

    fn request_in(&self, state: &mut State, now: Instant) {
        // If another request is already waiting, the scrape thread was woken for it. One scrape answers both
        // requests.
        if state.requested_since.is_none() {
            state.requested_since = Some(now);
            self.requested.wake();
        }
    }

    /// Returns whether more than `n` scrapes have succeeded.
    pub fn has_succeeded(&self, n: u64) -> bool {
        self.lock().n_succeeded > n
    }

    /// Returns the time at which the next scrape may begin. This time may be in the past. Returns `None` if
    /// no scrape is requested.
    pub fn next_start(&self, now: Instant) -> Option<Instant> {
        let state = self.lock();
        state.requested_since?;
        let earliest = state.began_at.map_or(now, |began_at| began_at + self.interval);
        Some(state.not_before.map_or(earliest, |not_before| earliest.max(not_before)))
    }

    /// Records that a scrape begins.
    pub fn begin(&self, now: Instant) {
        let mut state = self.lock();
        state.began_at = Some(now);
        state.is_running = true;
    }

    /// Records that the scrape has ended. The caller must publish the result before this call, because this
    /// call answers the waiting requests. After a failed scrape, another scrape is requested. The next scrape
    /// does not begin before `not_before`.
    pub fn end(&self, is_success: bool, not_before: Option<Instant>, now: Instant) {
        let mut state = self.lock();
        state.is_running = false;
        state.not_before = not_before;
        let Some(began_at) = state.began_at.filter(|_| is_success) else {
            state.requested_since.get_or_insert(now);
            return;
        };
        state.requested_since = std::mem::take(&mut state.is_another_requested).then_some(now);
        state.n_succeeded += 1;
        state.fresh_until = Some((began_at + self.interval).max(now + MIN_FRESH.min(self.interval)));
        drop(state);
        self.done.wake();
    }

    /// Returns the time since the oldest unanswered request, or since the running scrape began, whichever is
    /// longer. Time in which the CPU budget forbids the scrape does not count. Returns zero if no scrape is
    /// requested or running.
    pub fn overdue(&self, now: Instant) -> Duration {
        let state = self.lock();
        let began_at = state.began_at.filter(|_| state.is_running);
        // While the CPU budget forbids a scrape, the scrape is not overdue.
        let due_at = state
            .requested_since
            .map(|since| state.not_before.map_or(since, |not_before| since.max(not_before)));
        let since = [due_at, began_at].into_iter().flatten().min();
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Returns the [`Wake`] with which the scrape thread waits for requests.
    pub fn requested(&self) -> &Wake {
        &self.requested
    }

    /// Returns the [`Wake`] with which the HTTP thread waits until a scrape succeeds.
    pub fn done(&self) -> &Wake {
        &self.done
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    const INTERVAL: Duration = Duration::from_secs(1);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Returns a demand after its first scrape, which took 100 ms, and the time at which that scrape began.
    fn demand() -> (Demand, Instant) {
        let start = Instant::now();
        let demand = Demand::new(INTERVAL, start).unwrap();
        assert_eq!(demand.next_start(start), Some(start), "the first scrape needs no client");
        demand.begin(start);
        demand.end(true, None, start + ms(100));
        (demand, start)
    }

    /// Returns whether [`Wake::wake`] was called on this `Wake` since the last call of this function.
    fn is_awake(wake: &Wake) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let is_readable = poll(&mut [PollFd::new(wake, PollFlags::IN)], Some(&now)) == Ok(1);
        wake.clear();
        is_readable
    }

    #[test]
    fn without_requests_nothing_is_scraped() {
        let (demand, start) = demand();
        assert_eq!(demand.next_start(start + ms(3_600_000)), None);
        assert_eq!(demand.overdue(start + ms(3_600_000)), Duration::ZERO);
    }

    #[test]
    fn fresh_result_is_served_and_stale_one_waits() {
        let (demand, start) = demand();
        assert_eq!(demand.request(start + ms(999)), Freshness::Fresh);
        assert_eq!(demand.next_start(start + ms(999)), None);
        assert_eq!(demand.request(start + ms(1001)), Freshness::WaitFor(1));
        assert_eq!(demand.request(start + ms(1002)), Freshness::WaitFor(1));
        assert!(demand.next_start(start + ms(1002)).unwrap() <= start + ms(1002), "it begins at once");
        demand.begin(start + ms(1002));
        assert!(!demand.has_succeeded(1));
        demand.end(true, None, start + ms(1100));
        assert!(demand.has_succeeded(1));
        assert_eq!(demand.next_start(start + ms(1100)), None, "both requests share one scrape");
        assert_eq!(demand.request(start + ms(2001)), Freshness::Fresh);
    }

    #[test]
    fn regular_requests_start_no_early_scrape() {
        let (demand, start) = demand();
        for i in 1..=20 {
            let now = start + ms(15_000 * i);
            assert_eq!(demand.next_start(now), None, "before request {i}");
            assert_eq!(demand.request(now), Freshness::WaitFor(i));
            demand.begin(now);
            demand.end(true, None, now + ms(100));
        }
    }

    #[test]
    fn scrapes_begin_at_least_an_interval_apart() {
        let (demand, start) = demand();
        demand.request_another(start + ms(200));
        assert_eq!(demand.next_start(start + ms(200)), Some(start + INTERVAL));
    }

    #[test]
    fn a_request_for_paths_waits_for_a_scrape_that_reads_them() {
        let (demand, start) = demand();
        assert!(!demand.needs_paths(start + ms(200)));
        assert_eq!(demand.request_paths(start + ms(200)), Freshness::WaitFor(1), "the last one has none");
        assert_eq!(demand.request_paths(start + ms(201)), Freshness::WaitFor(1));
        assert_eq!(demand.request(start + ms(202)), Freshness::Fresh, "others need no paths");
        assert_eq!(demand.next_start(start + ms(202)), Some(start + INTERVAL));
        demand.begin(start + INTERVAL);
        assert_eq!(
            demand.request_paths(start + ms(1001)),
            Freshness::WaitFor(1),
            "the running one reads them"
        );
        demand.end(true, None, start + ms(1100));
        assert_eq!(demand.request_paths(start + ms(1200)), Freshness::Fresh);
        assert!(demand.needs_paths(start + ms(301_199)) && !demand.needs_paths(start + ms(301_200)));
        let later = start + ms(400_000);
        demand.begin(later);
        assert_eq!(demand.request_paths(later), Freshness::WaitFor(3), "the running one does not read them");
        demand.end(true, None, later + ms(100));
        assert_eq!(demand.next_start(later + ms(100)), Some(later + INTERVAL), "another one is requested");
        assert_eq!(demand.request_paths(later + ms(101)), Freshness::WaitFor(3));
        demand.begin(later + INTERVAL);
        demand.end(true, None, later + ms(1100));
        assert_eq!(demand.request_paths(later + ms(1101)), Freshness::Fresh);
    }

    #[test]
    fn a_long_scrape_is_fresh_when_it_ends() {
        let (demand, start) = demand();
        demand.begin(start + ms(2000));
        assert_eq!(demand.request(start + ms(2500)), Freshness::WaitFor(1), "for the running scrape");
        demand.end(true, None, start + ms(5000));
        assert_eq!(demand.request(start + ms(5100)), Freshness::Fresh);
        assert_eq!(demand.next_start(start + ms(5100)), None);
        assert_eq!(demand.request(start + ms(5201)), Freshness::WaitFor(2));
    }

    #[test]
    fn failed_and_hanging_scrapes_are_overdue() {
        let (demand, start) = demand();
        demand.request_another(start + ms(2000));
        demand.begin(start + ms(2000));
        demand.end(false, None, start + ms(2001));
        assert_eq!(demand.next_start(start + ms(2002)), Some(start + ms(3000)), "it is tried again");
        assert_eq!(demand.overdue(start + ms(9000)), ms(7000));
        demand.begin(start + ms(9000));
        demand.end(true, None, start + ms(9001));
        assert_eq!(demand.overdue(start + ms(99_000)), Duration::ZERO);
        demand.begin(start + ms(100_000)); // this scrape hangs
        assert_eq!(demand.overdue(start + ms(140_000)), ms(40_000));
    }

    #[test]
    fn pause_for_the_budget_is_not_overdue() {
        let (demand, start) = demand();
        demand.begin(start + ms(1000));
        demand.end(true, Some(start + ms(60_000)), start + ms(1001));
        demand.request_another(start + ms(3000));
        assert_eq!(demand.next_start(start + ms(3000)), Some(start + ms(60_000)));
        assert_eq!(demand.overdue(start + ms(59_000)), Duration::ZERO);
        assert_eq!(demand.overdue(start + ms(61_000)), ms(1000));
    }

    #[test]
    fn only_a_successful_scrape_wakes_the_server() {
        let (demand, start) = demand();
        assert!(is_awake(demand.done()));
        demand.begin(start + ms(2000));
        demand.end(false, None, start + ms(2001));
        assert!(!is_awake(demand.done()), "the scrape failed");
        demand.begin(start + ms(3000));
        demand.end(true, None, start + ms(3000));
        assert!(is_awake(demand.done()));
    }

    #[test]
    fn the_first_request_for_stale_data_wakes_the_scraper() {
        let (demand, start) = demand();
        assert_eq!(demand.request(start + ms(500)), Freshness::Fresh);
        assert!(!is_awake(demand.requested()), "a fresh result needs no scrape");
        demand.request(start + ms(1500));
        assert!(is_awake(demand.requested()));
        demand.request(start + ms(1501));
        assert!(!is_awake(demand.requested()), "the scrape is requested already");
    }
}
