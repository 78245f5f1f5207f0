//! The account of one container: the path of its cgroup, and the memory that is charged to that cgroup.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::mapped_shmem::MappedShmem;
use super::oom::{Content, Earlier, LastReading};
use crate::cgroupfs::account::{self, Exported};
use crate::cgroupfs::fields::{SHMEM, Values};
use crate::cgroupfs::files::{Cgroup, CgroupFs, Paths};
use crate::node::containers::cgroup_index::{CgroupIndex, Place};
use crate::node::containers::discovery::Discovery;
use crate::node::containers::table::Container;
use crate::node::processes::process::Process;
use crate::node::processes::table::ProcessTable;
use crate::procfs::cgroup::Cgroups;
use crate::totals::snapshot::Snapshot;

/// If a container uses at least this many thousandths of its limit, a list of its largest mapped paths is
/// kept for an OOM record.
const CLOSE: u64 = 850;
/// If a container uses at least this many thousandths of its limit, the sizes of its largest mapped paths are
/// stored every [`STEP`]. An OOM record can then show how these sizes have grown.
const HALF: u64 = 500;
/// The time between two times at which the sizes of the largest mapped paths are stored.
const STEP: Duration = Duration::from_secs(15);
/// How long the stored sizes of the largest mapped paths are kept. This is a little longer than the minute
/// over which an OOM record can show how these sizes have grown.
const MAX_AGE: Duration = Duration::from_secs(75);

/// A container, its cgroup, and the memory that is charged to that cgroup.
#[derive(Debug)]
pub struct Account {
    container: Arc<Container>,
    /// Whether [`Account::see`] was called since the last [`Account::take_seen`].
    is_seen: bool,
    /// Whether the container has at least one process that no filter selects.
    has_unselected: bool,
    /// Whether another running container has the same labels.
    shares_labels: bool,
    paths: Paths,
    /// The start time of the container's init process, once that is known.
    started_at: Option<u64>,
    cgroup: Cgroup,
    /// The values of the cgroup; `None` if the container's cgroup does not exist.
    values: Option<Values>,
    /// Whether the container's kills are counted.
    is_watched: bool,
    shmem: MappedShmem,
    /// What the last read of the container's processes has shown. `None` if the container used less than
    /// [`CLOSE`] of its limit when [`Account::keep_reading`] was last called, or if another running container
    /// had the same labels then.
    last_reading: Option<LastReading>,
    /// The sizes of the largest mapped paths at several earlier times, stored every [`STEP`]. The oldest
    /// sizes come first.
    earlier: VecDeque<Earlier>,
}

impl Account {
    /// Creates the account of a container. Its cgroup is not known yet.
    pub fn new(container: &Arc<Container>) -> Self {
        Self {
            container: container.clone(),
            is_seen: false,
            has_unselected: false,
            shares_labels: false,
            paths: Paths::default(),
            started_at: None,
            cgroup: Cgroup::default(),
            values: None,
            is_watched: false,
            shmem: MappedShmem::default(),
            last_reading: None,
            earlier: VecDeque::new(),
        }
    }

    /// Returns the container.
    pub fn container(&self) -> &Arc<Container> {
        &self.container
    }

    /// Whether a filter can select a process of the container. OOM kills are counted even in a container that
    /// no filter selects, because they would otherwise be attributed to its pod.
    pub fn is_selected(&self) -> bool {
        self.container.is_selected
    }

    /// Returns the start time of the container's init process, if that is known.
    pub fn started_at(&self) -> Option<u64> {
        self.started_at
    }

    /// Whether the container's cgroup is known, but its kills are not counted yet.
    pub fn must_watch(&self) -> bool {
        !self.is_watched && !self.paths.memory.is_empty()
    }

    /// Notes that the container's kills are counted from now on.
    pub fn set_watched(&mut self) {
        self.is_watched = true;
    }

    /// Returns the paths of the container's cgroup.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Whether the container's cgroup exists.
    pub fn is_there(&self) -> bool {
        self.values.is_some()
    }

    /// Whether the container's cgroup has been found and need not be searched for again.
    fn is_located(&self) -> bool {
        self.is_there() || self.is_watched && !self.is_selected()
    }

    /// Returns a key that sorts containers by start time, and then by id.
    pub fn age(&self) -> (Option<u64>, &str) {
        (self.started_at, &self.container.listed.id)
    }

