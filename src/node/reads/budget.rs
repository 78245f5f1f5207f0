//! Limits the CPU time of scrapes and checks to a fraction of one core. If a scrape uses more than that,
//! later scrapes use less.
//!
//! The CPU time includes everything: listing proc, reading, summing and rendering. If everything except the
//! reads would take more than half of the budget, the time between scrapes is made longer, so that half of
//! the budget remains for reads.

use std::time::{Duration, Instant};

use crate::credit::Credit;

/// Credit is the CPU time that scrapes and checks may spend. It grows with the time since the last scrape,
/// but time beyond this limit adds no credit. So with a budget of a quarter of a core, a scrape takes at most
/// 15 s of CPU time, even after an idle hour.
const MAX_ELAPSED: Duration = Duration::from_secs(60);

/// The CPU time that scrapes and checks may use.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    credit: Credit,
    /// The CPU time of the last scrape in seconds, not including its reads. The next scrape reserves the same
    /// CPU time before it reads.
    overhead_seconds: f64,
    began_at: Option<Instant>,
    /// The CPU time of the last check in seconds, not including its reads.
    check_seconds: f64,
    checked_at: Option<Instant>,
}

impl Budget {
    /// Creates a budget of this fraction of one core; 0 means no limit. The first scrape may exceed the
    /// budget.
    pub fn new(fraction: f64) -> Self {
        Self {
            credit: Credit::new(fraction),
            overhead_seconds: 0.0,
            began_at: None,
            check_seconds: 0.0,
            checked_at: None,
        }
    }

    /// Returns the budget as a fraction of one core; 0 means no limit.
    pub fn fraction(&self) -> f64 {
        self.credit.fraction()
    }

    /// Begins a scrape.
    ///
    /// Subtracts the overhead of the previous scrape from the credit, as an estimate of the overhead of this
    /// scrape. The overhead is the CPU time of a scrape without its reads of processes.
    ///
    /// The credit is capped at what was earned since the previous scrape began, so that an idle hour does not
    /// allow a long burst.
    pub fn begin_scrape(&mut self, now: Instant) {
        let before = self.began_at.replace(now);
        self.credit.earn(now, self.longest());
        if let Some(before) = before {
            self.credit.cap(now.saturating_duration_since(before).min(self.longest()));
            self.credit.spend(self.overhead_seconds);
        }
    }

    /// Begins a check between two scrapes. The check may use credit that was earned and is still left.
    pub fn begin_check(&mut self, now: Instant) {
        self.checked_at = Some(now);
        self.credit.earn(now, self.longest());
    }

    /// Ends a check, and subtracts `overhead` from the credit. `overhead` is the CPU time of the check
    /// without its reads of processes. The CPU time of each read is subtracted by [`spend`](Self::spend).
    pub fn end_check(&mut self, overhead: Duration) {
        self.check_seconds = overhead.as_secs_f64();
        self.credit.spend(self.check_seconds);
    }

    /// Returns the time at which the next check between two scrapes may begin. Checks may use a quarter of
    /// the budget. If a check reads processes, the CPU time of these reads does not count towards that
    /// quarter.
    pub fn next_check(&self) -> Option<Instant> {
        Some(self.checked_at? + self.credit.time_to_earn(4.0 * self.check_seconds))
    }

    /// Returns the longest time for which credit is collected. Credit is the CPU time that may still be used.
    /// The result is usually [`MAX_ELAPSED`]. If the time between two scrapes must be longer than
    /// [`MAX_ELAPSED`], the result is the time between two scrapes, because a scrape needs the credit of all
    /// that time.
    fn longest(&self) -> Duration {
        MAX_ELAPSED.max(self.least_distance())
    }

    /// Whether this scrape or check may read one more process.
    pub fn allows(&self) -> bool {
        self.credit.is_left()
    }

    /// Subtracts the CPU time of a read from the credit.
    pub fn spend(&mut self, cpu: Duration) {
        self.credit.spend(cpu.as_secs_f64());
    }

