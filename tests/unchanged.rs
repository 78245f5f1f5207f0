//! Tests that a skipped read gives the same values as a read. A generated /proc changes step by step. One
//! scraper skips unchanged processes, and a second scraper reads all processes.

use std::fmt::Write as _;

use crate::scrapes::Scrapes;
use crate::support::{Directory, Numbers};

const N_STEPS: usize = 1000;
const N_PROCESSES: u32 = 3;
const N_MAPPINGS: u64 = 200;

/// A mapping. Its values are in KiB, in the order of [`KEYS`].
struct Mapping {
    pages: u64,
    path: String,
    values: [u64; KEYS.len()],
}

/// Other keys that the kernel prints. In this test, their values are always 0.
const ZEROS: [&str; 13] = [
    "Pss_Dirty",
    "Shared_Dirty",
    "Private_Clean",
    "Anonymous",
    "KSM",
    "LazyFree",
    "AnonHugePages",
    "ShmemPmdMapped",
    "FilePmdMapped",
    "Shared_Hugetlb",
    "Private_Hugetlb",
    "SwapPss",
    "Locked",
];

const KEYS: [&str; 6] = ["Rss", "Pss", "Shared_Clean", "Private_Dirty", "Referenced", "Swap"];

struct Process {
    pid: u32,
    comm: String,
    n_faults: u64,
    mappings: Vec<Mapping>,
}

impl Process {
    fn new(pid: u32, numbers: &mut Numbers) -> Self {
        let mapping = |i| Mapping {
            pages: 1 + numbers.below(64),
            path: if i % 3 == 0 { String::new() } else { format!("/lib/{}.so", i % 40) },
            values: [(); KEYS.len()].map(|()| 4 * numbers.below(64)),
        };
        Self { pid, comm: format!("p{pid}"), n_faults: 0, mappings: (0..N_MAPPINGS).map(mapping).collect() }
    }

    /// Makes a random change to the process. Returns the kind of the change.
    fn step(&mut self, numbers: &mut Numbers) -> &'static str {
        let what = numbers.below(12);
        let i = numbers.below(self.mappings.len() as u64) as usize;
        let value = 4 * numbers.below(64);
        let mapping = &mut self.mappings[i];
        match what {
            0 => {
                mapping.values[numbers.below(KEYS.len() as u64) as usize] = value;
                self.n_faults += 1;
                "the process has worked"
            }
            1 => {
                mapping.values[numbers.below(KEYS.len() as u64) as usize] = value;
                "other processes have changed its memory"
            }
            2 => {
                mapping.path = format!("/renamed/{value}");
                "a file is renamed"
            }
            3 if mapping.pages > 1 => {
                let pages = mapping.pages / 2;
                mapping.pages -= pages;
                let path = mapping.path.clone();
                self.mappings.insert(i + 1, Mapping { pages, path, values: [0; KEYS.len()] });
                "a mapping is split"
            }
            4 => {
                // `stat` shows a backslash in another form than `comm`.
                self.comm = format!("p{}{}", self.pid, ["-0", "-1", "\\2"][numbers.below(3) as usize]);
                "the process has another name"
            }
            5 if self.mappings.len() as u64 > N_MAPPINGS => {
                self.mappings.remove(i);
                self.n_faults += 1;
                "a mapping is gone"
            }
            _ => "nothing",
        }
    }

    fn write(&self, proc: &Directory) {
        let (mut smaps, mut maps, mut sums) = (String::new(), String::new(), [0; KEYS.len()]);
        let mut address = 0x7f00_0000_0000_u64;
        for Mapping { pages, path, values } in &self.mappings {
            let end = address + pages * 4096;
            let line = format!("{address:08x}-{end:08x} rw-p 00000000 fe:00 7 {path}\n");
            maps += &line;
            let _ = writeln!(smaps, "{line}Size:           {:8} kB", pages * 4);
            for ((key, value), sum) in KEYS.iter().zip(values).zip(&mut sums) {
                let _ = writeln!(smaps, "{:<15}{value:>9} kB", format!("{key}:"));
                *sum += value;
            }
            for key in ZEROS {
                let _ = writeln!(smaps, "{:<15}{:>9} kB", format!("{key}:"), 0);
            }
            address = end + 4096;
        }
        let mut rollup = format!("7f0000000000-{address:08x} ---p 00000000 00:00 0 [rollup]\n");
        for (key, sum) in KEYS.iter().zip(sums) {
            let _ = writeln!(rollup, "{:<15}{sum:>9} kB", format!("{key}:"));
        }
        let Self { pid, n_faults, .. } = self;
        let comm = self.comm.replace('\\', "\\\\");
        let stat = format!("{pid} ({comm}) S 1 1 1 0 -1 4194304 {n_faults} 0 0 0 1 1 0 0 20 0 1 0 7 9 9 0\n");
        proc.process(self.pid, &self.comm, smaps);
        for (name, text) in [("maps", maps), ("smaps_rollup", rollup), ("stat", stat)] {
            proc.write(&format!("proc/{}/{name}", self.pid), text);
        }
    }
}

