//! Derives OOM kills from the kernel's counters. For each kill, this module finds the container, or if the
//! container is unknown, the pod. This module does no I/O.
//!
//! The kernel counts a kill in the cgroup of the killed process and in every cgroup above it. So a pod's
//! cgroup also counts the kills in each of the pod's containers. If the pod's cgroup has counted more kills
//! than the cgroups of these containers together, the other kills happened in a container that was removed
//! before its counters were read, or that was not listed.
//!
//! The kernel counts the event `oom` only in the cgroup that has reached its limit, and in the cgroups above
//! that one. So this event shows which limit was hit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cgroupfs::events::EventCounts;
use crate::node::cgroups::pace::Moved;
use crate::node::containers::table::{Container, ContainerId};

/// The longest time between a kill and the `oom` event of the limit that was hit. Between the two, the kernel
/// prints a report to the console (mm/oom_kill.c). While the CPU is busy, the exporter may see the kill late.
const NEARBY: Duration = Duration::from_secs(3);
/// Kills that follow each other faster than this may have the same `oom` event, because the kernel may kill
/// all processes in a cgroup for one event.
const TOGETHER: Duration = Duration::from_secs(1);
/// How long a removed container is kept. A kill that only the cgroup of a pod has counted may have happened
/// in a container that was removed meanwhile. So the OOM record names the containers of the pod that were
/// removed within this time.
const CANDIDATE: Duration = Duration::from_secs(10);

/// The cgroup with the limit that made the kernel kill a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The container's cgroup, or one below it.
    Container,
    /// The pod's cgroup.
    Pod,
    /// A cgroup above the pod's.
    Kubepods,
    /// No cgroup has hit its limit. The kernel killed a process because the node had no memory left.
    Node,
}

/// The container or pod in which processes were killed.
#[derive(Clone, Debug)]
pub enum Place {
    /// A container that a filter selects.
    Container(Arc<Container>),
    /// A pod with a container that a filter selects. The container of the killed processes is unknown,
    /// because only the cgroup of the pod has counted the kills.
    Pod {
        /// One of the pod's containers. The namespace and the name of the pod are taken from it.
        of: Arc<Container>,
        /// The names of the selected containers of the pod that were removed in the ten seconds before the
        /// kill. The kill may have happened in one of them.
        candidates: Vec<String>,
        /// Whether the pod also has containers that no filter selects. The kill may have happened in one of
        /// them, too.
        has_unselected: bool,
    },
}

/// One or more kills in one container or pod.
#[derive(Clone, Debug)]
pub struct FoundKill {
    /// The container or pod.
    pub place: Place,
    /// The number of processes that were killed.
    pub n_kills: u64,
    /// The limit that was hit; `None` if the kernel does not show it, as on version 1.
    pub limit: Option<Limit>,
    /// The path of the cgroup with the limit that was hit, if this is the cgroup of a pod or a cgroup above
    /// pods.
    pub limited: Option<Box<[u8]>>,
}

/// The counts of one cgroup, and the times at which the counts last increased.
#[derive(Debug)]
struct Counter {
    last: EventCounts,
    /// The time of the last kill.
    kill_at: Option<Instant>,
    /// The time of the last `oom` event that was caused by the limit of this cgroup itself. `None` if a kill
    /// with another reason followed.
    own_oom_at: Option<Instant>,
    /// The same for the last `oom` event that was caused by the limit of a cgroup below this cgroup.
    oom_at: Option<Instant>,
}

impl Counter {
    fn new(last: EventCounts) -> Self {
        Self { last, kill_at: None, own_oom_at: None, oom_at: None }
    }

    /// Returns the time of the last `oom` event that was caused by the limit of this cgroup or of a cgroup
    /// below this cgroup.
    fn oom_or_own(&self) -> Option<Instant> {
        self.oom_at.max(self.own_oom_at)
    }

