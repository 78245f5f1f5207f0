//! The change check decides whether a process must be read again. It does no I/O.
//!
//! A process is read in full only if its values may have changed:
//! 1. `stat` shows whether the process was active. If its page faults, CPU time, size or resident pages have
//!    changed, the process is read.
//! 2. If the process was not active, other processes may still have changed its memory. `smaps_rollup` shows
//!    the sums over its mappings, and `maps` lists the mappings. If both files are the same as before, the
//!    values of the last read are still correct, so the process is not read. Otherwise the process is read.
//!
//! `smaps_rollup` and `maps` are hashed just before a full read. The hashes are kept only if the values of
//! the full read add up to the values in `smaps_rollup`, because otherwise the memory has changed in between.
//! No value is ever estimated, and every process is read in full at least every five minutes.

use std::time::{Duration, Instant};

use crate::procfs::memory::Hashes;
use crate::procfs::stat::Work;

/// A process is read in full at least this often, even if every check confirms its values.
pub const MAX_CONFIRMED: Duration = Duration::from_secs(300);

/// If this many checks in a row found that a process was active, the next [`N_UNCHECKED`] scrapes read the
/// process in full without a check. A check of an active process saves nothing, because the process is read
/// in full anyway. Such a check adds about a twelfth to the CPU time of reading a small process.
const MIN_BUSY: u32 = 3;
const N_UNCHECKED: u32 = 15;

/// The CPU time of the checks is judged after this many checks have confirmed the values of a process. If
/// even the cheapest check took more than three quarters of the CPU time of a full read, the process is read
/// without checks for [`MAX_CONFIRMED`]. The cheapest check is used, because other work on the CPU makes a
/// check take up to three times as long. An earlier version judged each check alone, and read 50 of 50 quiet
/// processes in full on a busy machine.
const MIN_COSTLY: u32 = 3;

/// What the kernel showed about a process just before its last read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// The activity of the process since it started.
    pub work: Work,
    /// The hashes of `smaps_rollup` and `maps`. `None` if the files were not hashed, because the process was
    /// active. Also `None` if the memory has changed between the hashing and the end of the read.
    pub hashes: Option<Hashes>,
}

/// Whether a read begins with a change check, and what the check compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// No check is made: the process is read in full.
    ReadAll,
    /// The read takes a new fingerprint. If it equals the fingerprint of the last full read, which is stored
    /// here, the process is not read in full. `None` if there is no earlier fingerprint.
    CompareWith(Option<Fingerprint>),
}

/// The state of the change checks of one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChangeCheck {
    /// The fingerprint that was taken just before the current values were read.
    fingerprint: Option<Fingerprint>,
    /// When the process was last read in full.
    read_at: Option<Instant>,
    /// The CPU time of the last full read, not including the check.
    read_cost: Duration,
    /// How many checks in a row found that the process was active since its last read.
    busy_streak: u32,
    /// How many of the next scrapes read the process in full, without a change check.
    n_unchecked_left: u32,
    /// How many checks have confirmed the values since the process was last active. Earlier checks do not
    /// count, because activity may change the size of the memory, and thus the cost of a check.
    n_confirmed: u32,
    /// The CPU time of the cheapest check that confirmed the values since the process was last active.
    cheapest: Duration,
    /// Until this time, the process is read in full without a change check, because a check takes nearly as
    /// much CPU time as a full read. That is the case if the process has few mappings, or large ones. After
    /// this time, checks are made again, and their CPU time is measured again.
    costly_until: Option<Instant>,
}

impl ChangeCheck {
    /// Returns whether the next read begins with a change check, and what the check compares.
    pub fn next(&mut self, now: Instant) -> Check {
        let is_old = self.read_at.is_some_and(|at| now.saturating_duration_since(at) >= MAX_CONFIRMED);
        if is_old || self.costly_until.is_some_and(|until| now >= until) {
            *self = Self { busy_streak: self.busy_streak, ..Self::default() };
        }
        if self.n_confirmed >= MIN_COSTLY && 4 * self.cheapest > 3 * self.read_cost {
            self.n_confirmed = 0;
            self.costly_until = Some(now + MAX_CONFIRMED);
        }
        if self.costly_until.is_some() {
            return Check::ReadAll;
        }
        if self.n_unchecked_left > 0 {
            self.n_unchecked_left -= 1;
            return Check::ReadAll;
        }
        Check::CompareWith(self.fingerprint)
    }

