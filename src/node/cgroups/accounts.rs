//! The accounts of the containers that have a process and in which a filter can select one.

use std::time::Instant;

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

/// The accounts of the node's containers. Nothing is allocated while the containers stay the same.
#[derive(Debug)]
pub struct Accounts {
    /// The accounts, by container id.
    table: Vec<Account>,
    /// The positions of the exported accounts, by label text.
    order: Vec<usize>,
    /// The accounts that the last update removed because no process is left in the container.
    gone: Vec<Account>,
    /// The cgroups of at most this many containers stay open between scrapes, with up to five descriptors
    /// each. The other descriptors that the process may have are for everything else.
    pub(super) max_open: usize,
    has_logged_limit: bool,
    /// The level of the log line that reports that no container has a cgroup; `None` once that is logged, or
    /// a cgroup has been found.
    missing_cgroup_log_level: Option<Level>,
}

impl Accounts {
    /// Creates an empty table. Logs at `level` if no container's cgroup is found.
    pub fn new(level: Level) -> Self {
        let max_open = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize / 8);
        let missing_cgroup_log_level = Some(level);
        Self {
            table: Vec::new(),
            order: Vec::new(),
            gone: Vec::new(),
            max_open,
            has_logged_limit: false,
            missing_cgroup_log_level,
        }
    }

    /// Notes which containers have a process, and where their cgroups are.
    pub fn update(&mut self, processes: &ProcessTable, discovery: &Discovery) {
        let mut is_changed = self.see(processes, discovery);
        self.gone.extend(self.table.extract_if(.., |account| !account.take_seen()));
        self.table.shrink_to(2 * self.table.len());
        is_changed |= !self.gone.is_empty();
        for account in &mut self.table {
            is_changed |= account.locate(discovery, processes);
        }
        if is_changed {
            self.sort();
        }
    }

    fn see(&mut self, processes: &ProcessTable, discovery: &Discovery) -> bool {
        let mut is_new = false;
        for process in processes.iter().filter(|process| !process.identity().is_zombie()) {
            let Some(container) = process.container().filter(|container| container.is_selected) else {
                continue;
            };
            let i = self.position(container.id).unwrap_or_else(|i| {
                is_new = true;
                self.table.insert(i, Account::new(container));
                i
            });
            self.table[i].see(process, discovery.index());
        }
        is_new
    }

    fn position(&self, id: ContainerId) -> Result<usize, usize> {
        self.table.binary_search_by_key(&id, |account| account.container().id)
    }

    /// Returns the account of a container, to change it.
    pub fn find_mut(&mut self, id: ContainerId) -> Option<&mut Account> {
        self.position(id).ok().map(|i| &mut self.table[i])
    }

    /// Returns the account of a container.
    pub fn find(&self, id: ContainerId) -> Option<&Account> {
        self.position(id).ok().map(|i| &self.table[i])
    }

    /// Returns every account.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Account> + Clone {
        self.table.iter()
    }

    /// Returns every account, to change it.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Account> {
        self.table.iter_mut()
    }

    /// Returns the accounts of the running containers, and those removed since the last
    /// [`Accounts::drop_gone`].
    pub fn split(&mut self) -> (&mut [Account], &mut [Account]) {
        (&mut self.table, &mut self.gone)
    }

    /// Drops the accounts that were removed.
    pub fn drop_gone(&mut self) {
        self.gone.clear();
    }

    /// Returns the running containers.
    pub fn containers(&self) -> impl ExactSizeIterator<Item = &Container> + Clone {
        self.table.iter().map(Account::container)
    }

    /// Reads the accounts; with `checks_first`, only those that a check finds due. Calls `read` with each
    /// account that was read.
    pub fn read(
        &mut self,
        fs: &mut CgroupFs,
        now: Instant,
        checks_first: bool,
        mut read: impl FnMut(&mut CgroupFs, &mut Account),
    ) {
        let mut is_changed = false;
        let mut values = Values::default();
        for (i, account) in self.table.iter_mut().enumerate() {
            if checks_first && !account.check(fs, now) {
                continue;
            }
            let was_there = account.is_there();
            let is_there = account.read(fs, &mut values, now);
            is_changed |= was_there != is_there;
            if is_there {
                read(fs, account);
            }
            if i >= self.max_open {
                account.close();
            }
        }
        if is_changed {
            self.sort();
        }
        self.log_limit();
    }

    /// Sorts the accounts by label text. If several containers have the same labels, only the newest is
    /// exported, or the one with the last id where the start times are unknown.
    fn sort(&mut self) {
        let Self { table, order, .. } = self;
        order.clear();
        order.extend((0..table.len()).filter(|&i| table[i].is_there()));
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

    /// Logs once if not all cgroups can be kept open.
    fn log_limit(&mut self) {
        let n = self.table.len();
        if n > self.max_open && !std::mem::replace(&mut self.has_logged_limit, true) {
            warn!(
                "the limit of open files (ulimit -Hn) is too low for {n} containers: the cgroups of {} are opened for each \
                 read; expected at least {}",
                n - self.max_open,
                8 * n
            );
        }
    }

    /// Logs once that no container has a cgroup. Without the node's own mount, a container sees only its own
    /// cgroup.
    pub fn log_missing(&mut self, fs: &CgroupFs) {
        if self.table.is_empty() {
            return;
        }
        if let Some(level) = self.missing_cgroup_log_level.take()
            && self.order.is_empty()
        {
            log!(level, "no cgroup_* metrics: {}", fs.explain_absence());
        }
    }

    /// Returns what is exported, by label text.
    pub fn exported(&self) -> impl Iterator<Item = Exported<'_>> + Clone {
        self.order.iter().filter_map(|&i| self.table[i].exported())
    }

    /// Records the files of all accounts into `to`.
    ///
    /// Fails with one line when a file cannot be written.
    pub fn record(&self, fs: &mut CgroupFs, to: &mut Writer) -> Result<(), String> {
        if self.table.is_empty() {
            return Ok(());
        }
        fs.record_root(|name, text| to.cgroup_file(name, text))?;
        for account in self.table.iter().filter(|account| account.is_there()) {
            fs.record(account.paths(), |name, text| to.cgroup_file(name, text))?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::cgroupfs::fields::CURRENT;
    use crate::node::containers::filter::Filter;
    use crate::procfs::Proc;
    use crate::sources::recording::Recording;

    /// A node made of files that the test writes: its containers, its cgroups, and what discovery knows.
    pub(crate) struct Node {
        pub(crate) directory: PathBuf,
        pub(crate) proc: Proc,
        pub(crate) discovery: Discovery,
    }

    /// The pid, the start time and the cgroup of a process.
    pub(crate) type Process = (u32, u64, &'static str);

    impl Node {
        /// Creates a node with these containers: id, pid of the init process, namespace, name.
        pub(crate) fn new(name: &str, containers: &[(&str, &str, &str, &str)]) -> Self {
            let name = format!("smaps-accounts-{}-{name}", std::process::id());
            let directory = std::env::temp_dir().join(name);
            for name in ["cgroup", "proc"] {
                fs::create_dir_all(directory.join(name)).unwrap();
            }
            let mut text = "id\tinit_pid\tnamespace\tpod\tcontainer\n".to_owned();
            for (id, pid, namespace, name) in containers {
                text += &format!("{id}\t{pid}\t{namespace}\tp\t{name}\n");
            }
            fs::write(directory.join("containers.tsv"), text).unwrap();
            fs::write(directory.join("cgroup/cgroup.controllers"), "memory\n").unwrap();
            let filters = [Filter::parse("shop/*/*/*").unwrap()];
            let mut discovery = Discovery::new(Box::new(Recording::new(&directory)), &filters);
            discovery.list_first(Instant::now()).unwrap();
            let proc = Proc::open(&directory.join("proc")).unwrap();
            Self { directory, proc, discovery }
        }

        pub(crate) fn fs(&self) -> CgroupFs {
            CgroupFs::open(&self.directory.join("cgroup"), 1).unwrap()
        }

        /// Creates a cgroup that uses this much memory.
        pub(crate) fn cgroup(&self, path: &str, current: u32) {
            self.write(&format!("{path}/memory.current"), &format!("{current}\n"));
        }

        pub(crate) fn write(&self, name: &str, text: &str) {
            let path = self.directory.join("cgroup").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// Simulates a scrape that finds these processes.
        pub(crate) fn see(&mut self, processes: &[Process]) -> ProcessTable {
            let mut processes = ProcessTable::of(processes);
            self.discovery.observe(processes.seen(), Instant::now());
            processes.iter_mut().for_each(|process| process.look_up(self.discovery.index()));
            processes
        }
    }

    impl Drop for Node {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.directory).unwrap();
        }
    }

    pub(crate) fn labels(name: &str) -> String {
        format!(r#"{{namespace="shop",pod="p",container="{name}""#)
    }

    /// A node, its accounts and its cgroups.
    struct Read(Node, Accounts, CgroupFs);

    impl Read {
        fn new(name: &str, containers: &[(&str, &str, &str, &str)]) -> Self {
            let node = Node::new(name, containers);
            let fs = node.fs();
            Self(node, Accounts::new(Level::Info), fs)
        }

        /// Simulates a scrape that finds these processes. Returns the exported label texts and memory.
        fn scrape(&mut self, processes: &[Process]) -> Vec<(String, u64)> {
            let Self(node, accounts, fs) = self;
            let processes = node.see(processes);
            accounts.update(&processes, &node.discovery);
            accounts.drop_gone();
            accounts.read(fs, Instant::now(), false, |_, _| {});
            let exported = accounts.exported();
            exported.map(|account| (account.labels.into(), account.values.get(CURRENT).unwrap())).collect()
        }
    }

    #[test]
    fn containers_with_a_process_and_a_cgroup_are_exported() {
        let containers = [
            ("c1", "10", "shop", "b"),
            ("c2", "20", "shop", "a"),
            ("c3", "30", "bank", "x"),
            ("c4", "40", "shop", "c"),
        ];
        let mut read = Read::new("selected", &containers);
        for (path, current) in [("pod/c1", 1), ("pod/c2", 2), ("pod/c3", 3), ("pod/c4", 4)] {
            read.0.cgroup(path, current);
        }
        let processes =
            [(10, 100, "/pod/c1/init"), (20, 100, "/pod/c2"), (21, 100, "/pod/c1"), (30, 100, "/pod/c3")];
        for _ in 0..2 {
            assert_eq!(read.scrape(&processes), [(labels("a"), 2), (labels("b"), 1)]);
        }
        read.0.cgroup("pod/c1", 5);
        assert_eq!(read.scrape(&processes), [(labels("a"), 2), (labels("b"), 5)]);
        assert_eq!(read.scrape(&processes[..1]), [(labels("b"), 5)]);
        fs::remove_dir_all(read.0.directory.join("cgroup/pod/c1")).unwrap();
        assert_eq!(read.scrape(&processes), [(labels("a"), 2)], "a cgroup that is gone is absent");
        read.0.cgroup("pod/c1", 6);
        assert_eq!(read.scrape(&processes), [(labels("a"), 2), (labels("b"), 6)]);
        assert_eq!(read.scrape(&[]), []);
    }

    #[test]
    fn the_cgroup_of_a_container_is_found() {
        for (name, pid, process, cgroup) in [
            ("named", "10", "/pod/cri-containerd-c1.scope/app/c1", "pod/cri-containerd-c1.scope"),
            ("below", "10", "/pod/c1/x/y", "pod/c1"),
            ("unnamed", "10", "/machine/x", "machine/x"),
            ("without-init", "-", "/pod/c1/x", "pod/c1"),
        ] {
            let mut read = Read::new(name, &[("c1", pid, "shop", "a")]);
            read.0.cgroup(cgroup, 7);
            assert_eq!(read.scrape(&[(10, 100, process)]), [(labels("a"), 7)], "{name}");
        }
    }

    /// A workload may create a cgroup below its own and name it after another container.
    #[test]
    fn no_workload_changes_the_account_of_another_container() {
        for pid in ["20", "-"] {
            let containers = [("c1", "10", "shop", "a"), ("c2", pid, "shop", "b")];
            let mut read = Read::new(&format!("fake-{pid}"), &containers);
            for (path, current) in
                [("kubepods/pod1/c1", 1), ("kubepods/pod1/c1/c2", 666), ("kubepods/pod2/c2", 2)]
            {
                read.0.cgroup(path, current);
            }
            let fake = (5, 100, "/kubepods/pod1/c1/c2");
            let processes = [fake, (10, 100, "/kubepods/pod1/c1"), (20, 100, "/kubepods/pod2/c2")];
            assert_eq!(read.scrape(&processes), [(labels("a"), 1), (labels("b"), 2)], "init {pid}");
        }
    }

    #[test]
    fn the_youngest_of_containers_with_equal_labels_is_exported() {
        let (old, young): (Process, Process) = ((10, 200, "/pod/c1"), (20, 100, "/pod/c2"));
        for (name, pids, expected, why) in [
            ("equal", ["10", "20"], 1, "by the start time of the init process"),
            ("equal-ids", ["-", "-"], 2, "otherwise by its id"),
        ] {
            let mut read = Read::new(name, &[("c1", pids[0], "shop", "a"), ("c2", pids[1], "shop", "a")]);
            read.0.cgroup("pod/c1", 1);
            read.0.cgroup("pod/c2", 2);
            assert_eq!(read.scrape(&[old, young]), [(labels("a"), expected)], "{why}");
            assert_eq!(read.scrape(&[young]), [(labels("a"), 2)]);
        }
    }

    #[test]
    fn cgroups_beyond_a_limit_are_not_kept_open() {
        let mut read = Read::new("held", &[("c1", "10", "shop", "a"), ("c2", "20", "shop", "b")]);
        read.1.max_open = 1;
        read.0.cgroup("c1", 1);
        read.0.cgroup("c2", 2);
        let processes = [(10, 100, "/c1"), (20, 100, "/c2")];
        for _ in 0..2 {
            assert_eq!(read.scrape(&processes), [(labels("a"), 1), (labels("b"), 2)]);
        }
    }
}
