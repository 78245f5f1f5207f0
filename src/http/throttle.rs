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
    /// How long each credit accumulates.
    longest: [Duration; 2],
    /// The thread's CPU time at the last charge.
    cpu: Duration,
}

impl Throttle {
    /// Starts with as much credit as can accumulate.
    pub fn new(limits: &Limits) -> Self {
        let mut credits = [limits.requests_cpu, limits.responses_cpu].map(Credit::new);
        let longest = credits.map(|credit| credit.time_to_earn(limits.cpu_burst.as_secs_f64()));
        credits.iter_mut().zip(longest).for_each(|(credit, longest)| credit.cap(longest));
        Self { credits, longest, cpu: thread_cpu_time() }
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
            let now = Instant::now();
            self.credits.iter_mut().zip(self.longest).for_each(|(credit, longest)| credit.earn(now, longest));
            if self.has_credit(Account::Requests) {
                return;
            }
            thread::sleep(self.credits[0].time_to_next() + Duration::from_millis(1));
        }
    }
}
