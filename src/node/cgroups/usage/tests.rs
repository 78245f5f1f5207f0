use std::fs;

use super::super::accounts::tests::{Node, Process, labels};
use super::*;
use crate::smaps::fields::values;
use crate::smaps::{place::PlaceText, scanner::Mapping};
use crate::totals::process_sums::ProcessSums;
use crate::totals::snapshot;

/// A node and the memory use of its containers.
pub(crate) struct Checked {
    pub(crate) node: Node,
    pub(crate) usage: CgroupUsage,
    snapshot: Snapshot,
    now: Instant,
}

impl Checked {
    pub(crate) fn new(name: &str, containers: &[(&str, &str, &str, &str)]) -> Self {
        let node = Node::new(name, containers);
        let usage = CgroupUsage::new(node.fs(), Level::Info).unwrap();
        Self { node, usage, snapshot: Snapshot::new(usize::MAX, 0), now: Instant::now() }
    }

    /// Sets the kernel's count of OOM kills on the node.
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

    /// Sums up one process in each container. `mapped` has the number of bytes that each process maps.
    fn map(&mut self, mapped: &[u64]) {
        self.snapshot = Snapshot::new(usize::MAX, 0);
        let mut readings = Vec::new();
        for (container, &pss) in self.usage.accounts.containers().zip(mapped) {
            let key = container.id.key();
            self.snapshot.register(key, &container.labels);
            let (mut sums, values) = (ProcessSums::new(usize::MAX), values(&[("pss", pss)]));
            sums.add(&Mapping { path: b"[heap]", values: &values, place: PlaceText::default(), count: 1 });
            let (process, mut id) = (snapshot::Process { container: key, comm: b"leak", pid: 1 }, None);
            self.snapshot.record(process, &sums, &mut id);
            readings.extend(id);
        }
        self.snapshot.sum(readings.iter().map(|id| (id, true)));
    }

    /// Removes the readings that are kept for OOM records. Returns the mapped bytes of each container, as its
    /// reading has them.
    fn take_kept(&mut self) -> Vec<Option<u64>> {
        let readings = self.usage.accounts.iter_mut().map(|account| account.take_content().last_reading);
        readings.map(|last| Some(last?.largest.pss)).collect()
    }

    fn pass(&mut self, processes: &[Process], is_check: bool) -> Vec<Kill> {
        self.pass_with(processes, is_check, |_| {})
    }

    /// Simulates a check, or a scrape if `is_check` is false. `then` is called just before the end.
    fn pass_with(&mut self, processes: &[Process], is_check: bool, then: impl Fn(&mut Self)) -> Vec<Kill> {
        let processes = self.node.see(processes);
        self.now += Duration::from_secs(1);
        let Self { node, usage, now, .. } = self;
        usage.watch.step(Proc::open(node.proc.path()).unwrap(), *now);
        usage.update(&processes, &node.discovery, &node.proc, *now);
        let kills = usage.take_kills();
        usage.begin_reads();
        if !is_check {
            usage.read(&node.proc)
        }
        then(self);
        let Self { node, usage, snapshot, now } = self;
        usage.join(snapshot, &processes, &node.proc, *now);
        kills
    }

    /// Simulates a scrape that finds these processes.
    fn scrape(&mut self, processes: &[Process]) {
        self.pass(processes, false);
    }

    /// Simulates a check that finds these processes, a second after the previous one. Returns the names of
    /// the containers that are due to be read, and the kills. Each kill has the name of its container, which
    /// is empty if only the pod is known, and the number of killed processes.
    pub(crate) fn check(&mut self, processes: &[Process]) -> (Vec<&str>, Vec<(String, u64)>) {
        let kills = self.pass(processes, true);
        let kill = |kill: &Kill| {
            let name = match &kill.found.place {
                Place::Container(container) => container.listed.name.clone(),
                Place::Pod { .. } => String::new(),
            };
            (name, kill.found.n_kills)
        };
        let kills = kills.iter().map(kill).collect();
        let containers = self.usage.accounts.containers();
        let due = containers.filter(|container| self.usage.due.contains(&container.id));
        (due.map(|container| container.listed.name.as_str()).collect(), kills)
    }

