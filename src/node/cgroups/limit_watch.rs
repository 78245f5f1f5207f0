//! Measures the memory use of containers and pods that have a limit, to notice in time when a container or a
//! pod comes close to its limit.
//!
//! Each cgroup is measured once a second, and ten times a second if the cgroup may soon be close to its
//! limit. It is also measured before its processes are read. Reading the memory use takes 2.4 microseconds on
//! a busy machine. A limit is read when the kernel reports that it was written, and all limits are read every
//! ten seconds. If each measurement also read the limits of 250 containers and their pods, reading the limits
//! would take two thirds of the measuring time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::growth::{Growth, MAX_INTERVAL, MIN_INTERVAL, Measurement, UseAndLimit};
use crate::cgroupfs::changes::{Changes, Watched};
use crate::cgroupfs::files::{CgroupFs, Place};
use crate::cgroupfs::use_files::UseFiles;
use crate::node::containers::table::ContainerId;
use crate::procfs::this_process::thread_cpu_time;

/// The number of descriptors that stay open for each cgroup.
const N_FILES: usize = 3;
/// The fraction of the CPU budget that measurements may use. If measurements take more CPU time, the pauses
/// between them become longer.
const MAX_SHARE: f64 = 0.25;
/// The time between two reads of all limits. Between these reads, a limit is read when the kernel reports a
/// write to its file. If a read of all limits shows that a limit has changed without such a report, the
/// kernel does not report writes. From then on, all limits are read once a second instead.
const ALL_LIMITS: Duration = Duration::from_secs(10);
/// How long the checks between scrapes stay frequent after a cgroup was created. The cgroup may belong to a
/// new container, and a check can find the container only after its first process has started.
const CALMING: Duration = Duration::from_secs(10);

/// A cgroup that may have a limit: the cgroup of a container or of a pod, or a cgroup above pods.
#[derive(Debug)]
struct Level {
    files: UseFiles,
    growth: Growth,
    /// The watch on the file with the limit; `None` if the kernel does not report writes to the file.
    limit_file: Option<Watched>,
    /// The watch on the directory of a cgroup above containers; `None` if the kernel does not report new
    /// cgroups in it.
    directory: Option<Watched>,
    is_gone: bool,
}

/// The paths of the cgroups with limits that apply to one container.
#[derive(Debug)]
struct Levels {
    own: Box<[u8]>,
    pod: Option<Box<[u8]>>,
}

impl Levels {
    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&*self.own).chain(self.pod.as_deref())
    }
}

/// The result of [`LimitWatch::measure`].
#[derive(Debug, Default)]
pub struct Measured {
    /// Whether the processes of at least one container are now due to be read.
    pub is_due: bool,
    /// Whether a new cgroup may have been created.
    pub has_new: bool,
    /// The containers that may reach a limit before they are measured again.
    pub at_limit: Vec<ContainerId>,
}

/// Holds the cgroups of the containers that a filter selects, and the cgroups of their pods. Measures how
/// much memory these cgroups use.
#[derive(Debug)]
pub struct LimitWatch {
    levels: BTreeMap<Box<[u8]>, Level>,
    containers: BTreeMap<ContainerId, Levels>,
    changes: Changes,
    /// The containers with processes that are due to be read, because the container or its pod comes close to
    /// its limit.
    due: BTreeSet<ContainerId>,
    /// The maximum number of cgroups with files that stay open.
    max_held: usize,
    /// When all cgroups are measured next.
    all_at: Option<Instant>,
    /// When any cgroup is measured next.
    next_at: Option<Instant>,
    /// When all limits are read next.
    limits_at: Option<Instant>,
    /// When the last new cgroup was noticed.
    new_at: Option<Instant>,
    /// The CPU budget, as a fraction of one core; 0 means no limit.
    cpu_budget: f64,
    cpu_time: Duration,
    text: Vec<u8>,
}

impl LimitWatch {
    /// Creates a watch without cgroups. Its open files will use at most a quarter of `max_descriptors`.
    pub fn new(max_descriptors: usize) -> Self {
        Self {
            levels: BTreeMap::new(),
            containers: BTreeMap::new(),
            changes: Changes::default(),
            due: BTreeSet::new(),
            max_held: max_descriptors / 4 / N_FILES,
            all_at: None,
            next_at: None,
            limits_at: None,
            new_at: None,
            cpu_budget: 0.0,
            cpu_time: Duration::ZERO,
            text: Vec::new(),
        }
    }

