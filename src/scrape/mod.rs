//! One scrape: list, identify, choose, read, verify, sum, render.
//!
//! While nobody asks for one there are *checks*: the same pass, in which only those containers are read that are close to their limit, so
//! that it can be told what they were full of when the kernel kills them. Nothing is rendered.

mod checks;
mod ooms;
pub(crate) mod open;
pub mod threads;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use log::{Level, debug, info, log, warn};

use crate::cli::build_info;
use crate::cli::options::Options;
use crate::demand::Wake;
use crate::errors::plain;
use crate::exposition;
use crate::exposition::self_metrics::{Report, SelfMetrics};
use crate::logging;
use crate::node::accounts::Accounts;
use crate::node::budget::Budget;
use crate::node::discovery::Discovery;
use crate::node::processes::Processes;
use crate::node::reader::{Job, Reader};
use crate::procfs::errors::ReadError;
use crate::procfs::files::Entries;
use crate::procfs::this_process::{ThisProcess, thread_cpu_time};
use crate::procfs::{Buffers, Proc, permissions};

use self::ooms::Ooms;
use crate::sources::recording::Writer;
use crate::totals::shape::Shape;
use crate::totals::snapshot::Snapshot;

/// The first scrape is not held to the CPU budget; but after so long what there is is shown.
const MAX_FIRST_SCRAPE: Duration = Duration::from_secs(5);

/// What a pass over the node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// An exposition: all is read.
    Scrape,
    /// Nobody asks for one: what is close to its limit is read.
    Check,
}

/// How far a pass has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    /// The processes are listed; those that are new are asked what they are.
    Listed,
    Reading,
}

/// Everything that one scrape hands to the next.
#[derive(Debug)]
pub struct Scraper {
    proc: Arc<Proc>,
    discovery: Discovery,
    processes: Processes,
    /// None if no cgroups are read.
    accounts: Option<Accounts>,
    budget: Budget,
    snapshot: Snapshot,
    self_metrics: SelfMetrics,
    report: Report,
    entries: Entries,
    phase: Phase,
    pass: Pass,
    is_first: bool,
    /// The CPU time of this pass, reads left out.
    overhead: Duration,
    /// When the last scrape began.
    began_at: Option<Instant>,
    /// How soon after a pass a check may begin; none if there are no checks.
    check_interval: Option<Duration>,
    /// When the last pass began, and whether it has read something.
    passed_at: Option<Instant>,
    has_read: bool,
    /// When the readings were summed.
    summed_at: Option<Instant>,
    watched_at: Instant,
    ooms: Ooms,
    is_refused: bool,
    is_over_budget: bool,
    /// `--record`: that there is nothing to record is told by its failure.
    is_recording: bool,
    /// Whether the log has been told what the filters select, or that there is nothing to select from.
    has_told_selection: bool,
    has_told_emptiness: bool,
    /// The CPU time of all reads when the last scrape ended.
    read_time_before: Duration,
}

impl Scraper {
    /// Opens proc and the source of containers that the options name. Asks nothing yet.
    ///
    /// Fails with one line when proc cannot be opened, there is no socket, or the recording cannot be read.
    pub fn new(options: &Options) -> Result<Self, String> {
        let source = open::open(options)?;
        let proc_path = match &options.fixture {
            Some(directory) => directory.join("proc"),
            None => options.proc_path.clone(),
        };
        let proc = Proc::open(&proc_path)
            .map_err(|error| format!("cannot open {proc_path:?}: {}", plain(&error)))?;
        if !proc.has_smaps() {
            return Err(format!(
                "no smaps in {:?}: expected a kernel with CONFIG_PROC_PAGE_MONITOR",
                proc_path.join("self")
            ));
        }
        permissions::ensure_visible(&proc_path)?;
        let mut discovery = Discovery::new(source, &options.filters);
        if options.fixture.is_some() {
            discovery.list_first(Instant::now())?;
        }
        let &Options { group_by, pid, fields, omit_zero, max_samples, .. } = options;
        let filters = options.filters.iter().map(ToString::to_string);
        Ok(Self {
            proc: Arc::new(proc),
            discovery,
            processes: Processes::new(options.scrape_interval),
            check_interval: open::is_checked(options).then_some(options.scrape_interval),
            accounts: open::accounts(options),
            budget: Budget::new(options.cpu_budget),
            snapshot: Snapshot::new(Shape { group_by, by_pid: pid, fields, omit_zero, max_samples }),
            self_metrics: SelfMetrics::new(
                [build_info::VERSION, build_info::REVISION, &build_info::target()],
                filters,
                options.node.as_deref(),
                SystemTime::now(),
            ),
            report: Report::default(),
            entries: Entries::default(),
            phase: Phase::Idle,
            pass: Pass::Scrape,
            is_first: true,
            overhead: Duration::ZERO,
            began_at: None,
            passed_at: None,
            has_read: false,
            summed_at: None,
            watched_at: Instant::now(),
            ooms: Ooms::default(),
            is_refused: false,
            is_over_budget: false,
            is_recording: options.record.is_some(),
            has_told_selection: false,
            has_told_emptiness: false,
            read_time_before: Duration::ZERO,
        })
    }

