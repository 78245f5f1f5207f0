//! Who wants an exposition, and so when the next scrape begins. Nothing is scraped while nobody asks.
//!
//! The HTTP thread says who asks; the scrape thread asks when to begin, and waits. A client that comes at a steady period is
//! expected: the scrape for it ends just before it comes.

pub mod rhythms;

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rhythms::Rhythms;
use tokio::sync::Notify;

/// What has ended so recently is young, however long it took: a client would wait for the next, and get it no younger.
const MIN_YOUTH: Duration = Duration::from_millis(200);

/// Who wants an exposition: shared by the thread that scrapes and the one that serves.
#[derive(Debug)]
pub struct Demand {
    interval: Duration,
    state: Mutex<State>,
    wake: Wake,
    bell: OnceLock<UnixStream>,
}

/// What a client is told that asks for an exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The latest is young.
    Young,
    /// It is not: a scrape is wanted. What is served once more scrapes than this have ended is what the client waits for.
    WaitFor(u64),
}

#[derive(Debug)]
struct State {
    rhythms: Rhythms,
    /// How many scrapes have ended well.
    n_ended: u64,
    /// Since when somebody waits for a scrape that has not ended well.
    wanted_since: Option<Instant>,
    /// When the last scrape began, and until when what it gave is young.
    began_at: Option<Instant>,
    young_until: Option<Instant>,
    is_under_way: bool,
    /// No scrape begins sooner, for scrapes cost more than they may.
    rests_until: Option<Instant>,
    /// How long a scrape takes, of late.
    usual_length: Duration,
}

impl Demand {
    /// One scrape is wanted at once. `interval` is the shortest time between the beginnings of two, and how long what one gave is young.
    pub fn new(interval: Duration, now: Instant) -> Self {
        let state = State {
            rhythms: Rhythms::default(),
            n_ended: 0,
            wanted_since: Some(now),
            began_at: None,
            young_until: None,
            is_under_way: false,
            rests_until: None,
            usual_length: Duration::ZERO,
        };
        Self { interval, state: Mutex::new(state), wake: Wake::default(), bell: OnceLock::new() }
    }

    /// What becomes readable whenever a scrape has ended well: for the one thread that serves.
    ///
    /// Fails with the system's error when there is no pair of sockets, and when there is a listener already.
    pub fn listen(&self) -> io::Result<UnixStream> {
        let (bell, ear) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ear.set_nonblocking(true)?;
        self.bell.set(bell).map_err(|_| io::Error::other("somebody listens already"))?;
        Ok(ear)
    }

    /// A client asks for an exposition. Where the latest is not young, a scrape is wanted.
    pub fn ask(&self, client: IpAddr, now: Instant) -> Asked {
        let mut state = self.lock();
        state.rhythms.note(client, now);
        let is_young = state.young_until.is_some_and(|until| now < until);
        // A rhythm may be new, so that the next scrape begins sooner than whoever waits for it knows.
        self.wake.wake();
        if is_young {
            return Asked::Young;
        }
        state.wanted_since.get_or_insert(now);
        Asked::WaitFor(state.n_ended)
    }

    /// Whether more scrapes than this have ended well.
    pub fn has_ended(&self, n_ended: u64) -> bool {
        self.lock().n_ended > n_ended
    }

    /// A scrape is wanted, by whoever is not a client.
    pub fn want(&self, now: Instant) {
        self.lock().wanted_since.get_or_insert(now);
        self.wake.wake();
    }

    /// When the next scrape begins, as things stand; `None` while nobody wants one.
    pub fn next_start(&self, now: Instant) -> Option<Instant> {
        let mut state = self.lock();
        let earliest = state.began_at.map_or(now, |began| began + self.interval);
        let earliest = state.rests_until.map_or(earliest, |until| earliest.max(until));
        if state.wanted_since.is_some() {
            return Some(earliest);
        }
        let State { rhythms, began_at, young_until, usual_length, .. } = &mut *state;
        let start = rhythms.next_start(now, *began_at, *young_until, *usual_length);
        start.map(|start| start.max(earliest))
    }

    /// A scrape begins.
    pub fn begin(&self, now: Instant) {
        let mut state = self.lock();
        state.began_at = Some(now);
        state.is_under_way = true;
    }

    /// It has ended, and what it gave can be had: whoever waits gets it. One that failed leaves the wish for another, which begins no sooner
    /// than `rests_until`.
    pub fn end(&self, is_success: bool, rests_until: Option<Instant>, now: Instant) {
        let mut state = self.lock();
        state.is_under_way = false;
        state.rests_until = rests_until;
        let Some(began_at) = state.began_at.filter(|_| is_success) else {
            state.wanted_since.get_or_insert(now);
            return;
        };
        state.wanted_since = None;
        state.n_ended += 1;
        state.young_until = Some((began_at + self.interval).max(now + MIN_YOUTH.min(self.interval)));
        let length = now.saturating_duration_since(began_at);
        // It rises faster than it falls: a client that comes too early waits, one that comes later gets data a little older.
        state.usual_length = match state.usual_length {
            usual if length > usual => (usual + length) / 2,
            usual => (3 * usual + length) / 4,
        };
        drop(state);
        // If it is full, it has rung and was not heard yet.
        self.bell.get().map(|mut bell| bell.write(&[0]));
    }

