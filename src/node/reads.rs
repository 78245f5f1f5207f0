//! Which process is read next, and what its read gave. The scrape takes a job, reads it with nothing locked, and brings back what was
//! found; a read that takes long is left behind and brings it back later.

use std::time::Instant;

use log::{debug, info, warn};

use super::away::MAX_DETACHED;
use super::budget::Budget;
use super::discovery::Discovery;
use super::ladder::MAX_CONFIRMED;
use super::process::Process;
use super::processes::Processes;
use super::queue::Due;
use super::reader::{Detail, Job, Reader};
use crate::procfs::errors::ReadError;
use crate::procfs::this_process::cpu_time_of_thread;
use crate::procfs::{Entry, Proc};
use crate::totals::snapshot::{self, Snapshot};

impl Processes {
    /// The next process of which nothing is known but its number, to be asked what it is on `thread`.
    pub fn next_unknown(&mut self, proc: &Proc, thread: u32) -> Option<Job> {
        while let Some(process) = self.table.get(self.n_known) {
            let i = self.n_known;
            self.n_known += 1;
            if process.start_time.is_none() && !process.is_away {
                if self.looks_stuck(i, proc) {
                    self.skip(i);
                    continue;
                }
                let entry = self.table[i].entry;
                return Some(self.stat_job(entry, thread));
            }
        }
        None
    }

    /// The read of a process on `thread`. It includes `stat` while the budget leaves out processes, because values are then kept for
    /// longer than a scrape; otherwise that would be up to a twelfth of reading a small process.
    fn memory_job(&mut self, i: usize, snapshot: &Snapshot, thread: u32) -> Job {
        let now = Instant::now();
        let is_short = self.left_out_at.is_some_and(|at| now.saturating_duration_since(at) < MAX_CONFIRMED);
        let process = &mut self.table[i];
        // Where paths were merged, only reading all of them can tell them apart.
        let has_merged = process.reading.as_ref().is_some_and(|id| snapshot.has_merged(id));
        let job = process.job(snapshot.shape().is_rollup(), self.always_reads || has_merged, now);
        let job = Job { with_stat: is_short, ..job };
        self.under_way = Some((job, thread, now));
        job
    }

    fn stat_job(&mut self, entry: Entry, thread: u32) -> Job {
        let job = Job { pid: entry.pid, inode: entry.inode, detail: Detail::Stat, with_stat: true };
        self.under_way = Some((job, thread, Instant::now()));
        job
    }

    /// The next of the processes whose values are kept without a read, to check which program it runs. `stat` can block on
    /// `exec_update_lock`, so it is read like memory: nothing is locked meanwhile, and the scrape can go on without it.
    fn next_check(&mut self, proc: &Proc, discovery: &Discovery, thread: u32) -> Option<Job> {
        while let Some(i) = self.kept.pop() {
            let i = i as usize;
            let process = &self.table[i];
            let entry = process.entry;
            if !process.is_selected || !process.keeps_values() || process.program.is_none() {
                continue;
            }
            let is_checked = self.away.of(entry.pid, entry.inode).any(|job| job.detail == Detail::Stat);
            if !is_checked && !self.looks_stuck(i, proc) {
                return Some(self.stat_job(entry, thread));
            }
            self.probe(i, proc, discovery); // without stat the name decides
        }
        None
    }

    /// Queues the selected processes that are `wanted`, except those that rest after a long read or are being read. Of these it checks name
    /// and container now, and the program when the queue is empty.
    pub fn queue(
        &mut self,
        now: Instant,
        proc: &Proc,
        discovery: &Discovery,
        wanted: impl Fn(&Process) -> bool,
    ) {
        let mut kept = std::mem::take(&mut self.kept);
        kept.clear();
        let Self { table, queue, .. } = self;
        let is_due = |process: &mut Process| {
            let rests = process.rests_until.is_some_and(|until| now < until);
            process.is_selected && wanted(process) && !process.is_away && !rests && !process.is_left_alone()
        };
        let due = (0..).zip(table.iter_mut()).filter_map(|(position, process)| {
            if is_due(process) {
                return Some(Due {
                    position,
                    container: process.account(),
                    is_new: process.read_at.is_none(),
                    since: process.due_since(),
                });
            }
            if process.is_selected && wanted(process) && process.keeps_values() {
                kept.push(position);
            }
            None
        });
        queue.fill(due);
        kept.iter().for_each(|&i| self.probe_kept(i as usize, proc, discovery));
        self.kept = kept;
        self.under_way = None;
    }

