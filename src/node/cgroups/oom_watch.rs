//! Watches the cgroups of all listed containers, and those above: the counters of memory events, to find OOM
//! kills, and the use, to notice in time that one comes close to its limit.
//!
//! One thread does both and walks through no process's pages: that may take so long that a killed container is
//! gone before its counter is read. On version 2 it polls the counters. Version 1 reports events only to a
//! process with write access; there, the counters are read when the node's count of kills has changed.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, getrlimit};

use super::counters::{Counters, NewContainer};
use super::kill_counts::FoundKill;
use super::looks::Looks;
use crate::cgroupfs::files::CgroupFs;
use crate::demand::{Demand, Wake};
use crate::node::containers::table::{Container, ContainerId};

/// The thread that watches has little on its stack.
const STACK: usize = 64 << 10;

/// The watched cgroups. The thread that watches and the thread that scrapes share them.
#[derive(Clone, Debug)]
pub struct OomWatch(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Wakes the thread that watches, when there are cgroups to add.
    changed: Wake,
}

#[derive(Debug)]
struct State {
    counters: Counters,
    looks: Looks,
}

impl OomWatch {
    /// Watches nothing yet. Fails with the system's error when no descriptor is left.
    pub fn new(fs: &CgroupFs) -> io::Result<Self> {
        let max_descriptors = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize);
        let counters = Counters::new(fs.has_events(), max_descriptors / 8);
        let state = State { counters, looks: Looks::new(max_descriptors) };
        Ok(Self(Arc::new(Shared { state: Mutex::new(state), changed: Wake::new()? })))
    }

    /// Starts the thread that watches. It wakes the thread that scrapes when there are kills, or processes to
    /// read. Its looks may take a quarter of `cpu_budget`, a fraction of one core; 0 means no limit.
    ///
    /// Fails with the system's error when no thread can be started.
    pub fn start(&self, demand: Arc<Demand>, cpu_budget: f64) -> io::Result<()> {
        self.0.lock().looks.limit_cpu_time(cpu_budget);
        let shared = self.0.clone();
        let watch = move || shared.watch_forever(&demand);
        thread::Builder::new().name("oom".to_owned()).stack_size(STACK).spawn(watch)?;
        Ok(())
    }

    /// Watches a container, its pod and the cgroups above the pod. Returns whether the container's counters are
    /// held, and whether it has a pod whose counters are held.
    pub fn add(&self, fs: &CgroupFs, new: &NewContainer<'_>) -> (bool, bool) {
        let now = Instant::now();
        let mut state = self.0.lock();
        let added = state.counters.add(fs, new, now);
        if new.container.is_selected {
            let is_young = [new.is_young, new.is_young_pod];
            state.looks.add(fs, new.container.id, new.place, is_young, now);
        }
        drop(state);
        self.0.changed.wake();
        added
    }

    /// Notes that no process is left in a container.
    pub fn end(&self, id: ContainerId) {
        self.0.lock().counters.end(id);
    }

    /// Reads the counters of what is ending, and drops what is gone.
    pub fn drop_gone(&self) {
        self.0.lock().counters.drop_gone(Instant::now());
    }

    /// Reads all counters.
    pub fn read_all(&self) {
        self.0.lock().counters.read_all(Instant::now());
    }

    /// Returns the kills that were found since the last call.
    pub fn take(&self) -> Vec<FoundKill> {
        self.0.lock().counters.take()
    }

    /// Returns one container of each pod with a cgroup that was removed since the last call.
    pub fn take_gone_pods(&self) -> Vec<Arc<Container>> {
        self.0.lock().counters.take_gone_pods()
    }

    /// Whether the processes of a container are due to be read, because it comes close to a limit.
    pub fn has_due(&self) -> bool {
        self.0.lock().looks.has_due()
    }

    /// Returns the containers whose processes are due to be read, each once.
    pub fn take_due(&self) -> BTreeSet<ContainerId> {
        self.0.lock().looks.take_due()
    }

    /// Returns the CPU time of looks since the last call.
    pub fn take_cpu_time(&self) -> Duration {
        self.0.lock().looks.take_cpu_time()
    }

    /// Returns how long a container takes to reach its limit, or its pod's, if it grows on; `None` if it does
    /// not grow or has no limit.
    pub fn time_to_limit(&self, id: ContainerId) -> Option<Duration> {
        self.0.lock().looks.time_to_limit(id, Instant::now())
    }

    /// Returns how many thousandths of its limit, or of its pod's, a container uses.
    pub fn permille(&self, id: ContainerId) -> Option<u64> {
        self.0.lock().looks.permille(id)
    }

    /// Looks at all cgroups now.
    #[cfg(test)]
    pub(super) fn look(&self, now: Instant) {
        self.0.lock().looks.look(now);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic ends the process (or the test), so the state is never half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch_forever(&self, demand: &Demand) {
        loop {
            let now = Instant::now();
            let (files, until) = {
                let State { counters, looks } = &*self.lock();
                let until = counters.next_step(now).into_iter().chain(looks.next()).min();
                (counters.polled(), until)
            };
            let timeout = until.map(|until| timespec(until.saturating_duration_since(now)));
            let mut polled = vec![PollFd::new(&self.changed, PollFlags::IN)];
            polled.extend(files.iter().map(|files| PollFd::new(&**files, PollFlags::PRI)));
            let n_ready = poll(&mut polled, timeout.as_ref()).unwrap_or(0); // a signal may interrupt it
            let is_ready = |at: usize| n_ready > 0 && !polled[at].revents().is_empty();
            let woken: Vec<_> = (0..files.len()).filter(|&i| is_ready(i + 1)).map(|i| &files[i]).collect();
            self.changed.clear();
            let mut state = self.lock();
            let now = Instant::now();
            state.counters.step(&woken, now);
            if state.looks.look(now) || state.counters.has_found() {
                demand.requested().wake();
            }
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: duration.subsec_nanos().into() }
}
