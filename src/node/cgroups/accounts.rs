//! Keeps an account of each container that has a process. An account is the container's cgroup, and the
//! memory that is charged to that cgroup.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{Level, log, warn};
use rustix::process::{Resource, getrlimit};

use super::account::Account;
use crate::cgroupfs::account::Exported;
use crate::cgroupfs::fields::Values;
use crate::cgroupfs::files::CgroupFs;
use crate::node::containers::discovery::Discovery;
use crate::node::containers::table::{Container, ContainerId};
use crate::node::processes::table::ProcessTable;
use crate::sources::recording::Writer;

/// How long the account of a container is kept after the last process of the container has ended.
const GONE_AGE: Duration = Duration::from_secs(10);

/// The accounts of the node's containers. Nothing is allocated while the containers stay the same.
#[derive(Debug)]
pub struct Accounts {
    /// The accounts, sorted by container id.
    table: Vec<Account>,
    /// The positions of the exported accounts in `table`, sorted by label text.
    order: Vec<usize>,
    /// The accounts of containers in which no process is left, each with the time at which it was moved here.
    /// They are kept for [`GONE_AGE`], because a kill may be found after the last process has ended.
    gone: Vec<(Instant, Account)>,
    /// The containers that are read although no filter selects them, because their memory is subtracted from
    /// the memory of their pods.
    read_for_pods: BTreeSet<ContainerId>,
    /// A number that increases when a container is added or removed, and when the cgroup or the start time of
    /// a container becomes known or changes.
    generation: u64,
    /// How many containers had a known cgroup at the last update.
    n_located: usize,
    /// The maximum number of containers with directories that stay open between scrapes: an eighth of the
    /// allowed descriptors. Each container needs up to four descriptors. As a result, these directories use
    /// at most half of the allowed descriptors.
    pub(super) max_open: usize,
    has_logged_limit: bool,
    /// The log level of the message that no container has a cgroup. `None` if the message is no longer
    /// needed, because it was logged or a cgroup was found.
    missing_cgroup_log_level: Option<Level>,
}