    /// Notes that a check confirmed the values of the last read, so that the process was not read in full.
    /// `cost` is the CPU time of the check.
    pub fn note_confirmed(&mut self, cost: Duration) {
        self.busy_streak = 0;
        self.cheapest = if self.n_confirmed == 0 { cost } else { cost.min(self.cheapest) };
        self.n_confirmed = self.n_confirmed.saturating_add(1);
    }

    /// Notes that the process was read in full. `fingerprint` was taken just before the read.
    pub fn note_read(
        &mut self,
        check: Check,
        fingerprint: Option<Fingerprint>,
        cost: Duration,
        now: Instant,
    ) {
        self.read_at = Some(now);
        let has_compared = matches!(check, Check::CompareWith(Some(_)));
        if fingerprint.is_none_or(|fingerprint| fingerprint.hashes.is_none()) {
            // There are no hashes. The usual reason is that the process was active, so its files were not
            // hashed. In that case, `cost` includes no hashing, and is the CPU time of the full read alone.
            self.read_cost = cost;
            self.n_confirmed = 0;
            if has_compared {
                self.busy_streak += 1;
                self.n_unchecked_left = if self.busy_streak < MIN_BUSY { 0 } else { N_UNCHECKED };
            }
        }
        self.fingerprint = fingerprint;
    }

    /// Starts again, because the values of the process were dropped. The process may run another program now,
    /// so the measured CPU times do not count any more.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Work =
        Work { faults: [1, 2], cpu_ticks: [3, 4], size: [5, 6], program: [7, 8], is_recorded: false };
    const AT_WORK: Option<Fingerprint> = Some(Fingerprint { work: WORK, hashes: None });
    const QUIET: Option<Fingerprint> =
        Some(Fingerprint { work: WORK, hashes: Some(Hashes { rollup: 1, maps: 2 }) });

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn quiet_process_is_confirmed_for_at_most_five_minutes() {
        let (mut check, now) = (ChangeCheck::default(), Instant::now());
        let next = check.next(now);
        assert_eq!(next, Check::CompareWith(None));
        check.note_read(next, AT_WORK, us(700), now);
        let next = check.next(now);
        assert_eq!(next, Check::CompareWith(AT_WORK));
        check.note_read(next, QUIET, us(1000), now);
        for seconds in 0..300 {
            assert_eq!(check.next(now + us(seconds * 1_000_000)), Check::CompareWith(QUIET));
            check.note_confirmed(us(280));
        }
        assert_eq!(check.next(now + MAX_CONFIRMED), Check::CompareWith(None));
    }

    #[test]
    fn busy_process_is_mostly_read_without_a_check() {
        let (mut check, now) = (ChangeCheck::default(), Instant::now());
        let mut n_checks = 0;
        for _ in 0..200 {
            let next = check.next(now);
            n_checks += u32::from(next != Check::ReadAll);
            check.note_read(next, if next == Check::ReadAll { None } else { AT_WORK }, us(100), now);
        }
        assert!((20..=30).contains(&n_checks), "{n_checks}");
    }

    #[test]
    fn check_is_skipped_if_even_the_cheapest_is_costly() {
        for (costs, expected) in [
            (&[751, 900, 2000][..], Check::ReadAll),
            (&[751, 900, 750], Check::CompareWith(QUIET)),
            (&[300, 2000, 2000, 2000, 2000], Check::CompareWith(QUIET)),
            (&[2000, 2000], Check::CompareWith(QUIET)),
        ] {
            let (mut check, now) = (ChangeCheck::default(), Instant::now());
            check.note_read(Check::CompareWith(None), AT_WORK, us(1000), now);
            check.note_read(Check::CompareWith(AT_WORK), QUIET, us(1900), now);
            costs.iter().for_each(|&cost| check.note_confirmed(us(cost)));
            assert_eq!(check.next(now), expected, "{costs:?}");
            let later = check.next(now + MAX_CONFIRMED);
            assert_eq!(later, Check::CompareWith(None), "its cost may have changed");
        }
    }

