//! The exporter's own metrics: what it did, and the conventional `process_*` of itself.
//!
//! One table, filled in from a report of plain values: whoever knows them makes the report.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::text::{Kind, labelled, single};
use crate::totals::labels;

/// What the last scrape found, and what all of them did; what is not known is none.
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
    /// Links of the kubelet that no container was found by; `None` where containers are not listed by links.
    pub n_unmatched_links: Option<u64>,
    /// Containers that run.
    pub n_containers: u64,
    /// Processes whose values are exported.
    pub n_processes: u64,
    /// Mappings that stand behind them.
    pub n_mappings: u64,
    /// Samples of `process_smaps_*` in the exposition.
    pub n_samples: u64,
    /// Scrapes made.
    pub n_scrapes: u64,
    /// Reads that succeeded.
    pub reads: Reads,
    /// CPU time that went into reading processes.
    pub read_time: Duration,
    /// Reads that came to nothing.
    pub read_errors: ReadErrors,
    /// Processes whose read does not return.
    pub n_stuck: u64,
    /// The longest read of those that gave the values exported.
    pub longest_read: Duration,
    /// The node's vm.max_map_count.
    pub max_map_count: Option<u64>,
    /// Log lines that were dropped because standard error was not read.
    pub n_log_lines_dropped: u64,
    /// The exporter's own CPU time.
    pub cpu_time: Duration,
    /// Its virtual size in bytes.
    pub virtual_bytes: Option<u64>,
    /// Its resident size in bytes.
    pub resident_bytes: Option<u64>,
    /// Its open file descriptors.
    pub n_open_files: Option<u64>,
    /// As many it may have.
    pub max_open_files: Option<u64>,
}

/// Reads of processes that succeeded, by what was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Every mapping was read.
    pub smaps: u64,
    /// The kernel's sums were read.
    pub rollup: u64,
    /// Nothing had changed, so nothing was read.
    pub unchanged: u64,
    /// Nothing was read, because the container might have reached its limit meanwhile. The last values stay.
    pub deferred: u64,
}

/// Reads of processes that failed, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadErrors {
    /// smaps may not be opened.
    pub denied: u64,
    /// The process executed another program meanwhile.
    pub exec: u64,
    /// The process ended meanwhile.
    pub gone: u64,
    /// Its mappings changed while they were read, twice in a row; the last values stay.
    pub torn: u64,
    /// Its mappings took too long to print; their sum was read instead.
    pub slow: u64,
    /// The read did not return.
    pub stuck: u64,
    /// Anything else.
    pub io: u64,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            scrape_duration: Duration::ZERO,
            scraped_at: UNIX_EPOCH,
            containerd_up: None,
            containerd_errors: 0,
            n_unmatched_links: None,
            n_containers: 0,
            n_processes: 0,
            n_mappings: 0,
            n_samples: 0,
            n_scrapes: 0,
            reads: Reads::default(),
            read_time: Duration::ZERO,
            read_errors: ReadErrors::default(),
            n_stuck: 0,
            longest_read: Duration::ZERO,
            max_map_count: None,
            n_log_lines_dropped: 0,
            cpu_time: Duration::ZERO,
            virtual_bytes: None,
            resident_bytes: None,
            n_open_files: None,
            max_open_files: None,
        }
    }
}

/// Renders the exporter's own families.
#[derive(Debug)]
pub struct SelfMetrics {
    build_info: String,
    filters: Vec<String>,
    node: Option<String>,
    /// The CPU budget in cores; 0 means no limit.
    cpu_budget: f64,
    started_at: SystemTime,
}

/// The family whose only sample is the age of the oldest values when they are served, up to that value.
pub const OLDEST_DATA: &str = "\
# HELP smaps_exporter_oldest_data_seconds Age of the oldest values in this exposition, when it is served.
# TYPE smaps_exporter_oldest_data_seconds gauge
smaps_exporter_oldest_data_seconds ";

/// Label text that was left open.
struct Closed<'a>(&'a str);

impl fmt::Display for Closed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}}}", self.0)
    }
}

