//! Measures the costs of the exporter for `make bench`. Each cost is a ratio to something that is measured in
//! the same run.
//!
//! `cargo bench --bench bench -- scanner budget` runs only these two parts. `-- --short` runs every part once
//! on little data, to show that it works.

mod counting;
mod demand;
mod generated;
mod resident;
mod scrapes;
mod table;
mod workload;

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use procfs::FromBufRead;
use procfs::process::MemoryMaps;
use smaps_container_exporter::http::gzip::Compressor;
use smaps_container_exporter::procfs::files::Entries;
use smaps_container_exporter::smaps::scanner::Scanner;

use crate::counting::Counting;
use crate::generated::{Numbers, Recording, Size};
use crate::scrapes::Scrapes;
use crate::table::Target::{self, AtLeast, AtMost};
use crate::table::{IS_SHORT, full_or_short, heading, rate, ratio, rounds, single, time};
use crate::workload::Workload;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The function that runs a part of the bench.
type Part = fn() -> io::Result<()>;

const PARTS: [(&str, Part); 10] = [
    ("scanner", scanner),
    ("scrape", scrape),
    ("small", small),
    ("size", size),
    ("memory", memory),
    ("budget", budget),
    ("rollup", rollup),
    ("fold", fold),
    ("gzip", gzip),
    ("demand", demand::demand),
];

/// The default size of a generated recording. Some parts of the bench set another number of containers.
const SIZE: Size = Size { n_containers: 10, n_processes: 10, n_mappings: 100, n_paths: 42, n_distinct: 10 };

/// Options with which each scrape reads and exports everything.
const ALL: [&str; 6] = ["--filter", "*/*/*/*", "--cpu-budget", "0", "--max-samples", "0"];

fn main() -> io::Result<()> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if let [role, comm, n_touched, files @ ..] = &args[..]
        && role == workload::ROLE
        && let Some(n_touched) = n_touched.to_str().and_then(|n| n.parse().ok())
    {
        return workload::play(comm, n_touched, files.first().map(Path::new));
    }
    let args: Vec<_> = args.iter().map(|arg| arg.to_str().expect("arguments are text")).collect();
    if let [resident::ROLE, args @ ..] = &args[..] {
        return resident::play(args);
    }
    IS_SHORT.store(args.contains(&"--short"), Ordering::Relaxed);
    let named: Vec<_> = args.into_iter().filter(|arg| !arg.starts_with("--")).collect();
    for (name, part) in PARTS {
        if named.is_empty() || named.contains(&name) {
            part()?;
        }
    }
    println!(
        "\nbench: all parts have ended{}",
        full_or_short("", ", in the short form: the figures mean nothing")
    );
    Ok(())
}

/// Compares the scanner with counting newlines and with the procfs crate. All three work on text in memory.
fn scanner() -> io::Result<()> {
    let generated = generated::smaps(5000, 400, "/usr/lib/x86_64-linux-gnu", &mut Numbers(1)).into_bytes();
    let recorded = readable_texts(Path::new("fixtures/smaps"))?;
    for (name, text, is_asked) in
        [("generated, 5,000 mappings", generated, true), ("fixtures/smaps", recorded, false)]
    {
        let target = |target| if is_asked { target } else { Target::None };
        heading(&format!("scanner: {name}, {:.1} MB", text.len() as f64 / 1e6));
        let mut learned_scanner = Scanner::default();
        let mut general_scanner = Scanner::general();
        // With these numbers of bytes, each function below runs for about 30 ms. This is so long that the
        // initial contents of the processor's caches do not matter.
        const N_BYTES: [usize; 4] = [300_000_000, 40_000_000, 600_000_000, 8_000_000];
        let n_times = N_BYTES.map(|n_bytes: usize| full_or_short(n_bytes, 1).div_ceil(text.len()));
        let mut seconds = rounds(
            31,
            [
                &mut || (0..n_times[0]).for_each(|_| scan(&mut learned_scanner, &text)),
                &mut || (0..n_times[1]).for_each(|_| scan(&mut general_scanner, &text)),
                &mut || {
                    (0..n_times[2]).for_each(|_| {
                        black_box(memchr::memchr_iter(b'\n', black_box(&text)).count());
                    });
                },
                &mut || {
                    (0..n_times[3]).for_each(|_| {
                        black_box(MemoryMaps::from_buf_read(&text[..]).expect("the procfs crate reads it"));
                    });
                },
            ],
        );
        for (seconds, n_times) in seconds.iter_mut().zip(n_times) {
            seconds.iter_mut().for_each(|seconds| *seconds /= n_times as f64);
        }
        let [learned, general, newlines, procfs] = seconds;
        let gigabytes = text.len() as f64 / 1e9;
        rate("learned way", gigabytes, &learned, "GB/s", target(AtLeast(5.0)));
        rate("general way", gigabytes, &general, "GB/s", target(AtLeast(0.8)));
        rate("counting newlines (memchr)", gigabytes, &newlines, "GB/s", Target::None);
        rate("procfs crate", gigabytes, &procfs, "GB/s", Target::None);
        ratio("learned way: share of the speed of newlines", &newlines, &learned, target(AtLeast(0.2)));
        ratio("learned way: faster than the procfs crate", &procfs, &learned, target(AtLeast(60.0)));
    }
    Ok(())
}

