use std::time::Instant;

use log::Level;

use super::super::accounts::tests::{Node, Process};
use super::*;
use crate::cgroupfs::fields::LIMIT;
use crate::cgroupfs::memory_fs::Reads;

/// A node, the accounts of its containers, and its pods.
struct Read(Node, Accounts, CgroupFs, Pods);

impl Read {
    fn new(name: &str, containers: &[(&str, &str, &str, &str)]) -> Self {
        let node = Node::new(name, containers);
        let fs = node.fs();
        let pods = Pods::new(fs.memory(Reads::Pods).unwrap());
        Self(node, Accounts::new(Level::Info), fs, pods)
    }

    /// Simulates a scrape that finds these processes. Returns, for each exported pod, its memory use, its
    /// limit and the memory outside its containers.
    fn scrape(&mut self, processes: &[Process]) -> Vec<(String, u64, Option<u64>, Option<i64>)> {
        let Self(node, accounts, fs, pods) = self;
        let processes = node.see(processes);
        accounts.update(&processes, &node.discovery, Instant::now());
        pods.update(accounts, fs);
        accounts.read(fs, |_| true);
        pods.read(accounts, usize::MAX);
        let exported = pods.exported().map(|(pod, _)| {
            let outside = pod.outside.map(|parts| parts.iter().flatten().sum());
            let name = format!("{}{}", pod.labels, pod.uid_label);
            (name, pod.values.get(CURRENT).unwrap(), pod.values.get(LIMIT), outside)
        });
        exported.collect()
    }
}

const UID: &str = "0f3a1b2c-4d5e-6f70-8192-a3b4c5d6e7f8";
const POD: &str = r#"{namespace="shop",pod="p""#;

#[test]
fn memory_left_by_ended_containers_is_outside() {
    let mut read = Read::new("pods", &[("c1", "10", "shop", "a"), ("c2", "20", "shop", "b")]);
    let pod = format!("kubepods/burstable/pod{UID}");
    let path = |id: &str| format!("/{pod}/{id}").leak() as &str;
    let processes = [(10, 100, path("c1")), (20, 100, path("c2"))];
    read.0.cgroup(&format!("{pod}/c1"), 30);
    read.0.cgroup(&format!("{pod}/c2"), 50);
    assert_eq!(read.scrape(&processes), [], "the pod's files are missing");
    read.0.cgroup(&pod, 95);
    read.0.write(&format!("{pod}/memory.max"), "100\n");
    read.0.write("kubepods/memory.max", "200\n");
    let name = format!(r#"{POD},uid="{UID}"}}"#);
    for _ in 0..2 {
        assert_eq!(read.scrape(&processes), [(name.clone(), 95, Some(100), Some(15))]);
    }
    // A container ends. The memory that it used stays charged to the pod.
    assert_eq!(read.scrape(&processes[..1]), [(name.clone(), 95, Some(100), Some(65))]);
    read.0.write(&format!("{pod}/memory.max"), "max\n");
    assert_eq!(read.scrape(&processes[..1]), [(name.clone(), 95, Some(200), Some(65))]);
    // If the cgroup of a container is missing, the memory outside the containers is unknown.
    std::fs::remove_dir_all(read.0.directory.join("cgroup").join(&pod).join("c2")).unwrap();
    assert_eq!(read.scrape(&processes), [(name, 95, Some(200), None)]);
    assert_eq!(read.scrape(&[]), []);
}

#[test]
fn containers_outside_the_filters_count_for_a_selected_pod() {
    // The filter selects only the namespace "shop". The pods of both containers have the same name, but the
    // pod of the second container is in the namespace "bank".
    let mut read = Read::new("unselected", &[("c1", "10", "shop", "a"), ("c2", "20", "bank", "b")]);
    for path in ["kubepods/x/c1", "kubepods/y/c2"] {
        read.0.cgroup(path, 10);
    }
    for path in ["kubepods/x", "kubepods/y"] {
        read.0.cgroup(path, 25);
    }
    let processes = [(10, 100, "/kubepods/x/c1"), (20, 100, "/kubepods/y/c2")];
    assert_eq!(read.scrape(&processes), [(POD.to_owned(), 25, None, Some(15))]);
    // A cgroup that several pods share is not a pod's cgroup. A cgroup directly below the root is not a pod's
    // cgroup either.
    let mut read = Read::new(
        "shared",
        &[("c1", "10", "shop", "a"), ("c2", "20", "bank", "b"), ("c3", "30", "shop", "c")],
    );
    for path in ["kubepods/x/c1", "kubepods/x/c2", "kubepods/x", "system.slice", "system.slice/c3"] {
        read.0.cgroup(path, 10);
    }
    let processes = [(10, 100, "/kubepods/x/c1"), (20, 100, "/kubepods/x/c2"), (30, 100, "/system.slice/c3")];
    assert_eq!(read.scrape(&processes), []);
}

#[test]
fn the_younger_of_two_pods_with_the_same_name_is_exported() {
    for (name, starts, expected) in [("second", [100, 200], 4), ("first", [300, 200], 2)] {
        let mut read = Read::new(name, &[("c1", "10", "shop", "a"), ("c2", "20", "shop", "b")]);
        for (path, current) in
            [("kubepods/x/c1", 1), ("kubepods/x", 2), ("kubepods/y/c2", 3), ("kubepods/y", 4)]
        {
            read.0.cgroup(path, current);
        }
        let processes = [(10, starts[0], "/kubepods/x/c1"), (20, starts[1], "/kubepods/y/c2")];
        assert_eq!(read.scrape(&processes), [(POD.to_owned(), expected, None, Some(1))], "{name}");
    }
}
