//! Decides which thread runs the current pass. A pass is a scrape or a check.
//!
//! One thread is active and does everything; another stands by. When a read takes the active thread too long,
//! the read is detached: the standby thread becomes the active one and continues the pass with the next
//! process. The thread of the detached read delivers its result later, and ends.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::node::reads::detached::MAX_DETACHED as MAX_CHOSEN;

/// A read that takes longer is detached. Each further one in a pass gets half the time of the previous one,
/// because a request may wait for that pass: 64 processes that are stuck at the same time delay it by 0.6 s.
/// A shorter time for the first read would detach reads on a node that is merely busy.
const PATIENCE: Duration = Duration::from_millis(200);
const LEAST_PATIENCE: Duration = Duration::from_millis(3);

/// The maximum number of detached reads, at which a pass waits for its current read. From [`MAX_CHOSEN`] on,
/// only processes that do not look stuck are read, so eight must become stuck just as they are read to reach
/// this limit.
const MAX_DETACHED: usize = MAX_CHOSEN + 8;

/// The hand-over between the active thread and the standby thread. Threads are numbered: the first active one
/// is 0, and each thread that takes over gets the next number.
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

    /// Notes that the read of this thread has returned. Returns whether the thread is still active; if not,
    /// its read was detached.
    pub fn end_read(&self, thread: usize) -> bool {
        self.turns().end_read(thread)
    }

    /// Notes that the result of a detached read has been delivered, so its thread ends.
    pub fn deliver(&self) {
        self.turns().n_detached -= 1;
    }

    /// Returns whether any read is detached.
    pub fn has_detached(&self) -> bool {
        self.turns().n_detached > 0
    }

    /// Blocks until the active thread's read has taken too long. Returns the number of the calling thread,
    /// which is then the active one. Only one thread at a time may stand by.
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

    /// Locks the state. A panic ends the process (or the test), so the state is never half changed.
    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of the hand-over. Pure: the time is passed in.
#[derive(Debug, Default)]
struct Turns {
    /// The number of the active thread.
    active: usize,
    activity: Activity,
    /// The number of detached reads.
    n_detached: usize,
    /// The number of reads that were detached in this pass.
    n_detached_in_pass: u32,
}

/// What the active thread is doing.
#[derive(Debug, Default)]
enum Activity {
    /// The thread waits until a pass is due.
    #[default]
    Idle,
    /// The thread runs a pass and is between two reads.
    Working,
    /// The thread reads a process.
    Reading { since: Instant },
}

/// What the standby thread does next.
#[derive(Debug, PartialEq, Eq)]
enum Standby {
    /// The standby thread becomes the active thread, with this number.
    TakeOver(usize),
    /// The standby thread waits until a pass begins.
    WaitForPass,
    /// The standby thread waits this long, and checks again.
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

    /// Detaches the active thread's read if it has taken too long.
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

    /// Runs real threads: each read except the last blocks until its thread is no longer active.
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