    /// For how long a scrape has been under way, or wanted in vain: what takes too long is not well.
    pub fn overdue(&self, now: Instant) -> Duration {
        let state = self.lock();
        let began_at = state.began_at.filter(|_| state.is_under_way);
        // Until it may begin it is not late.
        let wanted_since =
            state.wanted_since.map(|since| state.rests_until.map_or(since, |until| since.max(until)));
        let since = [wanted_since, began_at].into_iter().flatten().min();
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// What ends a wait for [`Demand::next_start`] when that changes.
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a wait of the thread that scrapes, from another thread.
#[derive(Debug, Default)]
pub struct Wake {
    is_awake: Mutex<bool>,
    changed: Condvar,
    notify: Notify,
}

impl Wake {
    fn wake(&self) {
        *self.is_awake.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
        self.notify.notify_one();
    }

    /// Waits until `deadline`, or until something has changed since the last wait.
    pub fn wait_until(&self, deadline: Instant) {
        let is_awake = self.is_awake.lock().unwrap_or_else(PoisonError::into_inner);
        let timeout = deadline.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(is_awake, timeout, |is_awake| !*is_awake);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }

    /// The same, for whoever has a runtime to drive meanwhile.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const INTERVAL: Duration = Duration::from_secs(1);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// The first scrape began at 0 and ended at 100 ms.
    fn demand() -> (Demand, Instant) {
        let start = Instant::now();
        let demand = Demand::new(INTERVAL, start);
        assert_eq!(demand.next_start(start), Some(start), "the first is wanted at once");
        demand.begin(start);
        demand.end(true, None, start + ms(100));
        (demand, start)
    }

    #[test]
    fn nobody_asks_and_nothing_is_scraped() {
        let (demand, start) = demand();
        assert_eq!(demand.next_start(start + ms(3_600_000)), None);
        assert_eq!(demand.overdue(start + ms(3_600_000)), Duration::ZERO);
    }

    #[test]
    fn what_is_young_is_given_and_what_is_old_is_made_anew() {
        let (demand, start) = demand();
        assert_eq!(demand.ask(CLIENT, start + ms(999)), Asked::Young);
        assert_eq!(demand.next_start(start + ms(999)), None);
        assert_eq!(demand.ask(CLIENT, start + ms(1001)), Asked::WaitFor(1));
        assert_eq!(demand.ask(CLIENT, start + ms(1002)), Asked::WaitFor(1));
        let at_once = demand.next_start(start + ms(1002)).unwrap();
        assert!(at_once <= start + ms(1002));
        demand.begin(start + ms(1002));
        assert!(!demand.has_ended(1));
        demand.end(true, None, start + ms(1100));
        assert!(demand.has_ended(1));
        assert_eq!(demand.next_start(start + ms(1100)), None, "one scrape is enough for both");
        assert_eq!(demand.ask(CLIENT, start + ms(2001)), Asked::Young);
    }

    #[test]
    fn two_scrapes_begin_an_interval_apart() {
        let (demand, start) = demand();
        demand.want(start + ms(200));
        assert_eq!(demand.next_start(start + ms(200)), Some(start + INTERVAL));
    }

    #[test]
    fn a_long_scrape_is_young_when_it_ends() {
        let (demand, start) = demand();
        demand.begin(start + ms(2000));
        assert_eq!(demand.ask(CLIENT, start + ms(2500)), Asked::WaitFor(1), "the one that is under way");
        demand.end(true, None, start + ms(5000));
        assert_eq!(demand.ask(CLIENT, start + ms(5100)), Asked::Young);
        assert_eq!(demand.next_start(start + ms(5100)), None);
        assert_eq!(demand.ask(CLIENT, start + ms(5201)), Asked::WaitFor(2));
    }

    #[test]
    fn what_is_wanted_in_vain_is_overdue() {
        let (demand, start) = demand();
        demand.want(start + ms(2000));
        demand.begin(start + ms(2000));
        demand.end(false, None, start + ms(2001));
        assert_eq!(demand.next_start(start + ms(2002)), Some(start + ms(3000)), "it is tried again");
        assert_eq!(demand.overdue(start + ms(9000)), ms(7000));
        demand.begin(start + ms(9000));
        demand.end(true, None, start + ms(9001));
        assert_eq!(demand.overdue(start + ms(99_000)), Duration::ZERO);
        demand.begin(start + ms(100_000)); // hangs
        assert_eq!(demand.overdue(start + ms(140_000)), ms(40_000));
    }

    #[test]
    fn what_may_not_begin_yet_is_not_overdue() {
        let (demand, start) = demand();
        demand.begin(start + ms(1000));
        demand.end(true, Some(start + ms(60_000)), start + ms(1001));
        demand.want(start + ms(3000));
        assert_eq!(demand.next_start(start + ms(3000)), Some(start + ms(60_000)));
        assert_eq!(demand.overdue(start + ms(59_000)), Duration::ZERO);
        assert_eq!(demand.overdue(start + ms(61_000)), ms(1000));
    }

    #[test]
    fn the_bell_rings_when_a_scrape_has_ended() {
        use std::io::Read as _;
        let (demand, start) = demand();
        let mut ear = demand.listen().unwrap();
        assert!(demand.listen().is_err());
        demand.begin(start + ms(2000));
        demand.end(false, None, start + ms(2001));
        assert!(ear.read(&mut [0; 9]).is_err(), "it has failed");
        for i in 0..100_000 {
            demand.begin(start + ms(3000 + i));
            demand.end(true, None, start + ms(3000 + i));
        }
        assert!(ear.read(&mut [0; 9]).is_ok());
    }

    #[test]
    fn a_wait_ends_when_somebody_asks() {
        let (demand, start) = demand();
        demand.ask(CLIENT, start);
        let begun = Instant::now();
        demand.wake().wait_until(begun + ms(60_000));
        assert!(begun.elapsed() < ms(60_000));
        demand.wake().wait_until(Instant::now() + ms(1)); // nothing has changed since
    }
}
