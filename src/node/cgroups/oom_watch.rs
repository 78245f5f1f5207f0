//! Watches the cgroups of all listed containers and the cgroups above them. The counters of memory events in
//! these cgroups show OOM kills. The memory use of these cgroups shows early that a container comes close to
//! its limit.
//!
//! One thread reads the counters and the memory use. When a container has reached its limit, this thread
//! reads the `status` files of the container's processes, but not smaps. A read of smaps can take so long
//! that the cgroup is removed before its counters can show a kill.
//!
//! On version 2, the thread polls the counters. Version 1 reports events only to a process with write access.
//! So on version 1, the counters are read when the kernel's count of OOM kills on the whole node has changed.

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
/// On cgroup version 1, the kernel does not report that a container has reached its limit. Instead, a
/// container is treated as if it had reached its limit when it uses at least this many thousandths of the
/// limit, and contains little page cache that the kernel can reclaim. From then on, the smaps of its
/// processes are not read, because a process that is killed during such a read keeps its memory until the
/// read ends.
///
/// A lower number would stop the reads of smaps too early. In a test with a lower number, they stopped at 91%
/// of the limit, more than a second before the limit was reached. The containers in this test had a limit of
/// 80 MB, began with 60 MB and leaked 5 MB/s.
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
    /// Reads the counters that may have changed, and measures the memory use of each cgroup that is due to be
    /// measured now. Returns whether the scraping thread has something to do.
    fn step(&mut self, woken: &[&Arc<EventFiles>], now: Instant) -> bool {
        self.counters.step(woken, now);
        // Kills are taken before `read_moments` reads the containers, because a new reading of a container
        // replaces its previous reading. The record of a kill needs the previous reading, which includes the
        // killed process.
        self.take_kills();
        let measured = self.limit_watch.measure(now);
        let clock = thread_cpu_time();
        self.read_moments(measured.at_limit, now);
        self.limit_watch.charge(thread_cpu_time().saturating_sub(clock), now);
        measured.is_due || measured.has_new || !self.found.is_empty()
    }

    /// Reads the containers that have reached a limit, or may reach it before the next measurement. A
    /// container with a kill that is not recorded yet is skipped. The record of that kill needs the previous
    /// reading, which still includes the killed process.
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
            if self.counters.has_kill(id, now) {
                continue;
            }
            self.moments.read(id, &self.limit_watch, now);
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
    /// Creates a watch to which no cgroups have been added yet. Fails with the system's error if no file
    /// descriptor is left.
    pub fn new(fs: &CgroupFs) -> io::Result<Self> {
        let max_descriptors = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize);
        let counters = Counters::new(fs.has_events(), max_descriptors / 8);
        let limit_watch = LimitWatch::new(max_descriptors);
        let state = State { counters, limit_watch, moments: Moments::default(), found: Vec::new() };
        Ok(Self(Arc::new(Shared { state: Mutex::new(state), changed: Wake::new()? })))
    }

    /// Starts the watching thread. This thread wakes the scraping thread when there are kills to report, or
    /// processes to read. `cpu_budget` is the CPU time that the exporter may use, as a fraction of one core.
    /// Measuring the memory use of cgroups may take a quarter of that CPU time. If `cpu_budget` is 0, the CPU
    /// time of these measurements is not limited.
    ///
    /// Fails with the system's error if no thread can be started.
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

    /// Watches a container, its pod and the cgroups above the pod. Returns whether the counters of the
    /// container are open, and whether the counters of the pod are open.
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

    /// Replaces the list of processes by `processes`. The caller gets the previous list back in `processes`,
    /// to reuse its buffer.
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

    /// Reads all counters. Returns the containers that still have a cgroup, and in which no process was
    /// killed since the last call of [`OomWatch::begin_pass`].
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

    /// Whether at least one cgroup is watched, and no container and no pod was created in the last ten
    /// seconds.
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

    /// Returns the time in which a growing container will reach its own limit, or its pod will reach the
    /// pod's limit, whichever comes first. `None` if neither grows, or if there is no limit.
    /// Measures the memory use first if the last measurement is too old.
    pub fn time_to_limit(&self, id: ContainerId) -> Option<Duration> {
        self.0.lock().limit_watch.time_to_limit(id, Instant::now())
    }

    /// Returns the memory use of a container in thousandths of its limit, or the memory use of its pod in
    /// thousandths of the pod's limit, whichever number is higher.
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
        // The lock is taken even if it is poisoned. This is safe, because a panic ends the process (or the
        // test), so no code continues with a half-changed state.
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