    /// Waits up to `patience` for the first listing, so that the first scrape has containers.
    ///
    /// Fails with one line when there is none; each scrape asks again.
    pub fn list_first(&mut self, patience: Duration) -> Result<(), String> {
        self.discovery.list_first(Instant::now() + patience)
    }

    /// Reads everything in each scrape, whatever looks unchanged: to measure reading.
    pub fn always_read(&mut self) {
        self.processes.always_reads = true;
    }

    /// A reader for the thread that calls this.
    pub fn reader(&self) -> Reader {
        let shape = self.snapshot.shape();
        Reader::new(shape.group_by, shape.max_samples)
    }

    /// Where it reads in this pass.
    pub fn proc(&self) -> Arc<Proc> {
        self.proc.clone()
    }

    /// Scrapes once, with every read on this thread.
    ///
    /// Fails with one line when proc cannot be listed; then the last snapshot stands.
    pub fn scrape(&mut self, reader: &mut Reader) -> Result<(), String> {
        self.begin(Pass::Scrape)?;
        reader.restart_clock();
        let proc = self.proc();
        while let Some(job) = self.next(0) {
            let result = reader.read(&proc, job);
            self.take(job, result, reader);
        }
        reader.shrink();
        self.finish();
        self.end();
        Ok(())
    }

    /// Begins a pass: lists the processes.
    ///
    /// Fails with one line when proc cannot be listed.
    pub fn begin(&mut self, pass: Pass) -> Result<(), String> {
        let (now, clock) = (Instant::now(), thread_cpu_time());
        if self.proc.is_replaced() {
            let reopened = Proc::open(self.proc.path());
            self.proc = Arc::new(
                reopened.map_err(|error| format!("cannot open {:?}: {}", self.proc.path(), plain(&error)))?,
            );
        }
        let Self { proc, discovery, processes, budget, .. } = self;
        self.passed_at = Some(now);
        discovery.refresh(now);
        let cannot_list = |error| format!("cannot list {:?}: {}", proc.path(), plain(&error));
        processes.list(proc).map_err(cannot_list)?;
        match pass {
            Pass::Scrape => {
                self.began_at = Some(now);
                budget.begin_scrape(now);
            }
            Pass::Check => budget.begin_check(now),
        }
        (self.phase, self.pass, self.has_read) = (Phase::Listed, pass, false);
        self.overhead += thread_cpu_time().saturating_sub(clock);
        Ok(())
    }

    /// The pass that has begun and is not finished, if there is one.
    pub fn under_way(&self) -> Option<Pass> {
        (self.phase != Phase::Idle).then_some(self.pass)
    }

    /// What to read next, on the thread with this number; `None` when nothing more is read in this scrape.
    pub fn next(&mut self, thread: u32) -> Option<Job> {
        let Self { proc, discovery, processes, .. } = self;
        if self.phase == Phase::Listed {
            if let Some(job) = processes.next_unknown(proc, thread) {
                return Some(job);
            }
            let now = Instant::now();
            let has_new_claims = discovery.observe(processes, now);
            processes.identify(proc, discovery, has_new_claims);
            discovery.see_running(processes);
            if let Some(accounts) = &mut self.accounts {
                accounts.update(processes, discovery, proc);
                self.ooms.record(accounts.take_kills(), &self.snapshot, self.summed_at);
            }
            match (&mut self.accounts, self.pass) {
                (Some(accounts), Pass::Check) => {
                    accounts.check(now);
                    processes.queue(now, proc, discovery, |process| accounts.is_full_of(process));
                }
                _ => processes.queue(now, proc, discovery, |_| true),
            }
            self.phase = Phase::Reading;
            self.log_selection();
        }
        self.watch_if_due();
        if self.is_first && self.began_at.is_some_and(|began| began.elapsed() > MAX_FIRST_SCRAPE) {
            return None; // there is something to show; the rest follows
        }
        let clock = thread_cpu_time();
        let next = self.processes.next(&self.proc, &self.discovery, &self.budget, &self.snapshot, thread);
        if next.is_none() {
            // What is not read is asked who it is, and no read is charged for that.
            self.overhead += thread_cpu_time().saturating_sub(clock);
        }
        next
    }

