use std::fs;

use super::super::accounts::tests::{Node, Process, labels};
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
        let usage = CgroupUsage::new(node.fs(), Level::Info).unwrap();
        Self { node, usage, snapshot: Snapshot::new(usize::MAX, 0) }
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

    fn pass(&mut self, processes: &[Process], is_check: bool) -> Vec<Kill> {
        let processes = self.node.see(processes);
        let Self { node, usage, snapshot } = self;
        let now = Instant::now();
        usage.update(&processes, &node.discovery, &node.proc, now);
        let kills = usage.take_kills();
        if is_check {
            usage.check(now)
        } else {
            usage.read(now)
        }
        usage.join(snapshot, &processes, &node.proc, now);
        kills
    }

    /// Simulates a scrape that finds these processes.
    fn scrape(&mut self, processes: &[Process]) {
        self.pass(processes, false);
    }

    /// Simulates a check that finds these processes. Returns the containers near their limit, and the
    /// kills: the container, which is empty for a pod, the number, and the bytes that were charged.
    pub(crate) fn check(&mut self, processes: &[Process]) -> (Vec<&str>, Vec<(String, u64, u64)>) {
        let kills = self.pass(processes, true);
        let kill = |kill: &Kill| {
            let name = match &kill.found.place {
                kill_counts::Place::Container(container) => container.listed.name.clone(),
                kill_counts::Place::Pod { .. } => String::new(),
            };
            (name, kill.found.n_kills, kill.content.as_ref().map_or(0, |content| content.current))
        };
        let kills = kills.iter().map(kill).collect();
        let near = self.usage.accounts.iter().filter(|account| account.is_near_limit());
        (near.map(|account| account.container().listed.name.as_str()).collect(), kills)
    }

    /// Returns the exported counts of kills by label text.
    fn n_kills(&self) -> Vec<(String, u64)> {
        self.usage.n_kills().map(|(labels, n)| (labels.to_owned(), n)).collect()
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
    node.usage.accounts.iter_mut().for_each(|account| _ = account.take_content());
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
    let content = account.take_content();
    assert_eq!((content.current, content.values.get(CURRENT)), (10, Some(10)));
    assert!(content.last_reading.is_none());
}

#[test]
fn tmpfs_is_not_joined_unless_all_processes_are_selected() {
    let (mut node, processes) = pod("joined");
    for container in ["c1", "c2"] {
        node.write(&format!("kubepods/pod/{container}/memory.stat"), "file 50\nfile_mapped 10\nshmem 20\n");
    }
    let unmapped = |node: &Checked| node.usage.exported().map(|account| account.unmapped).collect::<Vec<_>>();
    node.scrape(&processes);
    assert_eq!(unmapped(&node), [None, None], "no filter selects these processes");
    node.usage.accounts.iter_mut().for_each(Account::forget_unselected);
    assert_eq!(unmapped(&node), [Some([20, 20]); 2]);
    node.usage.accounts.iter_mut().nth(1).unwrap().set_shares_labels(true);
    assert_eq!(unmapped(&node), [Some([20, 20]), None]);
}

fn killed(name: &str, n_kills: u64, current: u64) -> (String, u64, u64) {
    (name.to_owned(), n_kills, current)
}

#[test]
fn kills_of_a_container_are_counted_from_its_first_listing() {
    let (mut node, processes) = pod("counted");
    assert_eq!(node.check(&processes).1, [], "kills before the start do not count");
    assert_eq!(node.n_kills(), ["", "a", "b"].map(|name| (labels(name), 0)));
    node.cgroup("kubepods/pod/c1", 950);
    assert_eq!(node.check(&processes).0, ["a"]);
    for (name, n_on_node, n_of_a, n_of_pod, expected) in [
        ("a kill", 8, 4, 7, vec![killed("a", 1, 950)]),
        ("nothing", 8, 4, 7, vec![]),
        ("two at once", 10, 6, 9, vec![killed("a", 2, 950)]),
        ("one that only the pod has counted", 11, 6, 10, vec![killed("", 1, 0)]),
        ("one elsewhere", 12, 6, 10, vec![]),
    ] {
        node.oom_kills(n_on_node);
        node.write("kubepods/pod/c1/memory.events", &format!("oom 9\noom_kill {n_of_a}\n"));
        node.write("kubepods/pod/memory.events", &format!("oom_kill {n_of_pod}\n"));
        assert_eq!(node.check(&processes).1, expected, "{name}");
    }
    assert_eq!(node.n_kills(), [("", 1), ("a", 3), ("b", 0)].map(|(name, n)| (labels(name), n)));
    node.check(&processes[..1]);
    assert_eq!(node.n_kills().len(), 2, "a container without kills is forgotten");
}

