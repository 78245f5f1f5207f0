//! The threads of the exporter that run scrapes and checks. One thread is active, and another thread stands
//! by (see [`Handover`]).
//!
//! If a process on the node holds its own mmap_lock for good, the exporter cannot read the memory files of
//! that process. One thread of the exporter stays blocked in this read, and the process has no values. No
//! other read is delayed, because the exporter holds no lock while it reads a process, and nothing else in a
//! scrape can block (see [`crate::node::reads::reader`]).

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

/// While the active thread waits for the next scrape, it normally keeps the shared state locked. If a
/// detached read is running, which the scrape no longer waits for, the thread of that read needs the lock to
/// deliver its result. The active thread then locks the state for this long, unlocks it for this long, and so
/// on.
const SLICE: Duration = Duration::from_millis(50);

/// The size of the stack of each scrape thread in bytes. A thread uses only a part of this size: with glibc,
/// it takes 92 KiB of resident memory. At most 72 reads can be detached, each with a thread of its own. These
/// threads take 6.8 MB.
const STACK: usize = 256 << 10;

/// A function that is called with the result of each scrape and of each check between scrapes. A check has
/// the same steps as a scrape, but reads only the processes of containers that come close to their memory
/// limit. After a scrape, the function's return value says when the next scrape begins. Otherwise, the return
/// value is ignored.
///
/// The active thread also calls the function between scrapes, to publish new OOM records and new views
/// without waiting for the next scrape or check. A view is an exposition that a client has requested with
/// parameters. The function's arguments are then the same as after a successful check.
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
    /// Makes records of the OOM kills that were found. Then publishes the new records and the views that are
    /// due. A view is an exposition that a client has requested with parameters.
    fn publish(&mut self) {
        self.scraper.record_kills();
        (self.after)(&mut self.scraper, Pass::Check, Ok(()));
    }
}

/// Runs the requested scrapes, beginning on the calling thread. If this thread is blocked in a read, another
/// thread takes over. Returns when another thread has taken over, or when the function `after`, which is
/// called after each scrape, has returned [`Next::Never`].
pub fn run(scraper: Scraper, demand: Arc<Demand>, after: AfterPass) {
    let state = Mutex::new(State { scraper, after });
    let shared = Shared { state, handover: Handover::default(), demand };
    Arc::new(shared).run(0);
}

impl Shared {
    /// Starts a standby thread. Then runs scrapes and checks on the calling thread, which is the active
    /// thread. `number` is the number of the calling thread (see [`Handover`]).
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
                    // This thread has locked the state and stored the result of its detached read. Only now
                    // may it call `deliver`. Until then, the active thread unlocks the state at short
                    // intervals while it waits, so that this thread can lock it.
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

    /// Waits until a requested scrape may begin, or until a check is due. Returns whether to run a scrape or
    /// a check.
    ///
    /// During the wait, this function receives the container runtime's list of containers. If there is a
    /// detached read, which the scrape no longer waits for, this function also unlocks the state at short
    /// intervals. The thread of the detached read can then lock the state and deliver its result.
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
