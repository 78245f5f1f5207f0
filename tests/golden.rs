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

/// Tests the cgroup metrics with two recordings. Their cgroup files were written by hand, in the format in
/// which Linux prints such files. The recording `v1` has version 1 cgroups. The recording `v2` has version 2
/// cgroups, as seen from inside a cgroup namespace. In `v2`, one container has all files, and another
/// container has only the files of an older kernel.
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

/// Each golden file must have a fixture. So after a fixture was renamed, its old golden file cannot remain.
#[test]
fn every_golden_file_has_a_fixture() {
    let names: Vec<String> = smaps_fixtures().into_iter().map(|(name, _)| name).collect();
    for entry in fs::read_dir(fixture("smaps")).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        assert!(names.iter().any(|name| name == stem), "{path:?}");
    }
}
