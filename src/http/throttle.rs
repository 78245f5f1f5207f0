//! Limits the CPU time of the HTTP thread.
//!
//! This thread does all the work of serving clients, so the CPU clock of the thread measures this work. The
//! thread works in turns: in one turn, one connection makes its next step, such as writing a part of a
//! response. Credit is CPU time that may be spent, and grows with the elapsed time.
//!
//! The CPU time of a turn is known only after the turn, so the credit may become negative. Further turns then
//! wait until the credit is positive again. Requests and responses have separate credit. Probes use the
//! credit for requests, so they are answered even after large responses have used up the credit for
//! responses.

use std::thread;
use std::time::{Duration, Instant};

use crate::credit::Credit;
use crate::procfs::this_process::thread_cpu_time;

/// The two uses of CPU time that have separate limits. A turn is one step of one connection, and its CPU time
/// is charged to one of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// The CPU time for accepting connections, receiving requests, and answering probes.
    Requests,
    /// The CPU time for compressing, and for every response except the response to a probe.
    Responses,
}

/// The limits on CPU time for requests and for responses, in the order of [`Account`]. The first value is a
/// fraction of one core. The second value is the time for which unused CPU time accumulates. The product of
/// the two is 100 ms of CPU time, which is enough for a response of 20 MB with gzip.
const LIMITS: [(f64, Duration); 2] =
    [(0.03, Duration::from_millis(3300)), (0.08, Duration::from_millis(1250))];

/// Limits the CPU time of one thread, which is the thread that created this value.
pub struct Throttle {
    /// The CPU time that may still be used for each kind of work, in the order of [`Account`].
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

    /// Returns how long responses must wait until CPU time may be spent on them. This is 5 ms longer than
    /// necessary, because waking the thread costs more CPU time than is earned in a shorter wait.
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