    /// Takes what the read of a job has found, in this scrape or in a later one.
    pub fn take(&mut self, job: Job, result: Result<(), ReadError>, reader: &Reader) {
        let Self { proc, discovery, processes, snapshot, .. } = self;
        processes.take(job, result, reader, proc, discovery, snapshot);
        self.budget.spend(reader.cpu_time);
        self.report.read_time += reader.cpu_time;
        self.has_read = true;
    }

    /// Goes on without the read that is under way, if one is.
    pub fn leave_behind(&mut self) {
        self.processes.leave_behind();
    }

    /// Whether every selected process was read, but for those that are stuck, rest or have no budget.
    pub fn is_complete(&self) -> bool {
        self.processes.iter().all(|process| !process.is_awaited())
    }

    /// Ends the pass: sums what the processes gave, and reads what their containers' cgroups say. That waits for no process.
    pub fn finish(&mut self) {
        let (now, clock) = (Instant::now(), thread_cpu_time());
        self.phase = Phase::Idle;
        if self.pass == Pass::Scrape {
            self.log_refusals();
            if let Some(accounts) = &mut self.accounts {
                accounts.read(now);
            }
        }
        if self.pass == Pass::Scrape || self.has_read {
            self.processes.register_containers(&mut self.snapshot);
            self.snapshot.sum(self.processes.readings());
            self.summed_at = Some(now);
            if let Some(accounts) = &mut self.accounts {
                accounts.join(&self.snapshot, &self.processes, &self.proc, now);
            }
        }
        if self.pass == Pass::Scrape {
            self.make_report();
        }
        self.overhead += thread_cpu_time().saturating_sub(clock);
    }

    fn make_report(&mut self) {
        self.report = self.report(self.began_at.unwrap_or_else(Instant::now));
        let read_time = self.report.read_time - self.read_time_before;
        self.read_time_before = self.report.read_time;
        debug!(
            "a scrape of {} processes took {:?}, and {read_time:?} CPU for reading",
            self.report.n_processes, self.report.scrape_duration
        );
    }

    /// Charges what the pass took beside its reads, rendering included; says when the next scrape may begin.
    pub fn end(&mut self) -> Option<Instant> {
        let overhead = std::mem::take(&mut self.overhead);
        match self.pass {
            Pass::Check => self.budget.end_check(overhead),
            Pass::Scrape if std::mem::take(&mut self.is_first) => self.budget.end_first_scrape(overhead),
            Pass::Scrape => self.budget.end_scrape(overhead),
        }
        self.budget.next_start()
    }

    fn report(&mut self, began_at: Instant) -> Report {
        Report {
            scrape_duration: began_at.elapsed(),
            scraped_at: SystemTime::now(),
            containerd_up: self.discovery.is_runtime_up(began_at),
            containerd_errors: self.discovery.n_errors(),
            n_cut_labels: self.discovery.n_cut_labels(),
            n_unmatched_links: self.discovery.n_unmatched_links(),
            n_containers: self.discovery.n_running(),
            n_processes: self.snapshot.table().processes().map(|(_, n_processes)| n_processes).sum(),
            n_mappings: self.snapshot.table().series().map(|series| series.totals.n_mappings).sum(),
            read_time: self.report.read_time,
            read_errors: self.processes.read_errors(),
            n_scrapes: self.report.n_scrapes + 1,
            reads: self.processes.reads(),
            n_stuck: self.processes.n_stuck() as u64,
            longest_read: self.processes.longest_read(),
            ..Report::default()
        }
    }

    /// Records what the last scrape has read, and whatever tells which container owns it.
    ///
    /// Fails with one line when there is nothing to record, or something cannot be written; a process that has ended meanwhile is left out.
    pub fn record(&mut self, writer: &mut Writer) -> Result<usize, String> {
        let n_processes = self.processes.record(&self.proc, writer)?;
        if n_processes == 0 {
            return Err(format!("nothing to record: {}", self.why_nothing()));
        }
        let selected = || self.discovery.containers().filter(|container| container.is_selected);
        let mut buffers = Buffers::default();
        for init_pid in selected().filter_map(|container| container.listed.init_pid) {
            // Attribution may need the cgroup of an init process that no filter selects.
            let init = self.proc.process(init_pid, &mut buffers);
            if let Ok(cgroup) = init.and_then(|init| init.raw_cgroup(&mut buffers)) {
                writer.file(init_pid, "cgroup", &cgroup)?;
            }
        }
        if let Some(accounts) = &mut self.accounts {
            accounts.record(writer)?;
        }
        writer.containers(selected().map(|container| &container.listed))?;
        Ok(n_processes)
    }

