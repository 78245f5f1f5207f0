//! Which processes the kernel has killed for want of memory, and what their containers were full of.
//!
//! The kernel counts kills: on the node, in the container's cgroup, and on version 2 in the cgroup above it, the pod's. A container whose
//! init process was killed soon has no cgroup to count in. Then the pod's counter tells; where there is none, on version 1, the node's,
//! for a container that was full when it was looked at last. No kill is told that the kernel has not counted.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::accounts::Account;
use super::owners::Container;
use crate::cgroupfs::fields::Values;
use crate::cgroupfs::files::CgroupFs;
use crate::totals::largest::Largest;

/// Kills in more containers that are gone are not counted any more: the first by label text are forgotten.
const MAX_GONE: usize = 1000;

/// What a container that was full mapped when it was read last.
#[derive(Debug, Default)]
pub struct LastReading {
    /// What it mapped.
    pub largest: Largest,
    /// When the oldest of its readings was made.
    pub oldest: Option<Instant>,
    /// What its cgroup said.
    pub values: Values,
    /// What was charged to it, in bytes.
    pub current: u64,
}

/// Processes of one container that the kernel has killed.
#[derive(Debug)]
pub struct Kill {
    /// Whose they were.
    pub container: Arc<Container>,
    /// How many.
    pub n_kills: u64,
    /// What its cgroup said when it was read last, and what was charged to it when it was looked at last, in bytes.
    pub values: Values,
    /// See there.
    pub current: u64,
    /// What it mapped when it was read last, if it was full then.
    pub last_reading: Option<LastReading>,
}

/// The kills that the kernel has counted.
#[derive(Debug, Default)]
pub struct Kills {
    /// On the node, as it was seen last.
    pub(super) n_on_node: Option<u64>,
    /// Whether they were looked for before.
    has_looked: bool,
    /// Those that were not told yet.
    pub(super) found: Vec<Kill>,
    /// How many there were since the start, by label text: of each container that lives, and of those that had some.
    counts: BTreeMap<Box<str>, u64>,
}

impl Kills {
    /// Begins to count for a container that was read for the first time: what was counted before the exporter began, or before the container
    /// was found, is not told.
    pub(super) fn begin(&mut self, fs: &mut CgroupFs, account: &mut Account) {
        if account.n_kills.is_none() {
            account.n_kills = fs.oom_kills(&account.cgroup);
            account.n_kills_above = fs.oom_kills_above(&account.path);
            self.count(&account.container.labels, 0);
        }
    }

    /// Finds the kills since they were looked for last. `n_on_node` is what the kernel has counted on the whole node; `gone` are containers that have no
    /// process any more.
    pub(super) fn find(
        &mut self,
        n_on_node: Option<u64>,
        fs: &mut CgroupFs,
        live: &mut [Account],
        gone: &mut [Account],
    ) {
        let n_before = std::mem::replace(&mut self.n_on_node, n_on_node);
        if !std::mem::replace(&mut self.has_looked, true) || n_on_node.is_some() && n_on_node == n_before {
            return;
        }
        // Where the node does not say, only the containers' own counters are believed.
        let mut n_left = n_on_node.zip(n_before).map_or(0, |(now, before)| now.saturating_sub(before));
        for account in live.iter_mut() {
            let Some(n_now) = fs.oom_kills(&account.cgroup) else { continue };
            let n_kills = n_now.saturating_sub(account.n_kills.replace(n_now).unwrap_or(n_now));
            n_left = n_left.saturating_sub(n_kills);
            self.tell(account, n_kills);
        }
        self.find_gone(n_left, fs, live, gone);
        for account in live {
            account.n_kills_above = fs.oom_kills_above(&account.path);
        }
    }

    /// Finds those of containers that are gone, among so many that no other container has counted.
    fn find_gone(&mut self, mut n_left: u64, fs: &mut CgroupFs, live: &[Account], gone: &mut [Account]) {
        // The fullest first.
        gone.sort_by_key(|account| {
            Reverse(
                account.use_and_limit().map(|(current, limit)| current.saturating_mul(1000) / limit.max(1)),
            )
        });
        let mut told: Vec<(&[u8], u64)> = Vec::new();
        for account in gone.iter() {
            let above = above(&account.path);
            let n_above = fs.oom_kills_above(&account.path).zip(account.n_kills_above);
            let n_kills = match n_above {
                Some((now, before)) => {
                    let of_others = self.found.iter().filter(|kill| {
                        live.iter().any(|live| {
                            Arc::ptr_eq(&live.container, &kill.container) && self::above(&live.path) == above
                        })
                    });
                    let n_others: u64 = of_others.map(|kill| kill.n_kills).sum();
                    let n_told: u64 = told.iter().filter(|(path, _)| *path == above).map(|(_, n)| n).sum();
                    now.saturating_sub(before).saturating_sub(n_others + n_told).min(n_left)
                }
                None => u64::from(account.is_full()).min(n_left),
            };
            n_left -= n_kills;
            told.push((above, n_kills));
        }
        let n_kills: Vec<u64> = told.into_iter().map(|(_, n_kills)| n_kills).collect();
        for (account, n_kills) in gone.iter_mut().zip(n_kills) {
            self.tell(account, n_kills);
            self.forget(account, live);
        }
    }

    fn tell(&mut self, account: &mut Account, n_kills: u64) {
        if n_kills == 0 {
            return;
        }
        self.count(&account.container.labels, n_kills);
        self.found.push(Kill {
            container: account.container.clone(),
            n_kills,
            values: account.values.unwrap_or_default(),
            current: account.current,
            last_reading: account.last_reading.take(),
        });
    }

    fn count(&mut self, labels: &str, n_kills: u64) {
        match self.counts.get_mut(labels) {
            Some(count) => *count += n_kills,
            None => _ = self.counts.insert(labels.into(), n_kills),
        }
    }

    /// Forgets a container that is gone, unless it had kills, of which too many are not kept either.
    fn forget(&mut self, gone: &Account, live: &[Account]) {
        let lives = |labels: &str| live.iter().any(|account| account.container.labels == labels);
        let labels = gone.container.labels.as_str();
        if self.counts.get(labels) == Some(&0) && !lives(labels) {
            self.counts.remove(labels);
        }
        while self.counts.len() > live.len() + MAX_GONE {
            let Some(first) = self.counts.keys().find(|labels| !lives(labels)).cloned() else { return };
            self.counts.remove(&first);
        }
    }

    /// The label text of each container, left open, and how many of its processes the kernel has killed since the start.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counts.iter().map(|(labels, n_kills)| (&**labels, *n_kills))
    }
}

/// The path of the cgroup above.
fn above(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|&b| b == b'/').unwrap_or(0)]
}