    /// Replaces the counts. Returns the number of new kills, and whether the new counts show a kill, a
    /// reached limit, or neither.
    fn update(&mut self, counts: EventCounts, now: Instant) -> (u64, Moved) {
        let last = std::mem::replace(&mut self.last, counts);
        let n_kills = counts.kills.saturating_sub(last.kills);
        if n_kills > 0 {
            // If an earlier kill followed the `oom` event, this kill probably has another reason.
            let last_kill_at = self.kill_at.filter(|&kill_at| now >= kill_at + TOGETHER);
            for oom_at in [&mut self.own_oom_at, &mut self.oom_at] {
                *oom_at = oom_at.filter(|&at| last_kill_at < Some(at));
            }
        }
        let (is_own_oom, is_oom) = (counts.own_oom > last.own_oom, counts.oom > last.oom);
        for (at, has_moved) in [
            (&mut self.kill_at, n_kills > 0),
            (&mut self.own_oom_at, is_own_oom),
            (&mut self.oom_at, is_oom && !is_own_oom),
        ] {
            if has_moved {
                *at = Some(now);
            }
        }
        match () {
            () if n_kills > 0 => (n_kills, Moved::Kill),
            () if is_oom || counts.max > last.max => (0, Moved::Limit),
            () => (0, Moved::Nothing),
        }
    }
}

#[derive(Debug)]
struct InContainer {
    container: Arc<Container>,
    counter: Counter,
    pod: Option<Box<[u8]>>,
    /// The number of kills that [`KillCounts::settle`] has not returned yet.
    n_new: u64,
    /// Whether a kill in the container was counted since the current scrape or check began. Also true if a
    /// kill was counted before, and [`KillCounts::settle`] had not returned it when the pass began.
    has_kill_in_pass: bool,
    gone_at: Option<Instant>,
}

/// A cgroup above containers: the cgroup of a pod, or one above pods.
#[derive(Debug)]
struct Above {
    counter: Counter,
    /// A container of the pod, preferably one that a filter selects. `None` if the cgroup is not the
    /// cgroup of a pod.
    pod_of: Option<Arc<Container>>,
    has_unselected: bool,
    /// Whether the cgroup contains containers of different pods. If so, it is not the cgroup of a pod.
    is_shared: bool,
    /// The number of kills in this cgroup that the exporter has noticed.
    n_kills: u64,
    /// How many of the `n_kills` kills the cgroups of the pod's containers have counted, too.
    n_in_containers: u64,
    /// The number of kills that [`KillCounts::settle`] has returned for the pod, because no container's
    /// cgroup had counted them.
    n_returned: u64,
}

impl Above {
    /// Returns the number of kills that no container's cgroup has counted, and that [`KillCounts::settle`]
    /// has not returned yet.
    fn n_unexplained(&self) -> u64 {
        self.n_kills.saturating_sub(self.n_in_containers + self.n_returned)
    }

    /// If this is the cgroup of a pod, returns a container of that pod. Otherwise returns `None`. A cgroup
    /// with containers of different pods is not the cgroup of a pod.
    fn pod(&self) -> Option<&Arc<Container>> {
        self.pod_of.as_ref().filter(|_| !self.is_shared)
    }
}

/// The counters of containers, and the counters of the cgroups above containers. The latter are found by
/// path.
#[derive(Debug)]
pub struct KillCounts {
    containers: BTreeMap<ContainerId, InContainer>,
    above: BTreeMap<Box<[u8]>, Above>,
    /// Whether the kernel counts `oom` events. Only these events show which cgroup has reached its limit.
    knows_limits: bool,
}

impl KillCounts {
    /// Creates an empty table. If `knows_limits` is false, the limit that was hit is unknown: the field
    /// `limit` of each [`FoundKill`] is `None`.
    pub fn new(knows_limits: bool) -> Self {
        Self { containers: BTreeMap::new(), above: BTreeMap::new(), knows_limits }
    }

    /// Whether the cgroup at `path`, which is the cgroup of a pod or a cgroup above pods, was added.
    pub fn has_above(&self, path: &[u8]) -> bool {
        self.above.contains_key(path)
    }

    /// Whether the container was added and its cgroup still exists.
    pub fn has_container(&self, id: ContainerId) -> bool {
        self.containers.get(&id).is_some_and(|known| known.gone_at.is_none())
    }

    /// Whether the cgroup at `path` has new kills that were not counted in the cgroup of a container.
    pub fn has_unexplained(&self, path: &[u8]) -> bool {
        self.above.get(path).is_some_and(|above| above.n_unexplained() > 0)
    }

