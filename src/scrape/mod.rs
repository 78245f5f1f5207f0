//! Runs scrapes. A scrape lists the processes, finds their containers, chooses and reads processes, sums the
//! readings, and renders the sums.
//!
//! Between scrapes there are *checks*. A check has the same steps as a scrape, but reads only containers that
//! come close to their limit, and renders nothing. If the kernel then kills a process in such a container,
//! the OOM record can show what the container held.

mod checks;
mod handover;
mod ooms;
mod own_metrics;
mod parts;
mod progress;
mod record;
mod state_log;
pub mod threads;
pub mod views;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::checks::{CheckSchedule, Need};
use self::ooms::Ooms;
use self::own_metrics::OwnMetrics;
pub use self::parts::Parts;
pub use self::progress::Pass;
use self::progress::Progress;
use self::state_log::StateLog;
use self::views::{Query, Views};
use crate::cgroupfs::account::Exported;
use crate::demand::{Demand, Wake};
use crate::errors::plain;
use crate::exposition;
use crate::node::cgroups::usage::CgroupUsage;
use crate::node::containers::discovery::Discovery;
use crate::node::processes::job::{Detail, Job};
use crate::node::processes::table::ProcessTable;
use crate::node::reads::apply::apply_read;
use crate::node::reads::budget::Budget;
use crate::node::reads::finding::Finding;
use crate::node::reads::reader::Reader;
use crate::node::reads::scheduler::{Bounds, Node, Reads};
use crate::procfs::Proc;
use crate::procfs::this_process::thread_cpu_time;
use crate::totals::snapshot::Snapshot;

/// The state that is kept from one scrape to the next.
#[derive(Debug)]
pub struct Scraper {
    proc: Arc<Proc>,
    discovery: Discovery,
    processes: ProcessTable,
    reads: Reads,
    /// The memory use of cgroups; `None` if no cgroups are read.
    cgroups: Option<CgroupUsage>,
    budget: Budget,
    snapshot: Snapshot,
    views: Views,
    own_metrics: OwnMetrics,
    progress: Progress,
    checks: CheckSchedule,
    ooms: Ooms,
    log: StateLog,
}

impl Scraper {
    /// Builds a scraper from its parts.
    pub fn new(parts: Parts) -> Self {
        Self {
            proc: Arc::new(parts.proc),
            discovery: parts.discovery,
            processes: ProcessTable::default(),
            reads: parts.reads,
            cgroups: parts.cgroups,
            budget: parts.budget,
            snapshot: parts.snapshot,
            views: parts.views,
            own_metrics: OwnMetrics::new(parts.self_metrics),
            progress: Progress::default(),
            checks: CheckSchedule::new(parts.check_interval),
            ooms: Ooms::default(),
            log: StateLog::new(parts.is_recording),
        }
    }

    /// Waits up to `patience` for the first listing of containers, so that the first scrape has containers.
    ///
    /// Fails if there is no listing by then; each scrape tries again. The error is a one-line message.
    pub fn list_first(&mut self, patience: Duration) -> Result<(), String> {
        self.discovery.list_first(Instant::now() + patience)
    }

    /// Makes each scrape read all processes, even processes that look unchanged. Benchmarks use this to
    /// measure reads.
    pub fn always_read(&mut self) {
        self.reads.always_read();
    }

    /// Returns a new reader, which the calling thread uses to read processes.
    pub fn reader(&self) -> Reader {
        Reader::new(self.views.anon_parts(), self.snapshot.max_bytes())
    }

    /// Returns the proc file system that the current scrape or check uses.
    pub fn proc(&self) -> Arc<Proc> {
        self.proc.clone()
    }

    /// Scrapes once. Runs all reads on the calling thread.
    ///
    /// Fails if proc cannot be listed; the last snapshot is then kept. The error is a one-line message.
    pub fn scrape(&mut self, reader: &mut Reader) -> Result<(), String> {
        self.begin(Pass::Scrape, false)?;
        reader.restart_clock();
        let proc = self.proc();
        while let Some(job) = self.next(0) {
            let finding = reader.read(&proc, job);
            self.apply(&job, &finding);
        }
        reader.shrink();
        self.finish();
        self.end(Pass::Scrape);
        Ok(())
    }

