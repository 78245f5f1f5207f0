//! The list of detached reads, and which of them are stuck. This module does no I/O.
//!
//! A slow read uses CPU time, because the kernel walks page tables or prints names. A stuck read waits for a
//! lock and uses almost none.

use std::time::{Duration, Instant};

use crate::node::processes::job::Job;
use crate::node::processes::read_state::STUCK_AFTER;
use crate::procfs::Entry;

/// From this number of detached reads on, processes with a thread in uninterruptible wait (state D) are
/// skipped, because reading them might block.
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
    /// The total CPU time that the thread had used at `ran_at`.
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

    /// Returns a read that has become stuck. Call this until it returns `None`. `cpu_time_of` returns the CPU
    /// time of a thread.
    pub fn next_stuck(&mut self, now: Instant, cpu_time_of: impl Fn(u32) -> Option<Duration>) -> Option<Job> {
        for read in self.0.iter_mut().filter(|read| !read.is_stuck) {
            let cpu_time = cpu_time_of(read.thread).unwrap_or(read.cpu_time);
            let waited = now.saturating_duration_since(read.ran_at);
            // Even on a busy machine, a read that walks page tables runs for at least a tenth of the time.
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

    /// Returns the pids of the reads that are newly stuck after `ms` milliseconds, when threads 0 and 1 have
    /// used `cpu_ms`.
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
        // From now on, the read of process 2 waits for a lock. It counts as stuck 2 s later, at 5000 ms.
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
