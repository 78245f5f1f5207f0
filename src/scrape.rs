//! One scrape: a pass over proc, the reading of the processes, the sum, the text.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use log::{info, warn};

use crate::cli::options::Options;
use crate::errors::plain;
use crate::exposition::self_metrics::{Own, Report};
use crate::exposition::text as exposition;
use crate::node::budget::Budget;
use crate::node::discovery::{Discovery, Source};
use crate::node::filter::Filter;
use crate::node::processes::{Node, Outcome, Processes};
use crate::procfs::{Pass, Proc};
use crate::sources::containerd::Containerd;
use crate::sources::recording::{self, Recording};
use crate::totals::snapshot::{Shape, Snapshot};

/// Everything that one scrape hands to the next.
#[derive(Debug)]
pub struct Scraper {
    discovery: Discovery,
    proc: Proc,
    pass: Pass,
    filters: Vec<Filter>,
    processes: Processes,
    snapshot: Snapshot,
    budget: Budget,
    own: Own,
    report: Report,
    began_at: Option<Instant>,
    is_denied: bool,
    is_over_budget: bool,
}

impl Scraper {
    /// Opens proc and whatever tells of containers, as the options say. Asks nothing yet.
    ///
    /// Fails with one line when proc cannot be opened, there is no socket, or the recording cannot be read.
    pub fn new(options: &Options) -> Result<Self, String> {
        let (source, proc_path) = match &options.fixture {
            Some(directory) => (Source::Recording(Recording::new(directory)), directory.join("proc")),
            None => {
                let socket = &options.containerd_sock;
                std::fs::metadata(socket)
                    .map_err(|error| format!("no containerd socket at {socket:?}: {}", plain(&error)))?;
                let containerd = Containerd::new(socket, &options.containerd_namespaces)
                    .map_err(|error| format!("cannot make a containerd client: {}", plain(&error)))?;
                (Source::Containerd(Box::new(containerd)), options.proc_path.clone())
            }
        };
        let proc = Proc::open(&proc_path)
            .map_err(|error| format!("cannot open {proc_path:?}: {}", plain(&error)))?;
        let mut discovery = Discovery::new(source);
        if options.fixture.is_some() {
            discovery.list_first(&options.filters, Instant::now())?;
        }
        Ok(Self {
            discovery,
            proc,
            pass: Pass::default(),
            filters: options.filters.clone(),
            processes: Processes::default(),
            snapshot: Snapshot::new(Shape::from(options)),
            budget: Budget::new(options.cpu_budget),
            own: Own::new(&options.filters),
            report: Report::default(),
            began_at: None,
            is_denied: false,
            is_over_budget: false,
        })
    }

    /// Waits up to `patience` for the first listing, so that the first scrape has containers.
    ///
    /// Fails with one line when there is none; each scrape asks again.
    pub fn list_first(&mut self, patience: Duration) -> Result<(), String> {
        self.discovery.list_first(&self.filters, Instant::now() + patience)
    }

    /// Scrapes once.
    ///
    /// Fails with one line when proc cannot be listed; then the last snapshot stands.
    pub fn scrape(&mut self) -> Result<(), String> {
        let now = Instant::now();
        self.discovery.refresh(&self.filters, now);
        self.find_processes(now)?;
        let is_first = self.began_at.is_none();
        if let Some(before) = self.began_at.replace(now) {
            self.budget.begin_cycle(now - before);
        }
        let Self { proc, pass, discovery, filters, processes, snapshot, budget, .. } = self;
        let outcome = processes.read(&mut Node { proc, pass, discovery, filters }, snapshot, budget);
        if is_first {
            self.budget.end_first_cycle();
        }
        self.snapshot.sum(self.processes.readings());
        self.log_denied(&outcome);
        self.report = Report {
            scrape_duration: now.elapsed(),
            scraped_at: SystemTime::now(),
            containerd_up: self.discovery.containerd_up(now),
            containerd_errors: self.discovery.n_errors(),
            n_containers: self.discovery.containers().len() as u64,
            n_processes: self.snapshot.processes().map(|(_, n_processes)| n_processes).sum(),
            n_mappings: self.snapshot.series().map(|series| series.totals.n_mappings).sum(),
            n_folded: self.snapshot.n_folded(),
            oldest_data: self.processes.oldest(Instant::now()),
            read_time: self.processes.read_time,
            read_errors: self.processes.errors,
        };
        Ok(())
    }

    /// Passes over proc, and brings containers and processes up to date with what it shows.
    fn find_processes(&mut self, now: Instant) -> Result<(), String> {
        self.proc
            .pass(&mut self.pass)
            .map_err(|error| format!("cannot list {:?}: {}", self.proc.path(), plain(&error)))?;
        self.discovery.observe(&self.pass, now);
        let Self { proc, pass, discovery, filters, processes, .. } = self;
        processes.follow(&mut Node { proc, pass, discovery, filters });
        Ok(())
    }

    /// Records what the filters take, and whatever tells which container owns it, into the new directory `to`.
    ///
    /// Fails with one line when something cannot be listed or written; a process that ends meanwhile is left out.
    pub fn record(&mut self, to: &Path) -> Result<usize, String> {
        let writer = recording::Writer::create(to)?;
        self.find_processes(Instant::now())?;
        let n_processes = self.processes.record(&mut self.proc, &writer)?;
        let wanted = || self.discovery.containers().iter().filter(|tracked| tracked.is_wanted);
        for tracked in wanted() {
            // Attribution needs the cgroup of each init process, also of one that no filter takes.
            if let Some(init_pid) = tracked.container.init_pid
                && let Ok(cgroup) = self.proc.cgroup(init_pid)
            {
                writer.file(init_pid, "cgroup", cgroup)?;
            }
        }
        writer.containers(wanted().map(|tracked| &tracked.container))?;
        Ok(n_processes)
    }

    /// Appends the families `process_smaps_*` of the last scrape to `text`; says how many samples they are.
    pub fn render_processes(&self, text: &mut Vec<u8>) -> u64 {
        exposition::render(text, &self.snapshot)
    }

    /// Appends the whole exposition of the last scrape to `text`.
    pub fn render(&mut self, text: &mut Vec<u8>) {
        let n_samples = self.render_processes(text);
        self.log_over_budget(n_samples);
        self.own.render(text, &self.report, n_samples);
    }

    /// Waits until `deadline`; meanwhile containerd may answer.
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

    /// Says once what is missing when every read is refused, and once when one succeeds. A cycle without either says nothing.
    fn log_denied(&mut self, outcome: &Outcome) {
        if outcome.n_read > 0 {
            if std::mem::take(&mut self.is_denied) {
                info!("processes can be read again");
            }
        } else if outcome.n_denied > 0 && !std::mem::replace(&mut self.is_denied, true) {
            warn!("every process refuses to be read: {}", crate::procfs::permissions::missing());
        }
    }
}
