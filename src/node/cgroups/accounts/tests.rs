use std::fs;
use std::path::PathBuf;

use super::*;
use crate::cgroupfs::fields::CURRENT;
use crate::node::containers::filter::Filter;
use crate::procfs::Proc;
use crate::sources::recording::Recording;

/// A node made of files that the test writes: its containers, their cgroups, and the discovery that finds
/// them.
pub(crate) struct Node {
    pub(crate) directory: PathBuf,
    pub(crate) proc: Proc,
    pub(crate) discovery: Discovery,
}

/// The pid, the start time and the cgroup of a process.
pub(crate) type Process = (u32, u64, &'static str);

impl Node {
    /// Creates a node with these containers. Each has an id, the pid of its init process, a namespace and a
    /// name.
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

    /// Simulates a scrape that finds these processes. Returns the exported label texts, each with its memory
    /// use.
    fn scrape(&mut self, processes: &[Process]) -> Vec<(String, u64)> {
        let Self(node, accounts, fs) = self;
        let processes = node.see(processes);
        accounts.update(&processes, &node.discovery, Instant::now());
        accounts.read(fs, |_| true);
        let exported = accounts.exported();
        exported.map(|account| (account.labels.into(), account.values.get(CURRENT).unwrap())).collect()
    }
}

#[test]
fn only_containers_with_a_process_and_a_cgroup_are_exported() {
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
fn the_cgroup_is_that_of_the_init_process_or_of_the_id() {
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

/// On ECS with cgroup version 1, the path of a memory cgroup does not contain the container's id. Only the
/// paths of other controllers contain it.
#[test]
fn the_outermost_memory_cgroup_does_not_depend_on_the_order_of_pids() {
    let [root, outer, x, y, other] = [
        "4:memory:/\n3:pids:/ecs/c1",
        "4:memory:/task\n3:pids:/ecs/c1",
        "4:memory:/task/x\n3:pids:/ecs/c1",
        "4:memory:/task/y\n3:pids:/ecs/c1",
        "4:memory:/other\n3:pids:/ecs/c1",
    ];
    for (name, texts, expected) in [
        ("inner-first", [x, y, outer], "/task"),
        ("outer-first", [outer, x, y], "/task"),
        ("apart", [x, y, other], ""),
        ("root", [root, x, y], ""),
    ] {
        let Read(mut node, mut accounts, _) = Read::new(name, &[("c1", "-", "shop", "a")]);
        let processes = node.see(&[(10, 1, texts[0]), (11, 1, texts[1]), (12, 1, texts[2])]);
        accounts.update(&processes, &node.discovery, Instant::now());
        let memory: Vec<_> = accounts.table.iter().map(|account| &*account.paths().memory).collect();
        assert_eq!(memory, [expected.as_bytes()], "{name}");
    }
}

/// The workload in container a creates a cgroup below the cgroup of container a, and names it after container
/// b.
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
    let (late, early): (Process, Process) = ((10, 200, "/pod/c1"), (20, 100, "/pod/c2"));
    for (name, pids, expected, why) in [
        ("equal", ["10", "20"], 1, "by the start time of the init process"),
        ("equal-ids", ["-", "-"], 2, "otherwise by its id"),
    ] {
        let mut read = Read::new(name, &[("c1", pids[0], "shop", "a"), ("c2", pids[1], "shop", "a")]);
        read.0.cgroup("pod/c1", 1);
        read.0.cgroup("pod/c2", 2);
        assert_eq!(read.scrape(&[late, early]), [(labels("a"), expected)], "{why}");
        assert_eq!(read.scrape(&[early]), [(labels("a"), 2)]);
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