/// Returns the `.smaps` files in `directory` as one text. Leaves out files that the procfs crate cannot
/// parse.
fn readable_texts(directory: &Path) -> io::Result<Vec<u8>> {
    let mut paths =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "smaps"));
    paths.sort();
    let texts = paths.iter().map(fs::read).collect::<io::Result<Vec<_>>>()?;
    let are_readable = |texts: &[&[u8]]| MemoryMaps::from_buf_read(&texts.concat()[..]).is_ok();
    let mut readable: Vec<&[u8]> = Vec::new();
    for text in &texts {
        readable.push(text);
        if !are_readable(&readable) {
            readable.pop();
        }
    }
    Ok(readable.concat())
}

fn scan(scanner: &mut Scanner, text: &[u8]) {
    let mut rest = black_box(text);
    while let Some((mapping, n_bytes, next)) = scanner.next(rest, true) {
        black_box((mapping, next));
        rest = &rest[n_bytes..];
    }
}

/// Compares a whole scrape of live processes with only reading the smaps of the processes. Also counts the
/// allocations of a scrape.
fn scrape() -> io::Result<()> {
    const N_PROCESSES: usize = 50;
    let few: fn(usize) -> io::Result<Workload> = Workload::few_series;
    for (name, start, bound) in
        [("one command", few, 1.05), ("50 commands of 40 mapped files each", Workload::many_series, 1.15)]
    {
        let workload = start(N_PROCESSES)?;
        heading(&format!(
            "whole scrape: {N_PROCESSES} live processes of {} mappings, {name}",
            workload::N_MAPPINGS
        ));
        let filter = workload.filter();
        let options = ["--filter", &filter, "--cpu-budget", "0", "--anon-parts"];
        let scrapes = |parts| Scrapes::new(workload.fixture(), &[&options[..], &[parts]].concat());
        let [mut scrape, mut without] = ["on", "off"].map(|parts| scrapes(parts).always_reading());
        let paths: Vec<String> = workload.pids().map(|pid| format!("/proc/{pid}/smaps")).collect();
        let mut buffer = vec![0; 64 * 1024];
        let mut floor = || paths.iter().for_each(|path| read_to_end(path, &mut buffer));
        let [whole, without, floor] = rounds(101, [&mut || scrape.run(), &mut || without.run(), &mut floor]);
        let allocations = counting::during(|| scrape.run());
        assert_eq!(scrape.value("smaps_exporter_processes"), N_PROCESSES as f64);
        let (n_bytes, n_samples) = scrape.size();
        time("scrape, CPU", &whole, 1e3, "ms", Target::None);
        time("read floor: open, read, close; CPU", &floor, 1e3, "ms", Target::None);
        ratio("scrape over read floor", &whole, &floor, AtMost(bound));
        ratio("scrape over one with --anon-parts off", &whole, &without, AtMost(1.01));
        single("mappings", scrape.value("smaps_exporter_mappings"), "", Target::None);
        single("samples", n_samples, "", Target::None);
        single("exposition", n_bytes / 1e6, "MB", Target::None);
        single("heap allocations per steady scrape", allocations.n_allocations as f64, "", AtMost(0.0));
        single("allocated bytes per steady scrape", allocations.n_bytes as f64, "", AtMost(0.0));
    }
    Ok(())
}

