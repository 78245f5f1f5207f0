//! How much memory containers use, by their cgroups: read once per scrape, and checked in between.
//!
//! The kernel may kill in a container that is close to its limit, or to its pod's. From nine tenths of the
//! limit on, what the container maps is kept after each scrape, to be reported when the kernel has counted a
//! kill (see [`super::oom`]).

use std::time::Instant;

use log::Level;

use super::account::Account;
use super::accounts::Accounts;
use super::kills;
use super::mapped_shmem::MappedShmem;
use super::oom::{Kill, OomTracker};
use crate::cgroupfs::account::Exported;
use crate::cgroupfs::files::CgroupFs;
use crate::node::containers::discovery::Discovery;
use crate::node::processes::process::Process;
use crate::node::processes::table::ProcessTable;
use crate::procfs::{Buffers, Proc};
use crate::sources::recording::Writer;
use crate::totals::snapshot::Snapshot;

/// The memory use of the node's containers.
#[derive(Debug)]
pub struct CgroupUsage {
    fs: CgroupFs,
    accounts: Accounts,
    ooms: OomTracker,
    buffers: Buffers,
    /// Scratch for finding the largest paths.
    largest: Vec<(u64, u32)>,
}

impl CgroupUsage {
    /// Reads cgroups from `fs`. Logs at `level` if no container's cgroup is found.
    pub fn new(fs: CgroupFs, level: Level) -> Self {
        Self {
            fs,
            accounts: Accounts::new(level),
            ooms: OomTracker::default(),
            buffers: Buffers::default(),
            largest: Vec::new(),
        }
    }

    /// Notes which containers have a process, and finds the OOM kills since the last update.
    pub fn update(&mut self, processes: &ProcessTable, discovery: &Discovery, proc: &Proc) {
        let Self { fs, accounts, ooms, buffers, .. } = self;
        accounts.update(processes, discovery);
        if ooms.see_node(proc.oom_kills(buffers)) {
            let (live, gone) = accounts.split();
            kills::find(fs, ooms, live, gone);
            live.iter_mut().for_each(|account| account.see_kills_above(fs));
        }
        let (_, gone) = accounts.split();
        let gone: Vec<String> = gone.iter().map(|account| account.container().labels.clone()).collect();
        for labels in gone {
            ooms.forget(&labels, accounts.containers());
        }
        accounts.drop_gone();
    }

    /// Reads the account of every container.
    pub fn read(&mut self, now: Instant) {
        self.read_accounts(now, false);
        self.accounts.log_missing(&self.fs);
    }

    /// Checks what is charged to each container, and reads the accounts that are near their limit or old.
    pub fn check(&mut self, now: Instant) {
        self.read_accounts(now, true);
    }

    fn read_accounts(&mut self, now: Instant, checks_first: bool) {
        let Self { fs, accounts, ooms, .. } = self;
        accounts.read(fs, now, checks_first, |fs, account| {
            if account.begin_counting(fs) {
                ooms.count(&account.container().labels, 0);
            }
        });
    }

    /// Whether the process is in a container near its limit; then it is read at every interval.
    pub fn is_near_limit(&self, process: &Process) -> bool {
        let account = process.container().and_then(|container| self.accounts.find(container.id));
        account.is_some_and(Account::is_near_limit)
    }

    /// Whether some kill counters must be read often: their containers are near the limit, and no pod's
    /// counter outlives their own.
    pub fn has_watched(&self) -> bool {
        self.accounts.iter().any(Account::is_watched)
    }

    /// Reads the kill counters that must be read often.
    pub fn watch(&mut self) {
        for account in self.accounts.iter_mut() {
            if let Some(n_kills) = account.watched_kills(&mut self.fs) {
                kills::report(&mut self.ooms, account, n_kills);
            }
        }
    }

