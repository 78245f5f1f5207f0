//! Keeps the metrics about the exporter itself from one scrape to the next.

use std::time::{Duration, Instant, SystemTime};

use log::debug;

use crate::exposition::self_metrics::{Report, SelfMetrics};
use crate::logging;
use crate::node::containers::discovery::Discovery;
use crate::node::processes::table::ProcessTable;
use crate::node::reads::scheduler::Reads;
use crate::procfs::files::Entries;
use crate::procfs::this_process::ThisProcess;
use crate::procfs::{Buffers, Proc};
use crate::totals::snapshot::Snapshot;

/// The metrics about the exporter itself: what the last scrape found, and totals over all scrapes so far,
/// such as the CPU time of all reads.
#[derive(Debug)]
pub struct OwnMetrics {
    metrics: SelfMetrics,
    /// The report of the last scrape.
    report: Report,
    /// The CPU time of all reads so far.
    read_time: Duration,
    entries: Entries,
    buffers: Buffers,
}

impl OwnMetrics {
    /// Creates the metrics. Metrics about the last scrape have default values until the first scrape has
    /// ended.
    pub fn new(metrics: SelfMetrics) -> Self {
        Self {
            metrics,
            report: Report::default(),
            read_time: Duration::ZERO,
            entries: Entries::default(),
            buffers: Buffers::default(),
        }
    }

    /// Adds the CPU time of a read.
    pub fn add_read(&mut self, cpu_time: Duration) {
        self.read_time += cpu_time;
    }

    /// Updates the metrics after a scrape: what the scrape has found, and how long it took.
    pub fn end_scrape(
        &mut self,
        began_at: Instant,
        proc: &Proc,
        discovery: &Discovery,
        processes: &ProcessTable,
        reads: &Reads,
        snapshot: &Snapshot,
    ) {
        let read_time = self.read_time - self.report.read_time;
        self.report = Report {
            scrape_duration: began_at.elapsed(),
            scraped_at: SystemTime::now(),
            containerd_up: discovery.is_runtime_up(began_at),
            containerd_errors: discovery.n_errors(),
            n_unmatched_links: discovery.n_unmatched_links(),
            n_containers: discovery.n_running(),
            n_processes: snapshot.table().n_processes(),
            n_mappings: snapshot.table().series().map(|series| series.totals.n_mappings).sum(),
            read_time: self.read_time,
            read_errors: reads.errors(),
            n_scrapes: self.report.n_scrapes + 1,
            reads: reads.counts(),
            n_stuck: processes.n_stuck() as u64,
            longest_read: processes.longest_read(),
            max_map_count: proc.max_map_count(&mut self.buffers).map(|limit| limit as u64),
            ..Report::default()
        };
        debug!(
            "a scrape of {} processes took {:?}, and {read_time:?} CPU for reading",
            self.report.n_processes, self.report.scrape_duration
        );
    }

    /// Appends the families about the exporter itself to `text`. `n_samples` is the number of
    /// `process_smaps_*` samples in the exposition.
    pub fn render<'a>(
        &mut self,
        text: &mut Vec<u8>,
        n_samples: u64,
        namespaces: &[(String, u64)],
        folded: impl Iterator<Item = (&'a str, u64)>,
        oom_kills: impl Iterator<Item = (&'a str, u64)>,
    ) {
        let ThisProcess { cpu_time, virtual_bytes, resident_bytes, n_open_files, max_open_files } =
            ThisProcess::now(&mut self.entries);
        let report = Report {
            n_samples,
            cpu_time,
            virtual_bytes,
            resident_bytes,
            n_open_files,
            max_open_files,
            n_log_lines_dropped: logging::n_dropped(),
            ..self.report
        };
        self.metrics.render(text, &report, namespaces, folded, oom_kills);
    }
}