    /// Begins a scrape or a check by listing the processes. If `needs_paths` is false, a scrape may read only
    /// the sums that the kernel computes (smaps_rollup). Otherwise every mapping is read.
    ///
    /// Fails if proc cannot be listed. The error is a one-line message.
    pub fn begin(&mut self, pass: Pass, needs_paths: bool) -> Result<(), String> {
        let (now, clock) = (Instant::now(), thread_cpu_time());
        if self.proc.is_replaced() {
            let path = self.proc.path();
            let proc = Proc::open(path);
            self.proc = Arc::new(proc.map_err(|error| format!("cannot open {path:?}: {}", plain(&error)))?);
        }
        let Self { proc, discovery, processes, reads, cgroups, budget, views, .. } = self;
        self.checks.begin(now);
        discovery.refresh(now);
        let cannot_list = |error| format!("cannot list {:?}: {}", proc.path(), plain(&error));
        processes.list(proc, pass == Pass::Check, now).map_err(cannot_list)?;
        // Only a scrape may leave out the paths and read the kernel's sums. A check between scrapes always
        // reads paths, because an OOM record needs them.
        reads.begin(processes, pass == Pass::Scrape && !needs_paths && views.are_sums());
        match pass {
            Pass::Scrape => budget.begin_scrape(now),
            Pass::Check => budget.begin_check(now),
        }
        cgroups.iter().for_each(|cgroups| budget.spend(cgroups.take_watch_time()));
        self.progress.begin(pass, now);
        self.add_overhead_since(clock);
        Ok(())
    }

    /// Returns the pass that is running, if there is one. A pass is a scrape or a check.
    pub fn under_way(&self) -> Option<Pass> {
        self.progress.under_way()
    }

    /// Returns the next read for the thread with this number. Returns `None` if the current scrape or check
    /// has no further reads.
    pub fn next(&mut self, thread: u32) -> Option<Job> {
        if let Some(pass) = self.progress.identifying() {
            let Self { proc, discovery, processes, reads, .. } = self;
            if let Some(job) = reads.next_unknown(&mut Node { processes, proc, discovery }, thread) {
                return Some(job);
            }
            self.begin_reads(pass);
        }
        self.record_kills();
        if self.progress.is_first_too_long(Instant::now()) {
            return None;
        }
        let clock = thread_cpu_time();
        let Self { proc, discovery, processes, reads, cgroups, budget, snapshot, .. } = self;
        let time_to_limit = |id| cgroups.as_ref().and_then(|cgroups| cgroups.time_to_limit(id));
        let (mut node, bounds) =
            (Node { processes, proc, discovery }, Bounds { budget, time_to_limit: &time_to_limit });
        let next = reads.next(&mut node, &bounds, snapshot, thread);
        if next.is_none() {
            // The CPU time of this call is usually charged together with the read that follows. No read
            // follows here, so the CPU time is charged separately.
            self.add_overhead_since(clock);
        }
        next
    }

    /// Identifies the processes and finds their containers. Then queues the processes that this scrape or
    /// check reads.
    fn begin_reads(&mut self, pass: Pass) {
        let now = Instant::now();
        let Self { proc, discovery, processes, cgroups, .. } = self;
        let has_changed = discovery.observe(processes.seen(), now);
        processes.identify(proc, discovery, has_changed);
        discovery.see_running(processes.attributed().map(|(container, _)| container));
        if let Some(cgroups) = cgroups {
            cgroups.update(processes, discovery, proc, now);
        }
        self.record_kills();
        let Self { proc, discovery, processes, reads, cgroups, .. } = self;
        let (mut node, is_check) = (Node { processes, proc, discovery }, pass == Pass::Check);
        cgroups.iter_mut().for_each(CgroupUsage::begin_reads);
        let is_due = |process: &_| cgroups.as_ref().is_some_and(|cgroups| cgroups.is_due(process));
        reads.queue(&mut node, now, |process| !is_check || is_due(process));
        self.progress.begin_reads(pass);
        if self.discovery.has_listed() && self.log.needs_selection() {
            self.log.log_selection(&self.discovery.selection(self.processes.attributed()));
        }
    }