    /// Returns the next process to read on `thread`, or `None` when no more is read in this scrape. A process that the budget or a held
    /// memory-map lock leaves out is probed instead: its values stay while it is the same process.
    pub fn next(
        &mut self,
        proc: &Proc,
        discovery: &Discovery,
        budget: &Budget,
        snapshot: &Snapshot,
        thread: u32,
    ) -> Option<Job> {
        while let Some(i) = self.queue.pop() {
            if !budget.allows() {
                self.left_out_at = Some(Instant::now());
                self.probe_kept(i, proc, discovery);
                self.kept.push(i as u32);
                continue;
            }
            if self.looks_stuck(i, proc) {
                self.skip(i);
                self.probe(i, proc, discovery);
                continue;
            }
            return Some(self.memory_job(i, snapshot, thread));
        }
        self.next_check(proc, discovery, thread)
    }

    /// Returns whether this read would probably not return either. This is checked only once as many reads are detached as may be.
    fn looks_stuck(&mut self, i: usize, proc: &Proc) -> bool {
        let process = &mut self.table[i];
        let is_waiting = self.away.count() >= MAX_DETACHED
            && proc
                .process(process.entry.pid, &mut self.buffers)
                .is_ok_and(|dir| dir.has_waiting_thread(&mut self.buffers));
        if !is_waiting {
            process.end_skipping();
        }
        is_waiting
    }

    /// Leaves out a process that looks stuck. After two seconds it counts as stuck, unless it is in no container, as a kernel thread.
    fn skip(&mut self, i: usize) {
        let process = &mut self.table[i];
        let since = *process.skipped_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= super::away::STUCK_AFTER && process.can_be_selected() {
            self.mark_stuck(i);
        }
    }

    /// The scrape goes on without the read that is under way.
    pub fn leave_behind(&mut self) {
        let Some((job, thread, began_at)) = self.under_way.take() else { return };
        self.away.leave(job, thread, began_at, cpu_time_of_thread(thread).unwrap_or_default());
        if let Some(i) = self.position(job.pid) {
            self.table[i].is_away = self.table[i].entry.inode == job.inode;
        }
    }

    /// Looks which of the reads that were left behind do not return.
    pub(super) fn review_away(&mut self) {
        let mut stuck = Vec::new();
        self.away.review(Instant::now(), cpu_time_of_thread, |job| stuck.push(*job));
        for job in stuck {
            let i = self.position(job.pid).filter(|&i| self.table[i].entry.inode == job.inode);
            i.into_iter().for_each(|i| self.mark_stuck(i));
        }
    }

    fn mark_stuck(&mut self, i: usize) {
        let process = &mut self.table[i];
        process.forget_values();
        if !std::mem::replace(&mut process.is_stuck, true) {
            self.read_errors.stuck += 1;
            warn!("{} does not let itself be read: it is left out until it does", process.name());
        }
    }