fn samples(scrape: &Scrapes) -> Vec<String> {
    let exposition = scrape.published.latest().unwrap();
    let text = exposition.text.bytes().expect("the latest stays");
    let text = str::from_utf8(&text).unwrap();
    text.lines().filter(|line| line.starts_with("process_smaps_")).map(str::to_owned).collect()
}

#[test]
fn skipped_reads_give_the_values_of_a_read() {
    let mut numbers = Numbers(26);
    let proc = Directory::new();
    proc.one_container();
    let mut processes: Vec<Process> = (1..=N_PROCESSES).map(|pid| Process::new(pid, &mut numbers)).collect();
    processes.iter().for_each(|process| process.write(&proc));
    let options = ["--filter", "*/*/*/*", "--cpu-budget", "0", "--scrape-interval", "24h"];
    let mut confirming = Scrapes::new(proc.path(), &options);
    let mut reading = Scrapes::new(proc.path(), &options).always_reading();
    for step in 0..N_STEPS {
        let i = numbers.below(N_PROCESSES.into()) as usize;
        let what = processes[i].step(&mut numbers);
        if what != "nothing" {
            processes[i].write(&proc);
        }
        confirming.run();
        reading.run();
        assert!(confirming.size().1 > 0.0);
        assert_eq!(samples(&confirming), samples(&reading), "step {step}: {what}");
    }
    let reads = |kind| confirming.value(&format!("smaps_exporter_reads_total{{kind=\"{kind}\"}}"));
    // The number of skipped reads depends on this machine. It depends on how long it takes to check a process
    // for changes, and how long it takes to read the process.
    println!("{} reads unchanged, {} of smaps", reads("unchanged"), reads("smaps"));
    assert!(reads("unchanged") > 100.0, "{} and {}", reads("unchanged"), reads("smaps"));
}

/// A recording has neither `stat` nor `smaps_rollup`, so the exporter compares the times, size and inode of a
/// file to find out whether it has changed. File systems may record times in steps of a second. So a file
/// that was written in the last second is always read again, because it may change again without a new time.
///
/// The test sets no CPU budget. A budget is a fraction of the time between scrapes. In this test, each scrape
/// follows the last one immediately, so a budget would leave hardly any CPU time for reads.
#[test]
fn changed_recording_is_read_again() {
    let proc = Directory::new();
    proc.one_container();
    let smaps = |kib: u64| format!("00400000-00401000 rw-p 00000000 00:00 0 \nRss:            {kib:8} kB\n");
    proc.process(1, "app", smaps(4));
    let mut scrape =
        Scrapes::new(proc.path(), &["--filter", "*/*/*/*", "--cpu-budget", "0", "--scrape-interval", "24h"]);
    for kib in [4, 8, 8, 12, 16] {
        proc.process(1, "app", smaps(kib));
        scrape.run();
        let labels = "{namespace=\"shop\",pod=\"web-0\",container=\"app\",comm=\"app\",path=\"[anon]\"}";
        assert_eq!(scrape.value(&format!("process_smaps_rss_bytes{labels}")), (kib << 10) as f64);
    }
    assert_eq!(
        scrape.value("smaps_exporter_reads_total{kind=\"unchanged\"}"),
        0.0,
        "each file was written just now"
    );
}
