//! How much CPU time reading smaps may take: a share of the time that passes, what was overspent included.

use std::time::Duration;

/// What a longer time would allow is lost: whoever asks after a quiet hour waits for a scrape that may take a quarter of a minute.
const MAX_ELAPSED: Duration = Duration::from_secs(60);

/// An account in seconds of CPU time.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    fraction: f64,
    credit_seconds: f64,
}

impl Budget {
    /// A budget of this fraction of one core; 0 is no limit. Full from the start: the first scrape reads everything.
    pub fn new(fraction: f64) -> Self {
        Self { fraction, credit_seconds: f64::INFINITY }
    }

    /// A scrape begins, `elapsed` after the one before it.
    ///
    /// What was overspent is paid off first; what was not used is lost, so that a quiet hour buys no long burst.
    pub fn begin_scrape(&mut self, elapsed: Duration) {
        let allowance = self.fraction * elapsed.min(MAX_ELAPSED).as_secs_f64();
        self.credit_seconds =
            if self.fraction == 0.0 { f64::INFINITY } else { self.credit_seconds.min(0.0) + allowance };
    }

    /// Whether another process may be read in this scrape.
    pub fn allows(&self) -> bool {
        self.credit_seconds > 0.0
    }

    /// Takes what one read has cost.
    pub fn spend(&mut self, cpu: Duration) {
        self.credit_seconds -= cpu.as_secs_f64();
    }

    /// Ends the first scrape, which was not limited: what it cost is not paid off.
    pub fn end_first_scrape(&mut self) {
        self.credit_seconds = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs scrapes of one second over processes that cost this many milliseconds each; says how often each was read.
    fn run(fraction: f64, n_scrapes: usize, costs: &[u64]) -> Vec<usize> {
        let mut budget = Budget::new(fraction);
        let mut n_reads = vec![0; costs.len()];
        let mut read_at = vec![0; costs.len()];
        let mut clock = 0;
        for _ in 0..n_scrapes {
            budget.begin_scrape(Duration::from_secs(1));
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
    fn the_average_keeps_to_the_budget() {
        let costs = [10, 10, 10, 300, 10];
        let spent: u64 = run(0.05, 1000, &costs).iter().zip(costs).map(|(&n, cost)| n as u64 * cost).sum();
        assert!((47_500..=50_300).contains(&spent), "{spent} ms in 1000 s");
    }

    #[test]
    fn every_process_has_its_turn() {
        let n_reads = run(0.05, 1000, &[10, 10, 10, 300, 10]);
        let (least, most) = (n_reads.iter().min().unwrap(), n_reads.iter().max().unwrap());
        assert!(*least > 100 && most - least <= 1, "{n_reads:?}");
    }

    #[test]
    fn enough_budget_reads_all_and_none_means_no_limit() {
        assert_eq!(run(0.5, 100, &[10, 20, 30]), [100, 100, 100]);
        assert_eq!(run(0.0, 100, &[5000, 5000]), [100, 100]);
    }

    #[test]
    fn the_first_scrape_is_free_and_unlimited() {
        let mut budget = Budget::new(0.1);
        assert!(budget.allows());
        budget.spend(Duration::from_secs(60));
        assert!(budget.allows());
        budget.end_first_scrape();
        assert!(!budget.allows());
        budget.begin_scrape(Duration::from_secs(1));
        assert!(budget.allows());
        budget.spend(Duration::from_millis(250));
        budget.begin_scrape(Duration::from_secs(1));
        assert!(!budget.allows(), "50 ms of it are still owed");
        budget.begin_scrape(Duration::from_secs(1));
        assert!(budget.allows());
    }

    #[test]
    fn the_allowance_is_a_share_of_the_time_that_has_passed() {
        for (seconds, spent_ms, is_allowed) in [
            (1, 99, true),
            (1, 101, false),
            (4, 399, true),
            (4, 401, false),
            (3600, 5999, true),
            (3600, 6001, false),
        ] {
            let mut budget = Budget::new(0.1);
            budget.end_first_scrape();
            budget.begin_scrape(Duration::from_secs(seconds));
            budget.spend(Duration::from_millis(spent_ms));
            assert_eq!(budget.allows(), is_allowed, "{spent_ms} ms after {seconds} s");
        }
    }
}