    /// Returns the exported number of kills for each label text.
    fn n_kills(&self) -> Vec<(String, u64)> {
        self.usage.n_kills().map(|(labels, n)| (labels.to_owned(), n)).collect()
    }
}

/// Returns a node with one pod, and the processes of the pod's two containers. The pod has a limit of 1000
/// bytes.
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
fn a_container_is_read_from_86_percent_of_its_limit_on_while_it_grows() {
    let (mut node, processes) = pod("close");
    node.write("kubepods/pod/c1/memory.max", "1000\n");
    node.write("kubepods/pod/memory.current", "1\n");
    node.scrape(&processes);
    for (current, inactive, is_due) in
        [(859, 0, false), (860, 0, true), (861, 0, false), (911, 0, true), (990, 500, false), (992, 10, true)]
    {
        node.cgroup("kubepods/pod/c1", current);
        node.write("kubepods/pod/c1/memory.stat", &format!("inactive_file {inactive}\n"));
        let expected: &[&str] = if is_due { &["a"] } else { &[] };
        assert_eq!(node.check(&processes), (expected.into(), vec![]), "{current} less {inactive}");
    }
}

/// A container may already be close to its limit when the runtime lists it for the first time.
#[test]
fn a_container_that_is_close_to_its_limit_when_it_becomes_known_is_read() {
    for (file, expected) in [("kubepods/pod/c1", &["a"][..]), ("kubepods/pod", &["a", "b"])] {
        let (mut node, processes) = pod(&format!("known-{}", file.len()));
        node.write("kubepods/pod/c1/memory.max", "1000\n");
        node.write("kubepods/pod/memory.current", "1\n");
        node.cgroup(file, 930);
        assert_eq!(node.check(&processes).0, expected, "{file}");
        assert_eq!(node.check(&processes).0, [""; 0], "{file}");
    }
}

#[test]
fn a_lowered_limit_is_noticed_at_the_next_measurement() {
    let (mut node, processes) = pod("lowered");
    node.write("kubepods/pod/memory.current", "400\n");
    node.write("kubepods/pod/c1/memory.max", "max\n");
    node.scrape(&processes);
    node.cgroup("kubepods/pod/c1", 501);
    assert_eq!(node.check(&processes).0, [""; 0]);
    node.write("kubepods/pod/c1/memory.max", "520\n");
    node.cgroup("kubepods/pod/c1", 502);
    assert_eq!(node.check(&processes).0, ["a"]);
}

/// The pod comes close to its limit, but container a does not come close to its own.
#[test]
fn a_container_can_come_close_to_the_limit_of_its_pod() {
    let (mut node, processes) = pod("close-pod");
    node.write("kubepods/pod/memory.current", "800\n");
    node.scrape(&processes);
    for (current, expected) in [(859, &[][..]), (860, &["a", "b"]), (909, &[]), (910, &["a", "b"])] {
        node.write("kubepods/pod/memory.current", &format!("{current}\n"));
        assert_eq!(node.check(&processes).0, expected, "{current}");
    }
}

/// The memory use jumps from 1% to 96% of the limit, so the time to the limit is short. At 98% the time is 0,
/// because a container at 98% is treated as if it had reached its limit.
#[test]
fn the_growth_of_a_container_decides_until_98_percent_of_its_limit() {
    let (mut node, processes) = pod("start");
    node.write("kubepods/pod/c1/memory.max", "1000\n");
    node.write("kubepods/pod/c1/memory.stat", "inactive_file 0\n");
    node.write("kubepods/pod/memory.max", "max\n");
    node.cgroup("kubepods/pod/c1", 10);
    node.scrape(&processes);
    let id = node.usage.accounts.containers().next().unwrap().id;
    for (current, tens_of_ms) in [(960, 8), (979, 4), (980, 0)] {
        node.cgroup("kubepods/pod/c1", current);
        node.check(&processes);
        let time = node.usage.time_to_limit(id).map(|time| time.as_millis() / 10);
        assert_eq!(time, Some(tens_of_ms), "{current}");
    }
}

