//! The exporter's own metrics, from scrape to scrape.

use std::time::Duration;

use log::debug;

use crate::exposition::self_metrics::{Report, SelfMetrics};
use crate::procfs::files::Entries;
use crate::procfs::this_process::ThisProcess;

/// What the scrapes so far have found and used.
#[derive(Debug)]
pub struct OwnMetrics {
    metrics: SelfMetrics,
    /// The report of the last scrape.
    report: Report,
    /// The CPU time of all reads.
    read_time: Duration,
    entries: Entries,
}

impl OwnMetrics {
    /// Renders into these families; no scrape has ended yet.
    pub fn new(metrics: SelfMetrics) -> Self {
        Self { metrics, report: Report::default(), read_time: Duration::ZERO, entries: Entries::default() }
    }

    /// Adds the CPU time of a read.
    pub fn add_read(&mut self, cpu_time: Duration) {
        self.read_time += cpu_time;
    }

    /// Notes what a scrape has found. The numbers of scrapes and the time of reads are added here.
    pub fn end_scrape(&mut self, found: Report) {
        let read_time = self.read_time - self.report.read_time;
        let n_scrapes = self.report.n_scrapes + 1;
        self.report = Report { n_scrapes, read_time: self.read_time, ..found };
        debug!(
            "a scrape of {} processes took {:?}, and {read_time:?} CPU for reading",
            found.n_processes, found.scrape_duration
        );
    }

    /// Appends the exporter's own families to `text`, which holds `n_samples` samples of processes.
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
            ..self.report
        };
        self.metrics.render(text, &report, namespaces, folded, oom_kills);
    }
}