/// Measures scrapes of small processes when there are many processes outside containers. Such scrapes show
/// best how much CPU time is used by everything except reading smaps.
fn small() -> io::Result<()> {
    const N_SELECTED: usize = 200;
    const N_OTHERS: usize = 300;
    heading(&format!(
        "whole scrape: {N_SELECTED} live processes of 25 mappings beside {N_OTHERS} outside containers"
    ));
    let workload = match Workload::in_a_cgroup(N_SELECTED, N_OTHERS) {
        Ok(workload) => workload,
        Err(error) => {
            println!("  skipped, because making a cgroup needs root: {error}");
            return Ok(());
        }
    };
    let options = ["--filter", &workload.filter(), "--cpu-budget", "0"];
    let mut scrape = Scrapes::new(workload.fixture(), &options).always_reading();
    let mut confirming = Scrapes::new(workload.fixture(), &options);
    let paths: Vec<String> =
        workload.pids().take(N_SELECTED).map(|pid| format!("/proc/{pid}/smaps")).collect();
    let (mut buffer, mut entries) = (vec![0; 64 * 1024], Entries::default());
    let mut floor = || {
        let proc = File::open("/proc").expect("proc is there");
        entries.list(proc.as_fd(), |_, _| {}).expect("it can be listed");
        paths.iter().for_each(|path| read_to_end(path, &mut buffer));
    };
    let [whole, confirmed, floor] = rounds(101, [&mut || scrape.run(), &mut || confirming.run(), &mut floor]);
    assert_eq!(scrape.value("smaps_exporter_processes"), N_SELECTED as f64);
    let n_mappings = scrape.value("smaps_exporter_mappings") / N_SELECTED as f64;
    time("scrape, CPU", &whole, 1e3, "ms", Target::None);
    time("read floor: one listing of proc; open, read, close; CPU", &floor, 1e3, "ms", Target::None);
    ratio("scrape over read floor, if everything is read", &whole, &floor, AtMost(1.15));
    ratio("scrape over read floor, as these processes are quiet", &confirmed, &floor, AtMost(1.15));
    single("mappings per process", n_mappings, "", Target::None);
    Ok(())
}

/// Opens, reads and closes a file. This is the least work that reading it can take.
fn read_to_end(path: &str, buffer: &mut [u8]) {
    let mut file = File::open(path).expect("the process lives");
    while file.read(buffer).expect("smaps can be read") > 0 {}
}

/// Measures the CPU time per mapping for recordings of increasing size. The time per mapping must not
/// increase.
fn size() -> io::Result<()> {
    let sizes = full_or_short([10, 100, 1000], [10, 20, 30]);
    heading("cost over size: recordings of containers of 10 processes of 100 mappings");
    let mut first = Vec::new();
    for n_containers in sizes {
        let size = Size { n_containers, ..SIZE };
        let recording = Recording::generate(size)?;
        let mut scrape = Scrapes::new(&recording.directory, &ALL).always_reading();
        let n_scrapes = 1000 / n_containers;
        let [whole] = rounds(7, [&mut || (0..n_scrapes).for_each(|_| scrape.run())]);
        let n_mappings = (n_scrapes * n_containers * 1000) as f64;
        let (n_bytes, n_samples) = scrape.size();
        let a_mapping: Vec<f64> = whole.iter().map(|seconds| seconds / n_mappings).collect();
        time(&format!("{n_containers} containers: CPU per mapping"), &a_mapping, 1e9, "ns", Target::None);
        single("samples", n_samples, "", Target::None);
        single("exposition", n_bytes / 1e6, "MB", Target::None);
        if first.is_empty() {
            first = a_mapping;
        } else {
            ratio(
                &format!("{n_containers} containers against {}", sizes[0]),
                &a_mapping,
                &first,
                AtMost(1.3),
            );
        }
    }
    Ok(())
}