    /// Why nothing was read.
    fn why_nothing(&self) -> String {
        let (n_refused, n_selected) = self.processes.refusals();
        match n_selected {
            0 => self.discovery.selection(&self.processes).to_string(),
            _ if n_refused > 0 => refused(n_refused, n_selected),
            _ => format!("none of the {n_selected} processes selected can be read"),
        }
    }

    /// Appends the families `process_smaps_*` of the last scrape to `text`; says how many samples they are.
    pub fn render_processes(&self, text: &mut Vec<u8>) -> u64 {
        exposition::text::render(text, self.snapshot.table())
    }

    /// Appends the families `cgroup_*` of the last scrape to `text`.
    pub fn render_accounts(&self, text: &mut Vec<u8>) {
        if let Some(accounts) = &self.accounts {
            exposition::cgroups::render(text, accounts.iter());
        }
    }

    /// Appends the whole exposition of the last scrape to `text`.
    pub fn render(&mut self, text: &mut Vec<u8>) {
        let clock = thread_cpu_time();
        let n_samples = self.render_processes(text);
        self.render_accounts(text);
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
            n_log_lines_dropped: logging::n_dropped(),
            ..self.report
        };
        let oom_kills = self.accounts.iter().flat_map(Accounts::n_kills);
        let namespaces = self.discovery.namespaces();
        self.self_metrics.render(text, &report, namespaces, self.snapshot.folded(), oom_kills);
        self.overhead += thread_cpu_time().saturating_sub(clock);
    }

    /// When the oldest values were read; without any, when the scrape began.
    pub fn oldest_data(&self) -> Option<Instant> {
        self.processes.oldest().or(self.began_at)
    }

    /// Where containers come from, for the log.
    pub fn describe_source(&self) -> String {
        self.discovery.describe_source()
    }

    /// Waits until `deadline`, or until `wake` says that something has changed; meanwhile the source of the containers may answer.
    pub fn wait_until(&mut self, deadline: Instant, wake: &Wake) {
        self.discovery.wait_until(deadline, wake);
    }

    /// Says what the filters select, once there are containers to select from: for most who see nothing, the filter is why.
    ///
    /// A node may be empty at first: that is told too, and the rest when its first container comes.
    fn log_selection(&mut self) {
        if !self.discovery.has_listed() || self.has_told_selection {
            return;
        }
        let selection = self.discovery.selection(&self.processes);
        self.has_told_selection = selection.n_containers > 0;
        let is_told = !self.has_told_selection && std::mem::replace(&mut self.has_told_emptiness, true);
        if is_told {
            return;
        }
        let level = match (selection.n_selected, self.is_recording) {
            (0, true) => Level::Debug, // the failure says it
            (0, false) => Level::Warn,
            _ => Level::Info,
        };
        log!(level, "{selection}");
    }

    /// Says once that the samples do not keep to the limit, for what folds leaves some.
    fn log_over_budget(&mut self, n_samples: u64) {
        let max_samples = self.snapshot.shape().max_samples as u64;
        let is_over = max_samples > 0 && n_samples > max_samples;
        if is_over && !std::mem::replace(&mut self.is_over_budget, true) {
            warn!(
                "{n_samples} samples are more than --max-samples {max_samples}: each container keeps one command"
            );
        }
    }

    /// Says once what is missing when processes refuse to be read, and once when none does any more.
    fn log_refusals(&mut self) {
        let (n_refused, n_selected) = self.processes.refusals();
        if n_refused == 0 && std::mem::take(&mut self.is_refused) {
            info!("all processes can be read");
        } else if n_refused > 0 && !std::mem::replace(&mut self.is_refused, true) {
            let is_failure = self.is_recording && n_refused == n_selected; // which says the same
            log!(if is_failure { Level::Debug } else { Level::Warn }, "{}", refused(n_refused, n_selected));
        }
    }
}

fn refused(n_refused: usize, n_selected: usize) -> String {
    format!("cannot read {n_refused} of {n_selected} processes: {}", permissions::missing())
}