    /// Takes what the read of a job has found.
    pub fn take(
        &mut self,
        job: Job,
        result: Result<(), ReadError>,
        reader: &Reader,
        proc: &Proc,
        discovery: &Discovery,
        snapshot: &mut Snapshot,
    ) {
        match self.under_way {
            Some((under_way, ..)) if under_way == job => self.under_way = None,
            _ if self.away.end(&job) => {}
            _ => return,
        }
        self.read_errors.exec += reader.n_execs;
        let Some(i) = self.position(job.pid).filter(|&i| self.table[i].entry.inode == job.inode) else {
            return;
        };
        let process = &mut self.table[i];
        self.queue.charge(process.account(), process.read_at.is_none(), reader.cpu_time);
        process.is_away = self.away.of(job.pid, job.inode).next().is_some();
        if std::mem::take(&mut process.is_stuck) {
            info!("{} lets itself be read again", process.name());
            // What it gave may be from before it was stuck, unless it was being printed most of the time.
            if reader.cpu_time * 10 < reader.elapsed {
                return;
            }
        }
        if let Err(error) = result {
            debug!("cannot read process {} in {:?}: {error}", job.pid, proc.path());
            match error {
                ReadError::Exec => self.read_errors.exec += 1,
                ReadError::Denied => {
                    self.read_errors.denied += 1;
                    process.note_refusal();
                }
                ReadError::Gone => self.read_errors.gone += 1,
                ReadError::Torn => self.read_errors.torn += 1,
                ReadError::Slow => self.read_errors.slow += 1,
                ReadError::Io(_) => self.read_errors.io += 1,
            }
            if matches!(error, ReadError::Torn) && reader.n_execs == 0 {
                process.note_torn(reader, self.interval);
                self.kept.push(i as u32);
                return self.probe_kept(i, proc, discovery);
            }
            process.forget_values();
            process.read_at = Some(reader.began_at);
            if job.detail != Detail::Stat {
                self.probe(i, proc, discovery);
            }
            return;
        }
        if reader.inode != process.entry.inode {
            // Another process with its pid, or the same one under a new inode number.
            let is_same = reader.stat.is_some_and(|stat| Some(stat.start_time) == process.start_time);
            process.entry.inode = reader.inode;
            let is_known = job.detail != Detail::Stat || process.start_time.is_some();
            if is_known && !is_same {
                process.start_time = None;
                return process.deselect();
            }
        }
        if job.detail == Detail::Stat && process.start_time.is_none() {
            return process.learn(reader.stat);
        }
        let has_executed = process.has_executed(reader.program);
        if has_executed {
            process.start_over();
        }
        if job.detail == Detail::Stat {
            if has_executed && !process.is_away {
                self.queue.again(i);
            } else if reader.program.is_none() {
                self.probe(i, proc, discovery); // without stat the name decides
            }
            return;
        }
        if !reader.cgroups.is_empty() {
            process.move_to(&reader.cgroups);
        }
        if process.is_unattributed {
            process.attribute(discovery);
        }
        let is_renamed = process.comm != reader.comm;
        process.select(&reader.comm, discovery, &mut self.scratch);
        let Some(container) = process.container.clone().filter(|_| process.is_selected) else { return };
        // A new name may be that of another program, while what was read is the memory of its parent, with which it shared it before (vfork):
        // that memory still lives. So a process with a new name is read once more.
        process.has_new_name = is_renamed && !process.has_new_name;
        // So is one whose memory is as it was, and whose values are gone: it has another name or another container now.
        let has_lost_values = reader.is_unchanged && process.reading.is_none();
        // And one whose mappings took the program before it too long to print.
        let has_lost_values = has_lost_values || has_executed && matches!(job.detail, Detail::Other { .. });
        if process.has_new_name || has_lost_values {
            return self.queue.again(i);
        }
        if reader.was_slow {
            self.read_errors.slow += 1;
            if process.is_summed_until.is_none() {
                warn!("{} takes too long to read: its mappings are summed as [other]", process.name());
            }
        }
        process.n_refusals = 0;
        process.note_read(&job, reader, self.interval);
        match job.detail {
            Detail::Mappings(_) if reader.is_unchanged => return self.reads.unchanged += 1,
            Detail::Mappings(_) if !reader.was_slow => self.reads.smaps += 1,
            _ => self.reads.rollup += 1,
        }
        if reader.tally.is_empty() {
            process.reading = None; // a zombie
            return;
        }
        snapshot.register(container.key, &container.labels);
        let of = snapshot::Process { container: container.key, comm: &process.comm, pid: job.pid };
        snapshot.record(of, &reader.tally, &mut process.reading);
    }
}
