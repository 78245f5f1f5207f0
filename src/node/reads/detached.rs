//! Detached reads are reads that the scrape no longer waits for, because they are slow or do not return. This
//! module does no I/O.
//!
//! A read that is slow uses CPU time, because the kernel walks page tables or prints names. A read that waits
//! for a lock uses almost none: it is stuck.

use std::time::{Duration, Instant};

use crate::node::processes::job::Job;
use crate::node::processes::read_state::STUCK_AFTER;
use crate::procfs::Entry;

/// The maximum number of detached reads. Each of them occupies a thread. While this many reads are detached,
/// a process is skipped if one of its threads is in an uninterruptible wait (state D). Such a thread may be
/// waiting for the memory-map lock, and then a read of the process would wait for that lock, too.
pub const MAX_DETACHED: usize = 64;

/// The detached reads.
#[derive(Debug, Default)]
pub struct DetachedReads(Vec<DetachedRead>);

#[derive(Debug)]
struct DetachedRead {
    job: Job,
    thread: u32,
    /// When the thread that runs the read was last seen to have used CPU time.
    ran_at: Instant,
    /// The total CPU time that the thread had used when `ran_at` was last set. When the read is detached,
    /// `ran_at` is set to the time at which the read began.
    cpu_time: Duration,
    is_stuck: bool,
}

impl DetachedReads {
    /// Adds a read that began at `began_at`. `cpu_time` is the total CPU time that its thread has used so
    /// far.
    pub fn add(&mut self, job: Job, thread: u32, began_at: Instant, cpu_time: Duration) {
        self.0.push(DetachedRead { job, thread, ran_at: began_at, cpu_time, is_stuck: false });
    }

    /// Removes a read that has returned. Returns whether the read was detached.
    pub fn end(&mut self, job: &Job) -> bool {
        let at = self.0.iter().position(|read| read.job == *job);
        at.map(|at| self.0.swap_remove(at)).is_some()
    }

    /// Returns the detached reads of a process.
    pub fn of(&self, process: Entry) -> impl Iterator<Item = &Job> {
        let jobs = self.0.iter().map(|read| &read.job);
        jobs.filter(move |job| (job.pid, job.inode) == (process.pid, process.inode))
    }

    /// Returns a read that has become stuck, if there is one. Each stuck read is returned only once. Several
    /// reads may have become stuck, so this must be called until it returns `None`. `cpu_time_of` returns the
    /// CPU time of a thread.
    pub fn next_stuck(&mut self, now: Instant, cpu_time_of: impl Fn(u32) -> Option<Duration>) -> Option<Job> {
        for read in self.0.iter_mut().filter(|read| !read.is_stuck) {
            let cpu_time = cpu_time_of(read.thread).unwrap_or(read.cpu_time);
            let waited = now.saturating_duration_since(read.ran_at);
            // Waiting for a lock uses almost no CPU time. A read that walks page tables uses at least a tenth
            // of the elapsed time, even on a busy machine.
            if cpu_time.saturating_sub(read.cpu_time) > waited / 10 {
                (read.ran_at, read.cpu_time) = (now, cpu_time);
            } else if waited >= STUCK_AFTER {
                read.is_stuck = true;
                return Some(read.job);
            }
        }
        None
    }

    /// Returns the number of detached reads.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::processes::change_check::Check;
    use crate::node::processes::job::Detail;

    fn job(pid: u32) -> Job {
        Job { pid, inode: 7, detail: Detail::Mappings(Check::ReadAll), with_stat: false }
    }

    /// Returns the pids of the processes with newly stuck reads, `ms` milliseconds after `start`. `cpu_ms` is
    /// the CPU time that thread 0 and thread 1 have used by then, in milliseconds.
    fn stuck(reads: &mut DetachedReads, start: Instant, ms: u64, cpu_ms: [u64; 2]) -> Vec<u32> {
        let cpu_time = |thread: u32| Some(Duration::from_millis(cpu_ms[thread as usize]));
        let now = start + Duration::from_millis(ms);
        std::iter::from_fn(|| reads.next_stuck(now, cpu_time)).map(|job| job.pid).collect()
    }

    #[test]
    fn a_read_without_cpu_time_is_stuck() {
        let (start, mut reads) = (Instant::now(), DetachedReads::default());
        reads.add(job(1), 0, start, Duration::from_millis(100));
        reads.add(job(2), 1, start, Duration::from_millis(5000));
        assert_eq!(stuck(&mut reads, start, 1000, [101, 5900]), []);
        assert_eq!(stuck(&mut reads, start, 1999, [110, 6000]), []);
        assert_eq!(
            stuck(&mut reads, start, 2000, [300, 6000]),
            [1],
            "a tenth of the time is not more than a tenth"
        );
        assert_eq!(stuck(&mut reads, start, 3000, [300, 6500]), [], "it is returned once");
        // Until now, the read of process 2 used CPU time, so it was slow but not stuck. From now on it uses
        // almost no CPU time, because it waits for a lock. It counts as stuck 2 seconds later, at 5000 ms.
        assert_eq!(stuck(&mut reads, start, 4999, [300, 6600]), []);
        assert_eq!(stuck(&mut reads, start, 5000, [300, 6600]), [2]);
        assert_eq!(reads.count(), 2);
        assert!(reads.end(&job(1)) && !reads.end(&job(1)) && !reads.end(&job(3)));
        assert_eq!(reads.count(), 1);
    }

    #[test]
    fn read_of_an_ended_thread_is_stuck() {
        let (start, mut reads) = (Instant::now(), DetachedReads::default());
        reads.add(job(1), 0, start, Duration::ZERO);
        assert_eq!(reads.next_stuck(start + STUCK_AFTER, |_| None), Some(job(1)));
        assert_eq!(reads.next_stuck(start + STUCK_AFTER, |_| None), None);
    }
}
