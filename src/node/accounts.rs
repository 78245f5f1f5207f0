//! The containers' own accounts: what the cgroup of each says, read once a scrape, and looked at every interval.
//!
//! Those are read that a filter can select a process of, and that have a process. Nothing is allocated while they stay the same.
//!
//! A container whose use is close to its limit, or to its pod's, may be killed for it. So it is *full* from nine tenths on: what it maps is kept after each
//! scrape, to be told when the kernel has counted a kill (see [`super::ooms`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{Level, log, warn};
use rustix::process::{Resource, getrlimit};

use super::discovery::Discovery;
use super::ooms::{Kill, Kills, LastReading};
use super::owners::{Container, Owners, Place};
use super::process::Process;
use super::processes::Processes;
use crate::cgroupfs::account::{self, Exported};
use crate::cgroupfs::fields::{CURRENT, LIMIT, MAX, SHMEM, Values};
use crate::cgroupfs::files::{Cgroup, CgroupFs, Paths};
use crate::procfs::cgroup::Cgroups;
use crate::procfs::mounts::Mounts;
use crate::procfs::{Buffers, Proc};
use crate::sources::recording::Writer;
use crate::totals::grouping::kind;
use crate::totals::largest::mapped_files;
use crate::totals::snapshot::Snapshot;

/// What is looked at between scrapes is read whole so often: a limit may have been changed.
const MAX_AGE: Duration = Duration::from_secs(60);
/// What lies on tmpfs is found out anew so often, of containers that have some.
const MOUNTS_AGE: Duration = Duration::from_secs(60);

/// The accounts of the node's containers.
#[derive(Debug)]
pub struct Accounts {
    fs: CgroupFs,
    /// By the container's id.
    table: Vec<Account>,
    /// The positions of those that are exported, by label text.
    order: Vec<usize>,
    /// Those that were dropped by the last update, for no process is left.
    gone: Vec<Account>,
    pub(super) kills: Kills,
    /// The descriptors of so many cgroups are held from scrape to scrape, up to five each: the rest of what we may have is for others.
    max_held: usize,
    has_warned_of_limit: bool,
    /// How to tell the log that no container's cgroup is there, once; none when it has been told, or proved wrong.
    complaint: Option<Level>,
    buffers: Buffers,
    scratch: Vec<(u64, u32)>,
}

#[derive(Debug)]
pub(super) struct Account {
    pub(super) container: Arc<Container>,
    is_seen: bool,
    /// One of its processes.
    pid: u32,
    /// Where its cgroup is.
    pub(super) paths: Paths,
    /// When its init process began, once known.
    started_at: Option<u64>,
    pub(super) cgroup: Cgroup,
    /// None if there is no such cgroup.
    pub(super) values: Option<Values>,
    read_at: Instant,
    /// What is charged to it, as it was looked at last; and to its pod, if that has the limit that applies.
    pub(super) current: u64,
    use_above: Option<u64>,
    /// The kernel has killed a process since it was read.
    pub(super) is_outdated: bool,
    /// A process of it is not selected.
    has_others: bool,
    /// Another container that lives has the same labels.
    pub(super) has_twin: bool,
    /// How many kills the kernel has counted for it, and for the cgroup above it, as far as they have been told.
    pub(super) n_kills: Option<u64>,
    pub(super) n_kills_above: Option<u64>,
    /// Where they were counted first: it may be gone when that is needed.
    pub(super) counted_at: Vec<u8>,
    /// What its processes map of tmpfs and shared memory, in bytes by PSS, if that can be told.
    mapped_shmem: Option<u64>,
    mounts: Option<(Mounts, Instant)>,
    pub(super) last_reading: Option<LastReading>,
}

