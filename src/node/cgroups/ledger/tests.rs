use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;

use super::super::accounts::tests::Node;
use super::*;
use crate::cgroupfs::memory_fs::Reads;

const UID: &str = "0f3a1b2c-4d5e-6f70-8192-a3b4c5d6e7f";

/// A node of 10,000 KiB with pods and services.
fn node(name: &str) -> Node {
    let node = Node::new(name, &[]);
    let meminfo = "MemTotal: 10000 kB\nMemFree: 1000 kB\nSlab: 500 kB\nHugetlb: 64 kB\n";
    for (name, text) in [
        ("meminfo", meminfo),
        ("zoneinfo", "  pagesets\n    cpu: 0\n      count: 25\n"),
        ("vmstat", "nr_free_pages 250\n"),
    ] {
        fs::write(node.directory.join("proc").join(name), text).unwrap();
    }
    node.write("memory.stat", "anon 1024000\nfile 3072000\n");
    for (path, kib, stat) in [
        ("kubepods.slice", 3000, "anon 1024\n"),
        ("system.slice", 2000, "anon 1022976\nfile 2048000\nslab 102400\n"),
        ("init.scope", 50, ""),
    ] {
        node.cgroup(path, kib << 10);
        node.write(&format!("{path}/memory.stat"), stat);
    }
    node.write("cgroup.procs", "");
    node
}

fn ledger(node: &Node) -> Ledger {
    let fs = node.fs();
    Ledger::new([Reads::Tops, Reads::Use].map(|reads| fs.memory(reads).unwrap()))
}

/// Returns the name of each part, and its size in KiB.
fn parts(ledger: &mut Ledger, node: &Node) -> Vec<(String, i64)> {
    ledger.read(&node.proc, 8, |_| None);
    let name = |labels: &str| labels.trim_start_matches("{part=\"").trim_end_matches("\"}").to_owned();
    ledger.exported().map(|(labels, bytes)| (name(labels), bytes >> 10)).collect()
}

fn pod(node: &Node, path: &str, n: u32, kib: u32) {
    node.cgroup(&format!("kubepods.slice/{path}pod{UID}{n}.slice"), kib << 10);
}

#[test]
fn the_parts_add_up_to_all_memory() {
    let node = node("ledger");
    pod(&node, "kubepods-", 1, 700);
    pod(&node, "kubepods-burstable.slice/kubepods-burstable-", 2, 1300);
    node.cgroup("kubepods.slice/kubepods-burstable.slice/other.scope", 100 << 10);
    let mut ledger = ledger(&node);
    let expected = [
        ("free", 1100),
        ("pods", 2000),
        ("ended_pods", 1000),
        ("/init.scope", 50),
        ("/system.slice", 2000),
        ("root_cgroup", 1000),
        ("kernel", 400),
        ("hugetlb_pool", 64),
        ("remainder", 2386),
    ]
    .map(|(part, kib)| (part.to_owned(), kib));
    for _ in 0..2 {
        assert_eq!(parts(&mut ledger, &node), expected);
    }
    assert_eq!(ledger.bytes.iter().flatten().sum::<i64>(), 10_000 << 10);
    ledger.read(&node.proc, 8, |path| path.ends_with(b"7f1.slice").then_some(900 << 10));
    let pods = ledger.exported().find(|(labels, _)| labels.contains("\"pods\""));
    assert_eq!(pods, Some(("{part=\"pods\"}", 2200 << 10)), "a pod that has just been read");
    fs::remove_file(node.directory.join("proc/zoneinfo")).unwrap();
    assert_eq!(parts(&mut ledger, &node), [], "the memory of the node is unknown");
}

#[test]
fn cgroups_that_come_and_go_are_listed_again() {
    let node = node("listed");
    let mut ledger = ledger(&node);
    let get = |parts: &[(String, i64)], name: &str| {
        parts.iter().find(|(part, _)| part == name).map(|(_, kib)| *kib)
    };
    assert_eq!(get(&parts(&mut ledger, &node), "pods"), Some(0));
    pod(&node, "kubepods-besteffort.slice/kubepods-besteffort-", 3, 500);
    let found = parts(&mut ledger, &node);
    assert_eq!((get(&found, "pods"), get(&found, "ended_pods")), (Some(500), Some(2500)));
    node.cgroup("backup.slice", 70 << 10);
    assert_eq!(get(&parts(&mut ledger, &node), "/backup.slice"), Some(70));
    fs::remove_dir_all(node.directory.join("cgroup/backup.slice")).unwrap();
    assert_eq!(get(&parts(&mut ledger, &node), "/backup.slice"), None);
    fs::remove_dir_all(node.directory.join("cgroup/kubepods.slice")).unwrap();
    let found = parts(&mut ledger, &node);
    assert_eq!((get(&found, "pods"), get(&found, "/system.slice")), (None, Some(2000)));
}

#[test]
fn many_top_level_cgroups_share_a_part() {
    let node = node("many");
    for i in 0..80 {
        node.cgroup(&format!("job-{i:02}"), 1 << 10);
    }
    let found = parts(&mut ledger(&node), &node);
    assert_eq!(found.iter().filter(|(part, _)| part.starts_with("/job")).count(), MAX_PARTS - 1);
    // The first 64 cgroups by name are init.scope and 63 jobs. The remaining cgroups are 17 jobs with 1 KiB
    // each, and system.slice with 2000 KiB.
    assert!(found.contains(&("other_cgroups".to_owned(), 2017)), "{found:?}");
}

#[test]
fn no_parts_are_exported_inside_a_cgroup_namespace() {
    let node = node("inside");
    let is_of_node = || node.fs().memory(Reads::Tops).unwrap().is_of_node();
    assert!(is_of_node());
    node.write("memory.current", "1\n");
    assert!(!is_of_node());
}

#[test]
fn both_cgroups_of_pods_are_counted() {
    let node = node("both");
    node.cgroup("kubepods", 400 << 10);
    let found = parts(&mut ledger(&node), &node);
    assert!(found.contains(&("ended_pods".to_owned(), 3400)), "{found:?}");
}

#[test]
fn names_that_are_not_utf_8_share_a_part() {
    let node = node("names");
    for name in [b"x\xfe", b"x\xff"] {
        let directory = node.directory.join("cgroup").join(OsStr::from_bytes(name));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("memory.current"), "10240\n").unwrap();
    }
    let found = parts(&mut ledger(&node), &node);
    assert!(found.contains(&("other_cgroups".to_owned(), 20)), "{found:?}");
}

#[test]
fn without_open_files_the_parts_are_the_same() {
    let node = node("closed");
    pod(&node, "kubepods-", 1, 700);
    let mut ledger = ledger(&node);
    let expected = parts(&mut ledger, &node);
    assert!(ledger.tops.iter().chain(&ledger.pods).all(|counted| counted.files.is_some()));
    for _ in 0..2 {
        ledger.is_stale = true;
        ledger.read(&node.proc, 0, |_| None);
        assert!(ledger.exported().map(|(_, bytes)| bytes >> 10).eq(expected.iter().map(|(_, kib)| *kib)));
        assert!(ledger.tops.iter().chain(&ledger.pods).all(|counted| counted.files.is_none()));
    }
}
