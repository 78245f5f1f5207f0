//! While nobody asks: when containers that are close to their limit are looked at, and what is told of those that the kernel kills.

use std::time::{Duration, Instant};

use super::Scraper;
use crate::node::accounts::Accounts;
use crate::procfs::this_process::thread_cpu_time;

/// How often the counters of kills are looked at that may soon be gone: the cgroup of a container whose init process was killed is there for
/// 30 ms or so.
const WATCH_INTERVAL: Duration = Duration::from_millis(10);

impl Scraper {
    /// When there is to be a check, unless there is a scrape before; none if there are none.
    pub fn next_check(&self) -> Option<Instant> {
        let soonest = self.passed_at? + self.check_interval?;
        Some(self.budget.next_check().map_or(soonest, |next| next.max(soonest)))
    }

    /// When counters of kills are to be looked at that may soon be gone; none if there are none.
    pub fn next_watch(&self) -> Option<Instant> {
        let is_due =
            self.check_interval.is_some() && self.accounts.as_ref().is_some_and(Accounts::has_watched);
        is_due.then(|| self.watched_at + WATCH_INTERVAL)
    }

    /// Looks at them, if it is time.
    pub fn watch_if_due(&mut self) {
        let now = Instant::now();
        if self.next_watch().is_some_and(|at| at <= now)
            && let Some(accounts) = &mut self.accounts
        {
            let clock = thread_cpu_time();
            self.watched_at = now;
            accounts.watch();
            self.ooms.record(accounts.take_kills(), &self.snapshot, self.summed_at);
            self.overhead += thread_cpu_time().saturating_sub(clock);
        }
    }

    /// Whether more kills have been recorded than were told.
    pub fn has_news_of_ooms(&self) -> bool {
        self.ooms.has_news()
    }

    /// What tells of the containers whose processes the kernel has killed for want of memory, as JSON, if there is news.
    pub fn news_of_ooms(&mut self) -> Option<String> {
        self.ooms.news()
    }
}
