//! Decides when to read each file of memory events. Usually a file is polled: the exporter waits until the
//! kernel sends a notification about the file. After a notification, the file is read repeatedly for a short
//! time. Then follows a pause, in which the file is not polled. This module does no I/O: the time is passed
//! in.
//!
//! The kernel counts an event at once, but sends at most one notification per file in about 12 ms. So there
//! may be no notification for a kill right after the first event, and only a further read shows this kill.
//! Page cache can keep a container at its limit, which causes 64 notifications a second. The pauses for the
//! file of such a container are longer.

use std::time::{Duration, Instant};

/// How long a file is read repeatedly after a notification. This time starts again when a read shows that the
/// limit was reached again.
const READING: Duration = Duration::from_millis(30);
/// The maximum time for which a file is read repeatedly, even if the limit is reached again and again. It is
/// longer than the time from the first event at the limit to the kill, which was at most 626 ms in 588
/// trials. The median was 25 ms.
const MAX_READING: Duration = Duration::from_secs(1);
/// The shortest pause. A pause follows each series of repeated reads. During the pause, the file of memory
/// events is not polled.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause. The length of the pause doubles after each series of reads without a kill.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// What has changed in the counters since the previous read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// No counter has changed.
    Nothing,
    /// The limit was reached. A kill may follow.
    Limit,
    /// A process was killed.
    Kill,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Polled,
    /// The file of memory events is read every few milliseconds, from `since` until `until`.
    Read {
        since: Instant,
        until: Instant,
        has_kill: bool,
    },
    Paused {
        until: Instant,
    },
}

/// Decides when to poll and to read one file of memory events.
#[derive(Debug)]
pub struct Pace {
    state: State,
    /// The length of the last pause.
    pause: Duration,
    /// The end of the last pause, which may be in the past.
    paused_until: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { state: State::Polled, pause: Duration::ZERO, paused_until: None }
    }
}

impl Pace {
    /// Whether the file of memory events has to be polled now.
    pub fn is_polled(&self) -> bool {
        self.state == State::Polled
    }

    /// Whether the file of memory events has to be read every few milliseconds now.
    pub fn is_read(&self) -> bool {
        matches!(self.state, State::Read { .. })
    }

    /// Returns the time at which the current pause ends; `None` if there is no pause.
    pub fn pause_end(&self) -> Option<Instant> {
        match self.state {
            State::Paused { until } => Some(until),
            State::Polled | State::Read { .. } => None,
        }
    }

    /// Notes that the kernel has sent a notification.
    pub fn wake(&mut self, now: Instant) {
        if self.paused_until.is_some_and(|until| now > until + MAX_PAUSE) {
            self.pause = Duration::ZERO;
        }
        // A pause of the maximum length means that several series of reads have shown no kill. A kill is then
        // unlikely, so the file is read only once before the next pause.
        let reading = if self.pause == MAX_PAUSE { Duration::ZERO } else { READING };
        self.state = State::Read { since: now, until: now + reading, has_kill: false };
    }

    /// Notes the result of a read.
    pub fn note_read(&mut self, moved: Moved, now: Instant) {
        let State::Read { since, until, has_kill } = &mut self.state else { return };
        match moved {
            Moved::Nothing => {}
            Moved::Kill => *has_kill = true,
            // After an event at the limit, the file is usually read for longer, because a kill may follow.
            // But the reads must end even if the limit is reached all the time. So there are two exceptions.
            // After a kill, the reads are not prolonged, because a restarted container may soon reach its
            // limit again. After a pause longer than MIN_PAUSE, they are not prolonged either, because a
            // container with much page cache may stay at its limit without a kill.
            Moved::Limit if *has_kill || self.pause > MIN_PAUSE => {}
            Moved::Limit => *until = (*until).max((now + READING).min(*since + MAX_READING)),
        }
        if now >= *until {
            let doubled = if *has_kill { MIN_PAUSE } else { (2 * self.pause).clamp(MIN_PAUSE, MAX_PAUSE) };
            self.pause = doubled;
            self.paused_until = Some(now + doubled);
            self.state = State::Paused { until: now + doubled };
        }
    }

    /// Ends a pause that is over.
    pub fn tick(&mut self, now: Instant) {
        if self.pause_end().is_some_and(|until| now >= until) {
            self.state = State::Polled;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Simulates that the kernel reports an event at `now`, and that the file of memory events is then read
    /// every 2 ms. `moved` has the result of each read. If there are more reads than results, the last result
    /// is repeated. Returns how long the file is read, and the length of the pause after that.
    fn read(pace: &mut Pace, now: Instant, moved: &[Moved]) -> (Duration, Duration) {
        pace.tick(now);
        assert!(pace.is_polled());
        pace.wake(now);
        for round in 0.. {
            let at = now + 2 * round * MS;
            pace.note_read(moved[moved.len().min(round as usize + 1) - 1], at);
            if let Some(end) = pace.pause_end() {
                return (at - now, end - at);
            }
        }
        unreachable!("a file is read for a limited time")
    }

    #[test]
    fn a_file_is_read_again_after_a_notification() {
        let now = Instant::now();
        for (moved, expected, why) in [
            (&[Moved::Nothing][..], 30, "a late notification"),
            (&[Moved::Kill, Moved::Nothing], 30, "a kill"),
            (&[Moved::Kill], 30, "a loop of kills"),
            (
                &[Moved::Limit, Moved::Limit, Moved::Limit, Moved::Nothing],
                34,
                "until 30 ms after the last event",
            ),
            (&[Moved::Limit], 1000, "page cache is reclaimed all the time"),
        ] {
            assert_eq!(read(&mut Pace::default(), now, moved), (expected * MS, MIN_PAUSE), "{why}");
        }
    }

    #[test]
    fn a_file_without_kills_is_polled_more_and_more_rarely() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for (reading, pause) in [(1000, 100), (1000, 200), (30, 400), (30, 800), (30, 1000), (0, 1000)] {
            assert_eq!(read(&mut pace, now, &[Moved::Limit]), (reading * MS, pause * MS));
            now = pace.pause_end().unwrap();
        }
        now += MAX_PAUSE + MS;
        assert_eq!(
            read(&mut pace, now, &[Moved::Nothing]),
            (30 * MS, MIN_PAUSE),
            "it was quiet for a second"
        );
        now = pace.pause_end().unwrap();
        assert_eq!(read(&mut pace, now, &[Moved::Limit]).1, 200 * MS);
        now = pace.pause_end().unwrap();
        assert_eq!(read(&mut pace, now, &[Moved::Kill]), (30 * MS, MIN_PAUSE), "a kill shortens the pause");
    }
}
