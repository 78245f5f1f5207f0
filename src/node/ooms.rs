//! Which processes the kernel has killed for want of memory, and what their containers were full of.
//!
//! The kernel counts kills in the container's cgroup, and on version 2 also in the cgroup above it, the pod's. A container whose init
//! process was killed has no cgroup any more after 30 ms or so. Then the pod's counter tells. Where there is none, on version 1, the
//! container's is looked at every 10 ms while it is full. No kill is told that the kernel has not counted there.

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
    /// No other container that lived had the same labels.
    pub is_alone: bool,
    /// What it mapped when it was read last, if it was full then.
    pub last_reading: Option<LastReading>,
}

/// The kills that the kernel has counted.
#[derive(Debug, Default)]
pub struct Kills {
    /// On the node, as it was seen last.
    pub(super) n_on_node: Option<u64>,
    /// It had changed since the time before, or is not known.
    has_changed: bool,
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
            account.n_kills = fs.oom_kills(&account.paths.memory, &account.cgroup);
            account.counted_at.clone_from(&account.paths.memory);
            account.n_kills_above = fs.oom_kills_above(&account.counted_at);
            self.count(&account.container.labels, 0);
        }
    }

    /// Finds the kills since they were looked for last. `n_on_node` is what the kernel has counted on the whole node: while that stands still
    /// nothing is looked at. `gone` are containers that have no process any more.
    pub(super) fn find(
        &mut self,
        n_on_node: Option<u64>,
        fs: &mut CgroupFs,
        live: &mut [Account],
        gone: &mut [Account],
    ) {
        let n_before = std::mem::replace(&mut self.n_on_node, n_on_node);
        let has_changed = n_on_node.is_none() || n_on_node != n_before;
        // The kernel counts a kill for the node first, and then for the container. Looked at in between, the container's counter has not moved
        // yet: so the counters are compared once more the next time.
        let had_changed = std::mem::replace(&mut self.has_changed, has_changed);
        if has_changed || had_changed {
            self.find_some(fs, live, gone);
            for account in live.iter_mut() {
                account.n_kills_above = fs.oom_kills_above(&account.counted_at);
            }
        }
        for account in gone {
            self.forget(account, live);
        }
    }

    /// Compares the counters of all containers with what they were.
    fn find_some(&mut self, fs: &mut CgroupFs, live: &mut [Account], gone: &mut [Account]) {
        // The kills found so far, by the cgroup above. Without any it stays empty, for a steady scrape allocates nothing.
        let mut told: Vec<(&[u8], u64)> = Vec::new();
        // Those whose own counter is gone: a cgroup may be so while a process of it is still listed.
        let mut silent: Vec<&mut Account> = gone.iter_mut().collect();
        for account in live {
            match fs.oom_kills(&account.paths.memory, &account.cgroup) {
                Some(n_now) => {
                    let n_kills = self.compare(account, n_now);
                    if n_kills > 0 {
                        told.push((above(&account.counted_at), n_kills));
                    }
                }
                None => silent.push(account),
            }
        }
        // The fullest first: theirs is what the cgroup above has counted, and none that is told of in it.
        silent.sort_by_key(|account| Reverse(account.fullness()));
        for account in silent {
            let Some((now, before)) = fs.oom_kills_above(&account.counted_at).zip(account.n_kills_above)
            else {
                continue;
            };
            let place = above(&account.counted_at);
            let of_others: u64 = told.iter().filter(|(other, _)| *other == place).map(|(_, n)| n).sum();
            let n_kills = now.saturating_sub(before).saturating_sub(of_others);
            self.tell(account, n_kills);
            told.push((above(&account.counted_at), n_kills));
        }
    }

    /// Tells what a container's own counter says, if it has moved; how many kills that are.
    pub(super) fn compare(&mut self, account: &mut Account, n_now: u64) -> u64 {
        let n_kills = n_now.saturating_sub(account.n_kills.unwrap_or(n_now));
        if account.n_kills.is_some() {
            account.n_kills = Some(n_now);
        }
        self.tell(account, n_kills);
        n_kills
    }

    fn tell(&mut self, account: &mut Account, n_kills: u64) {
        if n_kills == 0 {
            return;
        }
        self.count(&account.container.labels, n_kills);
        account.is_outdated = true;
        self.found.push(Kill {
            container: account.container.clone(),
            n_kills,
            values: account.values.unwrap_or_default(),
            current: account.current,
            is_alone: !account.has_twin,
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
