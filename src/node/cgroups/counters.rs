//! Reads the counters of memory events for all listed containers and for the cgroups above them. The files
//! stay open between reads.
//!
//! The counter of a pod is always read before the counters of its containers (see [`KillCounts::settle`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::kill_counts::{FoundKill, KillCounts};
use super::pace::{Moved, Pace};
use crate::cgroupfs::events::{EventCounts, EventFiles};
use crate::cgroupfs::files::{CgroupFs, Place};
use crate::node::containers::table::{Container, ContainerId};

/// The time between two reads of a file if its counters may change soon.
const READ_INTERVAL: Duration = Duration::from_millis(2);
/// The time between the first new kill and the call that returns it. All kills in this time are returned
/// together. As a result, a loop of kills makes only a few records.
const SETTLE: Duration = Duration::from_millis(100);

/// A container in which OOM kills are to be counted.
#[derive(Debug)]
pub struct NewContainer<'a> {
    /// The container.
    pub container: &'a Arc<Container>,
    /// The cgroups of the container and its pod.
    pub place: &'a Place,
    /// Whether the container started after the exporter.
    pub is_new: bool,
    /// Whether the pod started after the exporter.
    pub is_new_pod: bool,
}

/// The cgroup that a file with counters belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The cgroup at this path, which is above containers.
    Above(Box<[u8]>),
    /// The cgroup of this container.
    Container(ContainerId),
}

/// A cgroup, and its open files with the counters of memory events.
#[derive(Debug)]
struct Held {
    which: Which,
    files: Arc<EventFiles>,
    pace: Pace,
    /// Whether the cgroup may be removed soon, because no process is left in the container, or no container
    /// is left in the pod. The kernel does not report the removal. So each call of [`Counters::drop_gone`]
    /// reads the counters of such a cgroup, until a read fails because the cgroup was removed.
    is_ending: bool,
}

/// The open counters, and the kills that were found in them.
#[derive(Debug)]
pub struct Counters {
    counts: KillCounts,
    above: Vec<Held>,
    containers: Vec<Held>,
    /// Whether the kernel reports events. On version 1 it reports them only to a process with write access.
    has_events: bool,
    /// The maximum number of open descriptors. Once it is reached, the files of further containers are not
    /// opened, and kills in those containers are attributed to their pods.
    max_held: usize,
    settle_at: Option<Instant>,
    found: Vec<FoundKill>,
    /// The cgroups in which a limit was reached since the last call of [`Counters::take_at_limit`]. It may be
    /// the limit of the cgroup itself, or of a cgroup below it.
    at_limit: Vec<Which>,
    /// The pods with a cgroup that was removed. Each pod is represented by one of its containers.
    gone_pods: Vec<Arc<Container>>,
    /// Whether a container was added or a cgroup was removed since the last search for pods without
    /// containers.
    has_changed: bool,
}

impl Counters {
    /// Creates an empty set of counters. At most `max_held` descriptors will be open. `has_events` says
    /// whether the kernel reports events. If it does not, no file is polled, and the limit that led to a kill
    /// stays unknown.
    pub fn new(has_events: bool, max_held: usize) -> Self {
        Self {
            counts: KillCounts::new(has_events),
            above: Vec::new(),
            containers: Vec::new(),
            has_events,
            max_held,
            settle_at: None,
            found: Vec::new(),
            at_limit: Vec::new(),
            gone_pods: Vec::new(),
            has_changed: false,
        }
    }

