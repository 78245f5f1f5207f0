//! Keeps the phase of the current pass, which is a scrape or a check. This module does no I/O, and the caller
//! passes the time.

use std::time::{Duration, Instant};

/// How long the first scrape may take. The CPU budget does not limit the first scrape, so that values are
/// exported soon. Instead, the first scrape reads no further process after this time.
const MAX_FIRST_SCRAPE: Duration = Duration::from_secs(5);

/// The two kinds of passes. Each pass lists the processes, and then reads the memory of some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// A pass that reads all processes that have changed, and ends in a new exposition.
    Scrape,
    /// A pass between scrapes that reads only containers that are close to their limit.
    Check,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    /// The processes have been listed. In this phase, `stat` of the new processes is read, before any memory
    /// is read.
    Listed(Pass),
    Reading(Pass),
}

/// The phase of the current scrape or check, and the state that is kept for later ones.
#[derive(Debug)]
pub struct Progress {
    phase: Phase,
    /// Whether a process was read since the last scrape or check began.
    has_read: bool,
    /// Whether the first scrape has not ended yet.
    is_first: bool,
    /// When the last scrape began.
    began_at: Option<Instant>,
    /// When the readings were last summed.
    summed_at: Option<Instant>,
    /// The CPU time that was used for something other than reads since the last call of
    /// [`Progress::take_overhead`].
    overhead: Duration,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            phase: Phase::Idle,
            has_read: false,
            is_first: true,
            began_at: None,
            summed_at: None,
            overhead: Duration::ZERO,
        }
    }
}

impl Progress {
    /// Notes that a scrape or a check begins. The processes of the node have just been listed.
    pub fn begin(&mut self, pass: Pass, now: Instant) {
        if pass == Pass::Scrape {
            self.began_at = Some(now);
        }
        self.phase = Phase::Listed(pass);
        self.has_read = false;
    }

    /// Returns the kind of pass that is running, a scrape or a check; `None` if no pass is running.
    pub fn under_way(&self) -> Option<Pass> {
        match self.phase {
            Phase::Idle => None,
            Phase::Listed(pass) | Phase::Reading(pass) => Some(pass),
        }
    }

    /// Returns whether a scrape or a check is running, as long as `stat` of new processes must still be read.
    pub fn identifying(&self) -> Option<Pass> {
        match self.phase {
            Phase::Listed(pass) => Some(pass),
            Phase::Idle | Phase::Reading(_) => None,
        }
    }

    /// Notes that the current scrape or check begins to read the memory of processes.
    pub fn begin_reads(&mut self, pass: Pass) {
        self.phase = Phase::Reading(pass);
    }

    /// Notes that a process was read.
    pub fn note_read(&mut self) {
        self.has_read = true;
    }

    /// Returns whether the first scrape is running and has taken too long, so that it must end now. The
    /// second scrape reads the processes that are left.
    pub fn is_first_too_long(&self, now: Instant) -> bool {
        self.is_first && self.began_at.is_some_and(|began_at| now > began_at + MAX_FIRST_SCRAPE)
    }

    /// Ends the current scrape or check. Returns its kind, and whether the sums over all processes must be
    /// computed again. This is not necessary after a check that has read no process.
    pub fn finish(&mut self, now: Instant) -> Option<(Pass, bool)> {
        let pass = self.under_way()?;
        self.phase = Phase::Idle;
        let must_sum = pass == Pass::Scrape || self.has_read;
        if must_sum {
            self.summed_at = Some(now);
        }
        Some((pass, must_sum))
    }

    /// Notes that a scrape has ended. Returns whether it was the first scrape.
    pub fn end_scrape(&mut self) -> bool {
        std::mem::take(&mut self.is_first)
    }

    /// Returns the time at which the last scrape began.
    pub fn began_at(&self) -> Option<Instant> {
        self.began_at
    }

    /// Returns the time at which the readings were last summed.
    pub fn summed_at(&self) -> Option<Instant> {
        self.summed_at
    }

    /// Adds CPU time that was used for something other than reads.
    pub fn add_overhead(&mut self, cpu_time: Duration) {
        self.overhead += cpu_time;
    }

    /// Returns the CPU time that was added since the last call of this function.
    pub fn take_overhead(&mut self) -> Duration {
        std::mem::take(&mut self.overhead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_goes_through_its_phases() {
        let (mut progress, now) = (Progress::default(), Instant::now());
        assert_eq!((progress.under_way(), progress.finish(now)), (None, None));
        for pass in [Pass::Check, Pass::Scrape] {
            progress.begin(pass, now);
            assert_eq!((progress.under_way(), progress.identifying()), (Some(pass), Some(pass)));
            progress.begin_reads(pass);
            assert_eq!((progress.under_way(), progress.identifying()), (Some(pass), None));
            assert_eq!(progress.finish(now), Some((pass, pass == Pass::Scrape)));
            assert_eq!((progress.under_way(), progress.identifying()), (None, None));
        }
    }

    #[test]
    fn a_check_that_has_read_nothing_is_not_summed() {
        let (mut progress, now) = (Progress::default(), Instant::now());
        progress.begin(Pass::Check, now);
        assert_eq!(progress.finish(now), Some((Pass::Check, false)));
        assert_eq!((progress.summed_at(), progress.began_at()), (None, None));
        progress.begin(Pass::Check, now);
        progress.note_read();
        assert_eq!(progress.finish(now), Some((Pass::Check, true)));
        assert_eq!((progress.summed_at(), progress.began_at()), (Some(now), None));
    }

    #[test]
    fn first_scrape_ends_after_its_time_limit() {
        let (mut progress, now) = (Progress::default(), Instant::now());
        for is_first in [true, false] {
            progress.begin(Pass::Scrape, now);
            assert!(!progress.is_first_too_long(now + MAX_FIRST_SCRAPE));
            let later = now + MAX_FIRST_SCRAPE + Duration::from_millis(1);
            assert_eq!(progress.is_first_too_long(later), is_first);
            progress.finish(later);
            assert_eq!(progress.end_scrape(), is_first);
        }
    }
}
