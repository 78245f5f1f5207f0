//! The memory of the pods that have a running container: how much memory is charged to each pod, and how much
//! of this memory is charged to none of the pod's running containers.

use std::sync::Arc;

use super::accounts::Accounts;
use crate::cgroupfs::fields::{CURRENT, Values};
use crate::cgroupfs::files::{CgroupFs, above};
use crate::cgroupfs::memory_fs::{MemoryFiles, MemoryFs};
use crate::cgroupfs::pod::{Exported, Outside, outside, uid_of};
use crate::node::containers::table::{Container, ContainerId};
use crate::totals::labels;

/// A pod that has a running container.
#[derive(Debug)]
struct Pod {
    /// The path of the pod's cgroup, below the mounted file system.
    path: Vec<u8>,
    labels: String,
    uid_label: String,
    containers: Vec<Arc<Container>>,
    /// The time at which the newest container of the pod started; `None` if that time is unknown.
    started_at: Option<u64>,
    files: Option<MemoryFiles>,
    /// The values of the pod's cgroup; `None` if the cgroup cannot be read.
    values: Option<Values>,
    outside: Option<Outside>,
}

/// The pods that have a selected container. Nothing is allocated while the containers stay the same.
#[derive(Debug)]
pub struct Pods {
    fs: MemoryFs,
    /// The pods, sorted by the paths of their cgroups.
    table: Vec<Pod>,
    /// The positions of the exported pods in `table`, sorted by label text.
    order: Vec<usize>,
    /// The value of [`Accounts::generation`] when `table` was made.
    generation: Option<u64>,
}

impl Pods {
    /// Creates an empty table. The cgroups of pods are read from `fs`.
    pub fn new(fs: MemoryFs) -> Self {
        Self { fs, table: Vec::new(), order: Vec::new(), generation: None }
    }

    /// Finds the pods of the containers. Also finds unselected containers that must be read because another
    /// container of the same pod is selected.
    pub fn update(&mut self, accounts: &mut Accounts, fs: &mut CgroupFs) {
        let generation = Some(accounts.generation());
        if self.generation == generation {
            return;
        }
        self.generation = generation;
        let mut table: Vec<Pod> = Vec::new();
        let mut shared = Vec::new();
        for account in accounts.iter() {
            let container = account.container();
            let Some(path) = fs.pod_of(&account.paths().memory) else { continue };
            if container.listed.pod.is_empty() {
                continue;
            }
            let labels = labels::pod(&container.listed.namespace, &container.listed.pod);
            let i = table.binary_search_by(|pod| pod.path.as_slice().cmp(path)).unwrap_or_else(|i| {
                table.insert(i, Pod::new(path, labels.clone()));
                i
            });
            if table[i].labels != labels {
                shared.push(path.to_owned());
            }
            table[i].started_at = table[i].started_at.max(account.started_at());
            table[i].containers.push(container.clone());
        }
        // If several pods share a cgroup, that cgroup is not the cgroup of a pod.
        table.retain(|pod| !shared.contains(&pod.path) && pod.is_selected());
        for pod in &mut table {
            let before = self.table.binary_search_by(|before| before.path.cmp(&pod.path));
            pod.files = before.ok().and_then(|i| self.table[i].files.take());
        }
        self.table = table;
        self.sort();
        let containers = self.table.iter().flat_map(|pod| &pod.containers);
        let unselected = containers.filter(|container| !container.is_selected);
        accounts.set_read_for_pods(unselected.map(|container| container.id).collect());
    }

    /// Sorts the pods by label text. If several pods have the same labels, only the one that started last is
    /// exported.
    fn sort(&mut self) {
        let Self { table, order, .. } = self;
        order.clear();
        order.extend(0..table.len());
        let key = |i: usize| (&table[i].labels, std::cmp::Reverse(table[i].started_at));
        order.sort_unstable_by(|&a, &b| key(a).cmp(&key(b)));
        order.dedup_by(|next, kept| table[*next].labels == table[*kept].labels);
    }