    /// Whether the cgroup at `path` is the cgroup of a pod, and no container of the pod is left.
    pub fn is_empty_pod(&self, path: &[u8]) -> bool {
        let is_in = |known: &InContainer| known.gone_at.is_none() && known.pod.as_deref() == Some(path);
        self.above.get(path).is_some_and(|above| above.pod_of.is_some())
            && !self.containers.values().any(is_in)
    }

    /// Whether a container has kills that [`KillCounts::settle`] has not returned yet.
    pub fn has_new(&self, id: ContainerId) -> bool {
        self.containers.get(&id).is_some_and(|known| known.n_new > 0)
    }

    /// Notes that a scrape or a check begins. After this call, [`KillCounts::is_intact`] returns false for
    /// each container in which a kill is counted during the scrape or check.
    pub fn begin_pass(&mut self) {
        self.containers.values_mut().for_each(|known| known.has_kill_in_pass = known.n_new > 0);
    }

    /// Whether the cgroup of the container still exists, and no kill in it was counted since the last call of
    /// [`KillCounts::begin_pass`]. Also returns false if [`KillCounts::settle`] had not yet returned an
    /// earlier kill at the time of that call, or if the container was not added.
    pub fn is_intact(&self, id: ContainerId) -> bool {
        self.containers.get(&id).is_some_and(|known| known.gone_at.is_none() && !known.has_kill_in_pass)
    }

    /// Returns the path of the cgroup of the container's pod.
    pub fn pod(&self, id: ContainerId) -> Option<&[u8]> {
        self.containers.get(&id)?.pod.as_deref()
    }

    /// Adds a cgroup above containers. `counts` are its counts now. Only kills after this call are counted.
    pub fn add_above(&mut self, path: &[u8], counts: EventCounts) {
        let above = Above {
            counter: Counter::new(counts),
            pod_of: None,
            has_unselected: false,
            is_shared: false,
            n_kills: 0,
            n_in_containers: 0,
            n_returned: 0,
        };
        self.above.insert(path.into(), above);
    }

    /// Adds a container. `pod` is the path of the cgroup of its pod, if there is one. `counts` are the counts
    /// of the container's cgroup now. Only kills after this call are counted for the container.
    pub fn add_container(&mut self, container: &Arc<Container>, pod: Option<&[u8]>, counts: EventCounts) {
        if let Some(above) = pod.and_then(|pod| self.above.get_mut(pod)) {
            above.has_unselected |= !container.is_selected;
            above.is_shared |= above.pod_of.as_ref().is_some_and(|other| pod_of(other) != pod_of(container));
            if container.is_selected || above.pod_of.is_none() {
                above.pod_of = Some(container.clone());
            }
        }
        let n_new = self.containers.get(&container.id).map_or(0, |known| known.n_new);
        let container = InContainer {
            container: container.clone(),
            counter: Counter::new(counts),
            pod: pod.map(Into::into),
            n_new,
            has_kill_in_pass: n_new > 0,
            gone_at: None,
        };
        self.containers.insert(container.container.id, container);
    }

    /// Updates the counts of a container. Returns whether they show a new kill, a reached limit, or neither.
    pub fn update_container(&mut self, id: ContainerId, counts: EventCounts, now: Instant) -> Moved {
        let Some(known) = self.containers.get_mut(&id) else { return Moved::Nothing };
        let (n_kills, moved) = known.counter.update(counts, now);
        known.n_new += n_kills;
        known.has_kill_in_pass |= n_kills > 0;
        if let Some(above) = known.pod.as_ref().and_then(|pod| self.above.get_mut(pod)) {
            above.n_in_containers += n_kills;
        }
        moved
    }

    /// Notes that the cgroup of a container was removed.
    pub fn end_container(&mut self, id: ContainerId, now: Instant) {
        if let Some(known) = self.containers.get_mut(&id) {
            known.gone_at.get_or_insert(now);
        }
    }

    /// Updates the counts of a cgroup above containers. Returns whether they show a new kill, a reached
    /// limit, or neither.
    pub fn update_above(&mut self, path: &[u8], counts: EventCounts, now: Instant) -> Moved {
        let Some(known) = self.above.get_mut(path) else { return Moved::Nothing };
        let (n_kills, moved) = known.counter.update(counts, now);
        known.n_kills += n_kills;
        moved
    }

