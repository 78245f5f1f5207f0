//! Reads that the scrape has gone on without, because they take long or do not return. Pure: the time is told.
//!
//! A read that takes long uses CPU time: the kernel walks page tables or prints names. One that waits for a lock uses none, and is stuck.

use std::time::{Duration, Instant};

use super::reader::Job;

/// A read is stuck that has got no CPU time for so long.
pub const STUCK_AFTER: Duration = Duration::from_secs(2);

/// The number of detached reads, each of which costs a thread. While there are this many, a process that has a thread in state D is
/// skipped.
pub const MAX_DETACHED: usize = 64;

/// The reads that were left behind, each with its thread.
#[derive(Debug, Default)]
pub struct Away(Vec<Read>);

#[derive(Debug)]
struct Read {
    job: Job,
    thread: u32,
    /// When its thread was last seen to have got CPU time, and how much it had got by then.
    ran_at: Instant,
    cpu_time: Duration,
    is_stuck: bool,
}

impl Away {
    /// The scrape goes on without this read, which began then on the thread that has got so much CPU time.
    pub fn leave(&mut self, job: Job, thread: u32, began_at: Instant, cpu_time: Duration) {
        self.0.push(Read { job, thread, ran_at: began_at, cpu_time, is_stuck: false });
    }

    /// The read has returned; says whether it was one of these.
    pub fn end(&mut self, job: &Job) -> bool {
        let at = self.0.iter().position(|read| read.job == *job);
        at.map(|at| self.0.swap_remove(at)).is_some()
    }

    /// The reads of a process.
    pub fn of(&self, pid: u32, inode: u64) -> impl Iterator<Item = &Job> {
        let jobs = self.0.iter().map(|read| &read.job);
        jobs.filter(move |job| (job.pid, job.inode) == (pid, inode))
    }

    /// Looks at them, given what CPU time a thread has got; calls `each` with every job that has become stuck.
    pub fn review(
        &mut self,
        now: Instant,
        cpu_time_of: impl Fn(u32) -> Option<Duration>,
        mut each: impl FnMut(&Job),
    ) {
        for read in self.0.iter_mut().filter(|read| !read.is_stuck) {
            let cpu_time = cpu_time_of(read.thread).unwrap_or(read.cpu_time);
            let waited = now.saturating_duration_since(read.ran_at);
            // Waiting costs next to nothing; walking page tables, at least a tenth of a busy machine's time.
            if cpu_time.saturating_sub(read.cpu_time) > waited / 10 {
                (read.ran_at, read.cpu_time) = (now, cpu_time);
            } else if waited >= STUCK_AFTER {
                read.is_stuck = true;
                each(&read.job);
            }
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::ladder::Look;
    use super::super::reader::Detail;
    use super::*;

    fn job(pid: u32) -> Job {
        Job { pid, inode: 7, detail: Detail::Mappings(Look::Away), with_stat: false }
    }

    /// Which reads have become stuck at this time in milliseconds, given the CPU time of both threads.
    fn stuck(away: &mut Away, start: Instant, ms: u64, cpu_ms: [u64; 2]) -> Vec<u32> {
        let mut stuck = Vec::new();
        let cpu_time = |thread: u32| Some(Duration::from_millis(cpu_ms[thread as usize]));
        away.review(start + Duration::from_millis(ms), cpu_time, |job| stuck.push(job.pid));
        stuck
    }

    #[test]
    fn a_read_that_gets_no_cpu_time_is_stuck() {
        let (start, mut away) = (Instant::now(), Away::default());
        away.leave(job(1), 0, start, Duration::from_millis(100));
        away.leave(job(2), 1, start, Duration::from_millis(5000));
        assert_eq!(stuck(&mut away, start, 1000, [101, 5900]), []);
        assert_eq!(stuck(&mut away, start, 1999, [110, 6000]), []);
        assert_eq!(
            stuck(&mut away, start, 2000, [300, 6000]),
            [1],
            "a tenth of the time is not more than a tenth"
        );
        assert_eq!(stuck(&mut away, start, 3000, [300, 6500]), [], "said once");
        // The slow one waits from here on.
        assert_eq!(stuck(&mut away, start, 4999, [300, 6600]), []);
        assert_eq!(stuck(&mut away, start, 5000, [300, 6600]), [2]);
        assert_eq!(away.count(), 2);
        assert!(away.end(&job(1)) && !away.end(&job(1)) && !away.end(&job(3)));
        assert_eq!(away.count(), 1);
    }

    #[test]
    fn a_thread_that_is_gone_has_got_no_more() {
        let (start, mut away) = (Instant::now(), Away::default());
        away.leave(job(1), 0, start, Duration::ZERO);
        let mut n_stuck = 0;
        away.review(start + STUCK_AFTER, |_| None, |_| n_stuck += 1);
        assert_eq!(n_stuck, 1);
    }
}
