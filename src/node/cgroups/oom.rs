//! The counters of OOM kills, and the kills that were found.
//!
//! The kernel counts kills in the container's cgroup, and on version 2 also in the cgroup above it, the pod's. The cgroup of a
//! container whose init process was killed disappears after about 30 ms; then the pod's counter is used. Where there is
//! none, on version 1, the container's counter is read every 10 ms while the container is near its limit. Only kills that the
//! kernel has counted there are reported.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::cgroupfs::fields::Values;
use crate::cgroupfs::files::{Cgroup, CgroupFs};
use crate::node::containers::table::Container;
use crate::totals::largest::Largest;

/// The counts of this many containers that are gone are kept. Beyond that, the first by label text are dropped.
const MAX_GONE: usize = 1000;

/// What a container near its limit mapped when it was read last.
#[derive(Debug, Default)]
pub struct LastReading {
    /// What it mapped.
    pub largest: Largest,
    /// When the oldest of its readings was made.
    pub oldest: Option<Instant>,
    /// The values of its cgroup.
    pub values: Values,
    /// The bytes charged to it.
    pub current: u64,
}

/// Processes of one container that the kernel has killed.
#[derive(Debug)]
pub struct Kill {
    /// The container.
    pub container: Arc<Container>,
    /// How many processes were killed.
    pub n_kills: u64,
    /// The values of its cgroup when that was read last.
    pub values: Values,
    /// The bytes charged to it when that was checked last.
    pub current: u64,
    /// No other running container had the same labels.
    pub is_alone: bool,
    /// What it mapped when it was read last, if it was near its limit then.
    pub last_reading: Option<LastReading>,
}

/// The counters of kills that concern one container.
#[derive(Debug, Default)]
pub struct KillCounter {
    /// The counts of its own cgroup and of the cgroup above that were seen last.
    own: Option<u64>,
    above: Option<u64>,
    /// The path of its cgroup when counting began: the cgroup may be gone when the path is needed.
    path: Vec<u8>,
}

impl KillCounter {
    /// Begins to count, unless that has begun: kills before the exporter started or found the container do not count.
    /// Returns whether it has begun now.
    pub fn begin(&mut self, fs: &mut CgroupFs, cgroup: &Cgroup, path: &[u8]) -> bool {
        if self.own.is_some() {
            return false;
        }
        self.own = fs.oom_kills(cgroup);
        self.path.clear();
        self.path.extend_from_slice(path);
        self.see_above(fs);
        true
    }

    /// Whether there is a counter that outlives the container's own.
    pub fn has_above(&self) -> bool {
        self.above.is_some()
    }

    /// Takes the count of its own cgroup. Returns how many kills are new.
    pub fn see(&mut self, n_now: u64) -> u64 {
        let Some(before) = self.own else { return 0 };
        self.own = Some(n_now);
        n_now.saturating_sub(before)
    }

    /// Takes the count of the cgroup above.
    pub fn see_above(&mut self, fs: &mut CgroupFs) {
        self.above = fs.oom_kills_above(&self.path);
    }

    /// Returns how many kills the cgroup above has counted since its count was taken.
    pub fn new_above(&self, fs: &mut CgroupFs) -> Option<u64> {
        Some(fs.oom_kills_above(&self.path)?.saturating_sub(self.above?))
    }

    /// Returns the path of the cgroup above.
    pub fn path_above(&self) -> &[u8] {
        &self.path[..self.path.iter().rposition(|&b| b == b'/').unwrap_or(0)]
    }
}

/// The kills on the node.
#[derive(Debug, Default)]
pub struct OomTracker {
    /// The node's own count, as it was seen last.
    n_on_node: Option<u64>,
    /// That count had changed since the time before, or is unknown.
    has_changed: bool,
    /// The kills that were not taken yet.
    found: Vec<Kill>,
    /// The number of kills since the start, by label text: of each running container, and of those that had some.
    counts: BTreeMap<Box<str>, u64>,
}

impl OomTracker {
    /// Takes the node's own count. Returns whether the counts of the containers must be compared.
    pub fn see_node(&mut self, n_on_node: Option<u64>) -> bool {
        let n_before = std::mem::replace(&mut self.n_on_node, n_on_node);
        let has_changed = n_on_node.is_none() || n_on_node != n_before;
        // The kernel counts a kill for the node first, and then for the container. Seen in between, the container's count
        // has not changed yet, so the counts are compared once more the next time.
        std::mem::replace(&mut self.has_changed, has_changed) || has_changed
    }

    /// Returns the node's own count, as it was seen last.
    pub fn n_on_node(&self) -> Option<u64> {
        self.n_on_node
    }

    /// Adds to the kills of the container with these labels.
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

    /// Returns the kills that were added since this was called last.
    pub fn take(&mut self) -> Vec<Kill> {
        std::mem::take(&mut self.found)
    }

    /// Forgets the container with these labels, which is gone, unless it had kills; of those at most 1,000 are kept. `live`
    /// are the containers that run.
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