    /// Applies the result of a read. If the read took so long that the scrape continued without it, the
    /// result may be applied in a later scrape or check.
    pub fn apply(&mut self, job: &Job, finding: &Finding<'_>) {
        let Self { proc, discovery, processes, reads, snapshot, .. } = self;
        apply_read(reads, &mut Node { processes, proc, discovery }, snapshot, job, finding);
        // Reads of `stat` alone are not charged to the CPU budget of this scrape. If they were, 3,400 of them
        // would use up a budget of 0.01, and no memory would be read. Instead, their CPU time delays the next
        // scrape.
        match job.detail {
            Detail::Stat => self.progress.add_overhead(finding.cost.cpu_time),
            _ => self.budget.spend(finding.cost.cpu_time),
        }
        self.own_metrics.add_read(finding.cost.cpu_time);
        self.progress.note_read();
    }

    /// Detaches the current read, if one is running. The scrape then no longer waits for this read.
    pub fn detach(&mut self) {
        self.reads.detach(&mut self.processes);
    }

    /// Whether all detached reads have returned, except stuck ones. Processes that were skipped, for example
    /// because the CPU budget is used up, have no effect on the result.
    pub fn is_complete(&self) -> bool {
        self.processes.is_complete()
    }

    /// Ends the reads of the scrape or check: sums the readings, and reads the cgroups of the containers. A
    /// stuck process cannot block these steps.
    pub fn finish(&mut self) {
        let (now, clock) = (Instant::now(), thread_cpu_time());
        let Some((pass, must_sum)) = self.progress.finish(now) else { return };
        if pass == Pass::Scrape {
            let (n_refused, n_selected) = self.processes.refusals();
            self.log.log_refusals(n_refused, n_selected);
            if let Some(cgroups) = &mut self.cgroups {
                cgroups.read(&self.proc);
            }
        }
        if must_sum {
            self.processes.register_containers(&mut self.snapshot);
            self.snapshot.sum(self.processes.readings());
            if let Some(cgroups) = &mut self.cgroups {
                cgroups.join(&self.snapshot, &self.processes, &self.proc, now);
            }
        }
        if pass == Pass::Scrape {
            let began_at = self.progress.began_at().unwrap_or(now);
            let Self { own_metrics, proc, discovery, processes, reads, snapshot, .. } = self;
            own_metrics.end_scrape(began_at, proc, discovery, processes, reads, snapshot);
        }
        self.add_overhead_since(clock);
    }

    /// Charges the CPU time of the scrape or check to the budget, except the time of the reads, which was
    /// charged before. Returns the time at which the next scrape may begin.
    pub fn end(&mut self, pass: Pass) -> Option<Instant> {
        let overhead = self.progress.take_overhead();
        match pass {
            Pass::Check => self.budget.end_check(overhead),
            Pass::Scrape if self.progress.end_scrape() => self.budget.end_first_scrape(overhead),
            Pass::Scrape => self.budget.end_scrape(overhead),
        }
        self.budget.next_start()
    }

    fn add_overhead_since(&mut self, clock: Duration) {
        self.progress.add_overhead(thread_cpu_time().saturating_sub(clock));
    }

    /// Appends the families `process_smaps_*` of the last scrape to `text`. Returns the number of samples.
    pub fn render_processes(&mut self, text: &mut Vec<u8>) -> u64 {
        self.views.render(text, &self.snapshot)
    }

    /// Appends the families `cgroup_*` of the last scrape to `text`.
    pub fn render_accounts(&self, text: &mut Vec<u8>) {
        if let Some(cgroups) = &self.cgroups {
            exposition::cgroups::render(text, cgroups.groups(), cgroups.exported());
            exposition::pods::render(text, cgroups.exported_pods().map(|(pod, _)| pod));
            exposition::node::render(text, cgroups.exported_node());
        }
    }

