use super::*;
use crate::cgroupfs::fields::FIELDS;

/// A directory with the files of a cgroup file system. The directory is removed at the end of the test.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("smaps-cgroupfs-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn open(&self) -> CgroupFs {
        CgroupFs::open(&self.0, u8::MAX).unwrap()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn version_2(name: &str) -> Tree {
    let tree = Tree::new(name);
    tree.write("cgroup.controllers", "cpu memory pids\n");
    tree.write("memory.stat", "anon 999\n");
    tree.write("kubepods/memory.max", "8192\n");
    tree.write("kubepods/pod1/memory.max", "max\n");
    tree.write("kubepods/pod1/abc/memory.current", "1000\n");
    tree.write("kubepods/pod1/abc/memory.max", "max\n");
    tree.write("kubepods/pod1/abc/memory.stat", "anon 600\ninactive_file 100\n");
    tree.write("kubepods/pod1/abc/pids.current", "3\n");
    tree
}

fn get(values: &Values, name: &str) -> Option<u64> {
    values.get(FIELDS.iter().position(|field| field.name == name).unwrap())
}

/// Returns paths that are the same in each hierarchy.
fn at(path: impl AsRef<[u8]>) -> Paths {
    Paths { memory: path.as_ref().into(), others: path.as_ref().into() }
}

#[track_caller]
fn assert_values(values: &Values, expected: &[(&str, Option<u64>)]) {
    for (name, number) in expected {
        assert_eq!(get(values, name), *number, "{name}");
    }
}

#[test]
fn the_smallest_limit_on_the_way_to_the_root_applies() {
    let tree = version_2("limits");
    // `memory.peak` is a directory here, so it cannot be read. Its value must then be absent.
    fs::create_dir(tree.0.join("kubepods/pod1/abc/memory.peak")).unwrap();
    let (mut fs, mut cgroup, mut values) = (tree.open(), Cgroup::default(), Values::default());
    let path = b"/kubepods/pod1/abc";
    for (file, text, own, limit) in [
        ("kubepods/pod1/abc/memory.max", "max\n", None, Some(8192)),
        ("kubepods/pod1/memory.max", "4096\n", None, Some(4096)),
        ("kubepods/pod1/abc/memory.max", "6000\n", Some(6000), Some(4096)),
        ("kubepods/pod1/abc/memory.max", "2048\n", Some(2048), Some(2048)),
        ("memory.max", "1024\n", Some(2048), Some(1024)),
        ("memory.max", "max\n", Some(2048), Some(2048)),
        ("kubepods/pod1/abc/memory.max", "max\n", None, Some(4096)),
        ("kubepods/pod1/memory.max", "max\n", None, Some(8192)),
        ("kubepods/memory.max", "max\n", None, None),
    ] {
        tree.write(file, text);
        assert!(fs.read(&at(path), &mut cgroup, &mut values));
        let expected = [
            ("memory_max", own),
            ("memory_limit", limit),
            ("memory_current", Some(1000)),
            ("memory_working_set", Some(900)),
            ("memory_peak", None),
            ("pids_current", Some(3)),
        ];
        assert_values(&values, &expected);
    }
}

#[test]
fn version_1_has_a_hierarchy_for_each_controller() {
    let tree = Tree::new("v1");
    tree.write("unified/cgroup.controllers", "");
    tree.write("memory/kubepods/abc/memory.usage_in_bytes", "1000\n");
    tree.write("memory/kubepods/abc/memory.limit_in_bytes", "9223372036854771712\n");
    tree.write("memory/kubepods/abc/memory.stat", "hierarchical_memory_limit 4096\ntotal_inactive_file 1\n");
    tree.write("memory/memory.usage_in_bytes", "7\n");
    tree.write("cpuacct/kubepods/abc/cpuacct.usage", "5\n");
    fs::create_dir_all(tree.0.join("pids")).unwrap();
    let (mut fs, mut cgroup, mut values) = (tree.open(), Cgroup::default(), Values::default());
    let path = b"/kubepods/abc";
    assert!(fs.read(&at(path), &mut cgroup, &mut values));
    let memory = [
        ("memory_current", Some(1000)),
        ("memory_max", None),
        ("memory_limit", Some(4096)),
        ("memory_working_set", Some(999)),
        ("cpu_usage", Some(5)),
    ];
    assert_values(&values, &memory);
    assert_values(&values, &[("pids_current", None)]);
    // The container's cgroup may appear in one hierarchy later than in the others. Here it appears in `pids`
    // last.
    tree.write("pids/kubepods/abc/pids.current", "3\n");
    assert!(fs.read(&at(path), &mut cgroup, &mut values));
    assert_values(&values, &memory);
    assert_values(&values, &[("pids_current", Some(3))]);
    for outside in ["/", "", "/..", "/../kubepods/abc"] {
        assert!(!fs.read(&at(outside), &mut Cgroup::default(), &mut values), "{outside:?}");
        assert_eq!(values, Values::default());
    }
}

#[test]
fn removed_cgroups_are_absent_and_recreated_ones_are_read() {
    let tree = version_2("recreated");
    let (mut fs, mut cgroup, mut values) = (tree.open(), Cgroup::default(), Values::default());
    let path = b"/kubepods/pod1/abc";
    assert!(fs.read(&at(path), &mut cgroup, &mut values));
    assert_values(&values, &[("memory_current", Some(1000))]);
    fs::remove_dir_all(tree.0.join("kubepods/pod1/abc")).unwrap();
    assert!(!fs.read(&at(path), &mut cgroup, &mut values));
    assert!(cgroup.directories.is_empty(), "its directory is closed");
    assert_eq!(values, Values::default());
    tree.write("kubepods/pod1/abc/memory.current", "1\n");
    assert!(fs.read(&at(path), &mut cgroup, &mut values));
    // Now a new cgroup takes the place of the removed one between two reads.
    fs::remove_dir_all(tree.0.join("kubepods/pod1/abc")).unwrap();
    tree.write("kubepods/pod1/abc/memory.current", "2\n");
    assert!(fs.read(&at(path), &mut cgroup, &mut values));
    assert_values(
        &values,
        &[("memory_current", Some(2)), ("memory_max", None), ("memory_limit", Some(8192))],
    );
}