    /// Returns the state after two full reads, and after three checks that confirmed the values of the second
    /// read. A full read without its check takes `read` microseconds of CPU time, and each check takes
    /// `check` microseconds.
    fn confirmed(read: u64, check: u64, now: Instant) -> ChangeCheck {
        let mut quiet = ChangeCheck::default();
        become_quiet(&mut quiet, Check::CompareWith(None), read, check, now);
        quiet
    }

    /// Notes two full reads. The first read found that the process is active; `first` says whether this read
    /// began with a check. The second read includes a check, which found that the process is quiet. Then
    /// notes three checks that confirm the values of the second read. A read without its check takes `read`
    /// microseconds of CPU time, and each check takes `check` microseconds.
    fn become_quiet(quiet: &mut ChangeCheck, first: Check, read: u64, check: u64, now: Instant) {
        quiet.note_read(first, AT_WORK, us(read), now);
        let next = quiet.next(now);
        assert_eq!(next, Check::CompareWith(AT_WORK));
        quiet.note_read(next, QUIET, us(read + check), now);
        for _ in 0..MIN_COSTLY {
            assert_eq!(quiet.next(now), Check::CompareWith(QUIET));
            quiet.note_confirmed(us(check));
        }
    }

    #[test]
    fn costly_check_is_tried_again_after_five_minutes_of_full_reads() {
        let now = Instant::now();
        let mut check = confirmed(1000, 800, now);
        for round in 0..3 {
            let began = now + round * MAX_CONFIRMED;
            for seconds in 0..300 {
                let now = began + Duration::from_secs(seconds);
                assert_eq!(check.next(now), Check::ReadAll);
                check.note_read(Check::ReadAll, None, us(if seconds == 7 { 9000 } else { 1000 }), now);
            }
            let now = began + MAX_CONFIRMED;
            let next = check.next(now);
            assert_eq!(next, Check::CompareWith(None));
            become_quiet(&mut check, next, 1000, 800, now);
        }
        let now = now + 3 * MAX_CONFIRMED;
        assert_eq!(check.next(now), Check::ReadAll);
        let next = check.next(now + MAX_CONFIRMED);
        assert_eq!(next, Check::CompareWith(None));
        become_quiet(&mut check, next, 1000, 300, now);
        assert_eq!(check.next(now), Check::CompareWith(QUIET), "its checks have become cheap");
    }

    #[test]
    fn costs_are_measured_again_when_the_process_has_worked() {
        let now = Instant::now();
        for (before, after, expected) in [
            ((2000, 600), (200, 60), Check::CompareWith(QUIET)), // it has freed memory
            ((200, 60), (2000, 1600), Check::ReadAll),           // it has grown
        ] {
            let mut check = confirmed(before.0, before.1, now);
            let next = check.next(now);
            assert_eq!(next, Check::CompareWith(QUIET));
            become_quiet(&mut check, next, after.0, after.1, now);
            assert_eq!(check.next(now), expected);
        }
    }

    #[test]
    fn costs_are_measured_again_when_the_process_runs_another_program() {
        let now = Instant::now();
        let mut check = confirmed(1000, 800, now);
        assert_eq!(check.next(now), Check::ReadAll);
        check.forget();
        assert_eq!(check.next(now), Check::CompareWith(None));
    }

    #[test]
    fn dropped_values_are_not_confirmed() {
        let (mut check, now) = (ChangeCheck::default(), Instant::now());
        check.note_read(Check::CompareWith(None), QUIET, us(1000), now);
        check.forget();
        assert_eq!(check.next(now), Check::CompareWith(None));
    }
}
