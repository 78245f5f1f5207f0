//! Tests `cgroup_memory_unmapped_bytes`, which is the page cache and shared memory that no process maps. The
//! exporter omits the metric for a container if it cannot compute the values of that container.

use std::fmt::Write as _;

use crate::support::{Directory, once};

const MIB: u64 = 1 << 20;

/// A recording of one container, to which 300 MiB of files are charged. Of these, 102 MiB are tmpfs or shared
/// memory.
struct Node(Directory);

impl Node {
    /// Creates the recording. `mapped` MiB of the charged files are mapped.
    fn new(mapped: u64) -> Self {
        let node = Directory::new();
        node.one_container();
        node.write("cgroup/cgroup.controllers", "memory\n");
        node.write("cgroup/kubepods/pod1/c1/memory.current", (400 * MIB).to_string() + "\n");
        let stat = format!("file {}\nfile_mapped {}\nshmem {}\n", 300 * MIB, mapped * MIB, 102 * MIB);
        node.write("cgroup/kubepods/pod1/c1/memory.stat", stat);
        Self(node)
    }

    /// Adds a process that maps these paths, which have sizes in MiB. In its mount namespace, a tmpfs is
    /// mounted at the path `tmpfs`, and the id of this mount is `first_mount`. Each mount namespace has its
    /// own mount ids.
    fn process(&self, pid: u32, first_mount: u32, tmpfs: &str, mapped: &[(String, u64)]) {
        let mut smaps = String::new();
        for (i, (path, size)) in (1_u64..).zip(mapped) {
            let (begin, end, kib) = (i << 32, (i << 32) + size * MIB, size << 10);
            write!(smaps, "{begin:x}-{end:x} rw-s 00000000 00:1 7 {path}\nRss: {kib} kB\nPss: {kib} kB\n")
                .unwrap();
            smaps += "Anonymous: 0 kB\n";
        }
        self.0.process(pid, "app", smaps);
        let mounts = format!("{first_mount} 1 0:50 / {tmpfs} rw - tmpfs tmpfs rw\n");
        self.0.write(&format!("proc/{pid}/mountinfo"), mounts);
    }

    /// Returns how many MiB of page cache, and how many MiB of shared memory, are mapped by no process.
    /// Returns `None` if the exporter omits the metric.
    fn unmapped(&self, args: &[&str]) -> Option<[u64; 2]> {
        let text = once(self.0.path(), args);
        let value = |part: &str| {
            let is_it =
                |line: &&str| line.starts_with("cgroup_memory_unmapped_bytes{") && line.contains(part);
            let (_, value) = text.lines().find(is_it)?.rsplit_once(' ').unwrap();
            Some(value.parse::<u64>().unwrap() / MIB)
        };
        Some([value("page_cache")?, value("shmem")?])
    }
}

fn paths<const N: usize>(paths: [(&str, u64); N]) -> Vec<(String, u64)> {
    paths.map(|(path, size)| (path.to_owned(), size)).into()
}

#[test]
fn split_is_absent_where_paths_are_not_kept() {
    let node = Node::new(90);
    let files = (0..2000).map(|i| (format!("/{i:0>600}"), 0));
    let mapped = [paths([("/dev/shm/x", 80), ("/usr/lib/x", 10)]), files.collect()].concat();
    node.process(1, 30, "/dev/shm", &mapped);
    assert_eq!(node.unmapped(&[]), Some([188, 22]), "everything is known");
    let folded = ["--max-samples", "1"];
    assert_eq!(node.unmapped(&folded), Some([188, 22]), "what is folded in the exposition is known");
    let large = (0..12_000).map(|i| (format!("/{i:0>1000}"), 100));
    node.process(1, 30, "/dev/shm", &[paths([("/dev/shm/x", 80)]), large.collect()].concat());
    assert_eq!(node.unmapped(&[]), None, "there are too many paths to keep");
}

#[test]
fn mounts_of_each_process_are_those_of_its_namespace() {
    let node = Node::new(120);
    node.process(1, 30, "/data", &paths([("/data/x", 40), ("/scratch/x", 30)]));
    node.process(2, 77, "/scratch", &paths([("/data/x", 30), ("/scratch/x", 20)]));
    // The cgroup is charged for 300 MiB of files, of which 120 MiB are mapped. The 300 MiB include 102 MiB of
    // shared memory, because files in a tmpfs are shared memory. The first process maps 40 MiB in its tmpfs
    // at `/data`, and the second process maps 20 MiB in its tmpfs at `/scratch`. Each process also maps
    // 30 MiB of page cache. So 102 - 60 = 42 MiB of shared memory are not mapped. Of all files,
    // 300 - 120 = 180 MiB are not mapped: 42 MiB of shared memory, and 138 MiB of page cache.
    assert_eq!(node.unmapped(&[]), Some([138, 42]));
    // Now both processes are in one mount namespace, with a tmpfs at `/data`. They map 40 + 30 = 70 MiB
    // there. So 102 - 70 = 32 MiB of shared memory and 180 - 32 = 148 MiB of page cache are not mapped.
    node.process(2, 30, "/data", &paths([("/data/x", 30), ("/scratch/x", 20)]));
    assert_eq!(node.unmapped(&[]), Some([148, 32]));
}

#[test]
fn split_is_absent_while_a_process_is_not_read() {
    let node = Node::new(80);
    node.process(1, 30, "/dev/shm", &paths([("/dev/shm/x", 80)]));
    node.0.process(2, "zombie", "");
    assert_eq!(node.unmapped(&[]), Some([198, 22]));
    let smaps = "proc/2/smaps";
    std::fs::remove_file(node.0.path().join(smaps)).unwrap();
    node.0.write(&format!("{smaps}/x"), "");
    assert_eq!(node.unmapped(&[]), None, "its smaps cannot be read");
}