    /// Limits the CPU time of measurements to a quarter of `cpu_budget`, which is a fraction of one core. If
    /// `cpu_budget` is 0, there is no limit.
    pub fn limit_cpu_time(&mut self, cpu_budget: f64) {
        self.cpu_budget = cpu_budget;
    }

    /// Adds the cgroups of a container and of its pod, and measures them. `is_new` says whether the cgroup of
    /// the container is new, and `is_new_pod` whether the cgroup of the pod is new. The memory use of a new
    /// cgroup is treated as if it had grown from 0 bytes within a second. If one of the two cgroups is close
    /// to its limit already, the container is due to be read.
    pub fn add(
        &mut self,
        fs: &CgroupFs,
        id: ContainerId,
        place: &Place,
        [is_new, is_new_pod]: [bool; 2],
        now: Instant,
    ) {
        let is_held = self.add_level(fs, &place.path, is_new, now);
        let pod = place.parent.as_deref().filter(|pod| self.add_above(fs, pod, is_new_pod, now));
        place.above_pod().for_each(|above| _ = self.add_above(fs, above, false, now));
        self.new_at = Some(now);
        if is_held || pod.is_some() {
            let levels = Levels { own: (&*place.path).into(), pod: pod.map(Into::into) };
            let is_added = self.containers.insert(id, levels).is_none();
            if is_added && self.growths(id).any(Growth::is_close) {
                self.due.insert(id);
            }
        }
        self.all_at.get_or_insert(now + MAX_INTERVAL);
        self.limits_at.get_or_insert(now + ALL_LIMITS);
        self.next_at = Some(now + MIN_INTERVAL);
    }

    /// Adds a cgroup above containers, and watches for new cgroups in it. Returns whether the cgroup is
    /// measured from now on.
    fn add_above(&mut self, fs: &CgroupFs, path: &[u8], is_new: bool, now: Instant) -> bool {
        let is_held = self.add_level(fs, path, is_new, now);
        if let Some(level) = self.levels.get_mut(path)
            && level.directory.is_none()
        {
            level.directory = self.changes.watch_directory(level.files.directory());
        }
        is_held
    }

    /// Adds a cgroup. Returns whether the cgroup is measured from now on.
    fn add_level(&mut self, fs: &CgroupFs, path: &[u8], is_new: bool, now: Instant) -> bool {
        if self.levels.contains_key(path) {
            return true;
        }
        if self.levels.len() >= self.max_held {
            return false;
        }
        let Some(files) = fs.open_use(path) else { return false };
        let growth = if is_new { Growth::of_new(now) } else { Growth::default() };
        // The file is watched before the limit is read. Otherwise a write between the two would be missed.
        let limit_file = self.changes.watch_file(files.limit_file());
        let mut level = Level { files, growth, limit_file, directory: None, is_gone: false };
        level.read_limit();
        level.measure(&mut self.text, now);
        self.levels.insert(path.into(), level);
        true
    }

    /// Returns the time at which the next measurement is due; `None` if there is no cgroup to measure.
    pub fn next(&self) -> Option<Instant> {
        self.next_at
    }

    /// Measures the cgroups that are due.
    pub fn measure(&mut self, now: Instant) -> Measured {
        if self.next_at.is_none_or(|next_at| now < next_at) {
            return Measured::default();
        }
        let clock = thread_cpu_time();
        let is_all = self.all_at.is_none_or(|all_at| now >= all_at);
        let has_new = is_all && self.take_changes(now);
        let Self { levels, containers, changes, due, text, .. } = self;
        let (mut close, mut at_limit, mut is_soon) = (Vec::new(), Vec::new(), false);
        let n_before = levels.len();
        levels.retain(|path, level| {
            if !is_all && level.growth.interval(now) > MIN_INTERVAL {
                return true;
            }
            let Some(is_due) = level.measure(text, now) else {
                level.limit_file.into_iter().chain(level.directory).for_each(|file| changes.forget(file));
                return false;
            };
            if is_due {
                close.push(path.clone());
            }
            if level.growth.may_reach_limit(now) {
                at_limit.push(path.clone());
            }
            is_soon |= level.growth.interval(now) == MIN_INTERVAL;
            true
        });
        if levels.len() < n_before {
            containers.retain(|_, of| of.iter().any(|path| levels.contains_key(path)));
        }
        due.extend(containers_in(containers, &close));
        let at_limit = containers_in(containers, &at_limit).collect();
        let cost = thread_cpu_time().saturating_sub(clock);
        self.cpu_time += cost;
        self.schedule(is_all, is_soon, cost, now);
        Measured { is_due: !close.is_empty(), has_new, at_limit }
    }

