//! Decides which process is read next. The scrape takes a job, runs it without holding a lock, and applies
//! its result (see [`apply`](super::apply)). If the read is slow, it is detached, which means that the scrape
//! goes on without waiting for it. Then the result is applied later.

use std::time::{Duration, Instant};

use super::budget::Budget;
use super::detached::{DetachedReads, MAX_DETACHED};
use super::plan::{Due, Plan};
use super::reader::MAX_READ;
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

/// A read that takes this many times as long as expected must still end before the container may reach a
/// memory limit. Otherwise, the process is not read (see [`Bounds::is_too_close`]).
const MARGIN: u32 = 3;
/// If the limit is reached later than this, any read ends before. Then the duration of the read need not be
/// estimated, which saves reading `status`.
const SOON: Duration = MAX_READ.saturating_mul(MARGIN);

/// The parts of the node that a read needs.
#[derive(Debug)]
pub struct Node<'a> {
    /// The processes of the node.
    pub processes: &'a mut ProcessTable,
    /// The proc file system of the node.
    pub proc: &'a Proc,
    /// The containers of the node.
    pub discovery: &'a Discovery,
}

/// The limits that apply to the reads of a scrape.
pub struct Bounds<'a> {
    /// The CPU time that reads may use.
    pub budget: &'a Budget,
    /// Returns how long a container takes to reach its limit if its memory use keeps growing; `None` if the
    /// memory use does not grow, or if there is no limit.
    pub time_to_limit: &'a dyn Fn(ContainerId) -> Option<Duration>,
}

/// The state of the reads of a node's processes.
#[derive(Debug)]
pub struct Reads {
    plan: Plan,
    /// The read that the scrape is waiting for, if there is one.
    under_way: Option<UnderWay>,
    detached: DetachedReads,
    /// The processes that keep their values and are not read in this scrape, as positions in the table of
    /// processes. At the end of the scrape, `stat` is read to find out which program each of them runs now.
    kept: Vec<u32>,
    /// When a process was last skipped because the budget was used up.
    left_out_at: Option<Instant>,
    /// The position in the table that the search for new processes has reached.
    n_searched: usize,
    interval: Duration,
    always_reads: bool,
    /// Whether this scrape needs only the sums over all mappings, which the kernel prints in `smaps_rollup`.
    reads_sums: bool,
    errors: ReadErrors,
    counts: ReadCounts,
}

#[derive(Debug)]
struct UnderWay {
    job: Job,
    thread: u32,
    began_at: Instant,
}

impl Bounds<'_> {
    /// Whether the container of a process may reach its memory limit before a read of the process ends. At
    /// the limit, the kernel may kill the process. The memory of a process stays charged to the container
    /// while a read walks its pages, even after the process was killed. So the kernel may then kill a second
    /// process.
    fn is_too_close(&self, node: &mut Node<'_>, snapshot: &Snapshot, i: usize) -> bool {
        let process = node.processes.at(i);
        let time_left = process.container().and_then(|of| (self.time_to_limit)(of.id));
        let Some(time_left) = time_left.filter(|&time_left| time_left < SOON) else { return false };
        let resident = process.last().reading().map_or(0, |id| snapshot.resident(id));
        time_left < MARGIN * node.processes.expected_read(i, resident, node.proc)
    }
}

