//! Watches the cgroups of all listed containers, and the cgroups above them, in one thread. Their event
//! counters show OOM kills, and their memory use shows early that a container comes close to its limit.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, getrlimit};

use super::counters::{Counters, NewContainer, Which};
use super::kill_counts::FoundKill;
use super::limit_watch::LimitWatch;
use super::moment::{End, Moments};
use crate::cgroupfs::events::EventFiles;
use crate::cgroupfs::files::CgroupFs;
use crate::demand::{Demand, Wake};
use crate::node::containers::table::{Container, ContainerId};
use crate::procfs::Proc;
use crate::procfs::this_process::thread_cpu_time;

/// The stack size of the watching thread, which needs only a small stack.
const STACK: usize = 64 << 10;
/// From this memory use on, in thousandths of the limit, no smaps is read. Cgroup version 1 does not report
/// that the limit was reached.
const HIT: u64 = 980;

/// The watched cgroups. The watching thread and the scraping thread share them.
#[derive(Clone, Debug)]
pub struct OomWatch(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Wakes the watching thread when there are cgroups to add.
    changed: Wake,
}

#[derive(Debug)]
struct State {
    counters: Counters,
    limit_watch: LimitWatch,
    moments: Moments,
    /// The kills that were found, each with what was read about its container or pod.
    found: Vec<(FoundKill, End)>,
}

impl State {
    /// Reads all counters and measures all cgroups that are due now. Returns whether the scraping thread has
    /// something to do.
    fn step(&mut self, woken: &[&Arc<EventFiles>], now: Instant) -> bool {
        self.counters.step(woken, now);
        // Kills are taken first, because `read_moments` replaces the readings that still include the killed
        // processes.
        self.take_kills();
        let measured = self.limit_watch.measure(now);
        let clock = thread_cpu_time();
        self.read_moments(measured.at_limit, now);
        self.limit_watch.charge(thread_cpu_time().saturating_sub(clock), now);
        measured.is_due || measured.has_new || !self.found.is_empty()
    }

    /// Reads the containers that have reached a limit, or may reach it before the next measurement.
    fn read_moments(&mut self, at_limit: Vec<ContainerId>, now: Instant) {
        let mut reported = BTreeSet::new();
        for which in self.counters.take_at_limit() {
            match which {
                Which::Container(id) => _ = reported.insert(id),
                Which::Above(path) => reported.extend(self.limit_watch.containers_of(&path)),
            }
        }
        let ids: BTreeSet<_> = at_limit.into_iter().chain(reported.iter().copied()).collect();
        for id in ids {
            // The record of this kill needs the previous reading, which still includes the killed process.
            if self.counters.has_kill(id, now) {
                continue;
            }
            // This thread does not read smaps. During a long read, the cgroup could be removed before its
            // counters show a kill.
            self.moments.read(id, &self.limit_watch, now);
            // In a test (limit 80 MB, leak 5 MB/s), a lower `HIT` stopped the reads of smaps more than a
            // second too early.
            let is_hit = reported.contains(&id) || self.limit_watch.permille(id) >= Some(HIT);
            if is_hit && self.moments.is_full(id) {
                self.limit_watch.note_hit(id, now);
            }
        }
    }

    /// Moves the kills from the counters to `found`, and adds what was read about their containers or pods.
    fn take_kills(&mut self) {
        let Self { counters, limit_watch, moments, found } = self;
        found.extend(counters.take().into_iter().map(|kill| {
            let end = moments.end(&kill, limit_watch);
            (kill, end)
        }));
    }
}

