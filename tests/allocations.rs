//! Tests that a scrape allocates no memory after the first few scrapes. The test counts the allocations of
//! the scraping thread, with a recording and with live processes.
//!
//! This test has a crate of its own, because its allocator applies to the whole program.

#[path = "bench/counting.rs"]
mod counting;
#[path = "bench/generated.rs"]
mod generated;
#[path = "bench/scrapes.rs"]
mod scrapes;

use std::io;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use counting::{Allocations, Counting};
use generated::{Recording, Size};
use scrapes::Scrapes;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The number of scrapes before the measurement. After five scrapes, no buffer grows any more, including the
/// two buffers of expositions and the two tables of processes.
const N_WARM_UP: usize = 5;
const N_STEADY: usize = 10;

#[test]
fn steady_scrape_allocates_nothing() {
    let all: &[&str] = &["--filter", "*/*/*/*", "--cpu-budget", "0"];
    let with = |more: &'static [&'static str]| [all, more].concat();
    let size = Size { n_containers: 5, n_processes: 4, n_mappings: 60, n_paths: 20, n_distinct: 5 };
    let recording = Recording::generate(size).unwrap();
    for options in [
        all.to_vec(),
        with(&["--pid"]),
        with(&["--group-by", "kind"]),
        with(&["--group-by", "process"]),
        with(&["--max-samples", "500"]),
        with(&["--omit-zero", "--fields", "rss,pss"]),
        with(&["--cgroup-metrics", "memory,cpu,pids"]),
    ] {
        let mut scrape = Scrapes::new(&recording.directory, &options).always_reading();
        assert_steady(&mut scrape, &format!("a recording with {options:?}"));
        assert_eq!(scrape.value("smaps_exporter_processes"), 20.0);
        assert!(scrape.size().1 > 0.0, "{options:?} exports nothing");
        let exposition = scrape.published.latest().expect("a scrape has run");
        let text = exposition.text.bytes().expect("the latest stays");
        let text = str::from_utf8(&text).expect("an exposition is UTF-8");
        assert!(text.contains("\ncgroup_memory_limit_bytes{"), "{options:?} exports no account");
        assert_eq!(
            text.contains("\ncgroup_pod_memory_outside_containers_bytes{")
                && text.contains("\ncgroup_node_memory_bytes{part=\"pods\"}"),
            !options.contains(&"memory,cpu,pids"),
            "{options:?}: pods and the node"
        );
    }

    let sleepers: Vec<Sleeper> = (0..4).map(|_| Sleeper::start().unwrap()).collect();
    let containers = format!("id\t{}\tlive\tpod\tcontainer\n", sleepers[0].0.id());
    let live = Recording::empty("allocations", &containers).unwrap();
    std::os::unix::fs::symlink("/proc", live.directory.join("proc")).unwrap();
    // The recording links to the real /proc. Its container has the cgroup that this test runs in. Other
    // processes start and end in this cgroup. So the filter selects only processes with the name `cat`, such
    // as the sleepers.
    let options =
        ["--filter", "live/pod/container/cat", "--cpu-budget", "0", "--cgroup-path", "/sys/fs/cgroup"];
    for (mut scrape, n_unchanged) in [
        (Scrapes::new(&live.directory, &options).always_reading(), 0),
        (Scrapes::new(&live.directory, &options), 4),
    ] {
        assert_steady_between_events(&mut scrape);
        assert!(scrape.value("smaps_exporter_processes") >= sleepers.len() as f64);
        assert!(scrape.value("smaps_exporter_mappings") >= 10.0 * sleepers.len() as f64);
        let unchanged = scrape.value("smaps_exporter_reads_total{kind=\"unchanged\"}");
        assert!(
            if n_unchanged == 0 { unchanged == 0.0 } else { unchanged >= f64::from(n_unchanged) },
            "{unchanged}"
        );
    }
}

/// Asserts that scrapes after the first [`N_WARM_UP`] allocate no memory.
fn assert_steady(scrape: &mut Scrapes, what: &str) {
    (0..N_WARM_UP).for_each(|_| scrape.run());
    let counted: Vec<Allocations> = (0..N_STEADY).map(|_| counting::during(|| scrape.run())).collect();
    assert_eq!(counted, [Allocations::default(); N_STEADY], "{what}");
}

/// Scrapes until [`N_STEADY`] scrapes have allocated nothing. Fails if this takes longer than 120 s.
///
/// A scrape of a live machine may allocate if it finds a new process or a new cgroup. Such scrapes are not
/// counted, so the test also passes on a busy machine.
fn assert_steady_between_events(scrape: &mut Scrapes) {
    (0..N_WARM_UP).for_each(|_| scrape.run());
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut n_steady = 0;
    while n_steady < N_STEADY {
        let allocations = counting::during(|| scrape.run());
        n_steady += usize::from(allocations == Allocations::default());
        assert!(
            Instant::now() < deadline,
            "{n_steady} scrapes without an allocation, lately {allocations:?}"
        );
    }
}

/// A process that waits for the end of its input, and then exits.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> io::Result<Self> {
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().map(Self)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
