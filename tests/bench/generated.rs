//! Generates smaps texts and recordings. Each run generates the same ones.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The fields with a value in kB that Linux 6.18 prints for each mapping.
const KEYS: [&str; 22] = [
    "Size",
    "KernelPageSize",
    "MMUPageSize",
    "Rss",
    "Pss",
    "Pss_Dirty",
    "Shared_Clean",
    "Shared_Dirty",
    "Private_Clean",
    "Private_Dirty",
    "Referenced",
    "Anonymous",
    "KSM",
    "LazyFree",
    "AnonHugePages",
    "ShmemPmdMapped",
    "FilePmdMapped",
    "Shared_Hugetlb",
    "Private_Hugetlb",
    "Swap",
    "SwapPss",
    "Locked",
];

/// A generator of pseudorandom numbers (Marsaglia, "Xorshift RNGs", 2003). Each run has the same numbers.
pub struct Numbers(pub u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Returns an smaps text with `n_mappings` mappings. Every second mapping is anonymous. The others map
/// `n_paths` different files below `directory`.
pub fn smaps(n_mappings: usize, n_paths: usize, directory: &str, numbers: &mut Numbers) -> String {
    let mut text = String::new();
    let mut address = 0x7f12_3456_0000_u64;
    for i in 0..n_mappings {
        let kib = 4 << numbers.below(9);
        let end = address + kib * 1024;
        let file = i / 2 % n_paths;
        let path = match i % 2 {
            0 => String::new(),
            _ => format!("{directory}/libsomething-{file}.so.6"),
        };
        // The kernel pads the part before the path to 73 columns (seq_pad in fs/proc/task_mmu.c).
        let before = format!("{address:08x}-{end:08x} rw-p {:08x} fe:00 {}", 0, 240_000 + file);
        let _ = if path.is_empty() {
            writeln!(text, "{before} ") // writing to a String cannot fail
        } else {
            writeln!(text, "{before:72} {path}")
        };
        for key in KEYS {
            let value = match key {
                "Size" => kib,
                "KernelPageSize" | "MMUPageSize" => 4,
                "Rss" | "Pss" | "Pss_Dirty" | "Private_Dirty" | "Referenced" | "Anonymous" => {
                    numbers.below(kib + 1)
                }
                _ => 0,
            };
            let _ = writeln!(text, "{:16}{value:8} kB", format!("{key}:"));
        }
        text.push_str("THPeligible:           0\nProtectionKey:         0\nVmFlags: rd wr mr mw me ac sd \n");
        address = end + 0x1000;
    }
    text
}

/// Writes those files of a version 2 cgroup that the exporter reads.
fn write_cgroup(directory: &Path, numbers: &mut Numbers) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut stat = String::new();
    for key in
        ["anon", "file", "kernel", "shmem", "inactive_file", "slab", "workingset_refault_anon", "pgfault"]
    {
        let _ = writeln!(stat, "{key} {}", numbers.below(1 << 30)); // writing to a String cannot fail
    }
    let pressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total=12345\nfull avg10=0.00 avg60=0.00 \
                    avg300=0.00 total=1234\n";
    for (name, text) in [
        ("memory.current", "268435456\n"),
        ("memory.max", "536870912\n"),
        ("memory.stat", &stat),
        ("memory.events", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n"),
        ("memory.pressure", pressure),
        ("cpu.stat", "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n"),
        ("pids.current", "4\n"),
        ("pids.max", "max\n"),
    ] {
        fs::write(directory.join(name), text)?;
    }
    Ok(())
}

/// A recording in a temporary directory. The directory is removed when the recording is dropped.
pub struct Recording {
    pub directory: PathBuf,
}

/// The size of a recording. Each container has one command.
#[derive(Clone, Copy)]
pub struct Size {
    pub n_containers: usize,
    pub n_processes: usize,
    pub n_mappings: usize,
    pub n_paths: usize,
    /// The number of containers that have smaps files of their own. The other containers have hard links to
    /// these files, so that all smaps texts fit into the CPU's cache. On a live node, each text is in the
    /// cache too, because the kernel has just printed it.
    pub n_distinct: usize,
}

impl Recording {
    /// Creates a recording without processes. The caller adds the directory `proc`.
    pub fn empty(name: &str, containers: &str) -> io::Result<Self> {
        let directory = std::env::temp_dir().join(format!("smaps-bench-{}-{name}", std::process::id()));
        fs::create_dir(&directory)?;
        let recording = Self { directory };
        let header = "id\tinit_pid\tnamespace\tpod\tcontainer\n";
        fs::write(recording.directory.join("containers.tsv"), format!("{header}{containers}"))?;
        Ok(recording)
    }

    /// Creates a recording of this size.
    pub fn generate(size: Size) -> io::Result<Self> {
        let mut containers = String::new();
        for c in 0..size.n_containers {
            let init_pid = 1 + c * size.n_processes;
            let _ = writeln!(containers, "{c:064x}\t{init_pid}\tbench\tworkload-{c}-7d4b9c6f5-x2x{c}\tapp");
        }
        let recording = Self::empty(&format!("{}", size.n_containers), &containers)?;
        let proc = recording.directory.join("proc");
        let process = |c: usize, p: usize| proc.join((1 + c * size.n_processes + p).to_string());
        let mut numbers = Numbers(88_172_645_463_325_252);
        let cgroups = recording.directory.join("cgroup");
        fs::create_dir(&cgroups)?;
        fs::write(cgroups.join("cgroup.controllers"), "cpu memory pids\n")?;
        fs::write(cgroups.join("memory.stat"), "anon 1\nfile 2\n")?;
        for top in ["kubepods", "system.slice"] {
            write_cgroup(&cgroups.join(top), &mut numbers)?;
        }
        fs::create_dir_all(&proc)?;
        for (name, text) in [
            ("meminfo", "MemTotal: 16384000 kB\nMemFree: 400 kB\n"),
            ("zoneinfo", "count: 1\n"),
            ("vmstat", "nr_free_pages 100\n"),
        ] {
            fs::write(proc.join(name), text)?;
        }
        for c in 0..size.n_containers {
            let pod = format!("kubepods/burstable/pod{c:032x}");
            let place = format!("{pod}/{c:064x}");
            write_cgroup(&cgroups.join(&pod), &mut numbers)?;
            write_cgroup(&cgroups.join(&place), &mut numbers)?;
            let cgroup = format!("0::/{place}\n");
            for p in 0..size.n_processes {
                let directory = process(c, p);
                fs::create_dir_all(&directory)?;
                fs::write(directory.join("cgroup"), &cgroup)?;
                fs::write(directory.join("comm"), "server\n")?;
                let smaps_path = directory.join("smaps");
                if c < size.n_distinct {
                    let text =
                        smaps(size.n_mappings, size.n_paths, "/usr/lib/x86_64-linux-gnu", &mut numbers);
                    fs::write(smaps_path, text)?;
                } else {
                    fs::hard_link(process(c % size.n_distinct, p).join("smaps"), smaps_path)?;
                }
            }
        }
        Ok(recording)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}
