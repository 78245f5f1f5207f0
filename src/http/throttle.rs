//! Limits the CPU time of the HTTP thread.
//!
//! One thread does everything that clients can cause, so its CPU clock measures the whole cost. The cost of a
//! turn is known only after the turn, so the credit may become negative. Then further turns wait until it is
//! positive again. Requests and responses have separate credit. Answering a probe uses the credit of
//! requests, so probes are answered even after large responses have used up the credit of responses.

use std::thread;
use std::time::{Duration, Instant};

use crate::credit::Credit;
use crate::procfs::this_process::thread_cpu_time;

/// The credit that a turn is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// Accepting connections, receiving requests, and answering probes.
    Requests,
    /// Compressing, and every response except to a probe.
    Responses,
}

/// For each account: the maximum average fraction of a core, and over how long unused credit accumulates.
/// Both accounts can accumulate 100 ms of CPU time, which is what a response of 20 MB needs with gzip.
const LIMITS: [(f64, Duration); 2] =
    [(0.03, Duration::from_millis(3300)), (0.08, Duration::from_millis(1250))];

/// The credit of the thread that created this value.
pub struct Throttle {
    /// The credit of each account, in the order of [`Account`].
    credits: [Credit; 2],
    /// The thread's CPU time at the last charge.
    cpu: Duration,
}

impl Throttle {
    /// Creates a throttle with the maximum credit.
    pub fn new() -> Self {
        let credits = LIMITS.map(|(fraction, longest)| Credit::full(fraction, longest));
        Self { credits, cpu: thread_cpu_time() }
    }

    /// Charges the CPU time that this thread has used since the last call.
    pub fn charge(&mut self, account: Account) {
        let cpu = thread_cpu_time();
        let used = cpu.saturating_sub(std::mem::replace(&mut self.cpu, cpu));
        self.credits[account as usize].spend(used.as_secs_f64());
    }

    /// Whether there is credit left.
    pub fn has_credit(&self, account: Account) -> bool {
        self.credits[account as usize].is_left()
    }

    /// Returns how long responses wait for credit. This is 5 ms longer than necessary, because waking up for
    /// less credit costs more than it gains.
    pub fn pause(&self) -> Duration {
        self.credits[Account::Responses as usize].time_to_next() + Duration::from_millis(5)
    }

    /// Adds the credit earned since the last call, and sleeps until requests have some.
    pub fn wait(&mut self) {
        loop {
            let now = Instant::now();
            self.credits.iter_mut().zip(LIMITS).for_each(|(credit, (_, longest))| credit.earn(now, longest));
            if self.has_credit(Account::Requests) {
                return;
            }
            thread::sleep(self.credits[0].time_to_next() + Duration::from_millis(1));
        }
    }
}
