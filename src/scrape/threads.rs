//! The threads that scrape, and check. One has the turn and does everything; another stands by. A read that takes long loses its thread the turn:
//! the one that stood by goes on with the same scrape, from the next process, and what was left behind brings its reading later.
//!
//! So a process whose memory-map lock is held for good costs a thread and its own values, and nobody else anything. While a process
//! is read, nothing is locked; what else a scrape touches does not wait (see [`crate::node::reader`]).

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::error;

use super::{Pass, Scraper};
use crate::demand::Demand;
use crate::errors::plain;
use crate::node::away::MAX_DETACHED;
use crate::procfs::this_process::this_thread;

/// A read that takes longer is detached: another thread continues the scrape. Each further read of the same scrape gets half the time of
/// the one before, because a request may wait for that scrape: 64 processes that are stuck at once delay it by 0.6 s.
const PATIENCE: Duration = Duration::from_millis(200);
const LEAST_PATIENCE: Duration = Duration::from_millis(3);

/// No more threads than this are detached; then the scrape waits for its read. From 64 on a process that looks stuck is not read at all,
/// so that takes eight processes that become stuck between that check and their read.
const MAX_LEFT_BEHIND: usize = MAX_DETACHED + 8;

/// The stack of a thread that scrapes.
const STACK: usize = 256 << 10;

/// How long the active thread waits at most while no scrape is requested.
const IDLE: Duration = Duration::from_secs(60);

/// While reads are left behind, whoever waits for the next scrape lets them deliver for so long, then the containers' source answer, by turns.
const SLICE: Duration = Duration::from_millis(50);

/// What is done with the result of a pass: after a scrape, it says when there may be another.
pub type AfterPass = Box<dyn FnMut(&mut Scraper, Pass, Result<(), String>) -> Next + Send>;

/// When the next scrape begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When a client requests one.
    OnRequest,
    /// As soon as the interval is over.
    Soon,
    /// There is none.
    Never,
}

/// What the threads share.
struct Shared {
    state: Mutex<State>,
    watch: Mutex<Watch>,
    changed: Condvar,
    demand: Arc<Demand>,
}

struct State {
    scraper: Scraper,
    after: AfterPass,
}

/// What whoever stands by looks at.
#[derive(Default)]
struct Watch {
    /// The number of the thread that has the turn.
    turn: usize,
    is_scraping: bool,
    reading_since: Option<Instant>,
    n_left_behind: usize,
    /// By the scrape that is under way.
    n_left_now: u32,
}

impl State {
    /// Looks whether the kernel has killed processes of containers that are close to their limit, and tells at once.
    fn watch_if_due(&mut self) {
        self.scraper.watch_if_due();
        if self.scraper.has_news_of_ooms() {
            (self.after)(&mut self.scraper, Pass::Check, Ok(()));
        }
    }
}

impl Watch {
    fn patience(&self) -> Duration {
        (PATIENCE / (1 << self.n_left_now.min(8))).max(LEAST_PATIENCE)
    }
}

/// Scrapes on this thread when that is wanted, and on others while this one is inside a read. Returns when there is no next scrape, or
/// when others have gone on without this thread.
pub fn run(scraper: Scraper, demand: Arc<Demand>, after: AfterPass) {
    let state = Mutex::new(State { scraper, after });
    let shared = Shared { state, watch: Mutex::default(), changed: Condvar::new(), demand };
    Arc::new(shared).run(0);
}

impl Shared {
    fn run(self: Arc<Self>, number: usize) {
        if number > 0 {
            self.stand_by(number);
        }
        let stand_by = {
            let shared = self.clone();
            move || shared.run(number + 1)
        };
        if let Err(error) = thread::Builder::new().name("scrape".into()).stack_size(STACK).spawn(stand_by) {
            let error = plain(&error);
            error!("cannot start a thread: {error}; a read that does not return would stop the scrapes");
        }
        self.scrape(number);
    }

