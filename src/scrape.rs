//! One scrape: list, identify, choose, read, verify, sum, render.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use log::{info, warn};

use crate::cli::build_info;
use crate::cli::options::Options;
use crate::errors::plain;
use crate::exposition;
use crate::exposition::self_metrics::{ReadErrors, Report, SelfMetrics};
use crate::node::budget::Budget;
use crate::node::discovery::Discovery;
use crate::node::processes::{Processes, ReadCounts};
use crate::node::reader::Reader;
use crate::procfs::files::Entries;
use crate::procfs::this_process::{ThisProcess, thread_cpu_time};
use crate::procfs::{Buffers, Proc, permissions};
use crate::sources::Source;
use crate::sources::containerd::Containerd;
use crate::sources::recording::{Recording, Writer};
use crate::totals::snapshot::{Shape, Snapshot};

/// Everything that one scrape hands to the next.
#[derive(Debug)]
pub struct Scraper {
    proc: Proc,
    discovery: Discovery,
    processes: Processes,
    reader: Reader,
    budget: Budget,
    snapshot: Snapshot,
    self_metrics: SelfMetrics,
    report: Report,
    entries: Entries,
    began_at: Option<Instant>,
    is_denied: bool,
    is_over_budget: bool,
}

impl Scraper {
    /// Opens proc and the source of containers that the options name. Asks nothing yet.
    ///
    /// Fails with one line when proc cannot be opened, there is no socket, or the recording cannot be read.
    pub fn new(options: &Options) -> Result<Self, String> {
        let (source, proc_path): (Box<dyn Source>, _) = match &options.fixture {
            Some(directory) => (Box::new(Recording::new(directory)), directory.join("proc")),
            None => {
                let socket = &options.containerd_sock;
                std::fs::metadata(socket)
                    .map_err(|error| format!("no containerd socket at {socket:?}: {}", plain(&error)))?;
                let containerd = Containerd::new(socket, &options.containerd_namespaces)
                    .map_err(|error| format!("cannot make a containerd client: {}", plain(&error)))?;
                (Box::new(containerd), options.proc_path.clone())
            }
        };
        let proc = Proc::open(&proc_path)
            .map_err(|error| format!("cannot open {proc_path:?}: {}", plain(&error)))?;
        let mut discovery = Discovery::new(source, &options.filters);
        if options.fixture.is_some() {
            discovery.list_first(Instant::now())?;
        }
        let &Options { group_by, pid, fields, omit_zero, max_samples, .. } = options;
        let filters = options.filters.iter().map(ToString::to_string);
        Ok(Self {
            proc,
            discovery,
            processes: Processes::default(),
            reader: Reader::new(group_by),
            budget: Budget::new(options.cpu_budget),
            snapshot: Snapshot::new(Shape { group_by, by_pid: pid, fields, omit_zero, max_samples }),
            self_metrics: SelfMetrics::new(
                [build_info::VERSION, build_info::REVISION, &build_info::target()],
                filters,
                SystemTime::now(),
            ),
            report: Report::default(),
            entries: Entries::default(),
            began_at: None,
            is_denied: false,
            is_over_budget: false,
        })
    }

    /// Waits up to `patience` for the first listing, so that the first scrape has containers.
    ///
    /// Fails with one line when there is none; each scrape asks again.
    pub fn list_first(&mut self, patience: Duration) -> Result<(), String> {
        self.discovery.list_first(Instant::now() + patience)
    }

    /// Scrapes once.
    ///
    /// Fails with one line when proc cannot be listed; then the last snapshot stands.
    pub fn scrape(&mut self) -> Result<(), String> {
        let now = Instant::now();
        self.discovery.refresh(now);
        self.list_and_identify(now)?;
        self.read(now);
        self.snapshot.sum(self.processes.readings());
        self.report = self.report(now);
        Ok(())
    }

    /// Lists the processes, and finds out whose they are and which are selected.
    fn list_and_identify(&mut self, now: Instant) -> Result<(), String> {
        let Self { proc, discovery, processes, .. } = self;
        let cannot_list = |error| format!("cannot list {:?}: {}", proc.path(), plain(&error));
        processes.list(proc).map_err(cannot_list)?;
        let has_new_claims = discovery.observe(processes, now);
        processes.identify(proc, discovery, has_new_claims);
        Ok(())
    }