impl SelfMetrics {
    /// Creates the families of an exporter with this version, revision and target, with these filters, on
    /// this node, with this CPU budget in cores (0 means no limit), that started at this time.
    pub fn new(
        [version, revision, target]: [&str; 3],
        filters: impl Iterator<Item = String>,
        node: Option<&str>,
        cpu_budget: f64,
        started_at: SystemTime,
    ) -> Self {
        let labels = |label: &str, value: &str| {
            let mut text = String::new();
            labels::push(&mut text, label, value);
            text
        };
        let build_info = labels("{version=\"", version)
            + &labels(",revision=\"", revision)
            + &labels(",target=\"", target)
            + "}";
        let filters = filters.map(|filter| labels("{filter=\"", &filter) + "}").collect();
        let node = node.map(|node| labels("{node=\"", node) + "}");
        Self { build_info, filters, node, cpu_budget, started_at }
    }

    /// Appends the families to `text`.
    ///
    /// `namespaces` are the label texts of those that have containers, and how many each has; `folded` those of the containers of which
    /// paths are folded, left open, and how many; `oom_kills` the same of those whose account is read, and of how many processes the kernel
    /// has killed.
    pub fn render<'a>(
        &self,
        text: &mut Vec<u8>,
        report: &Report,
        namespaces: &[(String, u64)],
        folded: impl Iterator<Item = (&'a str, u64)>,
        oom_kills: impl Iterator<Item = (&'a str, u64)>,
    ) {
        use Kind::{Counter, Gauge};
        let since_epoch =
            |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let build_info = [(&self.build_info, 1)];
        labelled(text, "smaps_exporter_build_info", Gauge, "What is running.", build_info);
        let filters = self.filters.iter().map(|labels| (labels, 1));
        let help = "The filters by which processes are selected.";
        labelled(text, "smaps_exporter_filter_info", Gauge, help, filters);
        if let Some(node) = &self.node {
            let help = "The node's name, as --node gives it.";
            labelled(text, "smaps_exporter_node_info", Gauge, help, [(node, 1)]);
        }
        let help = "Containers in each namespace, whether a filter selects them or not; of the first hundred namespaces.";
        let namespaces = namespaces.iter().map(|(labels, n_containers)| (labels, n_containers));
        labelled(text, "smaps_exporter_namespace_containers", Gauge, help, namespaces);
        let help = "Paths folded into path=\"[other]\" to keep within --max-samples, of the hundred containers of which most are.";
        let mut folded = folded.map(|(labels, n_folded)| (Closed(labels), n_folded)).peekable();
        if folded.peek().is_some() {
            labelled(text, "smaps_exporter_folded_paths", Gauge, help, folded);
        }
        let help = "OOM kills that the kernel has counted since the exporter found the container. The container is empty if \
                    only the pod is known. The first process of a group kill counts twice.";
        let mut oom_kills = oom_kills.map(|(labels, n_kills)| (Closed(labels), n_kills)).peekable();
        if oom_kills.peek().is_some() {
            labelled(text, "smaps_exporter_oom_kills_total", Counter, help, oom_kills);
        }
        let Reads { smaps, rollup, unchanged, deferred } = report.reads;
        labelled(
            text,
            "smaps_exporter_reads_total",
            Counter,
            "Reads of a process: smaps gave its mappings, rollup their sum, unchanged showed that there is nothing \
             new, deferred ones were left out because the container might have reached its limit meanwhile.",
            [
                ("{kind=\"smaps\"}", smaps),
                ("{kind=\"rollup\"}", rollup),
                ("{kind=\"unchanged\"}", unchanged),
                ("{kind=\"deferred\"}", deferred),
            ],
        );
        let ReadErrors { denied, exec, gone, torn, slow, stuck, io } = report.read_errors;
        labelled(
            text,
            "smaps_exporter_read_errors_total",
            Counter,
            "Failed reads of a process. After reason torn (its mappings changed during the read) the last values stay.",
            [
                ("{reason=\"denied\"}", denied),
                ("{reason=\"exec\"}", exec),
                ("{reason=\"gone\"}", gone),
                ("{reason=\"torn\"}", torn),
                ("{reason=\"slow\"}", slow),
                ("{reason=\"stuck\"}", stuck),
                ("{reason=\"io\"}", io),
            ],
        );
        let seconds = |duration: Duration| Some(duration.as_secs_f64());
        let count = |n: u64| Some(n as f64);
        let count_if_known = |n: Option<u64>| n.map(|n| n as f64);
        for (name, kind, help, value) in [
            (
                "smaps_exporter_scrape_duration_seconds",
                Gauge,
                "How long the last scrape took, rendering left out.",
                seconds(report.scrape_duration),
            ),
            (
                "smaps_exporter_scrapes_total",
                Counter,
                "Passes over the node, each for one or more requests.",
                count(report.n_scrapes),
            ),
            (
                "smaps_exporter_last_scrape_timestamp_seconds",
                Gauge,
                "When the last scrape ended.",
                Some(since_epoch(report.scraped_at)),
            ),
            (
                "smaps_exporter_containerd_up",
                Gauge,
                "Whether containerd, or whatever lists the containers in its place, answered when it was asked last, and lives.",
                report.containerd_up.map(|up| f64::from(u8::from(up))),
            ),
            (
                "smaps_exporter_containerd_errors_total",
                Counter,
                "Listings of containers that failed.",
                count(report.containerd_errors),
            ),
            (
                "smaps_exporter_containers",
                Gauge,
                "Containers that run, whether a filter selects them or not; by the kubelet's links, those that have a process.",
                count(report.n_containers),
            ),
            (
                "smaps_exporter_unmatched_links",
                Gauge,
                "Kubelet links that name no container, or whose cut id matches more than one; with --container-logs.",
                report.n_unmatched_links.and_then(count),
            ),
            ("smaps_exporter_processes", Gauge, "Processes that were summed.", count(report.n_processes)),
            ("smaps_exporter_mappings", Gauge, "Mappings that were summed.", count(report.n_mappings)),
            (
                "smaps_exporter_samples",
                Gauge,
                "Samples of process_smaps_* in this exposition.",
                count(report.n_samples),
            ),
            (
                "smaps_exporter_stuck_processes",
                Gauge,
                "Processes whose memory cannot be read because their memory-map lock is held: they are left out.",
                count(report.n_stuck),
            ),
            (
                "smaps_exporter_longest_read_seconds",
                Gauge,
                "How long the longest read took of those that gave the values in this exposition.",
                seconds(report.longest_read),
            ),
            (
                "smaps_exporter_read_seconds_total",
                Counter,
                "CPU time spent reading smaps.",
                seconds(report.read_time),
            ),
            (
                "smaps_exporter_cpu_budget_cores",
                Gauge,
                "CPU that scrapes and checks may use (--cpu-budget), in cores; absent without a limit.",
                Some(self.cpu_budget).filter(|&cores| cores > 0.0),
            ),
            (
                "smaps_exporter_max_map_count",
                Gauge,
                "The node's vm.max_map_count: mmap fails in a process with this many mappings.",
                count_if_known(report.max_map_count),
            ),
            (
                "smaps_exporter_log_lines_dropped_total",
                Counter,
                "Log lines that were dropped because standard error was not read.",
                count(report.n_log_lines_dropped),
            ),
            (
                "process_cpu_seconds_total",
                Counter,
                "Total user and system CPU time spent in seconds.",
                seconds(report.cpu_time),
            ),
            (
                "process_virtual_memory_bytes",
                Gauge,
                "Virtual memory size in bytes.",
                count_if_known(report.virtual_bytes),
            ),
            (
                "process_resident_memory_bytes",
                Gauge,
                "Resident memory size in bytes.",
                count_if_known(report.resident_bytes),
            ),
            (
                "process_open_fds",
                Gauge,
                "Number of open file descriptors.",
                count_if_known(report.n_open_files),
            ),
            (
                "process_max_fds",
                Gauge,
                "Maximum number of open file descriptors.",
                count_if_known(report.max_open_files),
            ),
            (
                "process_start_time_seconds",
                Gauge,
                "Start time of the process since unix epoch in seconds.",
                Some(since_epoch(self.started_at)),
            ),
        ] {
            single(text, name, kind, help, value);
        }
    }
}
