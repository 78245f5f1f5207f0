//! Renders the exporter's own metrics: its scrapes, reads and errors, and the usual `process_*` metrics of
//! its own process.
//!
//! The values come from a [`Report`], which the caller fills in.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::text::{Kind, labelled, single};
use crate::totals::labels;

/// The results of the last scrape, and the totals of all scrapes. A value is `None` if it is unknown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// The duration of the last scrape, without rendering.
    pub scrape_duration: Duration,
    /// When the last scrape ended.
    pub scraped_at: SystemTime,
    /// Whether the last container listing succeeded and the runtime is still up. `None` if the containers
    /// come from a recording.
    pub containerd_up: Option<bool>,
    /// How many times the exporter has failed to list the containers of the node.
    pub containerd_errors: u64,
    /// How many of the kubelet's links to log files match no container, or several containers. A link can
    /// match several containers if its name has only the beginning of a container's id. `None` if containers
    /// are not listed by links.
    pub n_unmatched_links: Option<u64>,
    /// The number of running containers.
    pub n_containers: u64,
    /// The number of processes for which values are exported.
    pub n_processes: u64,
    /// The number of memory mappings of all processes for which values are exported.
    pub n_mappings: u64,
    /// The number of `process_smaps_*` samples in the exposition.
    pub n_samples: u64,
    /// The number of scrapes since the start.
    pub n_scrapes: u64,
    /// The numbers of successful and skipped reads, by kind.
    pub reads: Reads,
    /// The CPU time that was used for reading processes.
    pub read_time: Duration,
    /// The numbers of failed reads, by reason.
    pub read_errors: ReadErrors,
    /// The number of processes that cannot be read, because reads of their memory files do not return.
    pub n_stuck: u64,
    /// The duration of the slowest read. Only the reads that returned the exported values count.
    pub longest_read: Duration,
    /// The node's vm.max_map_count.
    pub max_map_count: Option<u64>,
    /// The number of log lines that were dropped because nothing read standard error fast enough.
    pub n_log_lines_dropped: u64,
    /// The CPU time that the exporter has used.
    pub cpu_time: Duration,
    /// The virtual size of the exporter's process in bytes.
    pub virtual_bytes: Option<u64>,
    /// The resident size of the exporter's process in bytes.
    pub resident_bytes: Option<u64>,
    /// The number of file descriptors that the exporter has open.
    pub n_open_files: Option<u64>,
    /// The maximum number of file descriptors that the exporter may have open.
    pub max_open_files: Option<u64>,
}

/// How many reads of processes succeeded, and how many were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// The number of reads of smaps files, which list all mappings of a process.
    pub smaps: u64,
    /// The number of reads of the sums that the kernel computes (smaps_rollup).
    pub rollup: u64,
    /// The number of reads that were skipped, because nothing had changed since the last read of the process.
    pub unchanged: u64,
    /// The number of reads that were postponed, because the container might reach its memory limit before the
    /// end of such a read. The values of the last read were kept.
    pub deferred: u64,
}

/// How many reads of processes failed, counted by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadErrors {
    /// The number of reads for which the kernel refused permission to open smaps.
    pub denied: u64,
    /// How often a process executed another program while the process was read.
    pub exec: u64,
    /// The number of reads that failed because the process had ended.
    pub gone: u64,
    /// The number of reads that failed because the mappings changed during each of two attempts. The values
    /// of the last complete read were kept.
    pub torn: u64,
    /// The number of reads in which reading all mappings took too long. The kernel's sums were read instead.
    pub slow: u64,
    /// How many times a process was found to be stuck: reads of such a process do not return.
    pub stuck: u64,
    /// The number of reads that failed for a reason that no other field counts.
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

/// Renders the families about the exporter itself.
#[derive(Debug)]
pub struct SelfMetrics {
    build_info: String,
    filters: Vec<String>,
    node: Option<String>,
    /// The CPU budget in cores; 0 means no limit.
    cpu_budget: f64,
    started_at: SystemTime,
}

/// The HELP and TYPE lines of the metric for the age of the oldest values, and the name of its sample. The
/// sample's value is appended when the exposition is served.
pub const OLDEST_DATA: &str = "\
# HELP smaps_exporter_oldest_data_seconds Age of the oldest values in this exposition, when it is served.
# TYPE smaps_exporter_oldest_data_seconds gauge
smaps_exporter_oldest_data_seconds ";

/// Displays label text that lacks its closing brace, and adds the brace.
struct Closed<'a>(&'a str);

