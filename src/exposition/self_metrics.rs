//! The exporter's own metrics: what it did, and the conventional `process_*` of itself.

use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cli::build_info;
use crate::exposition::text::{labelled, single};
use crate::node::filter::Filter;
use crate::procfs::{Entries, Failure};
use crate::totals::labels;

/// Why reads of processes came to nothing, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadErrors {
    /// smaps may not be opened.
    pub denied: u64,
    /// The process executed another program meanwhile.
    pub exec: u64,
    /// The process ended meanwhile.
    pub gone: u64,
    /// Anything else.
    pub io: u64,
}

impl ReadErrors {
    /// Counts one.
    pub fn count(&mut self, failure: &Failure) {
        match failure {
            Failure::Denied => self.denied += 1,
            Failure::Exec => self.exec += 1,
            Failure::Gone => self.gone += 1,
            Failure::Io(_) => self.io += 1,
        }
    }
}

/// What the last scrape found, and what all of them did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// How long the last scrape took, up to the rendering.
    pub scrape_duration: Duration,
    /// When it ended.
    pub scraped_at: SystemTime,
    /// Whether containerd answers; `None` when a recording is read.
    pub containerd_up: Option<bool>,
    /// Listings that failed.
    pub containerd_errors: u64,
    /// Containers known.
    pub n_containers: u64,
    /// Processes whose values are exported.
    pub n_processes: u64,
    /// Mappings that stand behind them.
    pub n_mappings: u64,
    /// Paths folded into `[other]`.
    pub n_folded: u64,
    /// The age of the oldest values that are exported.
    pub oldest_data: Duration,
    /// CPU time that went into reading processes.
    pub read_time: Duration,
    /// Reads that came to nothing.
    pub read_errors: ReadErrors,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            scrape_duration: Duration::ZERO,
            scraped_at: UNIX_EPOCH,
            containerd_up: None,
            containerd_errors: 0,
            n_containers: 0,
            n_processes: 0,
            n_mappings: 0,
            n_folded: 0,
            oldest_data: Duration::ZERO,
            read_time: Duration::ZERO,
            read_errors: ReadErrors::default(),
        }
    }
}

/// Renders the exporter's own families.
#[derive(Debug)]
pub struct Own {
    build_info: String,
    filters: Vec<String>,
    started_at: SystemTime,
    entries: Entries,
}

impl Own {
    /// For an exporter that starts now, with these filters.
    pub fn new(filters: &[Filter]) -> Self {
        let labels = |label: &str, value: &str| {
            let mut text = String::new();
            labels::push(&mut text, label, value);
            text
        };
        let build_info = labels("{version=\"", build_info::VERSION)
            + &labels(",revision=\"", build_info::REVISION)
            + &labels(",target=\"", &build_info::target())
            + "}";
        let filters = filters.iter().map(|filter| labels("{filter=\"", &filter.to_string()) + "}").collect();
        Self { build_info, filters, started_at: SystemTime::now(), entries: Entries::default() }
    }