    /// Drops a cgroup above containers, because it was removed. If it was the cgroup of a pod, returns a
    /// container of the pod, from which the caller takes the name of the pod.
    pub fn end_above(&mut self, path: &[u8]) -> Option<Arc<Container>> {
        self.above.remove(path)?.pod().cloned()
    }

    /// Adds to `found` all kills since the last call. The counts of pods must be read before the counts of
    /// their containers. Otherwise a kill between the two reads would look like a kill that only the pod has
    /// counted.
    pub fn settle(&mut self, found: &mut Vec<FoundKill>) {
        for known in self.containers.values().filter(|known| known.n_new > 0 && known.container.is_selected) {
            let oom_at = known.counter.oom_or_own();
            let (limit, limited) = self.limit(&known.counter, oom_at, known.pod.as_deref()).unzip();
            let place = Place::Container(known.container.clone());
            found.push(FoundKill { place, n_kills: known.n_new, limit, limited: limited.flatten() });
        }
        self.containers.values_mut().for_each(|known| known.n_new = 0);
        for (path, above) in &self.above {
            let n_kills = above.n_unexplained();
            if let Some(of) = above.pod().filter(|of| of.is_selected && n_kills > 0) {
                let (limit, limited) = self.limit(&above.counter, above.counter.oom_at, Some(path)).unzip();
                let candidates = self.candidates(path);
                let place = Place::Pod { of: of.clone(), candidates, has_unselected: above.has_unselected };
                found.push(FoundKill { place, n_kills, limit, limited: limited.flatten() });
            }
        }
        self.above.values_mut().for_each(|above| above.n_returned += above.n_unexplained());
    }

    /// Drops the containers that were removed more than [`CANDIDATE`] ago, because OOM records of their pods
    /// do not name them any more.
    pub fn forget(&mut self, now: Instant) {
        self.containers.retain(|_, known| known.gone_at.is_none_or(|gone_at| now < gone_at + CANDIDATE));
    }

    fn candidates(&self, pod: &[u8]) -> Vec<String> {
        let is_candidate = |known: &&InContainer| {
            known.gone_at.is_some() && known.container.is_selected && known.pod.as_deref() == Some(pod)
        };
        let mut names: Vec<String> = self
            .containers
            .values()
            .filter(is_candidate)
            .map(|known| known.container.listed.name.clone())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Returns the limit that was hit. If the limit is that of a pod or of a cgroup above pods, also returns
    /// the path of the cgroup.
    ///
    /// The kernel counts an `oom` event in the cgroup that has reached its limit. So this function looks for
    /// the `oom` event that is closest in time to the kill, in the container, in its pod, and in the cgroups
    /// above the pod. If no event is closer than [`NEARBY`], the node had no memory left.
    ///
    /// `counter` is the counter that has counted the kill, and `pod` is the path of the pod's cgroup.
    /// `oom_at` is the time of the last `oom` event that was caused by the container's limit. If the
    /// container is unknown, `oom_at` is the time of the last such event in any container of the pod.
    fn limit(
        &self,
        counter: &Counter,
        oom_at: Option<Instant>,
        pod: Option<&[u8]>,
    ) -> Option<(Limit, Option<Box<[u8]>>)> {
        let kill_at = counter.kill_at.filter(|_| self.knows_limits)?;
        let mut nearest = (NEARBY, Limit::Node, None);
        let mut see = |oom_at: Option<Instant>, limit, path: Option<&[u8]>| {
            let Some(oom_at) = oom_at else { return };
            let distance = oom_at.max(kill_at) - oom_at.min(kill_at);
            if distance < nearest.0 {
                nearest = (distance, limit, path.map(Into::into));
            }
        };
        see(oom_at, Limit::Container, None);
        if let Some(pod) = pod {
            see(self.above.get(pod).and_then(|pod| pod.counter.own_oom_at), Limit::Pod, Some(pod));
            let is_above = |path: &[u8]| pod.strip_prefix(path).is_some_and(|rest| rest.starts_with(b"/"));
            for (path, above) in self.above.iter().filter(|(path, _)| is_above(path)) {
                see(above.counter.own_oom_at, Limit::Kubepods, Some(path));
            }
        }
        Some((nearest.1, nearest.2))
    }
}

/// Returns the namespace and the name of a container's pod.
fn pod_of(container: &Container) -> [&str; 2] {
    [&container.listed.namespace, &container.listed.pod]
}

#[cfg(test)]
mod tests;