    /// Combines the sums of a scrape with the accounts: how much tmpfs is mapped, and what the containers
    /// near their limit map.
    pub fn join(&mut self, snapshot: &Snapshot, processes: &ProcessTable, proc: &Proc, now: Instant) {
        let Self { accounts, ooms, buffers, largest, .. } = self;
        find_mapped_shmem(accounts, (snapshot, processes), (proc, buffers), now);
        if !accounts.iter().any(Account::is_near_limit) {
            return;
        }
        // After a kill during this scrape, the sums already lack the killed process, so the previous reading
        // is kept.
        if ooms.n_on_node() != proc.oom_kills(buffers) {
            return;
        }
        for account in accounts.iter_mut() {
            account.keep_reading(snapshot, largest);
        }
        for process in processes.iter() {
            if let (Some(container), Some(read_at)) = (process.container(), process.values_read_at())
                && let Some(account) = accounts.find_mut(container.id)
            {
                account.note_read_at(read_at);
            }
        }
    }

    /// Returns the kills that were found since the last call.
    pub fn take_kills(&mut self) -> Vec<Kill> {
        self.ooms.take()
    }

    /// Returns the accounts that are exported, by label text.
    pub fn exported(&self) -> impl Iterator<Item = Exported<'_>> + Clone {
        self.accounts.exported()
    }

    /// Returns the label text of each container and the number of its kills since the start.
    pub fn n_kills(&self) -> impl Iterator<Item = (&str, u64)> {
        self.ooms.counts()
    }

    /// Limits the number of containers with open cgroups.
    #[cfg(test)]
    pub fn keep_open(&mut self, max_open: usize) {
        self.accounts.max_open = max_open;
    }

    /// Records the files of all accounts into `to`.
    ///
    /// Fails with one line when a file cannot be written.
    pub fn record(&mut self, to: &mut Writer) -> Result<(), String> {
        self.accounts.record(&mut self.fs, to)
    }
}

/// Finds out how much tmpfs and shared memory the processes of each container map.
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
pub(crate) mod tests {
    use std::fs;

    use super::super::accounts::tests::{Node, Process};
    use super::*;
    use crate::cgroupfs::fields::CURRENT;

    /// A node and the memory use of its containers.
    pub(crate) struct Checked {
        pub(crate) node: Node,
        pub(crate) usage: CgroupUsage,
        snapshot: Snapshot,
    }

    impl Checked {
        pub(crate) fn new(name: &str, containers: &[(&str, &str, &str, &str)]) -> Self {
            let node = Node::new(name, containers);
            let usage = CgroupUsage::new(node.fs(), Level::Info);
            Self { node, usage, snapshot: Snapshot::default() }
        }

        /// Sets the kernel's count of kills on the node.
        pub(crate) fn oom_kills(&self, n_kills: u32) {
            let text = format!("nr_free_pages 1\noom_kill {n_kills}\n");
            fs::write(self.node.directory.join("proc/vmstat"), text).unwrap();
        }

        pub(crate) fn cgroup(&self, path: &str, current: u32) {
            self.node.cgroup(path, current);
        }

        pub(crate) fn write(&self, name: &str, text: &str) {
            self.node.write(name, text);
        }

        fn pass(&mut self, processes: &[Process], is_check: bool) {
            let processes = self.node.see(processes);
            let Self { node, usage, snapshot } = self;
            usage.update(&processes, &node.discovery, &node.proc);
            let now = Instant::now();
            if is_check {
                usage.check(now)
            } else {
                usage.read(now)
            }
            usage.join(snapshot, &processes, &node.proc, now);
        }

        /// Simulates a scrape that finds these processes.
        fn scrape(&mut self, processes: &[Process]) {
            self.pass(processes, false);
        }

        /// Simulates a check that finds these processes. Returns the containers near their limit, and the
        /// kills: the container, the number, and the bytes that were charged to the container.
        pub(crate) fn check(&mut self, processes: &[Process]) -> (Vec<&str>, Vec<(String, u64, u64)>) {
            self.pass(processes, true);
            let kills = self.usage.take_kills().into_iter();
            let kills =
                kills.map(|kill| (kill.container.listed.name.clone(), kill.n_kills, kill.current)).collect();
            let near = self.usage.accounts.iter().filter(|account| account.is_near_limit());
            (near.map(|account| account.container().listed.name.as_str()).collect(), kills)
        }
    }