impl Accounts {
    /// Creates an empty table. If no container's cgroup is found, a message is logged at `level`.
    pub fn new(level: Level) -> Self {
        let max_open = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize / 8);
        let missing_cgroup_log_level = Some(level);
        Self {
            table: Vec::new(),
            order: Vec::new(),
            gone: Vec::new(),
            read_for_pods: BTreeSet::new(),
            generation: 0,
            n_located: 0,
            max_open,
            has_logged_limit: false,
            missing_cgroup_log_level,
        }
    }

    /// Updates the list of containers that have a process, and finds their cgroups. Returns the ids of
    /// containers in which no process is left.
    pub fn update(
        &mut self,
        processes: &ProcessTable,
        discovery: &Discovery,
        now: Instant,
    ) -> Vec<ContainerId> {
        let mut is_changed = self.see(processes, discovery);
        self.gone.retain(|(gone_at, _)| now < *gone_at + GONE_AGE);
        let n_kept = self.gone.len();
        let gone = self.table.extract_if(.., |account| !account.take_seen());
        self.gone.extend(gone.map(|mut account| {
            account.close();
            (now, account)
        }));
        let newly_gone = self.gone[n_kept..].iter().map(|(_, account)| account.container().id).collect();
        self.table.shrink_to(2 * self.table.len());
        is_changed |= n_kept < self.gone.len();
        for account in &mut self.table {
            is_changed |= account.locate(discovery, processes);
        }
        let n_located = self.table.iter().filter(|account| !account.paths().memory.is_empty()).count();
        is_changed |= std::mem::replace(&mut self.n_located, n_located) != n_located;
        if is_changed {
            self.sort();
        }
        newly_gone
    }

    fn see(&mut self, processes: &ProcessTable, discovery: &Discovery) -> bool {
        let mut is_new = false;
        for process in processes.iter().filter(|process| !process.identity().is_zombie()) {
            let Some(container) = process.container() else { continue };
            let i = self.position(container.id).unwrap_or_else(|i| {
                is_new = true;
                self.table.insert(i, Account::new(container));
                i
            });
            self.table[i].see(process, discovery.index());
        }
        is_new
    }

    fn n_selected(&self) -> usize {
        self.table.iter().filter(|account| account.is_selected()).count()
    }

    fn position(&self, id: ContainerId) -> Result<usize, usize> {
        self.table.binary_search_by_key(&id, |account| account.container().id)
    }

    /// Returns a mutable reference to the account of a container.
    pub fn find_mut(&mut self, id: ContainerId) -> Option<&mut Account> {
        self.position(id).ok().map(|i| &mut self.table[i])
    }

    /// Returns the account of a container.
    pub fn find(&self, id: ContainerId) -> Option<&Account> {
        self.position(id).ok().map(|i| &self.table[i])
    }

    /// Returns every account, sorted by container id.
    pub fn iter(&self) -> impl Iterator<Item = &Account> {
        self.table.iter()
    }

    /// Returns a number that increases when a container is added or removed, and when the cgroup or the start
    /// time of a container becomes known or changes.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Stores the containers that are read although no filter selects them. They are read because the memory
    /// of each container is subtracted from the memory of its pod.
    pub fn set_read_for_pods(&mut self, ids: BTreeSet<ContainerId>) {
        self.read_for_pods = ids;
    }

    /// Returns an iterator over mutable references to all accounts.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Account> {
        self.table.iter_mut()
    }

    /// Returns a mutable reference to the account of a container. The account can be found until ten seconds
    /// after the container's last process has ended.
    pub fn find_recent(&mut self, id: ContainerId) -> Option<&mut Account> {
        match self.position(id) {
            Ok(i) => Some(&mut self.table[i]),
            Err(_) => {
                let mut gone = self.gone.iter_mut().rev();
                gone.find(|(_, account)| account.container().id == id).map(|(_, account)| account)
            }
        }
    }

    /// Returns the containers that have a process.
    pub fn containers(&self) -> impl ExactSizeIterator<Item = &Arc<Container>> + Clone {
        self.table.iter().map(Account::container)
    }

    /// Reads the accounts for which `is_due` is true.
    pub fn read(&mut self, fs: &mut CgroupFs, is_due: impl Fn(ContainerId) -> bool) {
        let mut is_changed = false;
        let mut values = Values::default();
        let Self { table, read_for_pods, .. } = self;
        let is_read =
            |account: &Account| account.is_selected() || read_for_pods.contains(&account.container().id);
        for (i, account) in table.iter_mut().filter(|account| is_read(account)).enumerate() {
            if !is_due(account.container().id) {
                continue;
            }
            let was_there = account.is_there();
            is_changed |= account.read(fs, &mut values) != was_there;
            if i >= self.max_open {
                account.close();
            }
        }
        if is_changed {
            self.sort();
        }
        self.log_limit();
    }

    /// Sorts the accounts by label text. If several containers have the same labels, only the container that
    /// started last is exported. If the start times are unknown, the container with the last id is exported.
    fn sort(&mut self) {
        self.generation += 1;
        let Self { table, order, .. } = self;
        order.clear();
        order.extend((0..table.len()).filter(|&i| table[i].is_there() && table[i].is_selected()));
        let labels = |i: usize| table[i].container().labels.as_str();
        order.sort_unstable_by(|&a, &b| {
            labels(a).cmp(labels(b)).then_with(|| table[b].age().cmp(&table[a].age()))
        });
        let equal = order.windows(2).filter(|pair| labels(pair[0]) == labels(pair[1])).flatten();
        let equal: Vec<usize> = equal.copied().collect();
        order.dedup_by(|next, kept| labels(*next) == labels(*kept));
        order.shrink_to(2 * order.len());
        table.iter_mut().for_each(|account| account.set_shares_labels(false));
        equal.into_iter().for_each(|i| table[i].set_shares_labels(true));
    }

    /// Logs once if there are not enough descriptors to keep all cgroups open.
    fn log_limit(&mut self) {
        let n = self.n_selected();
        if n > self.max_open && !std::mem::replace(&mut self.has_logged_limit, true) {
            warn!(
                "the limit of open files (ulimit -Hn) is too low for {n} containers: the cgroups of {} are \
                 opened for each read, and OOM kills in some count for their pods; expected at least {}",
                n - self.max_open,
                8 * n
            );
        }
    }

    /// Logs once that no container has a cgroup. The usual reason is that the node's cgroup file system is
    /// not mounted in the exporter's container. The exporter then sees only its own cgroup.
    pub fn log_missing(&mut self, fs: &CgroupFs) {
        if self.n_selected() == 0 {
            return;
        }
        if let Some(level) = self.missing_cgroup_log_level.take()
            && self.order.is_empty()
        {
            log!(level, "no cgroup_* metrics: {}", fs.explain_absence());
        }
    }

    /// Returns what is exported about each account, sorted by label text.
    pub fn exported(&self) -> impl Iterator<Item = Exported<'_>> + Clone {
        self.order.iter().filter_map(|&i| self.table[i].exported())
    }

    /// Records the cgroup files of all selected containers into `to`, and the files that show the cgroup
    /// version and the root of the exporter's cgroup namespace. If no container is selected, records nothing.
    ///
    /// Fails with a one-line message if a file cannot be written.
    pub fn record(&self, fs: &mut CgroupFs, to: &mut Writer) -> Result<(), String> {
        if self.n_selected() == 0 {
            return Ok(());
        }
        fs.record_root(|name, text| to.cgroup_file(name, text))?;
        for account in self.table.iter().filter(|account| account.is_there() && account.is_selected()) {
            fs.record(account.paths(), |name, text| to.cgroup_file(name, text))?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