    /// Reads the limits that were written since the last call, and all limits every ten seconds. Returns
    /// whether a cgroup may have been created since the last call.
    fn take_changes(&mut self, now: Instant) -> bool {
        let Self { levels, changes, limits_at, .. } = self;
        let mut differing = Vec::new();
        if limits_at.is_none_or(|at| now >= at) {
            *limits_at = Some(now + ALL_LIMITS);
            let has_changed = |level: &mut Level| level.read_limit().then_some(level.limit_file);
            differing.extend(levels.values_mut().filter_map(has_changed));
        }
        // The kernel's reports of writes are taken after the limits were read, so the reports include every
        // write that has changed these limits. If a limit has changed without a report, the kernel does not
        // report writes to these files. All watches in `changes` are then useless, so they are stopped.
        let changed = changes.take();
        if differing.iter().any(|&file| !changed.includes(file)) {
            changes.stop();
        }
        for level in levels.values_mut().filter(|level| changed.includes(level.limit_file)) {
            level.read_limit();
        }
        if changed.has_new() {
            self.new_at = Some(now);
        }
        changed.has_new()
    }

    /// Adds `cost` to the CPU time of the measurements. Delays the next measurement for so long that
    /// measurements use at most the fraction [`MAX_SHARE`] of the CPU budget.
    pub fn charge(&mut self, cost: Duration, now: Instant) {
        self.cpu_time += cost;
        let earliest = now + self.pause(cost);
        self.next_at = self.next_at.map(|next_at| next_at.max(earliest));
    }

    /// Returns how long to wait after a measurement that took the CPU time `cost`, so that measurements use
    /// at most the fraction [`MAX_SHARE`] of the CPU budget. A budget of 0 sets no limit, so the wait is 0.
    fn pause(&self, cost: Duration) -> Duration {
        match self.cpu_budget {
            0.0 => Duration::ZERO,
            fraction => cost.div_f64(MAX_SHARE * fraction),
        }
    }

    fn schedule(&mut self, is_all: bool, is_soon: bool, cost: Duration, now: Instant) {
        let pause = self.pause(cost);
        if is_all {
            self.all_at = Some(now + pause.max(MAX_INTERVAL));
        }
        let soon = is_soon.then_some(now + pause.max(MIN_INTERVAL));
        self.next_at = soon.into_iter().chain(self.all_at).min().filter(|_| !self.levels.is_empty());
    }

    /// Whether there are cgroups, and no new cgroup was noticed in the last ten seconds.
    pub fn is_calm(&self, now: Instant) -> bool {
        !self.levels.is_empty() && self.new_at.is_some_and(|new_at| now >= new_at + CALMING)
    }

    /// Whether the processes of at least one container are due to be read.
    pub fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Removes and returns all containers that were found close to a limit. Their processes must be read now.
    pub fn take_due(&mut self) -> BTreeSet<ContainerId> {
        std::mem::take(&mut self.due)
    }

    /// Returns the CPU time that measurements have used since the last call.
    pub fn take_cpu_time(&mut self) -> Duration {
        std::mem::take(&mut self.cpu_time)
    }

    /// Returns how long a container takes to reach its limit or its pod's limit if its memory use keeps
    /// growing; `None` if the memory use does not grow, or if there is no limit.
    ///
    /// First measures the two cgroups, if their last measurements are older than [`MIN_INTERVAL`], because a
    /// fast leak fills its container between two measurements that are a second apart. The time since the
    /// last measurement does not show when such a leak began, so the growth is assumed to be sudden.
    pub fn time_to_limit(&mut self, id: ContainerId, now: Instant) -> Option<Duration> {
        let Self { levels, containers, due, text, .. } = self;
        let (mut close, mut least) = (Vec::new(), None);
        for path in containers.get(&id)?.iter() {
            let Some(level) = levels.get_mut(path) else { continue };
            if !level.growth.is_recent(now) {
                if level.measure(text, now) == Some(true) {
                    close.push(path.into());
                }
                level.growth.assume_sudden();
            }
            least = least.into_iter().chain(level.growth.time_to_limit(now)).min();
        }
        due.extend(containers_in(containers, &close));
        least
    }