    /// Returns a pod with a limit of 1000, and the processes of its two containers.
    pub(crate) fn pod(name: &str) -> (Checked, [Process; 2]) {
        let node = Checked::new(name, &[("c1", "10", "shop", "a"), ("c2", "20", "shop", "b")]);
        node.oom_kills(7);
        for container in ["c1", "c2"] {
            node.cgroup(&format!("kubepods/pod/{container}"), 500);
            node.write(&format!("kubepods/pod/{container}/memory.events"), "oom 1\noom_kill 3\n");
        }
        node.write("kubepods/pod/memory.max", "1000\n");
        node.write("kubepods/pod/memory.events", "oom_kill 6\n");
        (node, [(10, 100, "/kubepods/pod/c1"), (20, 100, "/kubepods/pod/c2")])
    }

    #[test]
    fn a_container_is_near_its_limit_from_nine_tenths_on() {
        let (mut node, processes) = pod("near");
        node.scrape(&processes);
        for (current, is_near) in [(899, false), (900, true), (1100, true), (20, false)] {
            node.cgroup("kubepods/pod/c1", current);
            let expected: &[&str] = if is_near { &["a"] } else { &[] };
            assert_eq!(node.check(&processes), (expected.into(), vec![]), "{current}");
        }
        node.cgroup("kubepods/pod/c1", 900);
        node.write("kubepods/pod/memory.max", "2000\n");
        assert_eq!(
            node.check(&processes).0,
            [""; 0],
            "the limit is read again before a container counts as near it"
        );
    }

    /// The limit of the pod is used up by its other container.
    #[test]
    fn a_container_can_be_near_the_limit_of_its_pod() {
        let (mut node, processes) = pod("near-pod");
        node.scrape(&processes);
        node.write("kubepods/pod/memory.current", "899\n");
        assert_eq!(node.check(&processes).0, [""; 0]);
        node.write("kubepods/pod/memory.current", "900\n");
        assert_eq!(node.check(&processes).0, ["a", "b"]);
        node.write("kubepods/pod/c1/memory.max", "700\n");
        node.usage.accounts.iter_mut().for_each(|account| _ = account.kill(0));
        assert_eq!(node.check(&processes).0, ["b"], "its own limit applies");
    }

    /// After a kill, the values read before it are outdated.
    #[test]
    fn a_kill_makes_an_account_outdated() {
        let (mut node, processes) = pod("outdated");
        node.cgroup("kubepods/pod/c1", 950);
        node.check(&processes);
        assert_eq!(node.check(&processes).0, ["a"]);
        node.oom_kills(8);
        node.cgroup("kubepods/pod/c1", 10);
        node.write("kubepods/pod/c1/memory.events", "oom_kill 4\n");
        node.check(&processes);
        let account = node.usage.accounts.iter_mut().next().unwrap();
        let kill = account.kill(1);
        assert_eq!((kill.current, kill.values.get(CURRENT)), (10, Some(10)));
        assert!(kill.last_reading.is_none());
    }

    #[test]
    fn tmpfs_is_not_joined_unless_all_processes_are_selected() {
        let (mut node, processes) = pod("joined");
        for container in ["c1", "c2"] {
            node.write(
                &format!("kubepods/pod/{container}/memory.stat"),
                "file 50\nfile_mapped 10\nshmem 20\n",
            );
        }
        let unmapped =
            |node: &Checked| node.usage.exported().map(|account| account.unmapped).collect::<Vec<_>>();
        node.scrape(&processes);
        assert_eq!(unmapped(&node), [None, None], "no filter selects these processes");
        node.usage.accounts.iter_mut().for_each(Account::forget_unselected);
        assert_eq!(unmapped(&node), [Some([20, 20]); 2]);
        node.usage.accounts.iter_mut().nth(1).unwrap().set_shares_labels(true);
        assert_eq!(unmapped(&node), [Some([20, 20]), None]);
    }
}