impl OomWatch {
    /// Creates a watch without cgroups. Fails with the system's error if no descriptor is left.
    pub fn new(fs: &CgroupFs) -> io::Result<Self> {
        let max_descriptors = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize);
        // Version 1 reports events only to writers, so its counters are read when the node's count of OOM
        // kills has changed.
        let counters = Counters::new(fs.has_events(), max_descriptors / 8);
        let limit_watch = LimitWatch::new(max_descriptors);
        let state = State { counters, limit_watch, moments: Moments::default(), found: Vec::new() };
        Ok(Self(Arc::new(Shared { state: Mutex::new(state), changed: Wake::new()? })))
    }

    /// Starts the thread. Measurements use at most a quarter of `cpu_budget` (in cores; 0 means no limit).
    ///
    /// Fails if no thread can be started.
    pub fn start(&self, demand: Arc<Demand>, cpu_budget: f64, proc: Arc<Proc>) -> io::Result<()> {
        let mut state = self.0.lock();
        state.limit_watch.limit_cpu_time(cpu_budget);
        state.moments.set_proc(proc);
        drop(state);
        let shared = self.0.clone();
        let watch = move || shared.watch_forever(&demand);
        thread::Builder::new().name("oom".to_owned()).stack_size(STACK).spawn(watch)?;
        Ok(())
    }

    /// Watches a container, its pod and the cgroups above. Returns whether the counters of the container and
    /// of the pod are open.
    pub fn add(&self, fs: &CgroupFs, new: &NewContainer<'_>) -> (bool, bool) {
        let now = Instant::now();
        let mut state = self.0.lock();
        let added = state.counters.add(fs, new, now);
        if new.container.is_selected {
            let is_new = [new.is_new, new.is_new_pod];
            state.limit_watch.add(fs, new.container.id, new.place, is_new, now);
        }
        drop(state);
        self.0.changed.wake();
        added
    }

    /// Notes that no process is left in a container.
    pub fn end(&self, id: ContainerId) {
        self.0.lock().counters.end(id);
    }

    /// Replaces the list of processes, and leaves the previous list in `processes` for reuse.
    pub fn set_processes(&self, processes: &mut Vec<(ContainerId, u32)>, now: Instant) {
        self.0.lock().moments.set_processes(processes, now);
    }

    /// Drops the counters of removed cgroups (see [`Counters::drop_gone`]).
    pub fn drop_gone(&self) {
        self.0.lock().counters.drop_gone(Instant::now());
    }

    /// Reads all counters.
    pub fn read_all(&self) {
        self.0.lock().counters.read_all(Instant::now());
    }

    /// Notes that a scrape or a check begins. [`OomWatch::intact`] then returns the containers without a kill
    /// since this call.
    pub fn begin_pass(&self) {
        self.0.lock().counters.begin_pass();
    }

    /// Reads all counters. Returns the containers that have a cgroup, but no kill since the last
    /// [`OomWatch::begin_pass`].
    pub fn intact(&self) -> BTreeSet<ContainerId> {
        let intact = self.0.lock().counters.intact(Instant::now());
        self.0.changed.wake(); // The thread has to return the kills that were found now.
        intact
    }

    /// Returns the kills that were found since the last call, with what was read about their containers or
    /// pods.
    pub fn take(&self) -> Vec<(FoundKill, End)> {
        let mut state = self.0.lock();
        state.take_kills();
        std::mem::take(&mut state.found)
    }

    /// Returns the pods with a cgroup that was removed since the last call. Each pod is represented by one of
    /// its containers.
    pub fn take_gone_pods(&self) -> Vec<Arc<Container>> {
        self.0.lock().counters.take_gone_pods()
    }

    /// Whether the processes of at least one container are due to be read, because the container comes close
    /// to a limit.
    pub fn has_due(&self) -> bool {
        self.0.lock().limit_watch.has_due()
    }

    /// Whether cgroups are watched, and no container or pod was created in the last ten seconds.
    pub fn is_calm(&self) -> bool {
        self.0.lock().limit_watch.is_calm(Instant::now())
    }

    /// Removes and returns all containers that were found close to a limit. Their processes must be read now.
    pub fn take_due(&self) -> BTreeSet<ContainerId> {
        self.0.lock().limit_watch.take_due()
    }

    /// Returns the CPU time that measurements have used since the last call.
    pub fn take_cpu_time(&self) -> Duration {
        self.0.lock().limit_watch.take_cpu_time()
    }

    /// Returns the time until a container reaches its limit or its pod's limit at its present growth; `None`
    /// without growth or limit.
    pub fn time_to_limit(&self, id: ContainerId) -> Option<Duration> {
        self.0.lock().limit_watch.time_to_limit(id, Instant::now())
    }

    /// Returns the use of a container's limit or of its pod's limit, whichever is higher, in thousandths.
    pub fn permille(&self, id: ContainerId) -> Option<u64> {
        self.0.lock().limit_watch.permille(id)
    }

    /// Does what the watching thread does when it wakes up at `now` without an event.
    #[cfg(test)]
    pub(super) fn step(&self, proc: Proc, now: Instant) {
        let mut state = self.0.lock();
        state.moments.set_proc(Arc::new(proc));
        state.step(&[], now);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is used as well. A panic ends the process (or the test), so nothing sees a
        // half-changed state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch_forever(&self, demand: &Demand) {
        loop {
            let now = Instant::now();
            let (files, until) = {
                let State { counters, limit_watch, .. } = &*self.lock();
                let until = counters.next_step(now).into_iter().chain(limit_watch.next()).min();
                (counters.polled(), until)
            };
            let timeout = until.map(|until| timespec(until.saturating_duration_since(now)));
            let mut polled = vec![PollFd::new(&self.changed, PollFlags::IN)];
            polled.extend(files.iter().map(|files| PollFd::new(&**files, PollFlags::PRI)));
            let n_ready = poll(&mut polled, timeout.as_ref()).unwrap_or(0); // A signal may interrupt poll.
            let is_ready = |at: usize| n_ready > 0 && !polled[at].revents().is_empty();
            let woken: Vec<_> = (0..files.len()).filter(|&i| is_ready(i + 1)).map(|i| &files[i]).collect();
            self.changed.clear();
            if self.lock().step(&woken, Instant::now()) {
                demand.requested().wake();
            }
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: duration.subsec_nanos().into() }
}
