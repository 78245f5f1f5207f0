//! Decides which thread runs the current pass: a scrape or a check.
//!
//! One thread is active and does all the work. Another one stands by. If a read of the active thread takes
//! too long, the read is detached: the standby thread becomes the active one, and continues the pass with the
//! next process. When the detached read returns, its thread delivers the result and ends.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::node::reads::detached::MAX_DETACHED as MAX_CHOSEN;

/// A read that takes longer than this is detached. This is long, because on a busy node normal reads take
/// long, too. After each detached read, further reads in the same pass get half the time, because a request
/// may wait for the pass. So 64 processes that become stuck together delay the pass by only 0.6 s.
const PATIENCE: Duration = Duration::from_millis(200);
const LEAST_PATIENCE: Duration = Duration::from_millis(3);

/// The maximum number of detached reads. Once it is reached, a pass waits until its current read returns.
/// This is unlikely: once [`MAX_CHOSEN`] reads are detached, no process that looks stuck is read. So eight
/// more processes would have to become stuck at the moment when they are read.
const MAX_DETACHED: usize = MAX_CHOSEN + 8;

/// Passes the work from the active thread to the standby thread. Threads are numbered in the order in which
/// they become active, from 0.
#[derive(Debug, Default)]
pub struct Handover {
    turns: Mutex<Turns>,
    /// Wakes the standby thread when a pass begins.
    pass_begun: Condvar,
}

impl Handover {
    /// Notes that the active thread begins a pass.
    pub fn begin_pass(&self) {
        self.turns().begin_pass();
        self.pass_begun.notify_one();
    }

    /// Notes that the active thread ends the pass.
    pub fn end_pass(&self) {
        self.turns().activity = Activity::Idle;
    }

    /// Notes that the active thread begins a read, which may block.
    pub fn begin_read(&self) {
        self.turns().activity = Activity::Reading { since: Instant::now() };
    }

    /// Notes that the read of this thread has returned. Returns whether the thread is still active. If it is
    /// not, its read was detached.
    pub fn end_read(&self, thread: usize) -> bool {
        self.turns().end_read(thread)
    }

    /// Notes that the thread of a detached read has delivered the result, and ends.
    pub fn deliver(&self) {
        self.turns().n_detached -= 1;
    }

    /// Returns whether any read is detached.
    pub fn has_detached(&self) -> bool {
        self.turns().n_detached > 0
    }