    /// Opens the counters of a container, of its pod and of the cgroups above the pod. Returns whether the
    /// counters of the container are open, and whether the counters of the pod are open.
    pub fn add(&mut self, fs: &CgroupFs, new: &NewContainer<'_>, now: Instant) -> (bool, bool) {
        let NewContainer { container, place, is_new, is_new_pod } = *new;
        let pod = place.pod.as_deref().filter(|_| !container.listed.pod.is_empty());
        if self.counts.has_container(container.id) {
            let held = self.containers.iter_mut().find(|held| held.which == Which::Container(container.id));
            held.into_iter().for_each(|held| held.is_ending = false);
            return (true, pod.is_some_and(|pod| self.counts.has_above(pod)));
        }
        let had_pod = pod.is_some_and(|pod| self.counts.has_above(pod));
        if let Some(pod) = pod {
            place.above_pod().for_each(|above| self.add_above(fs, above, false, now));
            self.add_above(fs, pod, is_new_pod, now);
        }
        let has_pod = pod.is_some_and(|pod| self.counts.has_above(pod));
        if self.n_held() >= self.max_held {
            return (false, has_pod);
        }
        let Some((files, counts)) = open(fs, &place.path) else { return (false, has_pod) };
        // The first read may already show kills. They are counted only if the container and its pod have
        // started after the exporter, because older kills are not news. They are also not counted if the
        // pod's counters were open before this call, because those counters have already counted them.
        let is_whole = is_new && (pod.is_none() || is_new_pod && !had_pod);
        let before = if is_whole { EventCounts::default() } else { counts };
        self.counts.add_container(container, pod.filter(|_| has_pod), before);
        let moved = self.counts.update_container(container.id, counts, now);
        self.note(moved, now);
        self.containers.push(Held::new(Which::Container(container.id), files));
        self.has_changed = true;
        (true, has_pod)
    }

    fn add_above(&mut self, fs: &CgroupFs, path: &[u8], is_new: bool, now: Instant) {
        if self.counts.has_above(path) || self.n_held() >= self.max_held {
            return;
        }
        if let Some((files, counts)) = open(fs, path) {
            self.counts.add_above(path, if is_new { EventCounts::default() } else { counts });
            let moved = self.counts.update_above(path, counts, now);
            self.note(moved, now);
            self.above.push(Held::new(Which::Above(path.into()), files));
        }
    }

    fn n_held(&self) -> usize {
        2 * (self.above.len() + self.containers.len())
    }

    /// Returns the files to poll.
    pub fn polled(&self) -> Vec<Arc<EventFiles>> {
        let held = self.above.iter().chain(&self.containers);
        held.filter(|held| self.has_events && held.pace.is_polled()).map(|held| held.files.clone()).collect()
    }

    /// Returns the time at which [`Counters::step`] is due even without an event; `None` if only an event
    /// makes it due.
    pub fn next_step(&self, now: Instant) -> Option<Instant> {
        let held = self.above.iter().chain(&self.containers);
        let step =
            |held: &Held| if held.pace.is_read() { Some(now + READ_INTERVAL) } else { held.pace.pause_end() };
        held.filter_map(step).chain(self.settle_at).min()
    }

    /// Reads the files that had an event, and the files with counters that may change soon. If [`SETTLE`] has
    /// passed since the first new kill, also moves the new kills to the list that [`Counters::take`] returns.
    pub fn step(&mut self, woken: &[&Arc<EventFiles>], now: Instant) {
        for held in self.above.iter_mut().chain(&mut self.containers) {
            if woken.iter().any(|files| Arc::ptr_eq(files, &held.files)) {
                held.pace.wake(now);
            }
            held.pace.tick(now);
        }
        self.read(now, |held, _| held.pace.is_read());
        if self.settle_at.is_some_and(|at| now >= at) {
            // The cgroups above containers are read first. A file that is polled is not read here, because
            // the kernel reports its changes. If the counter of a pod's cgroup then shows kills that the
            // counters of its containers do not show, these containers are read, too.
            self.read(now, |held, counts| match &held.which {
                Which::Above(_) => !held.pace.is_polled(),
                Which::Container(id) => counts.pod(*id).is_some_and(|pod| counts.has_unexplained(pod)),
            });
            self.settle();
        }
    }

