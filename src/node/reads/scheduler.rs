//! Which process is read next. The scrape takes a job, does it with nothing locked, and applies its result (see
//! [`apply`](super::apply)). A read that takes long is detached: its result is applied later.

use std::time::{Duration, Instant};

use super::budget::Budget;
use super::detached::{DetachedReads, MAX_DETACHED};
use super::plan::{Due, Plan};
use crate::exposition::self_metrics::{ReadErrors, Reads as ReadCounts};
use crate::node::containers::discovery::Discovery;
use crate::node::containers::table::ContainerId;
use crate::node::processes::change_check::MAX_CONFIRMED;
use crate::node::processes::job::{Detail, Job};
use crate::node::processes::process::Process;
use crate::node::processes::table::ProcessTable;
use crate::procfs::this_process::cpu_time_of_thread;
use crate::procfs::{Entry, Proc};
use crate::totals::snapshot::Snapshot;

/// The node, as a read finds it.
#[derive(Debug)]
pub struct Node<'a> {
    /// Its processes.
    pub processes: &'a mut ProcessTable,
    /// Its proc file system.
    pub proc: &'a Proc,
    /// Its containers.
    pub discovery: &'a Discovery,
}

/// The reads of a node's processes.
#[derive(Debug)]
pub struct Reads {
    plan: Plan,
    /// The read that the scrape waits for.
    under_way: Option<UnderWay>,
    detached: DetachedReads,
    /// The positions of processes whose values are kept without a read in this scrape. Whether they still run the same
    /// program is checked last.
    kept: Vec<u32>,
    /// When the budget last left out a process.
    left_out_at: Option<Instant>,
    /// The table was searched for new processes up to this position.
    n_searched: usize,
    interval: Duration,
    always_reads: bool,
    errors: ReadErrors,
    counts: ReadCounts,
}

#[derive(Debug)]
struct UnderWay {
    job: Job,
    thread: u32,
    began_at: Instant,
}

impl Reads {
    /// Creates the state before the first scrape; scrapes come at this interval.
    pub fn new(interval: Duration) -> Self {
        Self {
            plan: Plan::default(),
            under_way: None,
            detached: DetachedReads::default(),
            kept: Vec::new(),
            left_out_at: None,
            n_searched: 0,
            interval,
            always_reads: false,
            errors: ReadErrors::default(),
            counts: ReadCounts::default(),
        }
    }

    /// Reads every process in each scrape, also those that have not changed: to measure reading.
    pub fn always_read(&mut self) {
        self.always_reads = true;
    }

    /// Returns the interval of the scrapes.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Returns how many reads failed since the start, by reason.
    pub fn errors(&self) -> ReadErrors {
        self.errors
    }

    /// Returns how many reads failed, to count one more.
    pub fn errors_mut(&mut self) -> &mut ReadErrors {
        &mut self.errors
    }

    /// Returns how many reads succeeded since the start, by what was read.
    pub fn counts(&self) -> ReadCounts {
        self.counts
    }

    /// Returns how many reads succeeded, to count one more.
    pub fn counts_mut(&mut self) -> &mut ReadCounts {
        &mut self.counts
    }

    /// Begins a scrape whose processes are listed: reports the detached reads that have become stuck.
    pub fn begin(&mut self, processes: &mut ProcessTable) {
        self.n_searched = 0;
        let now = Instant::now();
        while let Some(Job { pid, inode, .. }) = self.detached.next_stuck(now, cpu_time_of_thread) {
            if let Some(i) = processes.position(Entry { pid, inode }) {
                self.errors.stuck += u64::from(processes.at(i).report_stuck());
            }
        }
    }

    /// Returns the read of `stat` of the next process that is new, on `thread`.
    pub fn next_unknown(&mut self, node: &mut Node<'_>, thread: u32) -> Option<Job> {
        while let Some(process) = node.processes.get(self.n_searched) {
            let i = self.n_searched;
            self.n_searched += 1;
            if process.identity().start_time().is_some() || process.state().is_detached() {
                continue;
            }
            if self.looks_stuck(node, i) {
                self.skip(node, i);
                continue;
            }
            return Some(self.begin_stat(node.processes.at(i), thread));
        }
        None
    }

    /// Queues the selected processes that are `wanted`, except those that rest after a long read or are being read. The names
    /// and the containers of these are checked now, and their programs when the queue is empty.
    pub fn queue(&mut self, node: &mut Node<'_>, now: Instant, wanted: impl Fn(&Process) -> bool) {
        let Self { plan, kept, .. } = self;
        kept.clear();
        let due = (0..).zip(node.processes.iter_mut()).filter_map(|(position, process)| {
            if !process.is_selected() || !wanted(process) {
                return None;
            }
            if process.can_begin_read(now) {
                return Some(Due {
                    position,
                    container: process.container()?.id,
                    is_new: process.last().at().is_none(),
                    since: process.due_since(),
                });
            }
            if process.keeps_values() {
                kept.push(position);
            }
            None
        });
        plan.fill(due);
        for &i in kept.iter() {
            node.processes.probe_kept(i as usize, node.proc, node.discovery);
        }
        self.under_way = None;
    }