    /// Appends the whole exposition of the last scrape to `text`.
    pub fn render(&mut self, text: &mut Vec<u8>) {
        let clock = thread_cpu_time();
        let n_samples = self.render_processes(text);
        self.render_accounts(text);
        self.log.log_over_limit(n_samples, self.views.max_samples() as u64);
        let (namespaces, folded) = (self.discovery.namespaces(), self.views.folded(&self.snapshot));
        let oom_kills = self.cgroups.iter().flat_map(CgroupUsage::n_kills);
        self.own_metrics.render(text, n_samples, namespaces, folded, oom_kills);
        self.add_overhead_since(clock);
    }

    /// Appends the view that `query` describes to `text`, with the cgroup families of its containers. The
    /// values are those of the last scrape. Returns whether the text has at most `max_bytes`. The CPU time is
    /// not charged to the budget.
    pub fn render_query(&mut self, query: &Query, text: &mut Vec<u8>, max_bytes: usize) -> bool {
        let Some((view, n_samples)) = query.render(text, &self.snapshot, max_bytes) else { return false };
        if let Some(cgroups) = &self.cgroups {
            let selects = |account: &Exported<'_>| query.selects(account.labels, None);
            // `render` goes through the containers once for each family. They are collected here, so that the
            // filters of the query are matched only once.
            let selected: Vec<_> = cgroups.exported().filter(selects).collect();
            exposition::cgroups::render(text, cgroups.groups(), selected.iter().copied());
            let pods: Vec<_> = cgroups.exported_pods().filter(|(_, of)| query.selects_any(of)).collect();
            exposition::pods::render(text, pods.iter().map(|(pod, _)| *pod));
            exposition::node::render(text, cgroups.exported_node().filter(|_| query.filters.is_empty()));
        }
        let (namespaces, folded) = (self.discovery.namespaces(), view.folded(self.snapshot.summed()));
        let oom_kills = self.cgroups.iter().flat_map(CgroupUsage::n_kills);
        let oom_kills = oom_kills.filter(|(labels, _)| query.selects(labels, None));
        self.own_metrics.render(text, n_samples, namespaces, folded, oom_kills);
        text.len() <= max_bytes
    }

    /// Returns the time at which the oldest exported values were read. If there are no values, returns the
    /// time at which the scrape began.
    pub fn oldest_data(&self) -> Option<Instant> {
        self.processes.oldest().or(self.progress.began_at())
    }

    /// Describes, for the log, where the list of containers comes from.
    pub fn describe_source(&self) -> String {
        self.discovery.describe_source()
    }

    /// Waits until `deadline`, or until another thread wakes this one. During the wait, a listing of
    /// containers can continue.
    pub fn wait_until(&mut self, deadline: Instant, wake: &Wake) {
        self.discovery.wait_until(deadline, wake);
    }

    /// Returns the time at which the next check is due, if no scrape begins before that time. Returns `None`
    /// if there are no checks.
    pub fn next_check(&self) -> Option<Instant> {
        let need = match &self.cgroups {
            Some(cgroups) if cgroups.has_due() => Need::Urgent,
            Some(cgroups) if cgroups.is_calm() => Need::Calm,
            _ => Need::Usual,
        };
        self.checks.next_check(self.budget.next_check(), need)
    }

    /// Starts a thread that wakes the scrape thread when there is an OOM kill, or when a container comes
    /// close to its limit. Fails with the system's error if the thread cannot be started.
    pub fn watch_ooms(&self, demand: Arc<Demand>) -> io::Result<()> {
        match &self.cgroups {
            Some(cgroups) => cgroups.start_watch(demand, self.budget.fraction(), self.proc()),
            None => Ok(()),
        }
    }

    /// Makes records of the OOM kills that were found since the last call.
    pub fn record_kills(&mut self) {
        if let Some(cgroups) = &mut self.cgroups {
            let kills = cgroups.take_kills();
            self.ooms.record(kills, &self.snapshot, self.progress.summed_at(), Instant::now());
        }
    }

    /// Returns all OOM records as JSON, or `None` if there is no new record since the last call.
    pub fn take_new_oom_records(&mut self) -> Option<String> {
        self.ooms.take_new_document()
    }
}