impl Reads {
    /// Returns the state before the first scrape, when no process has been read. `interval` is the time
    /// between scrapes.
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
            reads_sums: false,
            errors: ReadErrors::default(),
            counts: ReadCounts::default(),
        }
    }

    /// Makes every scrape read every process, even if nothing has changed. This is used to measure reads.
    pub fn always_read(&mut self) {
        self.always_reads = true;
    }

    /// Returns the interval of the scrapes.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Returns how many reads have failed since the exporter started, by reason.
    pub fn errors(&self) -> ReadErrors {
        self.errors
    }

    /// Returns a mutable reference to the numbers of failed reads.
    pub fn errors_mut(&mut self) -> &mut ReadErrors {
        &mut self.errors
    }

    /// Returns how many reads have succeeded or were skipped since the exporter started, by kind.
    pub fn counts(&self) -> ReadCounts {
        self.counts
    }

    /// Returns a mutable reference to the numbers of successful and skipped reads.
    pub fn counts_mut(&mut self) -> &mut ReadCounts {
        &mut self.counts
    }

    /// Begins a scrape, after proc has been listed. Counts and logs the detached reads that have become
    /// stuck. A detached read is a read that no scrape waits for any more. `reads_sums` says that this scrape
    /// reads no mappings, but only the kernel's sums in `smaps_rollup`.
    pub fn begin(&mut self, processes: &mut ProcessTable, reads_sums: bool) {
        (self.n_searched, self.reads_sums) = (0, reads_sums);
        let now = Instant::now();
        while let Some(Job { pid, inode, .. }) = self.detached.next_stuck(now, cpu_time_of_thread) {
            if let Some(i) = processes.position(Entry { pid, inode }) {
                self.errors.stuck += u64::from(processes.at(i).report_stuck());
            }
        }
    }

    /// Returns a job that reads `stat` of the next new process. The job will run on `thread`.
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

    /// Queues the selected processes for which `wanted` is true. A process is not queued during the pause
    /// after a long or refused read, or while an earlier read of the process has not returned.
    ///
    /// In both cases, the process may keep the values of its last read. They are dropped here if the name or
    /// the cgroups of the process show that the values no longer belong to the process. The program that the
    /// process runs may show this, too, but it is in `stat`, and reading `stat` can block. So `stat` is not
    /// read here, but later by [`next`](Self::next).
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
            node.processes.refresh_kept(i as usize, node.proc, node.discovery);
        }
        self.under_way = None;
    }

    /// Returns the next read, which will run on `thread`, or `None` if this scrape reads nothing more. The
    /// memory of a process is not read if the budget is used up, if its container may reach a limit during
    /// the read, or if the read would probably not return. Instead, the name and the cgroups are read. They
    /// show whether the values of the last read still belong to the process.
    pub fn next(
        &mut self,
        node: &mut Node<'_>,
        bounds: &Bounds<'_>,
        snapshot: &Snapshot,
        thread: u32,
    ) -> Option<Job> {
        while let Some(i) = self.plan.pop() {
            if !bounds.budget.allows() {
                self.left_out_at = Some(Instant::now());
                self.keep(node, i);
                continue;
            }
            if bounds.is_too_close(node, snapshot, i) {
                self.counts.deferred += 1;
                self.keep(node, i);
                continue;
            }
            if self.looks_stuck(node, i) {
                self.skip(node, i);
                node.processes.refresh(i, node.proc, node.discovery);
                continue;
            }
            return Some(self.begin_memory(node.processes.at(i), snapshot, thread));
        }
        self.next_check(node, thread)
    }

    /// Returns a job that reads `stat` of the next process in `kept`. `stat` shows whether the process still
    /// runs the same program as when its values were read. Reading `stat` can block on the kernel's
    /// `exec_update_lock`. So `stat` is read in the same way as memory: the exporter holds no lock, and the
    /// scrape can go on without waiting for the read.
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
            node.processes.refresh(i, node.proc, node.discovery); // without stat, the name decides
        }
        None
    }

    /// Begins a read of memory. If the budget was recently too small to read all processes, the read includes
    /// `stat`, which shows the program that the process runs. A later scrape that has no CPU time to read the
    /// process can then compare the programs, and keep the values if they are the same. At other times `stat`
    /// is not read, because that would take up to a twelfth of the CPU time of reading a small process.
    fn begin_memory(&mut self, process: &mut Process, snapshot: &Snapshot, thread: u32) -> Job {
        let now = Instant::now();
        let is_short = self.left_out_at.is_some_and(|at| now.saturating_duration_since(at) < MAX_CONFIRMED);
        // If paths of the last reading were merged into `[other]`, only a full read can separate them again.
        let has_merged = process.last().reading().is_some_and(|id| snapshot.has_merged(id));
        let reads_all = self.always_reads || has_merged;
        let job = process.memory_job(self.reads_sums, reads_all, is_short, now);
        self.under_way = Some(UnderWay { job, thread, began_at: now });
        job
    }

    fn begin_stat(&mut self, process: &Process, thread: u32) -> Job {
        let job = process.stat_job();
        self.under_way = Some(UnderWay { job, thread, began_at: Instant::now() });
        job
    }

    /// Whether the process must be skipped, because a read of it would probably block a thread for good. No
    /// process is skipped while fewer than [`MAX_DETACHED`] threads run reads that the scrape no longer waits
    /// for, because one more blocked thread does no harm then.
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

    /// Keeps the values of a process that is not read in this scrape. If the name or the container of the
    /// process shows that the values no longer belong to the process, the values are dropped.
    pub fn keep(&mut self, node: &mut Node<'_>, i: usize) {
        self.kept.push(i as u32);
        node.processes.refresh_kept(i, node.proc, node.discovery);
    }

    /// Makes the next call of [`next`](Self::next) begin with the process at this position in the table.
    pub fn repeat(&mut self, i: usize) {
        self.plan.repeat(i);
    }

    /// Adds the CPU time of a read to what the reads of this container have used. `is_new` says that this was
    /// the first read of the process.
    pub fn charge(&mut self, container: ContainerId, is_new: bool, cost: Duration) {
        self.plan.charge(container, is_new, cost);
    }

    /// Detaches the read that the scrape is waiting for, so that the scrape goes on without it.
    pub fn detach(&mut self, processes: &mut ProcessTable) {
        let Some(UnderWay { job, thread, began_at }) = self.under_way.take() else { return };
        self.detached.add(job, thread, began_at, cpu_time_of_thread(thread).unwrap_or_default());
        if let Some(i) = processes.position(Entry { pid: job.pid, inode: job.inode }) {
            processes.at(i).detach_read();
        }
    }

    /// Removes a read that has ended from the reads in progress. Returns whether the read was one of them.
    /// Reads that the scrape no longer waits for (detached reads) are also in progress.
    pub fn end(&mut self, job: &Job) -> bool {
        if self.under_way.take_if(|under_way| under_way.job == *job).is_some() {
            return true;
        }
        self.detached.end(job)
    }

    /// Whether the process has a detached read, which has not returned and which no scrape waits for any
    /// more.
    pub fn has_detached(&self, process: Entry) -> bool {
        self.detached.of(process).next().is_some()
    }
}