impl Accounts {
    /// Of what is read from `fs`; that it shows no container's cgroup is told at `level`.
    pub fn new(fs: CgroupFs, level: Level) -> Self {
        let max_held = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize / 8);
        Self {
            fs,
            table: Vec::new(),
            order: Vec::new(),
            gone: Vec::new(),
            kills: Kills::default(),
            max_held,
            has_warned_of_limit: false,
            complaint: Some(level),
            buffers: Buffers::default(),
            scratch: Vec::new(),
        }
    }

    /// Sees which containers have a process, and which processes the kernel has killed since that was done last.
    pub fn update(&mut self, processes: &Processes, discovery: &Discovery, proc: &Proc) {
        let is_new = self.see(processes, discovery.owners());
        let is_gone = self.drop_unseen();
        let mut is_changed = is_new || is_gone;
        for account in &mut self.table {
            let (first, started_at) = discovery.init_of(&account.container.listed.id);
            account.locate(first, discovery.owners(), processes);
            is_changed |= account.started_at != started_at;
            account.started_at = started_at;
        }
        let n_on_node = proc.oom_kills(&mut self.buffers);
        self.kills.find(n_on_node, &mut self.fs, &mut self.table, &mut self.gone);
        self.gone.clear();
        if is_changed {
            self.sort();
        }
    }

    /// Reads the account of every container that was seen.
    pub fn read(&mut self, now: Instant) {
        let is_changed = self.read_where(now, |_, _| true);
        if is_changed {
            self.sort();
        }
        self.complain();
    }

    /// Looks what is charged to each container, and reads the accounts of those that are full, or were not read for a minute.
    pub fn check(&mut self, now: Instant) {
        let is_changed = self.read_where(now, |fs, account| {
            if account.values.is_none() || account.is_outdated || now > account.read_at + MAX_AGE {
                return true;
            }
            match fs.current(&mut account.cgroup) {
                Some(current) => {
                    account.current = current;
                    account.look_above(fs);
                    account.is_full()
                }
                None => true,
            }
        });
        if is_changed {
            self.sort();
        }
    }

    /// Says whether one is there now that was not, or the other way round.
    fn read_where(
        &mut self,
        now: Instant,
        mut is_due: impl FnMut(&mut CgroupFs, &mut Account) -> bool,
    ) -> bool {
        let mut is_changed = false;
        let mut values = Values::default();
        for (i, account) in self.table.iter_mut().enumerate() {
            if !is_due(&mut self.fs, account) {
                continue;
            }
            let is_there = self.fs.read(&account.paths, &mut account.cgroup, &mut values);
            is_changed |= account.values.is_some() != is_there;
            if is_there {
                account.take(values, now);
                account.look_above(&mut self.fs);
                self.kills.begin(&mut self.fs, account);
            } else {
                account.values = None;
                account.paths = Paths::default();
            }
            if is_there && !account.is_full() {
                account.last_reading = None;
            }
            if i >= self.max_held {
                account.cgroup = Cgroup::default();
            }
        }
        if self.table.len() > self.max_held && !std::mem::replace(&mut self.has_warned_of_limit, true) {
            warn!(
                "the limit of open files (ulimit -Hn) is too low for {} containers: the cgroups of {} are opened again for \
                 each look; expected at least {}",
                self.table.len(),
                self.table.len() - self.max_held,
                8 * self.table.len()
            );
        }
        is_changed
    }

    /// Whether a process is in a container that is full, so that it is read at every interval.
    pub fn is_full_of(&self, process: &Process) -> bool {
        let id = process.container().map(|container| container.listed.id.as_str());
        id.and_then(|id| self.position(id).ok()).is_some_and(|i| self.table[i].is_full())
    }

    fn has_full(&self) -> bool {
        self.table.iter().any(Account::is_full)
    }

    /// Whether the counters of some are to be looked at again soon: those that are full, and have no pod whose counter outlives them.
    pub fn has_watched(&self) -> bool {
        self.table.iter().any(Account::is_watched)
    }

    /// Looks at those counters.
    pub fn watch(&mut self) {
        for account in self.table.iter_mut().filter(|account| account.is_watched()) {
            if let Some(n_kills) = self.fs.oom_kills_again(&account.paths.memory, &mut account.cgroup) {
                self.kills.compare(account, n_kills);
            }
        }
    }

    /// Joins what was summed to the accounts: how much of tmpfs is mapped, and what those are full of that are full.
    pub fn join(&mut self, snapshot: &Snapshot, processes: &Processes, proc: &Proc, now: Instant) {
        for account in &mut self.table {
            account.find_mapped_shmem(snapshot, proc, &mut self.buffers, now);
        }
        if !self.has_full() {
            return;
        }
        // A process that has been killed meanwhile is missing in the sums: then what they were before is what it is told with.
        if self.kills.n_on_node != proc.oom_kills(&mut self.buffers) {
            return;
        }
        for account in &mut self.table {
            if !account.is_full() || account.has_twin {
                continue;
            }
            let last = account.last_reading.get_or_insert_default();
            if last.largest.find(snapshot.table(), account.container.key, &mut self.scratch) {
                (last.values, last.current) = (account.values.unwrap_or_default(), account.current);
                last.oldest = None;
            }
        }
        self.date(processes);
    }

    /// Sees when the oldest readings were made of those that are full.
    fn date(&mut self, processes: &Processes) {
        let mut last = None;
        for process in processes.iter() {
            let (Some(container), Some(read_at)) = (process.container(), process.values_from()) else {
                continue;
            };
            let at = match last.filter(|&i: &usize| Arc::ptr_eq(&self.table[i].container, container)) {
                Some(i) => i,
                None => match self.position(&container.listed.id) {
                    Ok(i) => i,
                    Err(_) => continue,
                },
            };
            last = Some(at);
            if let Some(last) = &mut self.table[at].last_reading {
                last.oldest = last.oldest.into_iter().chain([read_at]).min();
            }
        }
    }

    /// The kills that were found and not taken yet.
    pub fn take_kills(&mut self) -> Vec<Kill> {
        std::mem::take(&mut self.kills.found)
    }

    fn position(&self, id: &str) -> Result<usize, usize> {
        self.table.binary_search_by(|known| known.container.listed.id.as_str().cmp(id))
    }

    /// Sees which containers have a process, and where: says whether one is new.
    fn see(&mut self, processes: &Processes, owners: &Owners) -> bool {
        let mut is_new = false;
        let mut last: Option<usize> = None;
        for process in processes.iter() {
            let Some(container) = process.container().filter(|container| container.is_selected) else {
                continue;
            };
            // Processes of one container follow each other, mostly.
            let at = match last.filter(|&i| Arc::ptr_eq(&self.table[i].container, container)) {
                Some(i) => i,
                None => match self.position(&container.listed.id) {
                    Ok(i) => i,
                    Err(i) => {
                        is_new = true;
                        self.table.insert(i, Account::new(container));
                        i
                    }
                },
            };
            if !Arc::ptr_eq(&self.table[at].container, container) {
                // The same id, but restarted.
                self.gone.push(std::mem::replace(&mut self.table[at], Account::new(container)));
            }
            self.table[at].see(process, owners);
            last = Some(at);
        }
        is_new
    }

    /// Drops the accounts of the containers that have no process any more: says whether there were any.
    fn drop_unseen(&mut self) -> bool {
        let unseen = self.table.extract_if(.., |account| !std::mem::take(&mut account.is_seen));
        self.gone.extend(unseen);
        self.table.shrink_to(2 * self.table.len());
        !self.gone.is_empty()
    }

    /// By label text; of those that bear the same labels the youngest alone, by its id where it is not known when it began.
    fn sort(&mut self) {
        let Self { table, order, .. } = self;
        order.clear();
        order.extend((0..table.len()).filter(|&i| table[i].values.is_some()));
        let labels = |i: usize| table[i].container.labels.as_str();
        let age = |i: usize| (table[i].started_at, table[i].container.listed.id.as_str());
        order.sort_unstable_by(|&a, &b| labels(a).cmp(labels(b)).then_with(|| age(b).cmp(&age(a))));
        let twins = order.windows(2).filter(|pair| labels(pair[0]) == labels(pair[1])).flatten();
        let twins: Vec<usize> = twins.copied().collect();
        order.dedup_by(|next, kept| labels(*next) == labels(*kept));
        order.shrink_to(2 * order.len());
        table.iter_mut().for_each(|account| account.has_twin = false);
        twins.into_iter().for_each(|i| table[i].has_twin = true);
    }

    /// Without the node's own mount, a container sees its own cgroup alone.
    fn complain(&mut self) {
        if self.table.is_empty() {
            return;
        }
        if let Some(level) = self.complaint.take()
            && self.order.is_empty()
        {
            log!(level, "no cgroup_* metrics: {}", self.fs.explain_absence());
        }
    }

    /// The accounts that are exported, by label text.
    pub fn iter(&self) -> impl Iterator<Item = Exported<'_>> + Clone {
        self.order.iter().filter_map(|&i| self.table[i].exported())
    }

    /// The label text of each container that is exported, left open, and how many of its processes the kernel has killed since the start.
    pub fn n_kills(&self) -> impl Iterator<Item = (&str, u64)> {
        self.kills.counts()
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
            self.fs.record(&account.paths, |name, text| to.cgroup_file(name, text))?;
        }
        Ok(())
    }
}