    /// Returns the memory use of a container in thousandths of its limit, or the memory use of its pod in
    /// thousandths of the pod's limit, whichever number is higher.
    pub fn permille(&self, id: ContainerId) -> Option<u64> {
        self.growths(id).filter_map(Growth::permille).max()
    }

    /// Returns the containers in the pod with the cgroup at this path.
    pub fn containers_of(&self, pod: &[u8]) -> Vec<ContainerId> {
        let is_in = |of: &Levels| of.pod.as_deref() == Some(pod);
        self.containers.iter().filter(|(_, of)| is_in(of)).map(|(&id, _)| id).collect()
    }

    /// Returns the files of a container's own cgroup, and the current memory use and limit of its pod.
    pub fn files_of(&self, id: ContainerId) -> Option<(&UseFiles, UseAndLimit)> {
        let of = self.containers.get(&id)?;
        let pod = of.pod.as_ref().and_then(|pod| self.levels.get(pod)).map(|pod| &pod.files);
        let pod = pod.map(|pod| UseAndLimit { current: pod.current(), limit: pod.limit() });
        Some((&self.levels.get(&of.own)?.files, pod.unwrap_or_default()))
    }

    /// Returns the memory use and the limit of a container as of the last measurement.
    pub fn use_of_container(&self, id: ContainerId) -> UseAndLimit {
        self.containers.get(&id).map(|of| self.use_of(&of.own)).unwrap_or_default()
    }

    /// Notes that a container has reached its limit or its pod's limit. For a second after this call,
    /// [`LimitWatch::time_to_limit`] returns 0 for the container.
    pub fn note_hit(&mut self, id: ContainerId, now: Instant) {
        if let Some(level) = self.containers.get(&id).and_then(|of| self.levels.get_mut(&of.own)) {
            level.growth.note_hit(now);
        }
    }

    /// Returns the memory use and the limit of a cgroup as of the last measurement.
    pub fn use_of(&self, path: &[u8]) -> UseAndLimit {
        self.levels.get(path).map(|level| level.growth.use_and_limit()).unwrap_or_default()
    }

    fn growths(&self, id: ContainerId) -> impl Iterator<Item = &Growth> {
        let paths = self.containers.get(&id).into_iter().flat_map(Levels::iter);
        paths.filter_map(|path| Some(&self.levels.get(path)?.growth))
    }
}

/// Returns the containers to which the limits of these cgroups apply.
fn containers_in(
    containers: &BTreeMap<ContainerId, Levels>,
    paths: &[Box<[u8]>],
) -> impl Iterator<Item = ContainerId> {
    let is_in = |of: &Levels| of.iter().any(|path| paths.iter().any(|other| **other == *path));
    // Usually there are no paths, so the containers are not searched. Each read of a process calls this.
    let searched = (!paths.is_empty()).then_some(containers);
    searched.into_iter().flatten().filter(move |(_, of)| is_in(of)).map(|(&id, _)| id)
}

impl Level {
    /// Reads the limit. Returns whether it has changed.
    fn read_limit(&mut self) -> bool {
        let limit = self.files.read_limit();
        self.is_gone |= limit.is_none();
        limit.is_some_and(|limit| self.growth.set_limit(limit))
    }

    /// Measures the cgroup. Returns whether the processes in it are due to be read; `None` if the cgroup was
    /// removed.
    fn measure(&mut self, text: &mut Vec<u8>, now: Instant) -> Option<bool> {
        if self.is_gone {
            return None;
        }
        if !self.growth.has_limit() {
            return Some(false);
        }
        let current = self.files.current()?;
        let inactive =
            if self.growth.needs_inactive(current) { self.files.inactive_file(text) } else { None };
        Some(self.growth.add(Measurement { current, inactive }, now))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
