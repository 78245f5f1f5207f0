//! The state of a process's reads: whether the current read is stuck, and when the next read may begin. A
//! stuck read does not return, because it waits for a lock. This module does no I/O.

use std::time::{Duration, Instant};

/// A read is stuck if it has used almost no CPU time for this long. A process that was skipped for this long
/// also counts as stuck (see [`ReadState::Skipped`]).
pub const STUCK_AFTER: Duration = Duration::from_secs(2);

/// The state of the current read of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadState {
    /// The process can be read. No read of the process is detached. A detached read is a read that has not
    /// returned, and that the scrape no longer waits for.
    #[default]
    Idle,
    /// The process is not read, because a read would probably not return. After [`STUCK_AFTER`], the process
    /// counts as stuck.
    Skipped {
        /// When the process was first skipped.
        since: Instant,
        /// Whether the process was reported as stuck, after it was skipped for [`STUCK_AFTER`].
        is_reported: bool,
    },
    /// A read of the process is detached: it has not returned, and the scrape no longer waits for it.
    Detached,
    /// A read of the process is detached, and is stuck: it waits for a lock and does not return.
    Stuck,
}

impl ReadState {
    /// Whether the process counts as stuck. A stuck process has no values.
    pub fn is_stuck(self) -> bool {
        matches!(self, Self::Stuck | Self::Skipped { is_reported: true, .. })
    }

    /// Whether a read of the process is detached, which means that the scrape no longer waits for it.
    pub fn is_detached(self) -> bool {
        matches!(self, Self::Detached | Self::Stuck)
    }

    /// Notes that the process is skipped. Returns whether it has been skipped for so long that it counts as
    /// stuck.
    pub fn skip(&mut self, now: Instant) -> bool {
        match *self {
            Self::Skipped { since, .. } => now.saturating_duration_since(since) >= STUCK_AFTER,
            _ => {
                *self = Self::Skipped { since: now, is_reported: false };
                false
            }
        }
    }

    /// Notes that the process is no longer skipped. Returns whether it counted as stuck.
    pub fn end_skipping(&mut self) -> bool {
        let Self::Skipped { is_reported, .. } = *self else { return false };
        *self = Self::Idle;
        is_reported
    }

    /// Notes that the process counts as stuck. Returns whether it did not count as stuck before.
    pub fn report_stuck(&mut self) -> bool {
        if self.is_stuck() {
            return false;
        }
        *self = match *self {
            Self::Skipped { since, .. } => Self::Skipped { since, is_reported: true },
            _ => Self::Stuck,
        };
        true
    }

    /// Notes that a read of the process has returned. `is_detached` says that another read of the process is
    /// still detached: it has not returned, and the scrape no longer waits for it.
    pub fn end_read(&mut self, is_detached: bool) {
        *self = if is_detached { Self::Detached } else { Self::Idle };
    }
}

/// The pause before the next read of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pause {
    /// The process may be read at any time.
    #[default]
    None,
    /// The last read was long, so the process is not read for some time.
    Resting {
        /// When the next read may begin.
        until: Instant,
    },
    /// The kernel refused the last reads. The process is read 1 scrape after the first refused read, 2
    /// scrapes after the second, then 4, and so on, up to 64. The distance grows, because each refused read
    /// may cause an audit record.
    Refused {
        /// How many reads in a row the kernel has refused.
        n_in_a_row: u32,
        /// How many more scrapes skip the process.
        n_scrapes_left: u32,
    },
}

impl Pause {
    /// Whether the pause has ended, so that the process may be read in this scrape. This must be called once
    /// per scrape, because a pause after a refused read is counted in scrapes, and each call counts one.
    pub fn ends(&mut self, now: Instant) -> bool {
        match self {
            Self::None | Self::Refused { n_scrapes_left: 0, .. } => true,
            Self::Resting { until } => now >= *until,
            Self::Refused { n_scrapes_left, .. } => {
                *n_scrapes_left -= 1;
                false
            }
        }
    }

    /// Notes that the kernel refused a read.
    pub fn note_refusal(&mut self) {
        let n_before = if let Self::Refused { n_in_a_row, .. } = *self { n_in_a_row } else { 0 };
        let n_scrapes_left = (1 << n_before.min(6)) - 1;
        *self = Self::Refused { n_in_a_row: n_before + 1, n_scrapes_left };
    }

    /// Ends the pause, if the reason for the pause is that the last read was long. A pause after refused
    /// reads continues.
    pub fn end_rest(&mut self) {
        if let Self::Resting { .. } = self {
            *self = Self::None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_process_is_read_less_and_less_often() {
        let (mut pause, now) = (Pause::None, Instant::now());
        let mut read = Vec::new();
        for scrape in 1..=200 {
            if pause.ends(now) {
                pause.note_refusal();
                read.push(scrape);
            }
        }
        assert_eq!(read, [1, 2, 4, 8, 16, 32, 64, 128, 192]);
    }

    #[test]
    fn a_rest_ends_at_its_time() {
        let now = Instant::now();
        let until = now + Duration::from_secs(1);
        let mut pause = Pause::Resting { until };
        assert!(!pause.ends(now) && pause.ends(until));
        pause.end_rest();
        assert_eq!(pause, Pause::None);
        let refused = Pause::Refused { n_in_a_row: 1, n_scrapes_left: 1 };
        pause = refused;
        pause.end_rest();
        assert_eq!(pause, refused);
    }

    #[test]
    fn process_counts_as_stuck_after_two_seconds() {
        let (mut state, start) = (ReadState::Idle, Instant::now());
        for (ms, is_stuck) in [(0, false), (1999, false), (2000, true)] {
            assert_eq!(state.skip(start + Duration::from_millis(ms)), is_stuck);
        }
        assert!(!state.is_stuck() && state.report_stuck() && state.is_stuck());
        assert!(!state.report_stuck(), "that is reported once");
        assert!(!state.is_detached());
        assert!(state.end_skipping() && !state.end_skipping());
        assert_eq!(state, ReadState::Idle);
    }

    #[test]
    fn detached_read_becomes_stuck() {
        let mut state = ReadState::Detached;
        assert!(state.is_detached() && !state.is_stuck());
        assert!(state.report_stuck());
        assert_eq!(state, ReadState::Stuck);
        assert!(state.is_detached() && !state.end_skipping());
        state.end_read(true);
        assert_eq!(state, ReadState::Detached, "another read continues");
        state.end_read(false);
        assert_eq!(state, ReadState::Idle);
    }
}