    /// Sets whether another running container has the same labels as this container.
    pub fn set_shares_labels(&mut self, shares_labels: bool) {
        self.shares_labels = shares_labels;
    }

    /// Notes that this process is in the container. Until the container's cgroup is known, this function also
    /// searches for that cgroup in the cgroup paths of the process.
    pub fn see(&mut self, process: &Process, index: &CgroupIndex) {
        if !std::mem::replace(&mut self.is_seen, true) {
            self.has_unselected = false;
        }
        self.has_unselected |= !process.is_selected();
        if self.is_located() {
            return;
        }
        // The container's processes may be in several cgroups. The outermost of these cgroups is the
        // container's own cgroup.
        let n_above = |path: &[u8]| path.iter().filter(|&&b| b == b'/').count();
        let found = self.find(process.cgroups(), index);
        for (path, found) in [(&mut self.paths.memory, found.memory), (&mut self.paths.others, found.others)]
        {
            if !found.is_empty() && (path.is_empty() || n_above(&found) < n_above(path)) {
                *path = found;
            }
        }
    }

    /// Returns whether a process of the container was seen since the last call.
    pub fn take_seen(&mut self) -> bool {
        std::mem::take(&mut self.is_seen)
    }

    /// Searches for the container's cgroup, unless it has been found already. The search uses the cgroup
    /// paths that the container's init process had when it was first seen. A path that is found there
    /// replaces the path that [`Account::see`] has found. If the path of the memory cgroup is still unknown,
    /// this function also searches for a memory cgroup without the container's id in its path.
    ///
    /// Always updates the start time of the init process. Returns whether the start time has changed.
    pub fn locate(&mut self, discovery: &Discovery, processes: &ProcessTable) -> bool {
        let tracked = discovery.find(&self.container);
        if !self.is_located() {
            let first = tracked.and_then(|tracked| tracked.first_cgroups.as_ref());
            let found = first.map(|first| self.find(first, discovery.index())).unwrap_or_default();
            if !found.memory.is_empty() {
                self.paths.memory = found.memory;
            }
            if !found.others.is_empty() {
                self.paths.others = found.others;
            }
            if self.paths.memory.is_empty() {
                self.paths.memory = self.unnamed_memory(first, processes).unwrap_or_default().into();
            }
        }
        let started_at = tracked.and_then(|tracked| tracked.init_start_time);
        std::mem::replace(&mut self.started_at, started_at) != started_at
    }

    /// Searches for the container's cgroup in `cgroups`, the cgroup paths of a process in the container.
    /// Returns one path for the hierarchy that counts memory, and one path for the version 1 hierarchies of
    /// other controllers. A path that is not found is empty.
    fn find(&self, cgroups: &Cgroups, index: &CgroupIndex) -> Paths {
        let is_own = |place: &Place| place.container.id == self.container.id;
        let others = index.container_of(cgroups).filter(is_own).map(|place| place.cgroup);
        let memory = match cgroups.memory() {
            Some(path) => index.container_at(path).filter(is_own).map(|place| place.cgroup),
            None => others,
        };
        let [memory, others] = [memory, others].map(|path| path.unwrap_or_default().into());
        Paths { memory, others }
    }