    /// Reads the selected processes, those with the oldest values first, while the budget lasts.
    fn read(&mut self, now: Instant) {
        let Self { proc, discovery, processes, reader, budget, snapshot, report, .. } = self;
        let before = *processes.counts();
        let is_first = self.began_at.is_none();
        if let Some(last) = self.began_at.replace(now) {
            budget.begin_scrape(now - last);
        }
        let with_rollup = snapshot.shape().is_rollup();
        let mut cpu = thread_cpu_time();
        processes.queue();
        while let Some(job) = processes.next(proc, discovery, budget, with_rollup) {
            let result = reader.read(proc, job);
            processes.take(job, result, reader, proc, discovery, snapshot);
            let spent = thread_cpu_time().saturating_sub(cpu);
            budget.spend(spent);
            report.read_time += spent;
            cpu += spent;
        }
        reader.shrink();
        if is_first {
            budget.end_first_scrape();
        }
        self.log_denied(&before);
    }

    fn report(&mut self, began_at: Instant) -> Report {
        let ReadCounts { denied, exec, gone, io, .. } = *self.processes.counts();
        Report {
            scrape_duration: began_at.elapsed(),
            scraped_at: SystemTime::now(),
            containerd_up: self.discovery.is_runtime_up(began_at),
            containerd_errors: self.discovery.n_errors(),
            n_containers: self.discovery.containers().len() as u64,
            n_processes: self.snapshot.processes().map(|(_, n_processes)| n_processes).sum(),
            n_mappings: self.snapshot.series().map(|series| series.totals.n_mappings).sum(),
            n_folded: self.snapshot.n_folded(),
            oldest_data: self.processes.oldest(Instant::now()),
            read_time: self.report.read_time,
            read_errors: ReadErrors { denied, exec, gone, io },
            ..Report::default()
        }
    }

    /// Records what the filters select, and whatever tells which container owns it, into the new directory `to`.
    ///
    /// Fails with one line when something cannot be listed or written; a process that ends meanwhile is left out.
    pub fn record(&mut self, to: &Path) -> Result<usize, String> {
        let writer = Writer::create(to)?;
        self.list_and_identify(Instant::now())?;
        let n_processes = self.processes.record(&self.proc, &writer)?;
        let selected = || self.discovery.containers().filter(|container| container.is_selected);
        let mut buffers = Buffers::default();
        for init_pid in selected().filter_map(|container| container.listed.init_pid) {
            // Attribution may need the cgroup of an init process that no filter selects.
            let init = self.proc.process(init_pid, &mut buffers);
            if let Ok(cgroup) = init.and_then(|init| init.raw_cgroup(&mut buffers)) {
                writer.file(init_pid, "cgroup", &cgroup)?;
            }
        }
        writer.containers(selected().map(|container| &container.listed))?;
        Ok(n_processes)
    }

    /// Appends the families `process_smaps_*` of the last scrape to `text`; says how many samples they are.
    pub fn render_processes(&self, text: &mut Vec<u8>) -> u64 {
        exposition::text::render(text, &self.snapshot)
    }

    /// Appends the whole exposition of the last scrape to `text`.
    pub fn render(&mut self, text: &mut Vec<u8>) {
        let n_samples = self.render_processes(text);
        self.log_over_budget(n_samples);
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
        self.self_metrics.render(text, &report);
    }

    /// Waits until `deadline`; meanwhile the source of the containers may answer.
    pub fn wait_until(&mut self, deadline: Instant) {
        self.discovery.wait_until(deadline);
    }

    /// Says once that the samples do not keep to the limit: what is not grouped by path cannot fold, and what folds leaves some.
    fn log_over_budget(&mut self, n_samples: u64) {
        let max_samples = self.snapshot.shape().max_samples as u64;
        let is_over = max_samples > 0 && n_samples > max_samples;
        if is_over && !std::mem::replace(&mut self.is_over_budget, true) {
            warn!("{n_samples} samples are more than --max-samples {max_samples}: no path is left to fold");
        }
    }

    /// Says once what is missing when every read is refused, and once when one succeeds. A scrape without either says nothing.
    fn log_denied(&mut self, before: &ReadCounts) {
        let counts = self.processes.counts();
        if counts.ok > before.ok {
            if std::mem::take(&mut self.is_denied) {
                info!("processes can be read again");
            }
        } else if counts.denied > before.denied && !std::mem::replace(&mut self.is_denied, true) {
            warn!("every process refuses to be read: {}", permissions::missing());
        }
    }
}