    /// Blocks until a read of the active thread takes too long. Then the calling thread becomes the active
    /// one, and its number is returned. Only one thread may stand by at a time.
    pub fn stand_by(&self) -> usize {
        let mut turns = self.turns();
        loop {
            turns = match turns.stand_by(Instant::now()) {
                Standby::TakeOver(thread) => return thread,
                Standby::WaitForPass => self.pass_begun.wait(turns).unwrap_or_else(PoisonError::into_inner),
                Standby::Wait(time) => {
                    self.pass_begun.wait_timeout(turns, time).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Locks the state. After a panic the process (or the test) ends, so a half-changed state is never seen.
    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of the hand-over. Pure: the caller passes the time.
#[derive(Debug, Default)]
struct Turns {
    /// The number of the active thread.
    active: usize,
    activity: Activity,
    /// The number of detached reads.
    n_detached: usize,
    /// How many reads were detached in this pass.
    n_detached_in_pass: u32,
}

/// What the active thread does.
#[derive(Debug, Default)]
enum Activity {
    /// The active thread waits for the next pass.
    #[default]
    Idle,
    /// The active thread runs a pass, and no read is running.
    Working,
    /// The active thread reads a process.
    Reading { since: Instant },
}

/// What the standby thread does next.
#[derive(Debug, PartialEq, Eq)]
enum Standby {
    /// It becomes the active thread, with this number.
    TakeOver(usize),
    /// It waits until a pass begins.
    WaitForPass,
    /// It waits this long, and then looks again.
    Wait(Duration),
}

impl Turns {
    fn begin_pass(&mut self) {
        self.activity = Activity::Working;
        self.n_detached_in_pass = 0;
    }

    fn end_read(&mut self, thread: usize) -> bool {
        let is_active = self.active == thread;
        if is_active {
            self.activity = Activity::Working;
        }
        is_active
    }

    /// Detaches the active thread's read, if the read takes too long.
    fn stand_by(&mut self, now: Instant) -> Standby {
        let patience = (PATIENCE / (1 << self.n_detached_in_pass.min(8))).max(LEAST_PATIENCE);
        let left = match self.activity {
            Activity::Idle => return Standby::WaitForPass,
            Activity::Working => return Standby::Wait(patience / 2),
            Activity::Reading { since } => patience.saturating_sub(now.saturating_duration_since(since)),
        };
        if !left.is_zero() {
            return Standby::Wait(left);
        }
        if self.n_detached >= MAX_DETACHED {
            return Standby::Wait(patience / 2);
        }
        self.active += 1;
        self.activity = Activity::Working;
        self.n_detached += 1;
        self.n_detached_in_pass += 1;
        Standby::TakeOver(self.active)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    const MS: Duration = Duration::from_millis(1);

    fn reading(turns: &mut Turns, since: Instant) {
        turns.activity = Activity::Reading { since };
    }

    #[test]
    fn standby_thread_sleeps_between_passes() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        assert_eq!(turns.stand_by(now), Standby::WaitForPass);
        turns.begin_pass();
        assert_eq!(turns.stand_by(now), Standby::Wait(PATIENCE / 2), "no read is under way");
        turns.activity = Activity::Idle;
        assert_eq!(turns.stand_by(now + 3600 * PATIENCE), Standby::WaitForPass);
    }

    #[test]
    fn a_short_read_is_not_detached() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        turns.begin_pass();
        for i in 0..100 {
            let begun = now + i * PATIENCE;
            reading(&mut turns, begun);
            assert_eq!(turns.stand_by(begun + PATIENCE - MS), Standby::Wait(MS));
            assert!(turns.end_read(0));
        }
        assert_eq!(turns.n_detached, 0);
    }

    #[test]
    fn a_long_read_is_detached_and_its_thread_is_no_longer_active() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        turns.begin_pass();
        reading(&mut turns, now);
        assert_eq!(turns.stand_by(now + PATIENCE), Standby::TakeOver(1));
        assert_eq!(turns.n_detached, 1);
        reading(&mut turns, now + PATIENCE);
        assert!(!turns.end_read(0), "the detached read returns");
        let later = now + PATIENCE + PATIENCE / 2;
        assert_eq!(turns.stand_by(later), Standby::TakeOver(2), "which does not end the other read");
        assert!(!turns.end_read(1));
        assert!(turns.end_read(2));
    }

    #[test]
    fn many_blocked_reads_delay_a_pass_by_less_than_a_second() {
        let (mut turns, begun) = (Turns::default(), Instant::now());
        for n_passes in 0..2 {
            turns.begin_pass();
            turns.n_detached = 0;
            let mut now = begun;
            for i in 1..=MAX_DETACHED {
                reading(&mut turns, now);
                let Standby::Wait(patience) = turns.stand_by(now) else { panic!("it takes over at once") };
                assert!(patience >= LEAST_PATIENCE);
                now += patience;
                assert_eq!(turns.stand_by(now), Standby::TakeOver(n_passes * MAX_DETACHED + i));
            }
            assert!(now - begun <= 700 * MS, "pass {n_passes}: {:?}", now - begun);
        }
    }

    #[test]
    fn pass_waits_at_the_maximum_of_detached_reads() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        turns.begin_pass();
        turns.n_detached = MAX_DETACHED;
        reading(&mut turns, now);
        assert_eq!(turns.stand_by(now + 100 * PATIENCE), Standby::Wait(PATIENCE / 2));
        assert_eq!(turns.active, 0);
        turns.n_detached -= 1;
        assert_eq!(turns.stand_by(now + 100 * PATIENCE), Standby::TakeOver(1));
    }

    /// Uses real threads. Each read except the last one blocks until its thread is not active any more.
    #[test]
    fn standby_threads_take_over_from_blocked_reads() {
        let handover = Handover::default();
        thread::scope(|scope| {
            let standby = scope.spawn(|| handover.stand_by());
            handover.begin_pass();
            handover.begin_read();
            assert_eq!(standby.join().unwrap(), 1);
            handover.begin_read();
            assert_eq!(scope.spawn(|| handover.stand_by()).join().unwrap(), 2);
            handover.begin_read();
            assert!(handover.end_read(2));
            for detached in [1, 0] {
                assert!(handover.has_detached());
                assert!(!handover.end_read(detached));
                handover.deliver();
            }
            assert!(!handover.has_detached());
            handover.end_pass();
        });
    }
}