    /// Finds the memory cgroup of a container if the path of that cgroup does not contain the container's id.
    /// On version 1 this happens on ECS, where only the paths of other controllers contain the id.
    ///
    /// `first` has the cgroups in which the container's init process was first seen. The result is the memory
    /// cgroup in `first`. If there is no `first`, the result is the outermost memory cgroup of the
    /// container's processes.
    ///
    /// Returns `None` if that cgroup is the root, or if a process outside the container is in it. Without
    /// `first`, also returns `None` if a process of the container is outside that cgroup.
    fn unnamed_memory<'a>(
        &self,
        first: Option<&'a Cgroups>,
        processes: &'a ProcessTable,
    ) -> Option<&'a [u8]> {
        let is_own = |process: &Process| {
            process.container().is_some_and(|container| container.id == self.container.id)
        };
        let path = match first {
            Some(first) => first.memory()?,
            None => {
                // The outermost memory cgroup of the container's processes has the shortest path.
                let own = processes.iter().filter(|&process| is_own(process));
                own.map(|process| process.cgroups().memory()).min_by_key(|path| path.map(<[u8]>::len))??
            }
        };
        let is_in =
            |process: &Process| process.cgroups().memory().is_some_and(|other| is_at_or_below(other, path));
        let fits = |process| match is_own(process) {
            true => first.is_some() || is_in(process),
            false => !is_in(process),
        };
        (path != b"/" && processes.iter().all(fits)).then_some(path)
    }

    /// Reads the container's cgroup. Returns whether the cgroup exists.
    pub fn read(&mut self, fs: &mut CgroupFs, values: &mut Values) -> bool {
        let is_there = fs.read(&self.paths, &mut self.cgroup, values);
        self.values = is_there.then_some(*values);
        if !is_there {
            self.paths = Paths::default();
        }
        is_there
    }

    /// Returns the values of the container's cgroup, if the cgroup exists.
    pub fn values(&self) -> Option<&Values> {
        self.values.as_ref()
    }

    /// Closes the directories of the container's cgroup.
    pub fn close(&mut self) {
        self.cgroup = Cgroup::default();
    }

    /// Returns what is exported about the container, if its cgroup exists.
    pub fn exported(&self) -> Option<Exported<'_>> {
        let values = self.values.as_ref()?;
        let mapped = self.shmem.bytes().filter(|_| !self.has_unselected && !self.shares_labels);
        let unmapped = mapped.and_then(|mapped| account::unmapped(values, mapped));
        Some(Exported { labels: &self.container.labels, values, unmapped })
    }

    /// Begins to add up how much tmpfs and shared memory the container's processes map.
    pub fn begin_mapped_shmem(&mut self, now: Instant) {
        let values = self.values.as_ref();
        self.shmem.begin(values.and_then(|values| values.get(SHMEM)).is_some_and(|bytes| bytes > 0), now);
    }

    /// Returns a mutable reference to the sum of the tmpfs and shared memory that the container's processes
    /// map.
    pub fn mapped_shmem(&mut self) -> &mut MappedShmem {
        &mut self.shmem
    }

    /// Stores the largest mapped paths of the container, for a later OOM record. `permille` is the memory use
    /// in thousandths of the limit.
    ///
    /// From [`HALF`] of the limit on, the sizes of these paths are stored every [`STEP`], because an OOM
    /// record shows how the sizes have grown. From [`CLOSE`] on, each call stores the latest paths and the
    /// latest values of the cgroup. Nothing is stored while another running container has the same labels.
    pub fn keep_reading(
        &mut self,
        permille: u64,
        snapshot: &Snapshot,
        scratch: &mut Vec<(u64, u32)>,
        now: Instant,
    ) {
        if permille < CLOSE || self.shares_labels {
            self.last_reading = None;
        }
        if permille < HALF || self.shares_labels {
            self.earlier.clear();
            return;
        }
        let is_step = self.earlier.back().is_none_or(|earlier| now >= earlier.at + STEP);
        if permille < CLOSE && !is_step {
            return;
        }
        let mut largest = self.last_reading.take().map(|last| last.largest).unwrap_or_default();
        if !largest.find(snapshot.table(), self.container.id.key(), scratch) {
            return;
        }
        if is_step {
            self.earlier.retain(|earlier| now < earlier.at + MAX_AGE);
            self.earlier.push_back(Earlier { at: now, sizes: largest.sizes.clone() });
        }
        if permille >= CLOSE {
            let values = self.values.unwrap_or_default();
            self.last_reading = Some(LastReading { largest, oldest: None, values });
        }
    }

    /// Updates the time of the oldest reading of a process in the container. `read_at` is the time at which
    /// one of the processes was read.
    pub fn note_read_at(&mut self, read_at: Instant) {
        if let Some(last) = &mut self.last_reading {
            last.oldest = last.oldest.into_iter().chain([read_at]).min();
        }
    }

    /// Forgets that the container has processes that no filter selects.
    #[cfg(test)]
    pub fn forget_unselected(&mut self) {
        self.has_unselected = false;
    }

    /// Removes and returns what is stored about the container's memory, for the record of a kill.
    pub fn take_content(&mut self) -> Content {
        Content {
            values: self.values.unwrap_or_default(),
            is_alone: !self.shares_labels,
            last_reading: self.last_reading.take(),
            earlier: std::mem::take(&mut self.earlier),
        }
    }
}

/// Whether `path` equals `above`, or is the path of a cgroup below it.
fn is_at_or_below(path: &[u8], above: &[u8]) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}
