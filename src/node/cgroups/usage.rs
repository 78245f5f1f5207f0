//! The memory use of containers, which is read from their cgroups once per scrape.
//!
//! When a container is close to its limit or to its pod's limit, the kernel may kill a process in it. Between
//! scrapes, a thread looks for such containers, and their processes are read (see [`super::oom_watch`]). If a
//! container uses 85% of its limit or more, its last reading is kept, because an OOM record shows this
//! reading.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;

use super::account::Account;
use super::accounts::Accounts;
use super::counters::NewContainer;
use super::kill_counts::{FoundKill, Limit, Place};
use super::ledger::Ledger;
use super::mapped_shmem::MappedShmem;
use super::moment::End;
use super::oom::{Kill, KillTotals};
use super::oom_watch::OomWatch;
use super::pods::Pods;
use crate::cgroupfs::account::Exported;
use crate::cgroupfs::fields::{GroupMask, MEMORY, NODE, POD};
use crate::cgroupfs::files::{CgroupFs, above};
use crate::cgroupfs::memory_fs::Reads;
use crate::cgroupfs::pod;
use crate::demand::Demand;
use crate::node::containers::discovery::Discovery;
use crate::node::containers::table::{Container, ContainerId};
use crate::node::processes::process::Process;
use crate::node::processes::table::ProcessTable;
use crate::procfs::cgroup::Cgroups;
use crate::procfs::{Buffers, Proc};
use crate::sources::Container as Listed;
use crate::sources::recording::Writer;
use crate::totals::labels;
use crate::totals::snapshot::Snapshot;

/// The memory use of the node's containers.
#[derive(Debug)]
pub struct CgroupUsage {
    fs: CgroupFs,
    accounts: Accounts,
    /// The memory of pods; `None` if pods are not exported.
    pods: Option<Pods>,
    /// The memory of the node; `None` if the node is not exported.
    ledger: Option<Ledger>,
    watch: OomWatch,
    /// The containers that the current scrape or check reads first, because they come close to a limit.
    due: BTreeSet<ContainerId>,
    totals: KillTotals,
    /// The latest start time among the processes in the first update. A process with a later start time
    /// started after the exporter.
    latest_start: Option<u64>,
    buffers: Buffers,
    /// Buffers that are reused, so that a scrape allocates nothing.
    members: Vec<(ContainerId, u32)>,
    order: Vec<(u64, u32)>,
}

impl CgroupUsage {
    /// Creates a `CgroupUsage` without containers. Cgroups are read from `fs`. If no container's cgroup is
    /// found, a message is logged at `level`.
    ///
    /// Fails with the system's error if no descriptor is left.
    pub fn new(fs: CgroupFs, level: Level) -> io::Result<Self> {
        Ok(Self {
            accounts: Accounts::new(level),
            watch: OomWatch::new(&fs)?,
            pods: fs.memory(Reads::Pods).filter(|_| fs.groups() & POD != 0).map(Pods::new),
            ledger: ledger(&fs),
            fs,
            due: BTreeSet::new(),
            totals: KillTotals::default(),
            latest_start: None,
            buffers: Buffers::default(),
            members: Vec::new(),
            order: Vec::new(),
        })
    }

    /// Starts the thread that looks for containers close to their limit. If the kernel reports OOM kills, the
    /// thread also looks for kills. When it has found a container or a kill, it wakes the scraping thread.
    /// `cpu_budget` is a fraction of one core, and the thread's measurements use at most a quarter of it.
    ///
    /// Fails with the system's error if no thread can be started.
    pub fn start_watch(&self, demand: Arc<Demand>, cpu_budget: f64, proc: Arc<Proc>) -> io::Result<()> {
        self.watch.start(demand, cpu_budget, proc)
    }

    /// Returns the CPU time that the measurements of the watching thread have used since the last call.
    pub fn take_watch_time(&self) -> Duration {
        self.watch.take_cpu_time()
    }

    /// Updates the list of containers that have a process, and begins to count their OOM kills. If the node's
    /// count of kills has changed, the counters of all cgroups are read.
    pub fn update(&mut self, processes: &ProcessTable, discovery: &Discovery, proc: &Proc, now: Instant) {
        for id in self.accounts.update(processes, discovery, now) {
            self.watch.end(id);
            let account = self.accounts.find_recent(id);
            if let Some(container) = account.map(|account| account.container().clone()) {
                self.forget(&container.labels);
            }
        }
        self.watch_new(processes);
        self.members.clear();
        let alive = processes.iter().filter(|process| !process.identity().is_zombie());
        self.members.extend(alive.filter_map(|process| Some((process.container()?.id, process.pid()))));
        self.watch.set_processes(&mut self.members, now);
        if self.totals.update_node(proc.oom_kills(&mut self.buffers)) {
            self.watch.read_all();
        }
        self.watch.begin_pass();
        self.watch.drop_gone();
        for container in self.watch.take_gone_pods() {
            self.totals.forget(&pod_labels(&container.listed));
        }
    }