    /// Reads the cgroups of the pods. The containers must have been read before. The files of at most
    /// `max_open` pods stay open.
    pub fn read(&mut self, accounts: &Accounts, max_open: usize) {
        let Self { fs, table, .. } = self;
        // The pods are sorted by path, so pods below the same cgroup follow each other. The limit of that
        // cgroup is read once for all of them.
        let mut last: Option<(usize, Option<u64>)> = None;
        for i in 0..table.len() {
            let limit = match last {
                Some((j, limit)) if above(&table[j].path) == above(&table[i].path) => limit,
                _ => fs.limit(above(&table[i].path)),
            };
            last = Some((i, limit));
            table[i].read(fs, limit);
            table[i].outside = table[i].find_outside(|id| accounts.find(id)?.values());
            if i >= max_open {
                table[i].files = None;
            }
        }
    }

    /// Reads how much memory is now charged to the pod of a container, but to none of the pod's running
    /// containers. Part of this memory may come from containers that have ended. That part stays charged to
    /// the pod, so its size can be read even after a kill.
    pub fn outside_now(&self, of: &Container, accounts: &Accounts, fs: &mut CgroupFs) -> Option<u64> {
        let labels = labels::pod(&of.listed.namespace, &of.listed.pod);
        let pod = self.table.iter().find(|pod| pod.labels == labels)?;
        let mut outside = fs.open_use(&pod.path)?.current()?;
        for account in pod.containers.iter().filter_map(|container| accounts.find(container.id)) {
            let place = fs.place(&account.paths().memory);
            let current = place.and_then(|place| fs.open_use(&place.path)?.current());
            outside = outside.saturating_sub(current.unwrap_or(0));
        }
        Some(outside)
    }

    /// Returns the memory charged to the pod with the cgroup at `path`, if that cgroup has been read.
    pub fn current(&self, path: &[u8]) -> Option<u64> {
        let i = self.table.binary_search_by(|pod| pod.path.as_slice().cmp(path)).ok()?;
        self.table[i].values.as_ref()?.get(CURRENT)
    }

    /// Returns the exported pods, sorted by label text, with the containers of each.
    pub fn exported(&self) -> impl Iterator<Item = (Exported<'_>, &[Arc<Container>])> + Clone {
        self.order.iter().filter_map(|&i| {
            let Pod { labels, uid_label, values, outside, containers, .. } = &self.table[i];
            let values = values.as_ref()?;
            Some((Exported { labels, uid_label, values, outside: *outside }, &containers[..]))
        })
    }

    /// Calls `each` for every pod, with the path of its cgroup and the file system to read it from.
    ///
    /// Fails if `each` fails.
    pub fn record(
        &mut self,
        mut each: impl FnMut(&mut MemoryFs, &[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let Self { fs, table, .. } = self;
        table.iter().try_for_each(|pod| each(fs, &pod.path))
    }
}

impl Pod {
    fn new(path: &[u8], labels: String) -> Self {
        let mut uid_label = String::new();
        if let Some(uid) = uid_of(path) {
            labels::push(&mut uid_label, ",uid=\"", &uid);
            uid_label.push('}');
        }
        Self {
            path: path.into(),
            labels,
            uid_label,
            containers: Vec::new(),
            started_at: None,
            files: None,
            values: None,
            outside: None,
        }
    }

    fn is_selected(&self) -> bool {
        self.containers.iter().any(|container| container.is_selected)
    }

    fn read(&mut self, fs: &mut MemoryFs, limit_above: Option<u64>) {
        self.values = None;
        // If reading fails, the open files may belong to a removed cgroup, and a new cgroup may have the same
        // path. So the files are opened once more.
        for _ in 0..2 {
            let files = self.files.take().or_else(|| fs.open(&self.path));
            let values = files.as_ref().and_then(|files| fs.read(files, limit_above));
            self.values = values.filter(|values| values.get(CURRENT).is_some());
            if self.values.is_some() {
                self.files = files;
                return;
            }
        }
    }

    fn find_outside<'a>(&self, values_of: impl Fn(ContainerId) -> Option<&'a Values>) -> Option<Outside> {
        let mut is_whole = true;
        let values = self.containers.iter().map_while(|container| {
            let values = values_of(container.id);
            is_whole &= values.is_some();
            values
        });
        outside(self.values.as_ref()?, values).filter(|_| is_whole)
    }
}

#[cfg(test)]
mod tests;