    /// Returns the next read on `thread`, or `None` when nothing more is read in this scrape. A process that the budget or a
    /// held memory-map lock leaves out is probed instead: its values are kept while it is the same process.
    pub fn next(
        &mut self,
        node: &mut Node<'_>,
        budget: &Budget,
        snapshot: &Snapshot,
        thread: u32,
    ) -> Option<Job> {
        while let Some(i) = self.plan.pop() {
            if !budget.allows() {
                self.left_out_at = Some(Instant::now());
                self.keep(node, i);
                continue;
            }
            if self.looks_stuck(node, i) {
                self.skip(node, i);
                node.processes.probe(i, node.proc, node.discovery);
                continue;
            }
            return Some(self.begin_memory(node.processes.at(i), snapshot, thread));
        }
        self.next_check(node, thread)
    }

    /// Returns the next read of `stat` of a process whose values are kept, to check which program it runs. `stat` can block
    /// on `exec_update_lock`, so it is read like memory: nothing is locked meanwhile, and the read can be detached.
    fn next_check(&mut self, node: &mut Node<'_>, thread: u32) -> Option<Job> {
        while let Some(i) = self.kept.pop() {
            let i = i as usize;
            let process = node.processes.at(i);
            if !process.is_selected() || !process.keeps_values() || process.last().program().is_none() {
                continue;
            }
            let entry = process.identity().entry();
            let is_checked = self.detached.of(entry).any(|job| job.detail == Detail::Stat);
            if !is_checked && !self.looks_stuck(node, i) {
                return Some(self.begin_stat(node.processes.at(i), thread));
            }
            node.processes.probe(i, node.proc, node.discovery); // without stat the name decides
        }
        None
    }

    /// Begins a read of memory. It includes `stat` while the budget leaves out processes, because values are then kept for
    /// longer than a scrape; otherwise that would cost up to a twelfth of reading a small process.
    fn begin_memory(&mut self, process: &mut Process, snapshot: &Snapshot, thread: u32) -> Job {
        let now = Instant::now();
        let is_short = self.left_out_at.is_some_and(|at| now.saturating_duration_since(at) < MAX_CONFIRMED);
        // Where paths were merged, only reading all of them can tell them apart.
        let has_merged = process.last().reading().is_some_and(|id| snapshot.has_merged(id));
        let reads_all = self.always_reads || has_merged;
        let job = process.memory_job(snapshot.shape().is_rollup(), reads_all, is_short, now);
        self.under_way = Some(UnderWay { job, thread, began_at: now });
        job
    }

    fn begin_stat(&mut self, process: &Process, thread: u32) -> Job {
        let job = process.stat_job();
        self.under_way = Some(UnderWay { job, thread, began_at: Instant::now() });
        job
    }

    /// Whether this read would probably not return either. That is checked only while [`MAX_DETACHED`] reads are detached.
    fn looks_stuck(&mut self, node: &mut Node<'_>, i: usize) -> bool {
        let is_waiting =
            self.detached.count() >= MAX_DETACHED && node.processes.has_waiting_thread(i, node.proc);
        if !is_waiting {
            node.processes.at(i).end_skipping();
        }
        is_waiting
    }

    fn skip(&mut self, node: &mut Node<'_>, i: usize) {
        self.errors.stuck += u64::from(node.processes.at(i).skip(Instant::now()));
    }

    /// Keeps the values of a process that is not read in this scrape, unless its name or its container shows that they are
    /// those of another program.
    pub fn keep(&mut self, node: &mut Node<'_>, i: usize) {
        self.kept.push(i as u32);
        node.processes.probe_kept(i, node.proc, node.discovery);
    }

    /// Makes the process at this position the next one.
    pub fn repeat(&mut self, i: usize) {
        self.plan.repeat(i);
    }

    /// Charges a container for the read of a process.
    pub fn charge(&mut self, container: ContainerId, is_new: bool, cost: Duration) {
        self.plan.charge(container, is_new, cost);
    }

    /// Detaches the read that is under way.
    pub fn detach(&mut self, processes: &mut ProcessTable) {
        let Some(UnderWay { job, thread, began_at }) = self.under_way.take() else { return };
        self.detached.add(job, thread, began_at, cpu_time_of_thread(thread).unwrap_or_default());
        if let Some(i) = processes.position(Entry { pid: job.pid, inode: job.inode }) {
            processes.at(i).detach_read();
        }
    }

    /// Ends a read. Returns whether it was under way or detached.
    pub fn end(&mut self, job: &Job) -> bool {
        if self.under_way.take_if(|under_way| under_way.job == *job).is_some() {
            return true;
        }
        self.detached.end(job)
    }

    /// Whether a read of the process is detached.
    pub fn has_detached(&self, process: Entry) -> bool {
        self.detached.of(process).next().is_some()
    }
}