impl Account {
    fn new(container: &Arc<Container>) -> Self {
        Self {
            container: container.clone(),
            is_seen: false,
            pid: 0,
            paths: Paths::default(),
            started_at: None,
            cgroup: Cgroup::default(),
            values: None,
            read_at: Instant::now(),
            current: 0,
            use_above: None,
            is_outdated: false,
            has_others: false,
            has_twin: false,
            n_kills: None,
            n_kills_above: None,
            counted_at: Vec::new(),
            mapped_shmem: None,
            mounts: None,
            last_reading: None,
        }
    }

    fn take(&mut self, values: Values, now: Instant) {
        (self.values, self.read_at, self.is_outdated) = (Some(values), now, false);
        self.current = values.get(CURRENT).unwrap_or(0);
    }

    /// Where the limit that applies is not its own but the pod's, looks how much of that is used. One further up is the node's: whoever keeps
    /// it full, others need not be read for that.
    fn look_above(&mut self, fs: &mut CgroupFs) {
        let limits = self.values.map(|values| (values.get(LIMIT), values.get(MAX)));
        self.use_above = match limits {
            Some((Some(limit), max)) if max != Some(limit) => fs.use_above(&self.paths.memory, limit),
            _ => None,
        };
    }

    /// How many thousandths of the limit that applies are used, if there is one.
    pub(super) fn fullness(&self) -> Option<u64> {
        let limit = self.values?.get(LIMIT)?;
        Some(self.current.max(self.use_above.unwrap_or(0)).saturating_mul(1000) / limit.max(1))
    }

