//! The containers' own accounts: what the cgroup of each says, read once a scrape.
//!
//! Those are read that a filter can select a process of, and that have a process. Nothing is allocated while they stay the same.

use std::sync::Arc;

use log::{Level, log};
use rustix::process::{Resource, getrlimit};

use super::discovery::Discovery;
use super::owners::{Container, named_cgroup};
use super::process::Process;
use super::processes::Processes;
use crate::cgroupfs::fields::Values;
use crate::cgroupfs::files::{Cgroup, CgroupFs};
use crate::sources::recording::Writer;

/// The accounts of the node's containers.
#[derive(Debug)]
pub struct Accounts {
    fs: CgroupFs,
    /// By the container's id.
    table: Vec<Account>,
    /// The positions of those that are exported, by label text.
    order: Vec<usize>,
    /// At most so many directories are held from scrape to scrape: the rest of the descriptors that we may have are for others.
    max_held: usize,
    /// How to tell the log that no container's cgroup is there, once; none when it has been told, or proved wrong.
    complaint: Option<Level>,
}

#[derive(Debug)]
struct Account {
    container: Arc<Container>,
    is_seen: bool,
    /// Where its cgroup is, as proc prints it; empty while that is not known.
    path: Vec<u8>,
    /// When its init process began, once known.
    started_at: Option<u64>,
    cgroup: Cgroup,
    /// None if there is no such cgroup.
    values: Option<Values>,
}

impl Accounts {
    /// Of what is read from `fs`; that it shows no container's cgroup is told at `level`.
    pub fn new(fs: CgroupFs, level: Level) -> Self {
        let max_held = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize / 4);
        Self { fs, table: Vec::new(), order: Vec::new(), max_held, complaint: Some(level) }
    }

    /// Reads the account of every container that has a process.
    pub fn read(&mut self, processes: &Processes, discovery: &Discovery) {
        let is_new = self.see(processes);
        let mut is_changed = self.drop_unseen() || is_new;
        let Self { fs, table, max_held, .. } = self;
        let mut values = Values::default();
        for (i, account) in table.iter_mut().enumerate() {
            let (first_cgroup, started_at) = discovery.init_of(&account.container.listed.id);
            account.locate(first_cgroup);
            let is_there = fs.read(&account.path, &mut account.cgroup, &mut values);
            is_changed |= account.started_at != started_at || account.values.is_some() != is_there;
            account.started_at = started_at;
            account.values = is_there.then_some(values);
            if !is_there {
                account.path.clear();
            }
            if i >= *max_held {
                account.cgroup = Cgroup::default();
            }
        }
        if is_changed {
            self.sort();
        }
        self.complain();
    }

    /// Sees which containers have a process, and where: says whether one is new.
    fn see(&mut self, processes: &Processes) -> bool {
        let mut is_new = false;
        let mut last: Option<usize> = None;
        for process in processes.iter() {
            let Some(container) = process.container().filter(|container| container.is_selected) else {
                continue;
            };
            // Processes of one container follow each other, mostly.
            let at = match last.filter(|&i| Arc::ptr_eq(&self.table[i].container, container)) {
                Some(i) => i,
                None => {
                    let id = container.listed.id.as_str();
                    match self.table.binary_search_by(|known| known.container.listed.id.as_str().cmp(id)) {
                        Ok(i) => i,
                        Err(i) => {
                            is_new = true;
                            self.table.insert(i, Account::new(container));
                            i
                        }
                    }
                }
            };
            self.table[at].see(container, process);
            last = Some(at);
        }
        is_new
    }

    /// Drops the accounts of the containers that have no process any more: says whether there were any.
    fn drop_unseen(&mut self) -> bool {
        let n_before = self.table.len();
        self.table.retain_mut(|account| std::mem::take(&mut account.is_seen));
        self.table.shrink_to(2 * self.table.len());
        self.table.len() < n_before
    }

    /// By label text; of those that bear the same labels the youngest alone, by its id where it is not known when it began.
    fn sort(&mut self) {
        let Self { table, order, .. } = self;
        order.clear();
        order.extend((0..table.len()).filter(|&i| table[i].values.is_some()));
        let labels = |i: usize| table[i].container.labels.as_str();
        let age = |i: usize| (table[i].started_at, table[i].container.listed.id.as_str());
        order.sort_unstable_by(|&a, &b| labels(a).cmp(labels(b)).then_with(|| age(b).cmp(&age(a))));
        order.dedup_by(|next, kept| labels(*next) == labels(*kept));
        order.shrink_to(2 * order.len());
    }

    /// Without the node's own mount, a container sees its own cgroup alone.
    fn complain(&mut self) {
        if self.table.is_empty() {
            return;
        }
        if let Some(level) = self.complaint.take()
            && self.order.is_empty()
        {
            log!(
                level,
                "no cgroup_* metrics: no container's cgroup is below {:?}: expected the node's, by --cgroup-path",
                self.fs.path()
            );
        }
    }

    /// The label text of each container whose account is exported, left open, and what it says; by label text.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Values)> + Clone {
        let accounts = self.order.iter().map(|&i| &self.table[i]);
        accounts.filter_map(|account| Some((account.container.labels.as_str(), account.values.as_ref()?)))
    }

    /// Records the files that the accounts are read from into `to`.
    ///
    /// Fails with one line when a file cannot be written.
    pub fn record(&mut self, to: &mut Writer) -> Result<(), String> {
        if self.table.is_empty() {
            return Ok(());
        }
        self.fs.record_root(|name, text| to.cgroup_file(name, text))?;
        for account in self.table.iter().filter(|account| account.values.is_some()) {
            self.fs.record(&account.path, |name, text| to.cgroup_file(name, text))?;
        }
        Ok(())
    }
}

impl Account {
    fn new(container: &Arc<Container>) -> Self {
        Self {
            container: container.clone(),
            is_seen: false,
            path: Vec::new(),
            started_at: None,
            cgroup: Cgroup::default(),
            values: None,
        }
    }

    /// Takes note of a process of the container.
    fn see(&mut self, container: &Arc<Container>, process: &Process) {
        if !Arc::ptr_eq(&self.container, container) {
            // The same id, but restarted.
            *self = Self::new(container);
        }
        self.is_seen = true;
        if self.values.is_some() {
            return;
        }
        // A workload may name a cgroup of its own after another container: that lies deeper than the true one.
        let n_above = |path: &[u8]| path.iter().filter(|&&b| b == b'/').count();
        if let Some(path) = named_cgroup(&self.container.listed.id, process.cgroup())
            && (self.path.is_empty() || n_above(path) < n_above(&self.path))
        {
            self.path.clear();
            self.path.extend_from_slice(path);
        }
    }

    /// Decides where its cgroup is: where its init process was seen first, if that is known, else where its processes are.
    fn locate(&mut self, first_cgroup: Option<&[u8]>) {
        let Some(first) = first_cgroup.filter(|_| self.values.is_none()) else { return };
        let named = named_cgroup(&self.container.listed.id, first);
        if let Some(path) = named.or(self.path.is_empty().then_some(first)) {
            self.path.clear();
            self.path.extend_from_slice(path);
        }
    }
}

#[cfg(test)]
mod tests;