/// Files that rarely change, such as `memory.min`, are read in every tenth read of a cgroup.
/// `memory.events.local` is also read when `memory.events` has changed.
#[test]
fn slow_files_are_read_in_a_tenth_of_the_reads() {
    let tree = version_2("slow");
    let write = |name: &str, text: &str| tree.write(&format!("kubepods/pod1/abc/{name}"), text);
    write("memory.events", "max 3\n");
    let (mut fs, mut cgroup, mut values) = (tree.open(), Cgroup::default(), Values::default());
    let mut n_reads_of = [0; 2];
    for i in 0..30 {
        write("memory.min", &format!("{i}\n"));
        write("memory.oom.group", "1\n");
        write("memory.events.local", &format!("max {i}\n"));
        write("memory.current", &format!("{i}\n"));
        if i == 5 {
            write("memory.events", "max 4\n");
        }
        assert!(fs.read(&at("/kubepods/pod1/abc"), &mut cgroup, &mut values));
        let i = Some(i);
        assert_values(&values, &[("memory_current", i), ("memory_oom_group", Some(1))]);
        let local = FIELDS
            .iter()
            .position(|field| field.name == "memory_events_local" && field.labels.contains("\"max\""));
        let is_read = [get(&values, "memory_min") == i, values.get(local.unwrap()) == i];
        (0..2).for_each(|kind| n_reads_of[kind] += usize::from(is_read[kind]));
        assert!(is_read[1] || i != Some(5), "a new event");
    }
    assert!((3..=5).contains(&n_reads_of[0]), "{n_reads_of:?}");
    assert!((4..=6).contains(&n_reads_of[1]), "{n_reads_of:?}");
}

#[test]
fn paths_are_resolved_from_inside_a_cgroup_namespace() {
    let tree = version_2("inside");
    tree.write("own", "/kubepods/pod2/exporter\n");
    let (mut fs, mut values) = (tree.open(), Values::default());
    for (path, is_there) in [
        ("/../../pod1/abc", true),
        ("/../../../kubepods/pod1/abc", true),
        ("/kubepods/pod1/abc", false),
        ("/../../../..", false),
        ("/", false),
    ] {
        assert_eq!(fs.read(&at(path), &mut Cgroup::default(), &mut values), is_there, "{path}");
    }
}

#[test]
fn other_directories_are_refused() {
    let tree = Tree::new("none");
    tree.write("file", "");
    let refused = |path: PathBuf| CgroupFs::open(&path, 1).unwrap_err().replace(tree.0.to_str().unwrap(), "");
    assert_eq!(refused(tree.0.join("x")), r#"cannot open "/x": no such file or directory"#);
    assert_eq!(refused(tree.0.join("file")), r#"cannot open "/file": not a directory"#);
    let expected =
        r#""" is not a cgroup file system: expected "cgroup.controllers", or a hierarchy of version 1"#;
    assert_eq!(refused(tree.0.clone()), expected);
    tree.write("memory/x", "");
    assert!(CgroupFs::open(&tree.0, 1).is_ok());
}

#[test]
fn a_recording_has_the_same_values() {
    let tree = version_2("recorded");
    tree.write("own", "/kubepods/pod2/exporter");
    let recording = Tree::new("recording");
    let path = b"/../../pod1/abc";
    let mut fs = tree.open();
    let mut names = Vec::new();
    let mut write = |name: &Path, text: &[u8]| {
        recording.write(name.to_str().unwrap(), std::str::from_utf8(text).unwrap());
        names.push(name.to_str().unwrap().to_owned());
        Ok(())
    };
    fs.record_root(&mut write).unwrap();
    fs.record(&at(path), &mut write).unwrap();
    let expected = [
        "cgroup.controllers",
        "own",
        "kubepods/pod1/abc/memory.current",
        "kubepods/pod1/abc/memory.max",
        "kubepods/pod1/abc/memory.stat",
        "kubepods/pod1/abc/pids.current",
        "kubepods/pod1/memory.max",
        "kubepods/memory.max",
    ];
    assert_eq!(names, expected);
    let (mut live, mut replayed) = (Values::default(), Values::default());
    assert!(fs.read(&at(path), &mut Cgroup::default(), &mut live));
    assert!(recording.open().read(&at(path), &mut Cgroup::default(), &mut replayed));
    assert_eq!(live, replayed);
    assert_eq!(get(&live, "memory_limit"), Some(8192));
}

#[test]
fn the_log_explains_why_no_cgroup_is_found() {
    let explain = |version, namespace| explain_absence(Path::new("/c"), version, Path::new(namespace));
    let elsewhere = r#"no container's cgroup is below "/c": expected the node's cgroups, by --cgroup-path"#;
    for (version, namespace) in
        [(Version::V1, NODE_NAMESPACE), (Version::V1, ""), (Version::V2, "cgroup:[4026532000]")]
    {
        assert_eq!(explain(version, namespace), elsewhere);
    }
    let own = explain(Version::V1, "cgroup:[4026532000]");
    assert!(
        own.ends_with("a cgroup namespace of its own, and with cgroup version 1 it needs the node's"),
        "{own}"
    );
}