impl fmt::Display for Closed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}}}", self.0)
    }
}

impl SelfMetrics {
    /// Creates the renderer of an exporter's own metrics. `cpu_budget` is in cores; 0 means no limit.
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
    /// `namespaces` has the label text of each namespace, and the number of its containers. `folded` has the
    /// label text of each container, without the closing brace, and the number of its folded paths.
    /// `oom_kills` has the same label text of each container, and the number of its OOM kills.
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
        labelled(
            text,
            "smaps_exporter_build_info",
            Gauge,
            "Version, revision and target of the exporter.",
            build_info,
        );
        let filters = self.filters.iter().map(|labels| (labels, 1));
        let help = "Filters that select processes.";
        labelled(text, "smaps_exporter_filter_info", Gauge, help, filters);
        if let Some(node) = &self.node {
            let help = "Name of the node, from --node.";
            labelled(text, "smaps_exporter_node_info", Gauge, help, [(node, 1)]);
        }
        let help = "Containers in each namespace, selected by a filter or not, for the first 100 namespaces.";
        let namespaces = namespaces.iter().map(|(labels, n_containers)| (labels, n_containers));
        labelled(text, "smaps_exporter_namespace_containers", Gauge, help, namespaces);
        let help = "Paths folded into path=\"[other]\" to stay within --max-samples, for the 100 containers \
                    with the most.";
        let mut folded = folded.map(|(labels, n_folded)| (Closed(labels), n_folded)).peekable();
        if folded.peek().is_some() {
            labelled(text, "smaps_exporter_folded_paths", Gauge, help, folded);
        }
        let help = "OOM kills that the kernel has counted since the exporter found the container. The \
                    container is empty if only the pod is known. The first process of a group kill counts \
                    twice.";
        let mut oom_kills = oom_kills.map(|(labels, n_kills)| (Closed(labels), n_kills)).peekable();
        if oom_kills.peek().is_some() {
            labelled(text, "smaps_exporter_oom_kills_total", Counter, help, oom_kills);
        }
        let Reads { smaps, rollup, unchanged, deferred } = report.reads;
        labelled(
            text,
            "smaps_exporter_reads_total",
            Counter,
            "Process reads by kind: smaps (all mappings), rollup (kernel totals), unchanged (skipped, \
             values still valid), deferred (skipped, because the container might have reached its limit \
             during the read).",
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
            "Failed process reads by reason. After torn (mappings changed during the read) the last values \
             are kept.",
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
                "Duration of the last scrape, without rendering.",
                seconds(report.scrape_duration),
            ),
            (
                "smaps_exporter_scrapes_total",
                Counter,
                "Scrapes of the node, each for one or more requests.",
                count(report.n_scrapes),
            ),
            (
                "smaps_exporter_last_scrape_timestamp_seconds",
                Gauge,
                "End of the last scrape.",
                Some(since_epoch(report.scraped_at)),
            ),
            (
                "smaps_exporter_containerd_up",
                Gauge,
                "Whether the last container listing succeeded and the runtime is still up.",
                report.containerd_up.map(|up| f64::from(u8::from(up))),
            ),
            (
                "smaps_exporter_containerd_errors_total",
                Counter,
                "Failed container listings.",
                count(report.containerd_errors),
            ),
            (
                "smaps_exporter_containers",
                Gauge,
                "Running containers, selected by a filter or not; with --container-logs, those with a \
                 process.",
                count(report.n_containers),
            ),
            (
                "smaps_exporter_unmatched_links",
                Gauge,
                "Kubelet links that match no container or, with a cut id, more than one; with \
                 --container-logs.",
                report.n_unmatched_links.and_then(count),
            ),
            (
                "smaps_exporter_processes",
                Gauge,
                "Processes with values in this exposition.",
                count(report.n_processes),
            ),
            (
                "smaps_exporter_mappings",
                Gauge,
                "Mappings behind the values in this exposition.",
                count(report.n_mappings),
            ),
            (
                "smaps_exporter_samples",
                Gauge,
                "Samples of process_smaps_* in this exposition.",
                count(report.n_samples),
            ),
            (
                "smaps_exporter_stuck_processes",
                Gauge,
                "Processes that cannot be read because their memory-map lock (mmap_lock) is held; they have \
                 no values.",
                count(report.n_stuck),
            ),
            (
                "smaps_exporter_longest_read_seconds",
                Gauge,
                "Duration of the slowest read among those behind the current values.",
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