    /// Scrapes until there is no next scrape, or until the turn is lost.
    fn scrape(&self, number: usize) {
        let thread = this_thread();
        let mut state = lock(&self.state);
        let mut reader = state.scraper.reader();
        state.scraper.leave_behind();
        loop {
            let pass = match state.scraper.under_way() {
                Some(pass) => pass,
                None => {
                    let pass;
                    (state, pass) = self.wait_for_demand(state);
                    if let Err(error) = state.scraper.begin(pass) {
                        if !self.end(&mut state, pass, Err(error)) {
                            return;
                        }
                        continue;
                    }
                    lock(&self.watch).n_left_now = 0;
                    pass
                }
            };
            self.begin_watch();
            reader.restart_clock();
            while let Some(job) = state.scraper.next(thread) {
                let proc = state.scraper.proc();
                drop(state);
                lock(&self.watch).reading_since = Some(Instant::now());
                let result = reader.read(&proc, job);
                let has_turn = self.end_read(number);
                state = lock(&self.state);
                state.scraper.take(job, result, &reader);
                if !has_turn {
                    // Only now that it has delivered: until then whoever waits for a scrape lets go of the state for it.
                    lock(&self.watch).n_left_behind -= 1;
                    return;
                }
            }
            reader.shrink();
            lock(&self.watch).is_scraping = false;
            state.scraper.finish();
            if !self.end(&mut state, pass, Ok(())) {
                return;
            }
        }
    }

    /// Waits until a scrape is wanted and may begin, or a check is due. Meanwhile the source of the containers may answer, and reads that
    /// were left behind may bring what they have found.
    fn wait_for_demand<'a>(&'a self, mut state: MutexGuard<'a, State>) -> (MutexGuard<'a, State>, Pass) {
        let wake = self.demand.requested();
        loop {
            let now = Instant::now();
            let start = match self.demand.next_start(now) {
                Some(start) if start <= now => {
                    self.demand.begin(now);
                    return (state, Pass::Scrape);
                }
                start => start.unwrap_or(now + IDLE),
            };
            let start = match state.scraper.next_check() {
                Some(check) if check <= now => return (state, Pass::Check),
                check => check.map_or(start, |check| check.min(start)),
            };
            let start = state.scraper.next_watch().map_or(start, |watch| watch.min(start));
            state.watch_if_due();
            if lock(&self.watch).n_left_behind == 0 {
                state.scraper.wait_until(start, wake);
                continue;
            }
            state.scraper.wait_until(start.min(now + SLICE), wake);
            drop(state);
            wake.wait_until(start.min(Instant::now() + SLICE));
            state = lock(&self.state);
        }
    }

    /// A pass has ended; says whether there may be another.
    fn end(&self, state: &mut State, pass: Pass, result: Result<(), String>) -> bool {
        let is_success = result.is_ok();
        let next = (state.after)(&mut state.scraper, pass, result);
        let rests_until = if is_success { state.scraper.end() } else { None };
        if pass == Pass::Check {
            return true;
        }
        let now = Instant::now();
        self.demand.end(is_success, rests_until, now);
        if next == Next::Soon {
            self.demand.request_another(now);
        }
        next != Next::Never
    }

    /// Waits until a read has taken the thread before this one too long, and takes the turn.
    fn stand_by(&self, number: usize) {
        let mut watch = lock(&self.watch);
        loop {
            let patience = watch.patience();
            let left = watch.reading_since.map(|since| patience.saturating_sub(since.elapsed()));
            let is_late = left == Some(Duration::ZERO);
            if watch.turn + 1 == number && is_late && watch.n_left_behind < MAX_LEFT_BEHIND {
                watch.turn = number;
                watch.reading_since = None;
                watch.n_left_behind += 1;
                watch.n_left_now += 1;
                return;
            }
            let again = match left {
                Some(left) if !is_late => left,
                // No read is under way, or this one is late and no more may be left behind.
                _ => patience / 2,
            };
            watch = match watch.is_scraping {
                true => wait(self.changed.wait_timeout(watch, again)).0,
                false => wait(self.changed.wait(watch)),
            };
        }
    }

    fn begin_watch(&self) {
        lock(&self.watch).is_scraping = true;
        self.changed.notify_one();
    }

    /// A read has returned; says whether its thread still has the turn.
    fn end_read(&self, number: usize) -> bool {
        let mut watch = lock(&self.watch);
        let has_turn = watch.turn == number;
        if has_turn {
            watch.reading_since = None;
        }
        has_turn
    }
}

/// A panic ends the process (or the test), so nothing that is seen here was left half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<T>(result: Result<T, PoisonError<T>>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}
