//! Compares expositions of the fixtures with golden files.

use std::fs;

use crate::support::{Directory, assert_golden, fixture, once, smaps_fixtures};

#[test]
fn smaps_of_other_kernels_equal_golden_files() {
    for (name, text) in smaps_fixtures() {
        let recording = Directory::new();
        recording.one_container();
        recording.process(1, &name[..name.len().min(15)], &text);
        assert_golden(&format!("smaps/{name}.prom"), &once(recording.path(), &[]));
    }
}

/// Tests the accounts of containers. The recordings were written by hand in the format of kernels. The
/// recording of version 2 is seen from inside a cgroup namespace. One of its containers has every file, and
/// another one has the files of an older kernel. The other recording is of version 1.
#[test]
fn accounts_of_both_cgroup_versions_equal_golden_files() {
    for version in ["v1", "v2"] {
        let recording = fixture(&format!("cgroups/{version}"));
        let text = once(&recording, &["--cgroup-metrics", "memory,pod,node,cpu,pids"]);
        let at = text.find("# HELP cgroup_").unwrap();
        assert_golden(&format!("cgroups/{version}.prom"), &text[at..]);
        let memory = once(&recording, &[]);
        let is_other = |line: &str| line.contains("cgroup_cpu_") || line.contains("cgroup_pids_");
        assert!(text.lines().filter(|line| !is_other(line)).eq(memory.lines()));
        let of_containers = once(&recording, &["--cgroup-metrics", "memory"]);
        let is_above =
            |line: &str| ["cgroup_pod_", "cgroup_node_", "_pod_info"].iter().any(|name| line.contains(name));
        assert!(memory.lines().filter(|line| !is_above(line)).eq(of_containers.lines()));
        let none = once(&recording, &["--cgroup-metrics", "none"]);
        assert_eq!(none, text[..at], "the other families are unchanged");
        let nowhere = Directory::new();
        let elsewhere = once(&recording, &["--cgroup-path", nowhere.path().to_str().unwrap()]);
        assert_eq!(elsewhere, none);
    }
}

/// Every golden file has a fixture. So a renamed fixture cannot leave its golden file behind.
#[test]
fn every_golden_file_has_a_fixture() {
    let names: Vec<String> = smaps_fixtures().into_iter().map(|(name, _)| name).collect();
    for entry in fs::read_dir(fixture("smaps")).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        assert!(names.iter().any(|name| name == stem), "{path:?}");
    }
}