    /// Ends a scrape. `overhead` is the CPU time of the scrape without its reads of processes.
    /// [`begin_scrape`](Self::begin_scrape) has already subtracted an estimate of `overhead` from the credit,
    /// so only the difference is subtracted here.
    pub fn end_scrape(&mut self, overhead: Duration) {
        let before = std::mem::replace(&mut self.overhead_seconds, overhead.as_secs_f64());
        self.credit.spend(self.overhead_seconds - before);
    }

    /// Ends the first scrape, which was not limited. Its CPU time is not subtracted from what later scrapes
    /// may use.
    pub fn end_first_scrape(&mut self, overhead: Duration) {
        self.credit.limit(self.began_at);
        self.overhead_seconds = overhead.as_secs_f64();
    }

    /// Returns the time at which the next scrape may begin.
    pub fn next_start(&self) -> Option<Instant> {
        Some(self.began_at? + self.least_distance())
    }

    /// Returns the shortest time between the beginnings of two scrapes. In that time, the budget must allow
    /// twice the CPU time that the last scrape used without its reads of processes. So half of the budget
    /// remains for the reads.
    fn least_distance(&self) -> Duration {
        self.credit.time_to_earn(2.0 * self.overhead_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs scrapes one second apart. `costs` has the CPU time of reading each process, in milliseconds.
    /// Returns how often each process was read.
    fn run(fraction: f64, n_scrapes: usize, costs: &[u64]) -> Vec<usize> {
        let mut budget = Budget::new(fraction);
        let mut n_reads = vec![0; costs.len()];
        let mut read_at = vec![0; costs.len()];
        let mut clock = 0;
        let start = Instant::now();
        for i in 0..n_scrapes {
            budget.begin_scrape(start + Duration::from_secs(i as u64));
            let mut oldest_first: Vec<usize> = (0..costs.len()).collect();
            oldest_first.sort_by_key(|&i| read_at[i]);
            for i in oldest_first {
                if !budget.allows() {
                    break;
                }
                budget.spend(Duration::from_millis(costs[i]));
                clock += 1;
                (n_reads[i], read_at[i]) = (n_reads[i] + 1, clock);
            }
        }
        n_reads
    }

    #[test]
    fn average_cost_stays_within_the_budget() {
        let costs = [10, 10, 10, 300, 10];
        let spent: u64 = run(0.05, 1000, &costs).iter().zip(costs).map(|(&n, cost)| n as u64 * cost).sum();
        assert!((47_500..=50_400).contains(&spent), "{spent} ms in 1000 s");
    }

    #[test]
    fn every_process_is_read_in_rotation() {
        let n_reads = run(0.05, 1000, &[10, 10, 10, 300, 10]);
        let (least, most) = (n_reads.iter().min().unwrap(), n_reads.iter().max().unwrap());
        assert!(*least > 100 && most - least <= 1, "{n_reads:?}");
    }

    #[test]
    fn large_budget_reads_all_and_zero_means_no_limit() {
        assert_eq!(run(0.5, 100, &[10, 20, 30]), [100, 100, 100]);
        assert_eq!(run(0.0, 100, &[5000, 5000]), [100, 100]);
    }

    #[test]
    fn zero_budget_stays_unlimited_after_the_first_scrape() {
        let (mut budget, start) = (Budget::new(0.0), Instant::now());
        for second in 0..3 {
            budget.begin_scrape(start + Duration::from_secs(second));
            budget.spend(Duration::from_secs(100));
            assert!(budget.allows(), "{second}");
            match second {
                0 => budget.end_first_scrape(Duration::from_secs(9)),
                _ => budget.end_scrape(Duration::from_secs(9)),
            }
        }
        assert!(budget.next_start().unwrap() <= start + Duration::from_secs(2));
    }

    /// Checks spend from the same budget as scrapes. Together they must use the whole budget, and no more.
    #[test]
    fn checks_and_scrapes_share_one_budget() {
        let (mut budget, start) = (Budget::new(0.1), Instant::now());
        budget.begin_scrape(start);
        budget.end_first_scrape(Duration::ZERO);
        let (mut spent, mut by_checks) = (Duration::ZERO, Duration::ZERO);
        for second in 1..=1000 {
            let now = start + Duration::from_secs(second);
            let is_scrape = second % 15 == 0;
            if is_scrape {
                budget.begin_scrape(now)
            } else {
                budget.begin_check(now)
            }
            let mut n_reads = 0;
            while budget.allows() && (is_scrape || n_reads < 10) {
                budget.spend(Duration::from_millis(3));
                spent += Duration::from_millis(3);
                by_checks += if is_scrape { Duration::ZERO } else { Duration::from_millis(3) };
                n_reads += 1;
            }
            let overhead = Duration::from_millis(2);
            spent += overhead;
            if is_scrape { budget.end_scrape(overhead) } else { budget.end_check(overhead) }
        }
        let (share, of_checks) = (spent.as_secs_f64() / 1000.0, by_checks.as_secs_f64() / 1000.0);
        assert!((0.095..0.101).contains(&share) && (0.02..0.04).contains(&of_checks), "{share} {of_checks}");
    }

    #[test]
    fn costly_checks_are_rare() {
        let (mut budget, start) = (Budget::new(0.1), Instant::now());
        assert_eq!(budget.next_check(), None);
        budget.begin_check(start);
        budget.end_check(Duration::from_millis(1));
        assert_eq!(budget.next_check(), Some(start + Duration::from_millis(40)));
        let mut unlimited = Budget::new(0.0);
        unlimited.begin_check(start);
        unlimited.end_check(Duration::from_secs(9));
        assert!(unlimited.allows());
        assert_eq!(unlimited.next_check(), Some(start));
    }

    #[test]
    fn the_first_scrape_is_free_and_unlimited() {
        let (mut budget, start) = (Budget::new(0.1), Instant::now());
        let second = |n| start + Duration::from_secs(n);
        budget.begin_scrape(start);
        assert!(budget.allows());
        budget.spend(Duration::from_secs(60));
        assert!(budget.allows());
        budget.end_first_scrape(Duration::ZERO);
        assert!(!budget.allows());
        budget.begin_scrape(second(1));
        assert!(budget.allows());
        budget.spend(Duration::from_millis(250));
        budget.begin_scrape(second(2));
        assert!(!budget.allows(), "50 ms of it are still owed");
        budget.begin_scrape(second(3));
        assert!(budget.allows());
    }

    /// In each case, a scrape takes `overhead_ms` of CPU time, not including its reads. The CPU time of all
    /// scrapes must stay within the budget. Reads must get at least half as much CPU time as everything else.
    #[test]
    fn total_stays_within_the_budget() {
        for overhead_ms in [0, 1, 20, 25, 80, 5000] {
            let (mut budget, start) = (Budget::new(0.05), Instant::now());
            let (mut now, mut spent, mut read) = (start, Duration::ZERO, Duration::ZERO);
            budget.begin_scrape(now);
            budget.end_first_scrape(Duration::from_millis(overhead_ms));
            while now < start + Duration::from_secs(10_000) {
                now = budget.next_start().unwrap().max(now + Duration::from_secs(1));
                budget.begin_scrape(now);
                while budget.allows() {
                    budget.spend(Duration::from_millis(3));
                    read += Duration::from_millis(3);
                }
                budget.end_scrape(Duration::from_millis(overhead_ms));
                spent += Duration::from_millis(overhead_ms);
            }
            let share = (spent + read).as_secs_f64() / (now - start).as_secs_f64();
            assert!((0.045..0.0505).contains(&share), "{overhead_ms} ms: {share}");
            assert!(2 * read >= spent, "{overhead_ms} ms: {read:?} of {spent:?}");
        }
    }

    #[test]
    fn credit_is_a_share_of_the_elapsed_time() {
        for (seconds, spent_ms, is_allowed) in [
            (1, 99, true),
            (1, 101, false),
            (4, 399, true),
            (4, 401, false),
            (3600, 5999, true),
            (3600, 6001, false),
        ] {
            let (mut budget, start) = (Budget::new(0.1), Instant::now());
            budget.begin_scrape(start);
            budget.end_first_scrape(Duration::ZERO);
            budget.begin_scrape(start + Duration::from_secs(seconds));
            budget.spend(Duration::from_millis(spent_ms));
            assert_eq!(budget.allows(), is_allowed, "{spent_ms} ms after {seconds} s");
        }
    }
}
