//! Accounts over a recording that the test writes.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use super::*;
use crate::node::filter::Filter;
use crate::sources::recording::Recording;

/// A node: its containers, its cgroups and what is read of them.
struct Node {
    directory: PathBuf,
    proc: Proc,
    discovery: Discovery,
    accounts: Accounts,
    snapshot: Snapshot,
}

/// Pid, start time and cgroup.
type Process = (u32, u64, &'static str);

impl Node {
    /// With these containers: id, pid of the init process, namespace, name.
    fn new(name: &str, containers: &[(&str, &str, &str, &str)]) -> Self {
        let directory = std::env::temp_dir().join(format!("smaps-accounts-{}-{name}", std::process::id()));
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
        let accounts = Accounts::new(CgroupFs::open(&directory.join("cgroup"), 1).unwrap(), Level::Info);
        let proc = Proc::open(&directory.join("proc")).unwrap();
        Self { directory, proc, discovery, accounts, snapshot: Snapshot::default() }
    }

    /// Makes a cgroup whose memory is this.
    fn cgroup(&self, path: &str, current: u32) {
        let directory = self.directory.join("cgroup").join(path);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("memory.current"), format!("{current}\n")).unwrap();
    }

    /// What the kernel has counted on the node, and what else a cgroup says.
    fn oom_kills(&self, n_kills: u32) {
        fs::write(self.directory.join("proc/vmstat"), format!("nr_free_pages 1\noom_kill {n_kills}\n"))
            .unwrap();
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.directory.join("cgroup").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn update(&mut self, processes: &[Process]) -> Processes {
        let mut processes = Processes::of(processes);
        self.discovery.observe(&processes, Instant::now());
        processes.attribute_all(&self.discovery);
        self.accounts.update(&processes, &self.discovery, &self.proc);
        processes
    }

    /// A scrape that finds these processes; what it exports: label text and memory.
    fn scrape(&mut self, processes: &[Process]) -> Vec<(String, u64)> {
        let processes = self.update(processes);
        let now = Instant::now();
        self.accounts.read(now);
        self.accounts.join(&self.snapshot, &processes, &self.proc, now);
        let exported = self.accounts.iter();
        exported.map(|account| (account.labels.to_owned(), account.values.get(CURRENT).unwrap())).collect()
    }

    /// A check that finds these processes: the containers that are full, and the kills: whose, how many, and what was charged.
    fn check(&mut self, processes: &[Process]) -> (Vec<&str>, Vec<(String, u64, u64)>) {
        let processes = self.update(processes);
        let now = Instant::now();
        self.accounts.check(now);
        self.accounts.join(&self.snapshot, &processes, &self.proc, now);
        let kills = self.accounts.take_kills().into_iter();
        let kills =
            kills.map(|kill| (kill.container.listed.name.clone(), kill.n_kills, kill.current)).collect();
        let full = self.accounts.table.iter().filter(|account| account.is_full());
        (full.map(|account| account.container.listed.name.as_str()).collect(), kills)
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

/// Containers whose directories are not held are looked at by their paths: the kill is not counted for the fuller one.
#[test]
fn kills_are_counted_beyond_the_limit_of_held_directories() {
    let (mut node, processes) = pod("beyond");
    node.accounts.max_held = 0;
    node.cgroup("kubepods/pod/c1", 600);
    assert_eq!(node.check(&processes), (vec![], vec![]));
    node.oom_kills(8);
    node.write("kubepods/pod/c2/memory.events", "oom_kill 4\n");
    node.write("kubepods/pod/memory.events", "oom_kill 7\n");
    assert_eq!(node.check(&processes).1, [killed("b", 1, 500)]);
}

/// Two containers of a pod with a limit of 1000, whose processes are these.
fn pod(name: &str) -> (Node, [Process; 2]) {
    let node = Node::new(name, &[("c1", "10", "shop", "a"), ("c2", "20", "shop", "b")]);
    node.oom_kills(7);
    for container in ["c1", "c2"] {
        node.cgroup(&format!("kubepods/pod/{container}"), 500);
        node.write(&format!("kubepods/pod/{container}/memory.events"), "oom 1\noom_kill 3\n");
    }
    node.write("kubepods/pod/memory.max", "1000\n");
    node.write("kubepods/pod/memory.events", "oom_kill 6\n");
    (node, [(10, 100, "/kubepods/pod/c1"), (20, 100, "/kubepods/pod/c2")])
}

fn killed(name: &str, n_kills: u64, current: u64) -> (String, u64, u64) {
    (name.to_owned(), n_kills, current)
}

#[test]
fn what_is_close_to_its_limit_is_full() {
    let (mut node, processes) = pod("full");
    node.scrape(&processes);
    for (current, is_full) in [(899, false), (900, true), (1100, true), (20, false)] {
        node.cgroup("kubepods/pod/c1", current);
        let expected: &[&str] = if is_full { &["a"] } else { &[] };
        assert_eq!(node.check(&processes), (expected.into(), vec![]), "{current}");
    }
    node.cgroup("kubepods/pod/c1", 900);
    node.write("kubepods/pod/memory.max", "2000\n");
    assert_eq!(node.check(&processes).0, [""; 0], "the limit is read again before a container is full");
}

#[test]
fn kills_that_the_container_counts() {
    let (mut node, processes) = pod("counted");
    assert_eq!(node.check(&processes), (vec![], vec![]), "what was before is not told");
    node.cgroup("kubepods/pod/c1", 950);
    assert_eq!(node.check(&processes), (vec!["a"], vec![]));
    node.oom_kills(8);
    node.cgroup("kubepods/pod/c1", 100);
    node.write("kubepods/pod/c1/memory.events", "oom 9\noom_kill 4\n");
    node.write("kubepods/pod/memory.events", "oom_kill 7\n");
    assert_eq!(node.check(&processes), (vec![], vec![killed("a", 1, 950)]));
    assert_eq!(node.check(&processes), (vec![], vec![]));
    node.oom_kills(10);
    node.write("kubepods/pod/c1/memory.events", "oom_kill 6\n");
    node.write("kubepods/pod/memory.events", "oom_kill 9\n");
    let (full, kills) = node.check(&processes);
    assert_eq!((full, kills), (vec![], vec![killed("a", 2, 100)]));
    let counts: Vec<_> = node.accounts.n_kills().map(|(labels, n)| (labels.to_owned(), n)).collect();
    assert_eq!(counts, [(labels("a"), 3), (labels("b"), 0)]);
}

/// Its cgroup is gone before it could be looked at: the pod's counter tells.
#[test]
fn kills_of_a_container_that_is_gone() {
    let (mut node, processes) = pod("gone");
    node.check(&processes);
    // Killed by somebody else: no counter has moved.
    assert_eq!(node.check(&processes[1..]).1, []);
    node.check(&processes);
    // Of two that are gone one was killed for want of memory; the fuller.
    node.cgroup("kubepods/pod/c2", 600);
    node.check(&processes);
    for (name, n_on_node, n_of_pod, expected) in
        [("somewhere else", 8, 6, vec![]), ("one of two", 9, 7, vec![killed("b", 1, 600)])]
    {
        node.check(&processes);
        node.oom_kills(n_on_node);
        node.write("kubepods/pod/memory.events", &format!("oom_kill {n_of_pod}\n"));
        assert_eq!(node.check(&[]).1, expected, "{name}");
    }
    let counts: Vec<_> = node.accounts.n_kills().map(|(labels, n)| (labels.to_owned(), n)).collect();
    assert_eq!(counts, [(labels("b"), 1)], "one without kills is forgotten");
}

/// What another container of the pod has counted was not the one's that is gone.
#[test]
fn a_kill_is_told_once() {
    let (mut node, processes) = pod("once");
    node.check(&processes);
    node.oom_kills(8);
    node.write("kubepods/pod/c2/memory.events", "oom_kill 4\n");
    node.write("kubepods/pod/memory.events", "oom_kill 7\n");
    assert_eq!(node.check(&processes[1..]).1, [killed("b", 1, 500)]);
}

/// Version 1 has no counter for the pod: while a container is full its own is watched. Of one that is gone nothing is known.
#[test]
fn kills_by_version_1() {
    for (current, is_watched) in [(950, true), (800, false)] {
        let mut node = Node::new(&format!("v1-{current}"), &[("c1", "10", "shop", "a")]);
        node.oom_kills(7);
        fs::remove_file(node.directory.join("cgroup/cgroup.controllers")).unwrap();
        node.write("memory/kubepods/pod/c1/memory.usage_in_bytes", &format!("{current}\n"));
        node.write("memory/kubepods/pod/c1/memory.stat", "hierarchical_memory_limit 1000\n");
        node.write("memory/kubepods/pod/c1/memory.oom_control", "oom_kill 3\n");
        node.accounts =
            Accounts::new(CgroupFs::open(&node.directory.join("cgroup"), 1).unwrap(), Level::Info);
        node.check(&[(10, 100, "/kubepods/pod/c1")]);
        assert_eq!(node.accounts.has_watched(), is_watched);
        node.accounts.watch();
        assert!(node.accounts.take_kills().is_empty());
        node.write("memory/kubepods/pod/c1/memory.oom_control", "oom_kill 4\n");
        node.accounts.watch();
        let kills: Vec<_> =
            node.accounts.take_kills().iter().map(|kill| (kill.n_kills, kill.current)).collect();
        assert_eq!(kills, if is_watched { vec![(1, 950)] } else { vec![] });
        // Somebody else's, while it ended.
        node.oom_kills(9);
        assert_eq!(node.check(&[]).1, []);
    }
}

/// The limit of the pod is used up by another container of it.
#[test]
fn what_is_close_to_the_limit_of_its_pod_is_full() {
    let (mut node, processes) = pod("full-pod");
    node.scrape(&processes);
    node.write("kubepods/pod/memory.current", "899\n");
    assert_eq!(node.check(&processes).0, [""; 0]);
    node.write("kubepods/pod/memory.current", "900\n");
    assert_eq!(node.check(&processes).0, ["a", "b"]);
    node.write("kubepods/pod/c1/memory.max", "700\n");
    node.accounts.table.iter_mut().for_each(|account| account.is_outdated = true);
    assert_eq!(node.check(&processes).0, ["b"], "its own limit applies");
}

/// After a kill what was read before it is not taken for what is there now.
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
    let account = &node.accounts.table[0];
    assert_eq!((account.current, account.values.unwrap().get(CURRENT)), (10, Some(10)));
    assert!(account.last_reading.is_none() && !account.is_outdated);
}

#[test]
fn what_is_not_all_selected_or_not_alone_is_not_joined() {
    let (mut node, processes) = pod("joined");
    for container in ["c1", "c2"] {
        node.write(&format!("kubepods/pod/{container}/memory.stat"), "file 50\nfile_mapped 10\nshmem 20\n");
    }
    let unmapped = |node: &Node| node.accounts.iter().map(|account| account.unmapped).collect::<Vec<_>>();
    node.scrape(&processes);
    assert_eq!(unmapped(&node), [None, None], "no filter selects these processes");
    node.accounts.table.iter_mut().for_each(|account| account.has_others = false);
    assert_eq!(unmapped(&node), [Some([20, 20]); 2]);
    node.accounts.table[1].has_twin = true;
    assert_eq!(unmapped(&node), [Some([20, 20]), None]);
}

/// The process that was killed is still listed, and its cgroup is gone.
#[test]
fn a_kill_of_a_container_whose_cgroup_is_gone_first() {
    for is_read_between in [false, true] {
        let (mut node, processes) = pod(&format!("cgroup-first-{is_read_between}"));
        node.cgroup("kubepods/pod/c1", 950);
        node.check(&processes);
        assert_eq!(node.check(&processes).0, ["a"]);
        fs::remove_dir_all(node.directory.join("cgroup/kubepods/pod/c1")).unwrap();
        if is_read_between {
            // It has gone after the kills were looked for.
            assert_eq!(node.check(&processes).1, []);
        }
        node.oom_kills(8);
        node.write("kubepods/pod/memory.events", "oom_kill 7\n");
        assert_eq!(node.check(&processes).1, [killed("a", 1, 950)]);
        assert_eq!(node.check(&processes[1..]).1, []);
    }
}

#[test]
fn a_kill_that_is_counted_for_the_node_first() {
    let (mut node, processes) = pod("node-first");
    node.check(&processes);
    node.oom_kills(8);
    assert_eq!(node.check(&processes).1, []);
    node.write("kubepods/pod/c1/memory.events", "oom_kill 4\n");
    assert_eq!(node.check(&processes).1, [killed("a", 1, 500)]);
    assert_eq!(node.check(&processes).1, []);
}