    /// Appends the families to `text`; `n_samples` is how many samples stand in it so far.
    pub fn render(&mut self, text: &mut Vec<u8>, report: &Report, n_samples: u64) {
        let (gauge, counter) = ("gauge", "counter");
        labelled(text, "smaps_exporter_build_info", gauge, "What is running.", [(&self.build_info, 1)]);
        let filters = self.filters.iter().map(|labels| (labels, 1));
        labelled(
            text,
            "smaps_exporter_filter_info",
            gauge,
            "The filters by which processes are taken.",
            filters,
        );
        let seconds = report.scrape_duration.as_secs_f64();
        single(
            text,
            "smaps_exporter_scrape_duration_seconds",
            gauge,
            "How long the last scrape took, rendering left out.",
            seconds,
        );
        let scraped_at = report.scraped_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        single(
            text,
            "smaps_exporter_last_scrape_timestamp_seconds",
            gauge,
            "When the last scrape ended.",
            scraped_at.as_secs_f64(),
        );
        if let Some(up) = report.containerd_up {
            single(
                text,
                "smaps_exporter_containerd_up",
                gauge,
                "Whether containerd answered when it was asked last, and lives.",
                u8::from(up),
            );
        }
        single(
            text,
            "smaps_exporter_containerd_errors_total",
            counter,
            "Listings of containers that failed.",
            report.containerd_errors,
        );
        single(
            text,
            "smaps_exporter_containers",
            gauge,
            "Containers known, whether a filter takes them or not.",
            report.n_containers,
        );
        single(text, "smaps_exporter_processes", gauge, "Processes that were summed.", report.n_processes);
        single(text, "smaps_exporter_mappings", gauge, "Mappings that were summed.", report.n_mappings);
        single(
            text,
            "smaps_exporter_samples",
            gauge,
            "Samples of process_smaps_* in this exposition.",
            n_samples,
        );
        single(
            text,
            "smaps_exporter_folded_paths",
            gauge,
            "Paths folded into path=\"[other]\" to keep within --max-samples.",
            report.n_folded,
        );
        single(
            text,
            "smaps_exporter_oldest_data_seconds",
            gauge,
            "Age of the oldest values in this exposition.",
            report.oldest_data.as_secs_f64(),
        );
        single(
            text,
            "smaps_exporter_read_seconds_total",
            counter,
            "CPU time spent reading smaps.",
            report.read_time.as_secs_f64(),
        );
        let ReadErrors { denied, exec, gone, io } = report.read_errors;
        labelled(
            text,
            "smaps_exporter_read_errors_total",
            counter,
            "Reads of a process that came to nothing.",
            [
                ("{reason=\"denied\"}", denied),
                ("{reason=\"exec\"}", exec),
                ("{reason=\"gone\"}", gone),
                ("{reason=\"io\"}", io),
            ],
        );
        self.render_process(text);
    }

    /// The conventional metrics of a process, of this one; what the system does not tell is left out.
    fn render_process(&mut self, text: &mut Vec<u8>) {
        use rustix::process::{Resource, getrlimit};
        use rustix::time::{ClockId, clock_gettime};
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        single(
            text,
            "process_cpu_seconds_total",
            "counter",
            "Total user and system CPU time spent in seconds.",
            cpu,
        );
        if let Some((virtual_bytes, resident_bytes)) = memory() {
            single(
                text,
                "process_virtual_memory_bytes",
                "gauge",
                "Virtual memory size in bytes.",
                virtual_bytes,
            );
            single(
                text,
                "process_resident_memory_bytes",
                "gauge",
                "Resident memory size in bytes.",
                resident_bytes,
            );
        }
        if let Some(n_open) = self.n_open_files() {
            single(text, "process_open_fds", "gauge", "Number of open file descriptors.", n_open);
        }
        if let Some(limit) = getrlimit(Resource::Nofile).current {
            single(text, "process_max_fds", "gauge", "Maximum number of open file descriptors.", limit);
        }
        let started_at = self.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        single(
            text,
            "process_start_time_seconds",
            "gauge",
            "Start time of the process since unix epoch in seconds.",
            started_at.as_secs_f64(),
        );
    }

    fn n_open_files(&mut self) -> Option<u64> {
        let directory = fs::File::open("/proc/self/fd").ok()?;
        let mut n_open = 0;
        self.entries.each(directory.as_fd(), |name, _| n_open += u64::from(name[0].is_ascii_digit())).ok()?;
        Some(n_open - 1) // the directory itself
    }
}

/// The virtual and the resident size of this process, in bytes (proc.rst, table 1-3).
fn memory() -> Option<(u64, u64)> {
    use std::io::Read;
    let mut text = [0; 128]; // seven numbers
    let n = fs::File::open("/proc/self/statm").ok()?.read(&mut text).ok()?;
    let mut pages =
        std::str::from_utf8(&text[..n]).ok()?.split(' ').map_while(|number| number.parse::<u64>().ok());
    let page_bytes = rustix::param::page_size() as u64;
    Some((pages.next()? * page_bytes, pages.next()? * page_bytes))
}
