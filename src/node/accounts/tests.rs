//! Accounts over a recording that the test writes.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use super::*;
use crate::cgroupfs::fields::FIELDS;
use crate::node::filter::Filter;
use crate::sources::recording::Recording;

/// A node: its containers, its cgroups and what is read of them.
struct Node {
    directory: PathBuf,
    discovery: Discovery,
    accounts: Accounts,
}

/// Pid, start time and cgroup.
type Process = (u32, u64, &'static str);

impl Node {
    /// With these containers: id, pid of the init process, namespace, name.
    fn new(name: &str, containers: &[(&str, &str, &str, &str)]) -> Self {
        let directory = std::env::temp_dir().join(format!("smaps-accounts-{}-{name}", std::process::id()));
        fs::create_dir_all(directory.join("cgroup")).unwrap();
        let mut text = "id\tinit_pid\tnamespace\tpod\tcontainer\n".to_owned();
        for (id, pid, namespace, name) in containers {
            text += &format!("{id}\t{pid}\t{namespace}\tp\t{name}\n");
        }
        fs::write(directory.join("containers.tsv"), text).unwrap();
        fs::write(directory.join("cgroup/cgroup.controllers"), "memory\n").unwrap();
        let filters = [Filter::parse("shop/*/*/*").unwrap()];
        let mut discovery = Discovery::new(Box::new(Recording::new(&directory)), &filters);
        discovery.list_first(Instant::now()).unwrap();
        let accounts = Accounts::new(CgroupFs::open(&directory.join("cgroup"), 1).unwrap(), Level::Info);
        Self { directory, discovery, accounts }
    }

    /// Makes a cgroup whose memory is this.
    fn cgroup(&self, path: &str, current: u32) {
        let directory = self.directory.join("cgroup").join(path);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("memory.current"), format!("{current}\n")).unwrap();
    }

    /// A scrape that finds these processes; what it exports: label text and memory.
    fn scrape(&mut self, processes: &[Process]) -> Vec<(String, u64)> {
        let mut processes = Processes::of(processes);
        self.discovery.observe(&processes, Instant::now());
        processes.attribute_all(&self.discovery);
        self.accounts.read(&processes, &self.discovery);
        let current = FIELDS.iter().position(|field| field.name == "memory_current").unwrap();
        let accounts = self.accounts.iter();
        accounts.map(|(labels, values)| (labels.to_owned(), values.get(current).unwrap())).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.directory).unwrap();
    }
}

fn labels(name: &str) -> String {
    format!(r#"{{namespace="shop",pod="p",container="{name}""#)
}

#[test]
fn containers_that_a_filter_selects_and_that_have_a_process() {
    let containers = [
        ("c1", "10", "shop", "b"),
        ("c2", "20", "shop", "a"),
        ("c3", "30", "bank", "x"),
        ("c4", "40", "shop", "c"),
    ];
    let mut node = Node::new("selected", &containers);
    for (path, current) in [("pod/c1", 1), ("pod/c2", 2), ("pod/c3", 3), ("pod/c4", 4)] {
        node.cgroup(path, current);
    }
    let processes =
        [(10, 100, "/pod/c1/init"), (20, 100, "/pod/c2"), (21, 100, "/pod/c1"), (30, 100, "/pod/c3")];
    for _ in 0..2 {
        assert_eq!(node.scrape(&processes), [(labels("a"), 2), (labels("b"), 1)]);
    }
    node.cgroup("pod/c1", 5);
    assert_eq!(node.scrape(&processes), [(labels("a"), 2), (labels("b"), 5)]);
    assert_eq!(node.scrape(&processes[..1]), [(labels("b"), 5)]);
    fs::remove_dir_all(node.directory.join("cgroup/pod/c1")).unwrap();
    assert_eq!(node.scrape(&processes), [(labels("a"), 2)], "a cgroup that is gone is absent");
    node.cgroup("pod/c1", 6);
    assert_eq!(node.scrape(&processes), [(labels("a"), 2), (labels("b"), 6)]);
    assert_eq!(node.scrape(&[]), []);
}

#[test]
fn where_the_cgroup_of_a_container_is() {
    for (name, pid, process, cgroup) in [
        ("named", "10", "/pod/cri-containerd-c1.scope/app/c1", "pod/cri-containerd-c1.scope"),
        ("below", "10", "/pod/c1/x/y", "pod/c1"),
        ("unnamed", "10", "/machine/x", "machine/x"),
        ("without-init", "-", "/pod/c1/x", "pod/c1"),
    ] {
        let mut node = Node::new(name, &[("c1", pid, "shop", "a")]);
        node.cgroup(cgroup, 7);
        assert_eq!(node.scrape(&[(10, 100, process)]), [(labels("a"), 7)], "{name}");
    }
}

/// A workload may make a cgroup below its own that is named after another container.
#[test]
fn nobody_gives_another_container_an_account() {
    for pid in ["20", "-"] {
        let mut node =
            Node::new(&format!("fake-{pid}"), &[("c1", "10", "shop", "a"), ("c2", pid, "shop", "b")]);
        for (path, current) in
            [("kubepods/pod1/c1", 1), ("kubepods/pod1/c1/c2", 666), ("kubepods/pod2/c2", 2)]
        {
            node.cgroup(path, current);
        }
        let fake = (5, 100, "/kubepods/pod1/c1/c2");
        let processes = [fake, (10, 100, "/kubepods/pod1/c1"), (20, 100, "/kubepods/pod2/c2")];
        assert_eq!(node.scrape(&processes), [(labels("a"), 1), (labels("b"), 2)], "init {pid}");
    }
}

#[test]
fn of_equal_labels_the_youngest_container_counts() {
    let containers = [("c1", "10", "shop", "a"), ("c2", "20", "shop", "a")];
    let (old, young): (Process, Process) = ((10, 200, "/pod/c1"), (20, 100, "/pod/c2"));
    let mut node = Node::new("equal", &containers);
    node.cgroup("pod/c1", 1);
    node.cgroup("pod/c2", 2);
    assert_eq!(node.scrape(&[old, young]), [(labels("a"), 1)], "by when the init process began");
    assert_eq!(node.scrape(&[young]), [(labels("a"), 2)]);
    let mut node =
        Node::new("equal-ids", &containers.map(|(id, _, namespace, name)| (id, "-", namespace, name)));
    node.cgroup("pod/c1", 1);
    node.cgroup("pod/c2", 2);
    assert_eq!(node.scrape(&[old, young]), [(labels("a"), 2)], "else by its id");
}

#[test]
fn directories_beyond_a_limit_are_not_held() {
    let mut node = Node::new("held", &[("c1", "10", "shop", "a"), ("c2", "20", "shop", "b")]);
    node.accounts.max_held = 1;
    node.cgroup("c1", 1);
    node.cgroup("c2", 2);
    let processes = [(10, 100, "/c1"), (20, 100, "/c2")];
    for _ in 0..2 {
        assert_eq!(node.scrape(&processes), [(labels("a"), 1), (labels("b"), 2)]);
    }
}