/// The kernel counts a kill for the node before it counts it for the container.
#[test]
fn a_kill_is_counted_if_the_node_counts_it_first() {
    let (mut node, processes) = pod("node-first");
    node.check(&processes);
    node.oom_kills(8);
    assert_eq!(node.check(&processes).1, []);
    node.write("kubepods/pod/c1/memory.events", "oom_kill 4\n");
    node.write("kubepods/pod/memory.events", "oom_kill 7\n");
    assert_eq!(node.check(&processes).1, [killed("a", 1, 500)]);
    assert_eq!(node.check(&processes).1, []);
}

/// The killed process may have been the last one, so that the container has none when the kill is found.
#[test]
fn a_kill_is_counted_for_a_container_without_a_process() {
    let (mut node, processes) = pod("ended");
    node.cgroup("kubepods/pod/c1", 950);
    node.check(&processes);
    assert_eq!(node.check(&processes[1..]).1, []);
    node.oom_kills(8);
    node.write("kubepods/pod/c1/memory.events", "oom_kill 4\n");
    node.write("kubepods/pod/memory.events", "oom_kill 7\n");
    assert_eq!(node.check(&processes[1..]).1, [killed("a", 1, 950)]);
    assert_eq!(node.n_kills()[1], (labels("a"), 1));
}

#[test]
fn kills_of_unselected_containers_count_for_nothing() {
    let mut node = Checked::new("unselected", &[("c1", "10", "bank", "a"), ("c2", "20", "shop", "b")]);
    node.oom_kills(7);
    for path in ["kubepods/pod/c1", "kubepods/pod/c2", "kubepods/pod"] {
        node.cgroup(path, 1);
        node.write(&format!("{path}/memory.events"), "oom_kill 3\n");
    }
    let processes = [(10, 100, "/kubepods/pod/c1"), (20, 100, "/kubepods/pod/c2")];
    node.check(&processes[..1]);
    assert_eq!(node.n_kills(), []);
    node.oom_kills(8);
    node.write("kubepods/pod/c1/memory.events", "oom_kill 4\n");
    node.write("kubepods/pod/memory.events", "oom_kill 4\n");
    assert_eq!(node.check(&processes[..1]).1, []);
    assert_eq!(node.check(&processes[..1]).1, []);
}

/// Row 4: what began while the exporter ran counts from its beginning.
#[test]
fn kills_before_the_first_read_count_only_if_newer_than_the_exporter() {
    for (pid, start_time, path, of_container, of_pod, expected) in [
        ("-", 100, "/kubepods/pod/c1", 2, 3, [("", 0), ("a", 0)]),
        ("10", 100, "/kubepods/pod/c1", 2, 3, [("", 0), ("a", 0)]),
        ("10", 101, "/kubepods/pod/c1", 2, 3, [("", 1), ("a", 2)]),
        ("10", 101, "/docker/c1", 2, 3, [("a", 2), ("", 0)]),
    ] {
        let mut node =
            Checked::new(&format!("young-{pid}-{start_time}-{}", path.len()), &[("c1", pid, "shop", "a")]);
        node.oom_kills(7);
        node.check(&[(1, 100, "/init")]);
        node.cgroup(&path[1..], 1);
        node.write(&format!("{}/memory.events", &path[1..]), &format!("oom_kill {of_container}\n"));
        node.write("kubepods/pod/memory.events", &format!("oom_kill {of_pod}\n"));
        node.oom_kills(8);
        node.check(&[(1, 100, "/init"), (10, start_time, path)]);
        let expected = expected.iter().filter(|(name, _)| !name.is_empty() || path.starts_with("/kube"));
        let expected: Vec<_> = expected.map(|(name, n)| (labels(name), *n)).collect();
        assert_eq!(node.n_kills(), expected, "{path} {start_time}");
    }
}

/// Version 1 has no counter for the pod.
#[test]
fn version_1_counts_the_kills_of_containers() {
    let mut node = Checked::new("v1", &[("c1", "10", "shop", "a")]);
    node.oom_kills(7);
    fs::remove_file(node.node.directory.join("cgroup/cgroup.controllers")).unwrap();
    let container = "memory/kubepods/pod/c1";
    node.write(&format!("{container}/memory.usage_in_bytes"), "950\n");
    node.write(&format!("{container}/memory.oom_control"), "oom_kill_disable 0\noom_kill 3\n");
    node.usage = CgroupUsage::new(node.node.fs(), Level::Info).unwrap();
    let processes = [(10, 100, "/kubepods/pod/c1")];
    assert_eq!(node.check(&processes).1, []);
    assert_eq!(node.n_kills(), [(labels("a"), 0)]);
    node.oom_kills(8);
    node.write(&format!("{container}/memory.oom_control"), "oom_kill_disable 0\noom_kill 4\n");
    assert_eq!(node.check(&processes).1, [killed("a", 1, 950)]);
    node.oom_kills(9);
    assert_eq!(node.check(&[]).1, [], "a kill elsewhere while the container ends");
}
