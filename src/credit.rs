//! Limits CPU time by credit. Credit is CPU time that may be spent, and grows with the elapsed time. If more
//! is spent than was left, the credit becomes negative. Nothing more may be spent until the credit is
//! positive again.

use std::time::{Duration, Instant};

/// Credit in seconds of CPU time. It becomes negative if the last use took more CPU time than was left.
#[derive(Clone, Copy, Debug)]
pub struct Credit {
    /// How many seconds of credit are earned per second of elapsed time; 0 means that the credit is
    /// unlimited.
    fraction: f64,
    seconds: f64,
    credited_at: Option<Instant>,
}

impl Credit {
    /// Returns unlimited credit. A call of [`limit`](Self::limit) or [`cap`](Self::cap) limits the credit,
    /// which then grows by `fraction` seconds per second of elapsed time. A `fraction` of 0 means that the
    /// credit is always unlimited.
    pub fn new(fraction: f64) -> Self {
        Self { fraction, seconds: f64::INFINITY, credited_at: None }
    }

    /// Returns how many seconds of credit are earned per second of elapsed time; 0 means that the credit is
    /// unlimited.
    pub fn fraction(&self) -> f64 {
        self.fraction
    }

    /// Returns credit that grows by `fraction` seconds per second of elapsed time. The credit begins at
    /// `fraction` times `longest`.
    pub fn full(fraction: f64, longest: Duration) -> Self {
        let mut credit = Self::new(fraction);
        credit.cap(longest);
        credit
    }

    /// Adds the credit that was earned since the last call. The total credit is then at most `fraction` times
    /// `longest`.
    pub fn earn(&mut self, now: Instant, longest: Duration) {
        let Some(before) = self.credited_at.replace(now) else { return };
        self.seconds += self.fraction * now.saturating_duration_since(before).as_secs_f64();
        self.cap(longest);
    }

    /// Reduces the credit to `fraction` times `longest`, if the credit is larger. If `fraction` is 0, the
    /// credit stays unlimited.
    pub fn cap(&mut self, longest: Duration) {
        if self.fraction > 0.0 {
            self.seconds = self.seconds.min(self.fraction * longest.as_secs_f64());
        }
    }

    /// Sets the credit to zero, and lets it grow from the time `now` on. If [`fraction`](Self::fraction) is
    /// 0, which stands for unlimited credit, the credit stays unlimited.
    pub fn limit(&mut self, now: Option<Instant>) {
        self.credited_at = now;
        self.seconds = if self.fraction > 0.0 { 0.0 } else { f64::INFINITY };
    }

    /// Subtracts these seconds, which were spent. A negative number adds credit.
    pub fn spend(&mut self, seconds: f64) {
        self.seconds -= seconds;
    }

    /// Whether the credit is positive, so that CPU time may be spent.
    pub fn is_left(&self) -> bool {
        self.seconds > 0.0
    }

    /// Returns how long it takes until negative credit is positive again.
    pub fn time_to_next(&self) -> Duration {
        self.time_to_earn(-self.seconds)
    }

    /// Returns how long it takes to earn this many seconds of credit; zero if the credit is unlimited.
    pub fn time_to_earn(&self, seconds: f64) -> Duration {
        let seconds = if self.fraction > 0.0 { seconds / self.fraction } else { 0.0 };
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn spending_is_bounded_by_the_fraction_and_the_cap() {
        let (mut credit, start) = (Credit::new(0.1), Instant::now());
        credit.earn(start, 1000 * MS);
        credit.cap(1000 * MS);
        let (mut now, mut spent) = (start, 0.0);
        while now < start + 10_000 * MS {
            while credit.is_left() {
                credit.spend(0.007);
                (now, spent) = (now + 7 * MS, spent + 0.007);
                credit.earn(now, 1000 * MS);
            }
            now += credit.time_to_next() + MS;
            credit.earn(now, 1000 * MS);
        }
        assert!((1.0..1.2).contains(&spent), "{spent} s in 10 s");
    }

    #[test]
    fn debt_is_paid_off_first() {
        let (mut credit, start) = (Credit::new(0.1), Instant::now());
        credit.limit(Some(start));
        credit.spend(0.05);
        assert_eq!(credit.time_to_next(), 500 * MS);
        credit.earn(start + 499 * MS, 1000 * MS);
        assert!(!credit.is_left());
        credit.earn(start + 501 * MS, 1000 * MS);
        assert!(credit.is_left());
    }

    #[test]
    fn credit_does_not_accumulate_beyond_the_cap() {
        let (mut credit, start) = (Credit::new(0.1), Instant::now());
        credit.limit(Some(start));
        credit.earn(start + 3_600_000 * MS, 1000 * MS);
        credit.spend(0.101);
        assert!(!credit.is_left());
    }

    #[test]
    fn zero_fraction_is_unlimited() {
        let (mut credit, start) = (Credit::new(0.0), Instant::now());
        credit.limit(Some(start));
        credit.spend(1e9);
        credit.earn(start + MS, MS);
        assert!(credit.is_left());
    }
}
