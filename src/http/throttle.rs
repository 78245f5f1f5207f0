//! Limits the CPU time of the HTTP thread, which does all the work of serving clients.
//!
//! The CPU time of a turn is known only afterwards, so credit may become negative. Requests have credit of
//! their own, so that large responses do not delay probes.

use std::thread;
use std::time::{Duration, Instant};

use crate::credit::Credit;
use crate::procfs::this_process::thread_cpu_time;

/// The account to which the CPU time of a turn is charged. A turn is one step of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// The CPU time for accepting connections, receiving requests, and answering probes.
    Requests,
    /// The CPU time for compressing, and for every response except the response to a probe.
    Responses,
}

/// The fraction of one core for each [`Account`], and how long unused CPU time accumulates. The product,
/// 100 ms, suffices for 20 MB with gzip.
const LIMITS: [(f64, Duration); 2] =
    [(0.03, Duration::from_millis(3300)), (0.08, Duration::from_millis(1250))];

/// Limits the CPU time of one thread, which is the thread that created this value.
pub struct Throttle {
    /// The CPU time that each account may still use, in the order of [`Account`].
    credits: [Credit; 2],
    /// The CPU time that the thread had used at the last charge.
    cpu: Duration,
}

impl Throttle {
    /// Creates a throttle with the maximum credit.
    pub fn new() -> Self {
        let credits = LIMITS.map(|(fraction, longest)| Credit::full(fraction, longest));
        Self { credits, cpu: thread_cpu_time() }
    }

    /// Measures how much CPU time this thread has used since the last call. Subtracts this time from the
    /// credit of the account.
    pub fn charge(&mut self, account: Account) {
        let cpu = thread_cpu_time();
        let used = cpu.saturating_sub(std::mem::replace(&mut self.cpu, cpu));
        self.credits[account as usize].spend(used.as_secs_f64());
    }

    /// Whether the account has credit left.
    pub fn has_credit(&self, account: Account) -> bool {
        self.credits[account as usize].is_left()
    }

    /// Returns how long responses must wait for credit, plus 5 ms, because waking the thread costs more than
    /// a shorter wait earns.
    pub fn pause(&self) -> Duration {
        self.credits[Account::Responses as usize].time_to_next() + Duration::from_millis(5)
    }

    /// Adds the credit that was earned since the last call. Sleeps until there is credit for requests.
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
