//! The memory that is recorded with each OOM kill, and the exported numbers of kills.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::kill_counts::FoundKill;
use super::moment::End;
use crate::cgroupfs::fields::Values;
use crate::totals::largest::{Largest, Sizes};

/// The maximum number of kill counts that are kept for containers and pods that have ended. If there are more
/// counts, some are dropped, in the alphabetical order of their labels.
const MAX_GONE: usize = 1000;

/// The last reading of a container that was close to its limit.
#[derive(Debug, Default)]
pub struct LastReading {
    /// The largest paths that the container mapped.
    pub largest: Largest,
    /// The time of the oldest reading of a process in the container.
    pub oldest: Option<Instant>,
    /// The values of the container's cgroup.
    pub values: Values,
}

/// The sizes of a container's largest mapped paths at an earlier time.
#[derive(Clone, Debug)]
pub struct Earlier {
    /// When the sizes were read.
    pub at: Instant,
    /// The sizes in descending order, each with a hash that identifies the path.
    pub sizes: Sizes,
}

/// What is stored about the memory that a container held before a kill.
#[derive(Debug)]
pub struct Content {
    /// The values of the container's cgroup when they were last read.
    pub values: Values,
    /// Whether no other running container had the same labels.
    pub is_alone: bool,
    /// What the container held shortly before the kill. `None` if it was not read while it was close to its
    /// limit.
    pub last_reading: Option<LastReading>,
    /// The sizes of the container's largest paths at earlier times, the oldest first. Sizes are stored only
    /// while the container uses at least half of its limit.
    pub earlier: VecDeque<Earlier>,
}

/// Kills in a container or in a pod.
#[derive(Debug)]
pub struct Kill {
    /// The container or pod, the number of kills, and the limit that was hit.
    pub found: FoundKill,
    /// What was read about the container or the pod at the time of the kills.
    pub end: End,
    /// What is stored about the memory of the container. `None` for a pod. Also `None` if the last process of
    /// the container ended more than ten seconds ago, because the stored values are dropped then.
    pub content: Option<Content>,
    /// How many bytes are charged to the pod but to none of its running containers. This is read if the pod's
    /// limit was hit, or if the limit that was hit is unknown. Otherwise, or if the read fails, it is `None`.
    pub outside_containers: Option<u64>,
}

#[derive(Debug, Default)]
struct Total {
    n_kills: u64,
    is_gone: bool,
}

/// The number of kills since the exporter started, by label text. There is a count for every container and
/// pod that runs or has had kills.
#[derive(Debug, Default)]
pub struct KillTotals {
    totals: BTreeMap<Box<str>, Total>,
    /// The number of kills on the whole node, as the kernel printed it last.
    n_on_node: Option<u64>,
    /// Whether the last update has changed `n_on_node`, or could not read the number.
    has_changed: bool,
}

impl KillTotals {
    /// Updates the number of kills on the node. Returns whether the counters of the cgroups must be read.
    pub fn update_node(&mut self, n_on_node: Option<u64>) -> bool {
        let n_before = std::mem::replace(&mut self.n_on_node, n_on_node);
        let has_changed = n_on_node.is_none() || n_on_node != n_before;
        // The kernel counts a kill first for the node, and then in the cgroups. If the cgroups are read
        // between these two steps, their counters do not show the kill yet. So after a change of the node's
        // count, the cgroups are read twice: after this update, and again after the next update.
        std::mem::replace(&mut self.has_changed, has_changed) || has_changed
    }

    /// Returns the number of kills on the node at the last update.
    pub fn n_on_node(&self) -> Option<u64> {
        self.n_on_node
    }

    /// Adds kills to the count with these labels. Adding 0 kills creates the count.
    pub fn add(&mut self, labels: &str, n_kills: u64) {
        match self.totals.get_mut(labels) {
            Some(total) => *total = Total { n_kills: total.n_kills + n_kills, is_gone: false },
            None => _ = self.totals.insert(labels.into(), Total { n_kills, is_gone: false }),
        }
    }

    /// Drops the count of a container or pod that has ended, unless it had kills. At most 1,000 counts of
    /// containers and pods that have ended are kept.
    pub fn forget(&mut self, labels: &str) {
        match self.totals.get_mut(labels) {
            Some(Total { n_kills: 0, .. }) => _ = self.totals.remove(labels),
            Some(total) => total.is_gone = true,
            None => {}
        }
        let gone = self.totals.iter().filter(|(_, total)| total.is_gone);
        if gone.clone().count() > MAX_GONE
            && let Some(first) = gone.map(|(labels, _)| labels.clone()).next()
        {
            self.totals.remove(&first);
        }
    }

    /// Returns each label text, with the number of kills since the exporter started.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.totals.iter().map(|(labels, total)| (&**labels, total.n_kills))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_twice_after_a_change_on_the_node() {
        let mut totals = KillTotals::default();
        let read = [Some(7), Some(7), Some(7), Some(8), Some(8), Some(8), None, None];
        let read = read.map(|n_on_node| totals.update_node(n_on_node));
        assert_eq!(read, [true, true, false, true, true, false, true, true]);
    }

    #[test]
    fn the_counts_of_containers_that_are_gone_are_bounded() {
        let mut totals = KillTotals::default();
        totals.add("none", 0);
        totals.add("live", 1);
        totals.forget("none");
        for i in 0..MAX_GONE + 5 {
            totals.add(&format!("{i:04}"), 1);
            totals.forget(&format!("{i:04}"));
        }
        assert_eq!(totals.iter().count(), MAX_GONE + 1);
        assert_eq!((totals.iter().next(), totals.iter().last()), (Some(("0005", 1)), Some(("live", 1))));
        totals.add("0005", 2);
        totals.add("1005", 1);
        totals.forget("1005");
        assert_eq!(totals.iter().next(), Some(("0005", 3)), "the container runs again");
    }
}