/// A kill in one container must not prevent new readings of the other containers.
#[test]
fn a_kill_during_a_pass_leaves_the_readings_of_other_containers() {
    for (file, expected) in [("c1", [910, 920]), ("other", [1, 920])] {
        let (mut node, processes) = pod(&format!("intact-{file}"));
        for container in ["c1", "c2"] {
            node.write(&format!("kubepods/pod/{container}/memory.max"), "1000\n");
            node.cgroup(&format!("kubepods/pod/{container}"), 950);
        }
        node.scrape(&processes);
        node.map(&[910, 910]);
        node.check(&processes);
        node.pass_with(&processes, true, |node| {
            node.oom_kills(8);
            node.write(&format!("kubepods/pod/{file}/memory.events"), "oom 2\noom_kill 4\n");
            node.usage.watch.read_all();
            node.map(&[1, 920]);
        });
        assert_eq!(node.take_kept(), expected.map(Some), "a kill in {file}");
    }
}

/// The killed process is gone when the kill is found. Its name and memory come from its `status`, which was
/// read when the container was at its limit.
#[test]
fn the_last_moment_before_a_kill_is_returned_with_it() {
    let (mut node, processes) = pod("moment");
    let status = |pid: u32, name: &str, kib: u32| {
        let directory = node.node.directory.join(format!("proc/{pid}"));
        fs::create_dir_all(&directory).unwrap();
        let text = format!("Name:\t{name}\nRssAnon:\t{kib} kB\nRssFile:\t1 kB\nRssShmem:\t0 kB\n");
        fs::write(directory.join("status"), text).unwrap();
    };
    status(10, "sh", 3);
    status(11, "leak", 900);
    status(20, "other", 1);
    let processes = [processes[0], (11, 100, "/kubepods/pod/c1"), processes[1]];
    node.write("kubepods/pod/c1/memory.max", "1000\n");
    node.write("kubepods/pod/memory.max", "max\n");
    node.write("kubepods/pod/memory.current", "1\n");
    node.scrape(&processes);
    for (current, inactive) in [(700, 0), (990, 60), (991, 10)] {
        node.cgroup("kubepods/pod/c1", current);
        let text = format!("anon {}\ninactive_file {inactive}\n", current - inactive);
        node.write("kubepods/pod/c1/memory.stat", &text);
        node.check(&processes);
    }
    let id = node.usage.accounts.containers().next().unwrap().id;
    assert_eq!(node.usage.time_to_limit(id), Some(Duration::ZERO), "it has reached its limit");
    fs::remove_dir_all(node.node.directory.join("proc/11")).unwrap();
    node.cgroup("kubepods/pod/c1", 992);
    node.check(&processes);
    node.oom_kills(8);
    node.write("kubepods/pod/c1/memory.events", "max 9\noom 2\noom_kill 4\n");
    node.write("kubepods/pod/memory.events", "oom_kill 7\n");
    node.write("kubepods/pod/c1/memory.oom.group", "0\n");
    let kills = node.pass(&processes[..1], true);
    let [Kill { end, .. }] = &kills[..] else { panic!("{kills:?}") };
    let (_, moment) = end.moment.as_ref().unwrap();
    let members: Vec<_> = moment.members.iter().map(|of| (of.pid, &*of.name, of.rss[0] >> 10)).collect();
    assert_eq!(members, [(10, "sh", 3)], "it was killed before its status was read again");
    let victims: Vec<_> = end.victims.iter().map(|of| (of.pid, &*of.name, of.rss[0] >> 10)).collect();
    assert_eq!(victims, [(11, "leak", 900)]);
    assert_eq!((end.hit.current, end.hit.limit, end.kills_group), (Some(992), Some(1000), Some(false)));
}