    /// Whether nine tenths of what it may use are used.
    pub(super) fn is_full(&self) -> bool {
        self.fullness().is_some_and(|thousandths| thousandths >= 900)
    }

    fn is_watched(&self) -> bool {
        self.n_kills_above.is_none() && self.is_full()
    }

    fn exported(&self) -> Option<Exported<'_>> {
        let values = self.values.as_ref()?;
        let mapped_shmem = self.mapped_shmem.filter(|_| !self.has_others && !self.has_twin);
        let unmapped = mapped_shmem.and_then(|mapped| account::unmapped(values, mapped));
        Some(Exported { labels: &self.container.labels, values, unmapped })
    }

    /// Finds out how much its processes map of tmpfs and shared memory, if there is any.
    fn find_mapped_shmem(&mut self, snapshot: &Snapshot, proc: &Proc, buffers: &mut Buffers, now: Instant) {
        let has_some = self.values.is_some_and(|values| values.get(SHMEM).is_some_and(|bytes| bytes > 0));
        let (table, key) = (snapshot.table(), self.container.key);
        if !has_some {
            self.mapped_shmem = mapped_files(table, key, |_| false);
            return;
        }
        if self.mounts.as_ref().is_none_or(|(_, known_at)| now > *known_at + MOUNTS_AGE) {
            // Where they cannot be read, in a recording that has none, the usual places of shared memory are known.
            let mounts = proc.mounts(self.pid, buffers).unwrap_or_default();
            self.mounts = Some((mounts, now));
        }
        let mounts = self.mounts.as_ref().map(|(mounts, _)| mounts);
        self.mapped_shmem = mapped_files(table, key, |path| match kind(path.as_bytes()) {
            "shm" => true,
            "file" => mounts.is_some_and(|mounts| mounts.is_tmpfs(path)),
            _ => false,
        });
    }

    /// Takes note of a process of the container.
    fn see(&mut self, process: &Process, owners: &Owners) {
        if !std::mem::replace(&mut self.is_seen, true) {
            (self.pid, self.has_others) = (process.pid(), false);
        }
        self.has_others |= !process.is_selected();
        if self.values.is_some() {
            return;
        }
        // The outermost of several is the container's own.
        let n_above = |path: &[u8]| path.iter().filter(|&&b| b == b'/').count();
        let found = self.find(process.cgroups(), owners);
        for (path, found) in [(&mut self.paths.memory, found.memory), (&mut self.paths.others, found.others)]
        {
            if !found.is_empty() && (path.is_empty() || n_above(&found) < n_above(path)) {
                *path = found;
            }
        }
    }

    /// Decides where its cgroup is: where its init process was first, if that is known, else where its processes are.
    fn locate(&mut self, first: Option<&Cgroups>, owners: &Owners, processes: &Processes) {
        if self.values.is_some() {
            return;
        }
        let found = first.map(|first| self.find(first, owners)).unwrap_or_default();
        if !found.memory.is_empty() {
            self.paths.memory = found.memory;
        }
        if !found.others.is_empty() {
            self.paths.others = found.others;
        }
        if self.paths.memory.is_empty() {
            self.paths.memory = self.unnamed_memory(processes).unwrap_or_default().into();
        }
    }

    /// Where the container's cgroup is, by those of a process in it.
    fn find(&self, cgroups: &Cgroups, owners: &Owners) -> Paths {
        let is_own = |place: &Place| Arc::ptr_eq(place.container, &self.container);
        let others = owners.owner_of(cgroups).filter(is_own).map(|place| place.cgroup);
        let memory = match cgroups.memory() {
            Some(path) => owners.owner_of_path(path).filter(is_own).map(|place| place.cgroup),
            None => others,
        };
        let [memory, others] = [memory, others].map(|path| path.unwrap_or_default().into());
        Paths { memory, others }
    }

    /// Where version 1 accounts the memory of a container whose id is in the paths of other controllers only, as on
    /// ECS: where its process is, if nothing else is there.
    fn unnamed_memory<'a>(&self, processes: &'a Processes) -> Option<&'a [u8]> {
        let path = processes.find(self.pid)?.cgroups().memory().filter(|path| *path != b"/")?;
        let is_below = |other: &[u8]| {
            other.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        let is_own = |process: &Process| {
            process.container().is_some_and(|container| Arc::ptr_eq(container, &self.container))
        };
        let is_alone =
            processes.iter().all(|other| is_own(other) || !other.cgroups().memory().is_some_and(is_below));
        is_alone.then_some(path)
    }
}

#[cfg(test)]
mod tests;
