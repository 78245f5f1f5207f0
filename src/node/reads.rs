//! Which process is read next, and what its read gave. The scrape takes a job, reads it with nothing locked, and brings back what was
//! found; a read that takes long is left behind and brings it back later.

use std::time::Instant;

use log::{debug, info, warn};

use super::away::MAX_DETACHED;
use super::budget::Budget;
use super::discovery::Discovery;
use super::process::Process;
use super::processes::Processes;
use super::queue::Due;
use super::reader::{Detail, Job, Reader};
use crate::procfs::Proc;
use crate::procfs::errors::ReadError;
use crate::procfs::this_process::cpu_time_of_thread;
use crate::totals::snapshot::Snapshot;

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
                let job = Job { pid: entry.pid, inode: entry.inode, detail: Detail::Stat };
                self.under_way = Some((job, thread, Instant::now()));
                return Some(job);
            }
        }
        None
    }

    /// Queues the selected processes that are `wanted`, but for those that rest after a long read.
    pub fn queue(&mut self, now: Instant, wanted: impl Fn(&Process) -> bool) {
        let Self { table, queue, .. } = self;
        let is_due = |process: &mut Process| {
            let rests = process.rests_until.is_some_and(|until| now < until);
            process.is_selected && wanted(process) && !process.is_away && !rests && !process.is_left_alone()
        };
        let due = (0..).zip(table.iter_mut()).filter_map(|(position, process)| {
            is_due(process).then(|| Due {
                position,
                container: process.account(),
                is_new: process.read_at.is_none(),
                since: process.read_at.unwrap_or(process.found_at),
            })
        });
        queue.fill(due);
        self.under_way = None;
    }

    /// Returns the next process to read on `thread`, or `None` when no more is read in this scrape. A process that the budget or a held
    /// memory-map lock leaves out is probed instead: its values stay while it is the same process.
    pub fn next(
        &mut self,
        proc: &Proc,
        discovery: &Discovery,
        budget: &Budget,
        with_rollup: bool,
        thread: u32,
    ) -> Option<Job> {
        while let Some(i) = self.queue.pop() {
            if !budget.allows() {
                self.probe(i, proc, discovery);
                continue;
            }
            if self.looks_stuck(i, proc) {
                self.skip(i);
                self.probe(i, proc, discovery);
                continue;
            }
            let now = Instant::now();
            let job = self.table[i].job(with_rollup, self.always_reads, now);
            self.under_way = Some((job, thread, now));
            return Some(job);
        }
        None
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
        process.is_away = false;
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
                ReadError::Slow => self.read_errors.slow += 1,
                ReadError::Io(_) => self.read_errors.io += 1,
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
            if job.detail != Detail::Stat && !is_same {
                process.start_time = None;
                return process.deselect();
            }
        }
        if job.detail == Detail::Stat {
            return process.learn(reader.stat);
        }
        if !reader.cgroup.is_empty() {
            process.move_to(&reader.cgroup);
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
        let has_lost_values = reader.is_unchanged && process.reading.is_empty();
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
            return process.reading.clear(); // a zombie
        }
        let record = |snapshot: &mut Snapshot, process: &mut Process| {
            let Process { comm, reading, .. } = process;
            snapshot.record(&container.labels, comm, job.pid, &reader.tally, reading)
        };
        if !record(snapshot, process) {
            snapshot.make_room(|each| self.readings().for_each(each));
            record(snapshot, &mut self.table[i]);
        }
    }
}
