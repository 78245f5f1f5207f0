//! The counters of OOM kills, and the kills that they show.
//!
//! The kernel counts a kill in the container's cgroup, and on version 2 also in the cgroup above it, the
//! pod's. The cgroup of a container disappears about 30 ms after its init process was killed; then the pod's
//! counter is used. Version 1 has no such counter, so the container's counter is read every 10 ms while the
//! container is near its limit. Kills that these counters do not show are not reported.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::cgroupfs::fields::Values;
use crate::cgroupfs::files::{Cgroup, CgroupFs};
use crate::node::containers::table::Container;
use crate::totals::largest::Largest;

/// The counts of at most this many containers that are gone are kept. Further ones are dropped, the first by
/// label text first.
const MAX_GONE: usize = 1000;

/// What a container near its limit mapped at its last reading.
#[derive(Debug, Default)]
pub struct LastReading {
    /// The largest paths that it mapped.
    pub largest: Largest,
    /// When the oldest of the readings behind it was made.
    pub oldest: Option<Instant>,
    /// The values of the container's cgroup.
    pub values: Values,
    /// The bytes charged to the container.
    pub current: u64,
}

/// The processes of one container that the kernel has killed.
#[derive(Debug)]
pub struct Kill {
    /// The container of the killed processes.
    pub container: Arc<Container>,
    /// How many processes were killed.
    pub n_kills: u64,
    /// The values of the container's cgroup when they were last read.
    pub values: Values,
    /// The bytes charged to the container at the last check.
    pub current: u64,
    /// Whether no other running container had the same labels.
    pub is_alone: bool,
    /// What the container mapped at its last reading, if it was near its limit then.
    pub last_reading: Option<LastReading>,
}

/// The kill counters that concern one container.
#[derive(Debug, Default)]
pub struct KillCounter {
    /// The last counts seen of the container's own cgroup and of the cgroup above.
    own: Option<u64>,
    above: Option<u64>,
    /// The path of the container's cgroup when counting began, kept because the cgroup may be gone when the
    /// path is needed.
    path: Vec<u8>,
}

impl KillCounter {
    /// Begins to count, unless counting has begun already. Kills from before the exporter started or found
    /// the container do not count. Returns whether this call began it.
    pub fn begin(&mut self, fs: &mut CgroupFs, cgroup: &Cgroup, path: &[u8]) -> bool {
        if self.own.is_some() {
            return false;
        }
        self.own = fs.oom_kills(path, cgroup);
        self.path.clear();
        self.path.extend_from_slice(path);
        self.see_above(fs);
        true
    }

    /// Whether the cgroup above has a counter, which outlives the container's own.
    pub fn has_above(&self) -> bool {
        self.above.is_some()
    }

    /// Takes the count of the container's own cgroup. Returns how many kills are new.
    pub fn see(&mut self, n_now: u64) -> u64 {
        let Some(before) = self.own else { return 0 };
        self.own = Some(n_now);
        n_now.saturating_sub(before)
    }

    /// Takes the count of the cgroup above.
    pub fn see_above(&mut self, fs: &mut CgroupFs) {
        self.above = fs.oom_kills_above(&self.path);
    }

    /// Returns how many kills the cgroup above has counted since its count was last taken.
    pub fn new_above(&self, fs: &mut CgroupFs) -> Option<u64> {
        Some(fs.oom_kills_above(&self.path)?.saturating_sub(self.above?))
    }

    /// Returns the path of the cgroup above.
    pub fn path_above(&self) -> &[u8] {
        &self.path[..self.path.iter().rposition(|&b| b == b'/').unwrap_or(0)]
    }
}

/// The kills counted on the node.
#[derive(Debug, Default)]
pub struct OomTracker {
    /// The last value of the node's own count.
    n_on_node: Option<u64>,
    /// Whether that count had changed when it was last taken, or was unknown.
    has_changed: bool,
    /// The kills that [`OomTracker::take`] has not returned yet.
    found: Vec<Kill>,
    /// The number of kills since the start, by label text: of every running container, and of every container
    /// that had kills.
    counts: BTreeMap<Box<str>, u64>,
}

impl OomTracker {
    /// Takes the node's own count. Returns whether the counts of the containers must be compared.
    pub fn see_node(&mut self, n_on_node: Option<u64>) -> bool {
        let n_before = std::mem::replace(&mut self.n_on_node, n_on_node);
        let has_changed = n_on_node.is_none() || n_on_node != n_before;
        // The kernel counts a kill first for the node and then for the container. Between the two, the
        // container's count has not changed yet, so the counts are compared again the next time.
        std::mem::replace(&mut self.has_changed, has_changed) || has_changed
    }

    /// Returns the last value of the node's own count.
    pub fn n_on_node(&self) -> Option<u64> {
        self.n_on_node
    }

    /// Adds kills to the count of the container with these labels.
    pub fn count(&mut self, labels: &str, n_kills: u64) {
        match self.counts.get_mut(labels) {
            Some(count) => *count += n_kills,
            None => _ = self.counts.insert(labels.into(), n_kills),
        }
    }

    /// Adds kills of a container.
    pub fn add(&mut self, kill: Kill) {
        self.count(&kill.container.labels, kill.n_kills);
        self.found.push(kill);
    }

    /// Returns the kills that were added since the last call.
    pub fn take(&mut self) -> Vec<Kill> {
        std::mem::take(&mut self.found)
    }

    /// Drops the count of a container that is gone, unless it had kills; at most 1,000 such counts are kept.
    /// `live` are the running containers.
    pub fn forget<'a>(&mut self, labels: &str, live: impl ExactSizeIterator<Item = &'a Container> + Clone) {
        let lives = |labels: &str| live.clone().any(|container| container.labels == labels);
        if self.counts.get(labels) == Some(&0) && !lives(labels) {
            self.counts.remove(labels);
        }
        while self.counts.len() > live.len() + MAX_GONE {
            let Some(first) = self.counts.keys().find(|labels| !lives(labels)).cloned() else { return };
            self.counts.remove(&first);
        }
    }

    /// Returns the label text of each container and the number of its kills since the start.
    pub fn counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counts.iter().map(|(labels, n_kills)| (&**labels, *n_kills))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_compared_twice_after_a_change_on_the_node() {
        let mut tracker = OomTracker::default();
        let compared = [Some(7), Some(7), Some(7), Some(8), Some(8), Some(8), None, None];
        let compared = compared.map(|n_on_node| tracker.see_node(n_on_node));
        assert_eq!(compared, [true, true, false, true, true, false, true, true]);
    }

    #[test]
    fn the_counts_of_containers_that_are_gone_are_bounded() {
        let mut tracker = OomTracker::default();
        for i in 0..MAX_GONE + 5 {
            tracker.count(&format!("{i:04}"), 1);
        }
        tracker.count("none", 0);
        tracker.forget("none", [].into_iter());
        assert_eq!(tracker.counts().count(), MAX_GONE);
        assert_eq!(tracker.counts().next(), Some(("0005", 1)));
    }
}
