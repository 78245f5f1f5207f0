//! What need not be read again. Pure.
//!
//! A process is read again only if its values can have changed:
//! 1. `stat` shows that it has worked (page faults, CPU time, size, resident pages): it is read.
//! 2. Else it is confirmed: `smaps_rollup` shows what others did to its memory, `maps` how it is laid out. Where both print the same bytes
//!    as before, the last reading stands.
//! 3. Anything else is read.
//!
//! What is compared was looked at before the read whose values it vouches for, and the values add up to it: so nothing has happened
//! between the two. Nothing is extrapolated, and every process is read in full every five minutes all the same.

use std::time::{Duration, Instant};

use crate::procfs::memory::Prints;
use crate::procfs::stat::Work;

/// A process that only stands still is read again after this time.
pub(super) const MAX_CONFIRMED: Duration = Duration::from_secs(300);

/// A process that has worked so often in a row is just read for so many scrapes: to ask whether it has worked costs a twelfth of reading a
/// small process.
const MIN_WORKED: u32 = 3;
const N_PLAIN: u32 = 15;

/// So often in a row it must be dear to confirm a process before it is just read: one measurement may be wrong.
const MIN_DEAR: u32 = 3;

/// What a process looked like when its last reading was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// What it had done.
    pub work: Work,
    /// Not looked at while it worked.
    pub prints: Option<Prints>,
}

/// What a read does to find out whether it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing: the process is read.
    Away,
    /// It looks at what there is to see, and compares it with this.
    At(Option<Marks>),
}

/// How a process has stood on the ladder.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ladder {
    marks: Option<Marks>,
    /// When it was last read in full.
    read_at: Option<Instant>,
    /// What that cost, and what confirming costs.
    read_cost: Duration,
    /// How often in a row it had worked, and how many scrapes it is just read for now.
    n_worked: u32,
    n_plain: u32,
    /// How often in a row it was hardly cheaper to confirm it than to read it, as with few mappings, or large ones.
    n_dear: u32,
}

impl Ladder {
    /// What to look at in the next read.
    pub fn look(&mut self, now: Instant) -> Look {
        if self.read_at.is_some_and(|at| now.saturating_duration_since(at) >= MAX_CONFIRMED) {
            *self = Self { n_worked: self.n_worked, ..Self::default() };
        }
        if self.n_dear >= MIN_DEAR {
            return Look::Away;
        }
        if self.n_plain > 0 {
            self.n_plain -= 1;
            return Look::Away;
        }
        Look::At(self.marks)
    }

    /// The read has found that the last reading stands; that cost so much.
    pub fn confirm(&mut self, cost: Duration) {
        self.n_worked = 0;
        self.n_dear = if 4 * cost > 3 * self.read_cost { self.n_dear + 1 } else { 0 };
    }

    /// The process was read in full, and looked like this before.
    pub fn read(&mut self, look: Look, marks: Option<Marks>, cost: Duration, now: Instant) {
        self.read_at = Some(now);
        let has_looked = matches!(look, Look::At(Some(_)));
        if marks.is_none_or(|marks| marks.prints.is_none()) {
            // Only what it costs to read, and nothing else.
            self.read_cost = cost;
            if has_looked {
                self.n_worked += 1;
                self.n_plain = if self.n_worked < MIN_WORKED { 0 } else { N_PLAIN };
            }
        }
        self.marks = marks;
    }

    /// Its values are gone, and nothing vouches for others.
    pub fn forget(&mut self) {
        self.marks = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Work =
        Work { faults: [1, 2], cpu_ticks: [3, 4], size: [5, 6], program: [7, 8], is_recorded: false };
    const AT_WORK: Option<Marks> = Some(Marks { work: WORK, prints: None });
    const QUIET: Option<Marks> = Some(Marks { work: WORK, prints: Some(Prints { rollup: 1, maps: 2 }) });

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn a_quiet_process_is_confirmed_for_five_minutes() {
        let (mut ladder, now) = (Ladder::default(), Instant::now());
        let look = ladder.look(now);
        assert_eq!(look, Look::At(None));
        ladder.read(look, AT_WORK, us(700), now);
        let look = ladder.look(now);
        assert_eq!(look, Look::At(AT_WORK));
        ladder.read(look, QUIET, us(1000), now);
        for seconds in 0..300 {
            assert_eq!(ladder.look(now + us(seconds * 1_000_000)), Look::At(QUIET));
            ladder.confirm(us(280));
        }
        assert_eq!(ladder.look(now + MAX_CONFIRMED), Look::At(None));
    }

    #[test]
    fn a_process_that_always_works_is_mostly_just_read() {
        let (mut ladder, now) = (Ladder::default(), Instant::now());
        let mut n_looks = 0;
        for _ in 0..200 {
            let look = ladder.look(now);
            n_looks += u32::from(look != Look::Away);
            ladder.read(look, if look == Look::Away { None } else { AT_WORK }, us(100), now);
        }
        assert!((20..=30).contains(&n_looks), "{n_looks}");
    }

    #[test]
    fn what_is_hardly_cheaper_is_not_done() {
        let (mut ladder, now) = (Ladder::default(), Instant::now());
        ladder.read(Look::At(None), AT_WORK, us(1000), now);
        ladder.read(Look::At(AT_WORK), QUIET, us(1900), now);
        for cost in [751, 751, 750, 751, 751] {
            ladder.confirm(us(cost));
            assert_eq!(ladder.look(now), Look::At(QUIET));
        }
        ladder.confirm(us(751));
        assert_eq!(ladder.look(now), Look::Away);
        assert_eq!(ladder.look(now + MAX_CONFIRMED), Look::At(None), "it may have changed");
    }

    #[test]
    fn what_is_forgotten_is_not_confirmed() {
        let (mut ladder, now) = (Ladder::default(), Instant::now());
        ladder.read(Look::At(None), QUIET, us(1000), now);
        ladder.forget();
        assert_eq!(ladder.look(now), Look::At(None));
    }
}