    /// Drops the kill count with these labels if it is 0 and no container with these labels has a process. A
    /// count above 0 is kept after its container has ended.
    fn forget(&mut self, labels: &str) {
        if !self.accounts.containers().any(|container| container.labels == labels) {
            self.totals.forget(labels);
        }
    }

    /// Begins to count the kills of containers with a cgroup that has just become known.
    fn watch_new(&mut self, processes: &ProcessTable) {
        let start_times = || processes.seen().map(|process| process.start_time.unwrap_or(0));
        if self.latest_start.is_none() {
            self.latest_start = start_times().max();
        }
        let began_later = |start_time| self.latest_start.is_some_and(|latest| start_time > latest);
        let Self { fs, accounts, watch, totals, .. } = self;
        if fs.groups() & MEMORY == 0 {
            return;
        }
        for account in accounts.iter_mut().filter(|account| account.must_watch()) {
            let Some(place) = fs.place(&account.paths().memory) else { continue };
            let new = NewContainer {
                container: account.container(),
                place: &place,
                is_new: account.started_at().is_some_and(began_later),
                is_new_pod: place.pod.is_some() && {
                    let pod = above(&account.paths().memory);
                    let mut members = processes.seen().filter(|process| is_below(process.cgroups, pod));
                    members.all(|member| member.start_time.is_some_and(began_later))
                },
            };
            let (is_held, has_pod) = watch.add(fs, &new);
            if has_pod && account.is_selected() {
                totals.add(&pod_labels(&account.container().listed), 0);
            }
            if is_held {
                if account.is_selected() {
                    totals.add(&account.container().labels, 0);
                }
                account.set_watched();
            }
        }
    }

    /// Reads the memory use of all containers and pods, and of the node.
    pub fn read(&mut self, proc: &Proc) {
        let Self { fs, accounts, pods, ledger, .. } = self;
        pods.iter_mut().for_each(|pods| pods.update(accounts, fs));
        accounts.read(fs, |_| true);
        accounts.log_missing(fs);
        // `accounts.max_open` is 1/8 of the allowed open files, so `max_open` is 1/64. On version 2, each of
        // up to `max_open` pods keeps five files open: four in `pods`, and one in `ledger`. Each of up to
        // `max_open` top-level cgroups keeps two files open. So at most 7 * `max_open` files stay open here,
        // which is 7/64 of the allowed open files.
        let max_open = accounts.max_open / 8;
        pods.iter_mut().for_each(|pods| pods.read(accounts, max_open));
        if let Some(ledger) = ledger {
            ledger.read(proc, max_open, |path| pods.as_ref()?.current(path));
        }
    }

    /// Whether a container comes close to a limit, so that its processes must be read even between scrapes.
    pub fn has_due(&self) -> bool {
        self.watch.has_due()
    }

    /// Whether no container and no pod was created in the last ten seconds. If so, the exporter may look less
    /// often for new containers between scrapes. Returns false if no cgroup is watched, because new cgroups
    /// are then not noticed.
    pub fn is_calm(&self) -> bool {
        self.watch.is_calm()
    }

    /// Begins the reads of a scrape or a check. The cgroups of containers that come close to a limit are read
    /// first.
    pub fn begin_reads(&mut self) {
        self.due = self.watch.take_due();
        let due = &self.due;
        self.accounts.read(&mut self.fs, |id| due.contains(&id));
    }

    /// Whether the process is in a container that comes close to a limit, so that the process is read even
    /// between scrapes.
    pub fn is_due(&self, process: &Process) -> bool {
        process.container().is_some_and(|container| self.due.contains(&container.id))
    }

    /// Returns how long a container takes to reach its limit or its pod's limit if its memory use keeps
    /// growing; `None` if the memory use does not grow, or if there is no limit. Measures the memory use
    /// first if the last measurement is too old.
    pub fn time_to_limit(&self, id: ContainerId) -> Option<Duration> {
        self.watch.time_to_limit(id)
    }

    /// Stores what a scrape or a check has summed up for each container: the tmpfs that the container maps,
    /// and its largest mapped paths if the container is close to its limit.
    pub fn join(&mut self, snapshot: &Snapshot, processes: &ProcessTable, proc: &Proc, now: Instant) {
        let Self { accounts, watch, totals, buffers, order, .. } = self;
        find_mapped_shmem(accounts, (snapshot, processes), (proc, buffers), now);
        // If a process was killed during this scrape or check, the new sums lack its memory. So the container
        // of that process keeps its previous reading, but the other containers get a new one. This matters
        // when ten containers reach their limits at once, so that most checks have a kill. If one kill kept
        // all containers from getting a new reading, these checks would give no container a new reading.
        let has_kills = totals.n_on_node() != proc.oom_kills(buffers);
        let intact = has_kills.then(|| watch.intact());
        let is_intact = |id: ContainerId| intact.as_ref().is_none_or(|intact| intact.contains(&id));
        for account in accounts.iter_mut().filter(|account| is_intact(account.container().id)) {
            let permille = watch.permille(account.container().id).unwrap_or(0);
            account.keep_reading(permille, snapshot, order, now);
        }
        for process in processes.iter() {
            if let (Some(container), Some(read_at)) = (process.container(), process.values_read_at())
                && is_intact(container.id)
                && let Some(account) = accounts.find_mut(container.id)
            {
                account.note_read_at(read_at);
            }
        }
    }

