//! Decides which thread runs the current pass, which is a scrape or a check.
//!
//! One thread is active and does all the work, while another thread stands by. If a read of the active thread
//! takes too long, the read is detached: the standby thread becomes the active thread, and continues the pass
//! with the next process. When the detached read returns, the thread that ran it delivers the result and
//! ends.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::node::reads::detached::MAX_DETACHED as MAX_CHOSEN;

/// How long a read may take before it is detached, which means that the scrape continues without waiting for
/// the read. The time is long, because normal reads are slow on a busy node. After each detached read, the
/// time is halved for the rest of the scrape or check, down to [`LEAST_PATIENCE`]. Therefore even 64
/// processes that block their reads delay a scrape by only 0.6 s in total.
const PATIENCE: Duration = Duration::from_millis(200);
const LEAST_PATIENCE: Duration = Duration::from_millis(3);

/// The maximum number of detached reads, which are reads that the scrape no longer waits for. At this number,
/// a scrape waits until its current read returns. This rarely happens: when there are [`MAX_CHOSEN`] detached
/// reads, which is 8 fewer, the exporter already skips processes that look stuck.
const MAX_DETACHED: usize = MAX_CHOSEN + 8;

/// Passes the work from the active thread to the standby thread. Threads are numbered from 0 in the order in
/// which they become active.
#[derive(Debug, Default)]
pub struct Handover {
    turns: Mutex<Turns>,
    /// Wakes the standby thread when a scrape or a check begins.
    pass_begun: Condvar,
}

impl Handover {
    /// Notes that the active thread, which does all the work, begins a scrape or a check.
    pub fn begin_pass(&self) {
        self.turns().begin_pass();
        self.pass_begun.notify_one();
    }

    /// Notes that the active thread has ended its scrape or check.
    pub fn end_pass(&self) {
        self.turns().activity = Activity::Idle;
    }

    /// Notes that the active thread begins a read, which may block.
    pub fn begin_read(&self) {
        self.turns().activity = Activity::Reading { since: Instant::now() };
    }

    /// Notes that a read by this thread has returned. Returns whether this thread is still the active one. If
    /// not, the read took too long and was detached: another thread has continued the scrape without waiting
    /// for the read.
    pub fn end_read(&self, thread: usize) -> bool {
        self.turns().end_read(thread)
    }

    /// Notes that the result of a detached read was delivered. A detached read is a read that the scrape no
    /// longer waits for. The thread that ran the read calls this function, and then ends.
    pub fn deliver(&self) {
        self.turns().n_detached -= 1;
    }

    /// Returns whether any read is detached. The scrape no longer waits for a detached read.
    pub fn has_detached(&self) -> bool {
        self.turns().n_detached > 0
    }

    /// Blocks until a read of the active thread takes too long. Then makes the calling thread the active one,
    /// and returns its number. Only one thread may stand by at a time.
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

    /// Locks the state. A panic ends the process (or the test), so no thread can see a half-changed state.
    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which thread is active, and what it does. This type does no I/O, and the caller passes the time.
#[derive(Debug, Default)]
struct Turns {
    /// The number of the active thread.
    active: usize,
    activity: Activity,
    /// The number of detached reads, which the scrape no longer waits for. A detached read is counted until
    /// its result is delivered.
    n_detached: usize,
    /// How many reads were detached in the current scrape or check.
    n_detached_in_pass: u32,
}

/// What the active thread does.
#[derive(Debug, Default)]
enum Activity {
    /// The active thread waits for the next scrape or check.
    #[default]
    Idle,
    /// The active thread runs a scrape or a check, and no read is running.
    Working,
    /// The active thread reads a process.
    Reading { since: Instant },
}

/// What the standby thread does next.
#[derive(Debug, PartialEq, Eq)]
enum Standby {
    /// The standby thread becomes the active thread, with this number.
    TakeOver(usize),
    /// The standby thread waits until a scrape or a check begins.
    WaitForPass,
    /// The standby thread waits for this long, and then calls [`Turns::stand_by`] again.
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

    /// If the read of the active thread takes too long, detaches the read: the scrape no longer waits for it,
    /// and continues on the standby thread. Returns what the standby thread does next.
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

    /// Uses real threads. Each read except the last one blocks until another thread has taken over.
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