/// Measures resident memory for expositions of several sizes, and how much it grows in a thousand scrapes.
fn memory() -> io::Result<()> {
    let n_scrapes = full_or_short([10, 100, 1000], [1, 2, 3]);
    heading("resident memory of a process that runs scrapes");
    let row = |name: &str, fixture: &Path, options: &[&str], n_scrapes: [usize; 3]| -> io::Result<()> {
        let mut scrape = Scrapes::new(fixture, options).always_reading();
        scrape.run();
        let (n_bytes, n_samples) = scrape.size();
        let [first, second, last] = resident::bytes_after(fixture, options, n_scrapes)?;
        single(&format!("{name}: exposition"), n_bytes / 1e6, "MB", Target::None);
        single(
            &format!("resident, {} scrapes", n_scrapes[2]),
            last / 1e6,
            "MB",
            AtMost(round((4 << 20) as f64 / 1e6 + 2.2 * n_bytes / 1e6)),
        );
        single("bytes per sample", last / n_samples, "B", Target::None);
        single(
            &format!("{} scrapes against {}", n_scrapes[1], n_scrapes[0]),
            second / first,
            "times",
            AtMost(1.02),
        );
        single(
            &format!("{} scrapes against {}", n_scrapes[2], n_scrapes[0]),
            last / first,
            "times",
            AtMost(1.02),
        );
        Ok(())
    };
    for n_containers in [10, 50] {
        let size = Size { n_containers, ..SIZE };
        let recording = Recording::generate(size)?;
        row(&format!("recording, {n_containers} containers"), &recording.directory, &ALL, n_scrapes)?;
    }
    let workload = Workload::many_series(50)?;
    let options = ["--filter", &workload.filter(), "--cpu-budget", "0"];
    row(
        "50 live processes, 2,500 paths",
        workload.fixture(),
        &options,
        full_or_short([10, 50, 100], [1, 2, 3]),
    )
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Measures the CPU time of reads with `--cpu-budget`. Without a budget, the reads would use six times as
/// much CPU time as the budget allows.
fn budget() -> io::Result<()> {
    const NEEDED: f64 = 0.3;
    const FRACTION: f64 = 0.05;
    let n_scrapes = full_or_short(150, 5);
    heading("--cpu-budget 0.05 over live processes that would need 0.3 of a core");
    let workload = Workload::few_series(50)?;
    let filter = workload.filter();
    let mut unlimited =
        Scrapes::new(workload.fixture(), &["--filter", &filter, "--cpu-budget", "0"]).always_reading();
    (0..5).for_each(|_| unlimited.run());
    let before = unlimited.value("smaps_exporter_read_seconds_total");
    unlimited.run();
    let all = unlimited.value("smaps_exporter_read_seconds_total") - before;
    drop(unlimited);
    let interval = Duration::from_secs_f64(all / NEEDED);
    let mut scrape =
        Scrapes::new(workload.fixture(), &["--filter", &filter, "--cpu-budget", &FRACTION.to_string()])
            .always_reading();
    scrape.run(); // the first scrape reads everything
    let read_before = scrape.value("smaps_exporter_read_seconds_total");
    let began = Instant::now();
    let mut oldest: f64 = 0.0;
    for i in 1..=n_scrapes {
        thread::sleep((began + i * interval).saturating_duration_since(Instant::now()));
        scrape.run();
        oldest = oldest.max(scrape.value("smaps_exporter_oldest_data_seconds"));
        assert_eq!(scrape.value("smaps_exporter_processes"), 50.0);
    }
    let elapsed = began.elapsed().as_secs_f64();
    let share = (scrape.value("smaps_exporter_read_seconds_total") - read_before) / elapsed;
    single("reading everything once", all * 1e3, "ms", Target::None);
    single("interval", interval.as_secs_f64() * 1e3, "ms", Target::None);
    single("share of a core that reading took", share, "", AtMost(FRACTION * 1.2));
    single("the same", share, "", AtLeast(FRACTION * 0.8));
    single("oldest values ever served", oldest, "s", Target::None);
    single("reading everything once, at that share", all / FRACTION, "s", Target::None);
    Ok(())
}

/// Measures how much CPU time a scrape saves if it reads only the kernel's sums of each process instead of
/// all mappings.
fn rollup() -> io::Result<()> {
    heading("--group-by process: 50 live processes of 200 small mappings");
    let workload = Workload::small(50)?;
    let filter = workload.filter();
    let options = ["--filter", &filter, "--cpu-budget", "0", "--fields", "rss,pss,private_dirty,swap"];
    let mut by_path = Scrapes::new(workload.fixture(), &options).always_reading();
    let mut by_process =
        Scrapes::new(workload.fixture(), &[&options[..], &["--group-by", "process"]].concat())
            .always_reading();
    let [process, path] = rounds(21, [&mut || by_process.run(), &mut || by_path.run()]);
    time("by path, CPU per scrape", &path, 1e3, "ms", Target::None);
    time("by process, CPU per scrape", &process, 1e3, "ms", Target::None);
    ratio("by process over by path", &process, &path, AtMost(0.4));
    Ok(())
}

/// Measures folding, which sums series into `[other]` to stay within the sample limit. Shows how much CPU
/// time this takes and how much memory it saves.
fn fold() -> io::Result<()> {
    heading("--max-samples 100000: a recording of 1,000 containers");
    let recording = Recording::generate(Size { n_containers: full_or_short(1000, 10), ..SIZE })?;
    let folded = [&ALL[..5], &["100000"]].concat();
    let mut all_scrape = Scrapes::new(&recording.directory, &ALL).always_reading();
    let mut folded_scrape = Scrapes::new(&recording.directory, &folded).always_reading();
    let [with, without] = rounds(5, [&mut || folded_scrape.run(), &mut || all_scrape.run()]);
    single("samples without", all_scrape.size().1, "", Target::None);
    single("samples with", folded_scrape.size().1, "", AtMost(100_000.0));
    drop((all_scrape, folded_scrape));
    time("CPU per scrape without", &without, 1e3, "ms", Target::None);
    ratio("CPU with over without", &with, &without, AtMost(1.3));
    let [without] = resident::bytes_after(&recording.directory, &ALL, [5])?;
    let [with] = resident::bytes_after(&recording.directory, &folded, [5])?;
    single("resident without", without / 1e6, "MB", Target::None);
    single("resident with over without", with / without, "times", AtMost(0.25));
    Ok(())
}

/// Measures how much CPU time compressing an exposition takes and how many bytes it saves.
fn gzip() -> io::Result<()> {
    heading("gzip of an exposition");
    let recording = Recording::generate(Size { n_containers: 60, n_distinct: 60, ..SIZE })?;
    let mut scrape = Scrapes::new(&recording.directory, &ALL).always_reading();
    let published = scrape.published.clone();
    let mut compressor = Compressor::default();
    let mut n_bytes = 0;
    let [_, gzip] = rounds(
        9,
        [&mut || scrape.run(), &mut || {
            let number = published.latest().expect("a scrape has run").number;
            n_bytes = loop {
                if let Some(gzipped) = compressor.advance(&published, number) {
                    break gzipped.bytes.as_ref().expect("it shrinks").n_bytes();
                }
            };
        }],
    );
    let exposition = published.latest().expect("a scrape has run");
    single("exposition", exposition.text.n_bytes() as f64 / 1e6, "MB", Target::None);
    time("CPU", &gzip, 1e3, "ms", AtMost(60.0));
    let smaller = exposition.text.n_bytes() as f64 / n_bytes as f64;
    single("times smaller", smaller, "times", AtLeast(15.0));
    Ok(())
}