    /// Returns the kills that were found since the last call, and adds them to the counts.
    pub fn take_kills(&mut self) -> Vec<Kill> {
        let Self { fs, accounts, pods, watch, totals, .. } = self;
        let with_content = |(found, end): (FoundKill, End)| {
            let (Place::Container(of) | Place::Pod { of, .. }) = &found.place;
            // Memory that ended containers have left behind in the pod can be the reason that the pod's limit
            // was hit and a process was killed. So this memory is read if the limit that was hit is the
            // pod's, or is unknown, as on version 1.
            let may_be_pods = matches!(found.limit, Some(Limit::Pod) | None);
            let pods = pods.as_ref().filter(|_| may_be_pods);
            let outside_containers = pods.and_then(|pods| pods.outside_now(of, accounts, fs));
            let content = match &found.place {
                Place::Container(container) => {
                    totals.add(&container.labels, found.n_kills);
                    accounts.find_recent(container.id).map(Account::take_content)
                }
                Place::Pod { of, .. } => {
                    totals.add(&pod_labels(&of.listed), found.n_kills);
                    None
                }
            };
            Kill { found, end, content, outside_containers }
        };
        watch.take().into_iter().map(with_content).collect()
    }

    /// Returns what is exported about the memory of each container, sorted by label text.
    pub fn exported(&self) -> impl Iterator<Item = Exported<'_>> + Clone {
        self.accounts.exported()
    }

    /// Returns the groups of cgroup fields that are exported.
    pub fn groups(&self) -> GroupMask {
        self.fs.groups()
    }

    /// Returns the exported pods, sorted by label text, with the containers of each.
    pub fn exported_pods(&self) -> impl Iterator<Item = (pod::Exported<'_>, &[Arc<Container>])> + Clone {
        self.pods.iter().flat_map(Pods::exported)
    }

    /// Returns the label text of each part of the node's memory, and its size in bytes.
    pub fn exported_node(&self) -> impl Iterator<Item = (&str, i64)> {
        self.ledger.iter().flat_map(Ledger::exported)
    }

    /// Returns, for each container and pod, its label text and the number of kills since the exporter
    /// started.
    pub fn n_kills(&self) -> impl Iterator<Item = (&str, u64)> {
        self.totals.iter()
    }

    /// Records the cgroup files of all containers and pods, and the files about the node's memory, into `to`.
    ///
    /// Fails with a one-line message if a file cannot be written.
    pub fn record(&mut self, proc: &Proc, to: &mut Writer) -> Result<(), String> {
        let Self { fs, accounts, pods, ledger, .. } = self;
        accounts.record(fs, to)?;
        if let Some(pods) = pods {
            pods.record(|fs, path| fs.record(path, |name, text| to.cgroup_file(name, text)))?;
        }
        ledger.iter_mut().try_for_each(|ledger| ledger.record(proc, to))
    }
}

/// Returns the [`Ledger`], which divides the node's memory into parts. Returns `None` if the node's memory is
/// not exported, or if the cgroup file system does not show the whole node.
fn ledger(fs: &CgroupFs) -> Option<Ledger> {
    let tops = fs.memory(Reads::Tops).filter(|tops| fs.groups() & NODE != 0 && tops.is_of_node())?;
    Some(Ledger::new([tops, fs.memory(Reads::Use)?]))
}

/// Returns the label text of a pod, in which the label `container` is empty.
fn pod_labels(listed: &Listed) -> String {
    labels::container(&listed.namespace, &listed.pod, "")
}

/// Whether a process is in a cgroup below `path`.
fn is_below(cgroups: &Cgroups, path: &[u8]) -> bool {
    let rest = cgroups.main().and_then(|own| own.strip_prefix(path));
    rest.is_some_and(|rest| rest.starts_with(b"/"))
}

/// Adds up how much tmpfs and shared memory the processes of each container map.
fn find_mapped_shmem(
    accounts: &mut Accounts,
    (snapshot, processes): (&Snapshot, &ProcessTable),
    (proc, buffers): (&Proc, &mut Buffers),
    now: Instant,
) {
    accounts.iter_mut().for_each(|account| account.begin_mapped_shmem(now));
    let for_each = |accounts: &mut Accounts, each: &mut dyn FnMut(&mut MappedShmem, &Process)| {
        for process in processes.iter() {
            if let Some(container) = process.container()
                && container.is_selected
                && let Some(account) = accounts.find_mut(container.id)
            {
                each(account.mapped_shmem(), process);
            }
        }
    };
    for_each(accounts, &mut |shmem, process| shmem.see(process, proc, buffers));
    let mut needs_each = false;
    for account in accounts.iter_mut() {
        let key = account.container().id.key();
        needs_each |= account.mapped_shmem().sum(snapshot, key);
    }
    if needs_each {
        for_each(accounts, &mut |shmem, process| shmem.add(process, snapshot));
    }
}

#[cfg(test)]
pub(crate) mod tests;
