//! Bounds the CPU time of the HTTP thread.
//!
//! One thread does everything that a client can cause, so its CPU clock covers the whole cost. The cost of a
//! turn is known only afterwards, so credit may become negative; then turns that need it wait. Probes have
//! credit of their own, so that they are answered while large responses have used up theirs.

use std::thread;
use std::time::{Duration, Instant};

use super::limits::Limits;
use crate::credit::Credit;
use crate::procfs::this_process::thread_cpu_time;

/// What a turn is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// Accepting connections, receiving requests, and answering probes.
    Requests,
    /// Compressing, and every response except to a probe.
    Responses,
}

/// The credit of the thread that created it.
pub struct Throttle {
    /// In the order of [`Account`].
    credits: [Credit; 2],
    burst_seconds: f64,
    /// The thread's CPU time at the last charge.
    cpu: Duration,
}

impl Throttle {
    /// Starts with as much credit as can accumulate.
    pub fn new(limits: &Limits) -> Self {
        let credits = [limits.requests_cpu, limits.responses_cpu].map(Credit::new);
        Self { credits, burst_seconds: limits.cpu_burst.as_secs_f64(), cpu: thread_cpu_time() }
    }

    /// Charges the CPU time that this thread has used since the last call, and returns it.
    pub fn charge(&mut self, account: Account) -> Duration {
        let cpu = thread_cpu_time();
        let used = cpu.saturating_sub(std::mem::replace(&mut self.cpu, cpu));
        self.credits[account as usize].spend(used.as_secs_f64());
        used
    }

    /// Whether there is credit left.
    pub fn has_credit(&self, account: Account) -> bool {
        self.credits[account as usize].is_left()
    }

    /// Returns how long responses wait; a little longer than needed, so that a pause is worth its own cost.
    pub fn pause(&self) -> Duration {
        self.credits[Account::Responses as usize].time_to_next() + Duration::from_millis(5)
    }

    /// Earns credit, and sleeps until there is some for requests.
    pub fn wait(&mut self) {
        loop {
            for credit in &mut self.credits {
                let longest = credit.time_to_earn(self.burst_seconds);
                credit.earn(Instant::now(), longest);
                credit.cap(longest);
            }
            if self.has_credit(Account::Requests) {
                return;
            }
            thread::sleep(self.credits[0].time_to_next() + Duration::from_millis(1));
        }
    }
}
