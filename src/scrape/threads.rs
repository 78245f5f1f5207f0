//! The threads that run scrapes and checks. One is active, and another stands by (see [`Handover`]).
//!
//! If a process holds its mmap_lock for good, the thread that reads it stays blocked. The standby thread can
//! take over, because no lock is held during a read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::error;

use super::handover::Handover;
use super::{Pass, Scraper};
use crate::demand::Demand;
use crate::errors::plain;
use crate::procfs::this_process::this_thread;

/// The longest time that the active thread waits if no scrape is requested.
const IDLE: Duration = Duration::from_secs(60);

/// While the active thread waits, it locks and unlocks the state for this long in turn, so that detached
/// reads can deliver results.
const SLICE: Duration = Duration::from_millis(50);

/// The size of each scrape thread's stack in bytes. A thread takes less resident memory: 92 KiB with glibc.
const STACK: usize = 256 << 10;

/// A function that gets the result of each pass. Its return value counts only after a scrape, and says when
/// the next one begins.
pub type AfterPass = Box<dyn FnMut(&mut Scraper, Pass, Result<(), String>) -> Next + Send>;

/// When the next scrape begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next scrape begins when a client requests a scrape.
    OnRequest,
    /// The next scrape begins as soon as the scrape interval is over.
    Soon,
    /// There are no further scrapes.
    Never,
}

/// The state that the threads share.
struct Shared {
    state: Mutex<State>,
    handover: Handover,
    demand: Arc<Demand>,
}

struct State {
    scraper: Scraper,
    after: AfterPass,
}

impl State {
    /// Makes OOM records of new kills. Then calls `after` as after a successful check, to publish the records
    /// and the requested views.
    fn publish(&mut self) {
        self.scraper.record_kills();
        (self.after)(&mut self.scraper, Pass::Check, Ok(()));
    }
}

/// Runs requested scrapes on the calling thread. Returns when another thread has taken over, or when `after`
/// has returned [`Next::Never`].
pub fn run(scraper: Scraper, demand: Arc<Demand>, after: AfterPass) {
    let state = Mutex::new(State { scraper, after });
    let shared = Shared { state, handover: Handover::default(), demand };
    Arc::new(shared).run(0);
}

impl Shared {
    /// Starts a standby thread. Then runs scrapes on this thread, which is the active thread with this
    /// number.
    fn run(self: Arc<Self>, number: usize) {
        let standby = {
            let shared = self.clone();
            move || {
                let number = shared.handover.stand_by();
                shared.run(number);
            }
        };
        if let Err(error) = thread::Builder::new().name("scrape".into()).stack_size(STACK).spawn(standby) {
            let error = plain(&error);
            error!("cannot start a thread: {error}; a read that does not return would stop the scrapes");
        }
        self.scrape(number);
    }

    /// Runs scrapes and checks. Returns when [`AfterPass`] has returned [`Next::Never`], or when another
    /// thread has taken over.
    fn scrape(&self, number: usize) {
        let thread = this_thread();
        let mut state = self.lock();
        let mut reader = state.scraper.reader();
        state.scraper.detach();
        loop {
            let pass = match state.scraper.under_way() {
                Some(pass) => pass,
                None => {
                    let pass;
                    (state, pass) = self.wait_for_pass(state);
                    let needs_paths = self.demand.needs_paths(Instant::now());
                    if let Err(error) = state.scraper.begin(pass, needs_paths) {
                        if !self.end(&mut state, pass, Err(error)) {
                            return;
                        }
                        continue;
                    }
                    self.handover.begin_pass();
                    pass
                }
            };
            reader.restart_clock();
            while let Some(job) = state.scraper.next(thread) {
                let proc = state.scraper.proc();
                drop(state);
                self.handover.begin_read();
                let finding = reader.read(&proc, job);
                let is_active = self.handover.end_read(number);
                state = self.lock();
                state.scraper.apply(&job, &finding);
                if !is_active {
                    // This must be the last call. Until this call, the active thread keeps unlocking the
                    // state, so that this thread can store its result.
                    self.handover.deliver();
                    return;
                }
            }
            reader.shrink();
            self.handover.end_pass();
            state.scraper.finish();
            if !self.end(&mut state, pass, Ok(())) {
                return;
            }
        }
    }

    /// Waits until a scrape may begin or a check is due, and returns which. The container runtime's listing
    /// continues meanwhile.
    fn wait_for_pass<'a>(&'a self, mut state: MutexGuard<'a, State>) -> (MutexGuard<'a, State>, Pass) {
        let requested = self.demand.requested();
        loop {
            state.publish();
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
            if !self.handover.has_detached() {
                state.scraper.wait_until(start, requested);
                continue;
            }
            state.scraper.wait_until(start.min(now + SLICE), requested);
            drop(state);
            requested.wait_until(start.min(Instant::now() + SLICE));
            state = self.lock();
        }
    }

    /// Publishes the result of a scrape or a check. Returns whether another one may follow.
    fn end(&self, state: &mut State, pass: Pass, result: Result<(), String>) -> bool {
        let is_success = result.is_ok();
        let next = (state.after)(&mut state.scraper, pass, result);
        let not_before = if is_success { state.scraper.end(pass) } else { None };
        if pass == Pass::Check {
            return true;
        }
        let now = Instant::now();
        self.demand.end(is_success, not_before, now);
        if next == Next::Soon {
            self.demand.request_another(now);
        }
        next != Next::Never
    }

    /// Locks the state. A panic ends the process (or the test), so no thread can see a half-changed state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