    /// Reads the counters of the cgroups for which `pick` is true. The counters of removed cgroups are
    /// dropped.
    fn read(&mut self, now: Instant, pick: impl Fn(&Held, &KillCounts) -> bool) {
        let Self { counts, above, containers, at_limit, gone_pods, settle_at, found, has_changed, .. } = self;
        for held in [above, containers] {
            held.retain_mut(|held| {
                if !pick(held, &*counts) {
                    return true;
                }
                let Some(read) = held.files.read() else {
                    match &held.which {
                        Which::Above(path) => {
                            counts.settle(found);
                            gone_pods.extend(counts.end_above(path));
                        }
                        Which::Container(id) => counts.end_container(*id, now),
                    }
                    *has_changed = true;
                    return false;
                };
                let moved = match &held.which {
                    Which::Above(path) => counts.update_above(path, read, now),
                    Which::Container(id) => counts.update_container(*id, read, now),
                };
                match moved {
                    Moved::Kill => _ = settle_at.get_or_insert(now + SETTLE),
                    Moved::Limit => at_limit.push(held.which.clone()),
                    Moved::Nothing => {}
                }
                held.pace.note_read(moved, now);
                true
            });
        }
    }

    fn note(&mut self, moved: Moved, now: Instant) {
        if moved == Moved::Kill {
            self.settle_at.get_or_insert(now + SETTLE);
        }
    }

    /// Moves the new kills from the counters to `found`, the list that [`Counters::take`] returns.
    fn settle(&mut self) {
        self.settle_at = None;
        self.counts.settle(&mut self.found);
    }

    /// Notes that no process is left in this container.
    pub fn end(&mut self, id: ContainerId) {
        let held = self.containers.iter_mut().find(|held| held.which == Which::Container(id));
        if let Some(held) = held {
            held.is_ending = true;
        }
    }

    /// Reads all counters.
    pub fn read_all(&mut self, now: Instant) {
        self.read(now, |_, _| true);
        self.settle();
    }

    /// Notes that a scrape or a check begins. [`Counters::intact`] refers to the last call of this function.
    pub fn begin_pass(&mut self) {
        self.counts.begin_pass();
    }

    /// Reads all counters. Returns the containers that still have a cgroup, and in which no process was
    /// killed since the last call of [`Counters::begin_pass`].
    pub fn intact(&mut self, now: Instant) -> BTreeSet<ContainerId> {
        self.read(now, |_, _| true);
        let id = |held: &Held| match held.which {
            Which::Container(id) => Some(id),
            Which::Above(_) => None,
        };
        self.containers.iter().filter_map(id).filter(|&id| self.counts.is_intact(id)).collect()
    }

    /// Reads the counters of a container. Returns whether the container has a kill that is so recent that
    /// [`Counters::take`] does not return it yet.
    pub fn has_kill(&mut self, id: ContainerId, now: Instant) -> bool {
        self.read(now, |held, _| held.which == Which::Container(id));
        self.counts.has_new(id)
    }

    /// Returns the cgroups in which a limit was reached since the last call. It may be the limit of the
    /// cgroup itself, or of a cgroup below it.
    pub fn take_at_limit(&mut self) -> Vec<Which> {
        std::mem::take(&mut self.at_limit)
    }

    /// Returns the kills that were found since the last call.
    pub fn take(&mut self) -> Vec<FoundKill> {
        std::mem::take(&mut self.found)
    }

    /// Returns the pods with a cgroup that was removed since the last call, so that the caller can drop their
    /// kill counts. Each pod is represented by one of its containers.
    pub fn take_gone_pods(&mut self) -> Vec<Arc<Container>> {
        std::mem::take(&mut self.gone_pods)
    }

    /// Drops the counters of removed cgroups. The kernel does not report the removal of a cgroup. So this
    /// function reads the counters of each container without processes and of each pod without containers,
    /// and drops the counters if the read fails.
    pub fn drop_gone(&mut self, now: Instant) {
        self.read(now, |held, _| held.is_ending);
        self.counts.forget(now);
        if std::mem::take(&mut self.has_changed) {
            for held in &mut self.above {
                held.is_ending = matches!(&held.which, Which::Above(path) if self.counts.is_empty_pod(path));
            }
        }
    }
}

impl Held {
    fn new(which: Which, files: EventFiles) -> Self {
        Self { which, files: Arc::new(files), pace: Pace::default(), is_ending: false }
    }
}

/// Opens the counters of the cgroup at `place`, and reads them.
fn open(fs: &CgroupFs, place: &[u8]) -> Option<(EventFiles, EventCounts)> {
    let files = fs.open_events(place)?;
    let counts = files.read()?;
    Some((files, counts))
}
