//! The views of one node: what they show is what version 0.1 printed with the same options, and their sums
//! agree.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use smaps_container_exporter::smaps::fields::FIELDS;

use crate::support::{Directory, Numbers, fixture, once, stdout_of};

/// The number of random recordings.
const N_RANDOM: u64 = 20;
/// Paths as the kernel prints them, and as it never does.
const PATHS: [&[u8]; 23] = [
    b"",
    b"[anon]",
    b"[heap]",
    b"[stack]",
    b"[vdso]",
    b"[vvar]",
    b"[anon:glibc: malloc]",
    b"[anon: Go: heap]",
    b"[anon_shmem:x]",
    b"/usr/lib/libc.so.6",
    b"/usr/bin/app",
    b"/usr/bin/app (deleted)",
    b"/dev/zero (deleted)",
    b"/dev/shm/a b",
    b"/memfd:x (deleted)",
    b"/SYSV00000000 (deleted)",
    b"/dev/nvidia0",
    b"/dmabuf:",
    b"/a\"b\\c\\012d",
    b"/\xff\xfe",
    b"/\xff\xfd",
    b"anon_inode:[perf_event]",
    b"/",
];

/// Returns a recording of up to 4 pods with up to 3 containers, made from this seed.
fn random_recording(seed: u64) -> Directory {
    let mut numbers = Numbers(seed * 0x9e37_79b9);
    let recording = Directory::new();
    let mut listed = String::from("id\tinit_pid\tnamespace\tpod\tcontainer\n");
    let mut pid = 1 + numbers.below(20) as u32;
    for pod in 0..1 + numbers.below(4) {
        for container in 0..1 + numbers.below(3) {
            let id = format!("c{pod}x{container}");
            writeln!(listed, "{id}\t{pid}\tns-{}\tpod-{pod}\tapp-{container}", pod % 2).unwrap();
            for _ in 0..1 + numbers.small(9) {
                recording.write(&format!("proc/{pid}/cgroup"), format!("0::/{id}\n"));
                let name = ["app", "a b", "w/1", "sh\"", "[other]x", "app-2"][numbers.below(6) as usize];
                recording.write(&format!("proc/{pid}/comm"), format!("{name}\n"));
                recording.write(&format!("proc/{pid}/smaps"), random_smaps(&mut numbers));
                pid += 1 + numbers.small(30) as u32;
            }
        }
    }
    recording.write("containers.tsv", listed);
    recording
}

fn random_smaps(numbers: &mut Numbers) -> Vec<u8> {
    let mut text = Vec::new();
    let has_field: Vec<bool> = FIELDS.iter().map(|_| numbers.below(8) > 0).collect();
    for i in 0..1 + numbers.small(80) {
        let start = 0x10000 * (i + 1);
        text.extend(format!("{start:x}-{:x} r--p 00000000 08:01 42 ", start + 0x1000).bytes());
        match numbers.below(3) {
            0 => text.extend(format!("/data/{}", numbers.small(40)).bytes()),
            _ => text.extend(PATHS[numbers.below(PATHS.len() as u64) as usize]),
        }
        text.push(b'\n');
        for (field, _) in FIELDS.iter().zip(&has_field).filter(|(_, has_field)| **has_field) {
            let kib = if numbers.below(3) == 0 { 0 } else { numbers.small(1 << 20) };
            text.extend(format!("{}: {kib} kB\n", field.key).bytes());
        }
    }
    text
}

/// The recordings, by name.
fn recordings() -> BTreeMap<String, Option<Directory>> {
    let random = (1..=N_RANDOM).map(|seed| (format!("random-{seed:02}"), Some(random_recording(seed))));
    random.chain([("node".to_owned(), None)]).collect()
}

/// Options that shape an exposition, except `--max-samples`.
fn shapes() -> Vec<Vec<&'static str>> {
    let mut shapes = Vec::new();
    for group_by in ["path", "kind", "process"] {
        for fields in ["all", "rss,pss,private_dirty,private_clean,swap", "size,mmu_page_size"] {
            for flags in [&[][..], &["--pid"], &["--omit-zero"], &["--pid", "--omit-zero"]] {
                shapes.push([&["--group-by", group_by, "--fields", fields], flags].concat());
            }
        }
    }
    shapes
}

/// Returns the families of processes, which come first.
fn families_of_processes(text: &str) -> &str {
    let others = ["# HELP cgroup_", "# HELP smaps_exporter_"];
    let end = others.iter().filter_map(|begin| text.find(begin)).min();
    &text[..end.unwrap_or(text.len())]
}

/// Returns a hash of a text (FNV-1a), which is the same on every machine.
fn hash(text: &str) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

fn path_of(name: &str, recording: &Option<Directory>) -> std::path::PathBuf {
    recording.as_ref().map_or_else(|| fixture(name), |recording| recording.path().to_owned())
}

/// Holds what the program prints with these shapes and this `--max-samples` against a golden file. Each line of
/// that has the recording, the options, the length and the hash.
fn assert_printed(golden: &str, shapes: &[Vec<&str>], max_samples: &str, min_lines: usize) {
    let recordings = recordings();
    if std::env::var_os("BLESS").is_some() {
        let mut lines = String::from("recording\toptions\tlength\thash\n");
        let has_anon_parts = String::from_utf8(stdout_of(&["--help"])).unwrap().contains("--anon-parts");
        for (name, recording) in &recordings {
            for shape in shapes {
                let options = [&shape[..], &["--max-samples", max_samples]].concat();
                let more: &[&str] = if has_anon_parts { &["--anon-parts", "off"] } else { &[] };
                let text = once(&path_of(name, recording), &[&options, more].concat());
                let text = families_of_processes(&text);
                // Which commands fold may change.
                if !text.contains("comm=\"[other]\"") {
                    let (length, hash) = (text.len(), hash(text));
                    writeln!(lines, "{name}\t{}\t{length}\t{hash:016x}", options.join(" ")).unwrap();
                }
            }
        }
        return fs::write(fixture(golden), lines).unwrap();
    }
    let lines = fs::read_to_string(fixture(golden)).unwrap();
    assert!(lines.lines().count() > min_lines, "{golden} is whole");
    for line in lines.lines().skip(1) {
        let [name, options, length, expected] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let options: Vec<&str> = options.split(' ').chain(["--anon-parts", "off"]).collect();
        let text = once(&path_of(name, &recordings[name]), &options);
        let text = families_of_processes(&text);
        let got = (text.len().to_string(), format!("{:016x}", hash(text)));
        assert_eq!(got, (length.to_owned(), expected.to_owned()), "{name} with {options:?}");
    }
}

/// The golden file is what version 0.1 printed: `EXPORTER=(commit be28605) BLESS=1`.
#[test]
fn options_print_what_version_0_1_printed() {
    assert_printed("views.tsv", &shapes(), "100000", 700);
}

/// The golden file is what the program printed before there were views: `EXPORTER=(commit ae59f4e) BLESS=1`.
/// Version 0.1 used less of the limit.
#[test]
fn the_same_paths_fold_as_before_there_were_views() {
    let by_path: Vec<_> = shapes().into_iter().filter(|shape| shape[1] == "path").collect();
    assert_printed("views-folded.tsv", &by_path, "900", 200);
}