#[test]
fn unmapped_tmpfs_is_unknown_unless_all_processes_are_selected() {
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

fn killed(name: &str, n_kills: u64) -> (String, u64) {
    (name.to_owned(), n_kills)
}

#[test]
fn kills_of_a_container_are_counted_from_its_first_listing() {
    let (mut node, processes) = pod("counted");
    assert_eq!(node.check(&processes).1, [], "kills before the start do not count");
    assert_eq!(node.n_kills(), ["", "a", "b"].map(|name| (labels(name), 0)));
    for (name, n_on_node, n_of_a, n_of_pod, expected) in [
        ("a kill", 8, 4, 7, vec![killed("a", 1)]),
        ("nothing", 8, 4, 7, vec![]),
        ("two at once", 10, 6, 9, vec![killed("a", 2)]),
        ("one that only the pod has counted", 11, 6, 10, vec![killed("", 1)]),
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

/// The kernel counts a kill for the node, then a check reads the counts, and then the container's count
/// grows.
#[test]
fn a_kill_is_counted_if_the_node_counts_it_first() {
    let (mut node, processes) = pod("node-first");
    node.check(&processes);
    node.oom_kills(8);
    assert_eq!(node.check(&processes).1, []);
    node.write("kubepods/pod/c1/memory.events", "oom_kill 4\n");
    node.write("kubepods/pod/memory.events", "oom_kill 7\n");
    assert_eq!(node.check(&processes).1, [killed("a", 1)]);
    assert_eq!(node.check(&processes).1, []);
}

/// If the killed process was the last one of the container, the container has no process when the kill is
/// found.
#[test]
fn a_kill_is_counted_for_a_container_without_a_process() {
    let (mut node, processes) = pod("ended");
    node.cgroup("kubepods/pod/c1", 950);
    node.check(&processes);
    assert_eq!(node.check(&processes[1..]).1, []);
    node.oom_kills(8);
    node.write("kubepods/pod/c1/memory.events", "oom_kill 4\n");
    node.write("kubepods/pod/memory.events", "oom_kill 7\n");
    assert_eq!(node.check(&processes[1..]).1, [killed("a", 1)]);
    assert_eq!(node.n_kills()[1], (labels("a"), 1));
}

#[test]
fn kills_of_unselected_containers_are_not_counted() {
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

/// If a container started after the exporter, the kills in the container are counted even if they happened
/// before its counters were first read.
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

/// Version 1 counts no kills for pods.
#[test]
fn version_1_counts_the_kills_of_containers() {
    let mut node = Checked::new("v1", &[("c1", "10", "shop", "a")]);
    node.oom_kills(7);
    fs::remove_file(node.node.directory.join("cgroup/cgroup.controllers")).unwrap();
    let container = "memory/kubepods/pod/c1";
    node.write(&format!("{container}/memory.usage_in_bytes"), "800\n");
    node.write(&format!("{container}/memory.limit_in_bytes"), "1000\n");
    node.write(&format!("{container}/memory.oom_control"), "oom_kill_disable 0\noom_kill 3\n");
    node.usage = CgroupUsage::new(node.node.fs(), Level::Info).unwrap();
    let processes = [(10, 100, "/kubepods/pod/c1")];
    assert_eq!(node.check(&processes).1, []);
    assert_eq!(node.n_kills(), [(labels("a"), 0)]);
    node.write(&format!("{container}/memory.usage_in_bytes"), "950\n");
    assert_eq!(node.check(&processes).0, ["a"]);
    node.oom_kills(8);
    node.write(&format!("{container}/memory.oom_control"), "oom_kill_disable 0\noom_kill 4\n");
    assert_eq!(node.check(&processes).1, [killed("a", 1)]);
    node.oom_kills(9);
    assert_eq!(node.check(&[]).1, [], "a kill elsewhere while the container ends");
}
