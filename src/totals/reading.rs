//! A reading: the result of the last read of a process. It has the totals of each series, in about 20 bytes
//! per series.

use super::sums::Totals;

/// The id of a reading in a [`Snapshot`](super::snapshot::Snapshot). The caller keeps the id together with
/// the process that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct ReadingId(pub(super) u32);

/// What one process adds to each series of its command.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) command: u32,
    pub(super) pid: u32,
    pub(super) state: State,
    /// How many paths of the process were merged into `[other]`.
    n_merged: u32,
    packed: Vec<u8>,
}

/// Whether a process still refers to a reading by its [`ReadingId`], and whether the sums include the
/// reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    /// No process refers to this reading any more, so the reading can be removed.
    #[default]
    Unused,
    /// A process refers to this reading, but the sums do not include it at the moment, because the pid may
    /// now belong to another process.
    Kept,
    /// A process refers to this reading, and the reading is added to the sums.
    Counted,
}

/// The values in smaps are in KiB, so the lowest ten bits of a value in bytes are usually 0. Rotating the
/// value right by ten bits moves these zeros to the top. The number becomes smaller, and no bit is lost.
const KIB_BITS: u32 = 10;

impl Reading {
    /// Removes the old values from the reading, and assigns the reading to a process of this command.
    /// `n_merged` is how many paths of the process were merged into `[other]` during the read.
    pub(super) fn begin(&mut self, command: u32, pid: u32, n_merged: usize) {
        (self.command, self.pid) = (command, pid);
        self.state = State::Counted;
        self.n_merged = n_merged as u32;
        self.packed.clear();
    }

    /// Returns how many paths of the process were merged into `[other]`.
    pub(super) fn n_merged(&self) -> u32 {
        self.n_merged
    }

    /// Returns how much memory the reading takes.
    pub(super) fn n_bytes(&self) -> usize {
        size_of::<Self>() + self.packed.capacity()
    }

    /// Frees memory that an earlier, larger reading needed.
    pub(super) fn shrink(&mut self) {
        self.packed.shrink_to(2 * self.packed.len());
    }

    /// Merges all series for which `is_merged` is true into the series `other`.
    pub(super) fn merge(&mut self, other: u32, is_merged: impl Fn(u32) -> bool) {
        let mut is_affected = false;
        self.for_each(|_, series, _| is_affected |= is_merged(series));
        if !is_affected {
            return;
        }
        let before = std::mem::take(self);
        (self.command, self.pid) = (before.command, before.pid);
        (self.state, self.n_merged) = (before.state, before.n_merged);
        let mut others = Totals::default();
        before.for_each(|_, series, totals| {
            if is_merged(series) {
                others.add(totals);
                self.n_merged += 1;
            } else {
                self.push(series, totals);
            }
        });
        self.push(other, &others);
        self.shrink();
    }

    /// Appends the totals of a series.
    pub(super) fn push(&mut self, series: u32, totals: &Totals) {
        self.put(u64::from(series));
        self.put(totals.n_mappings);
        self.put(u64::from(totals.values.present));
        let nonzero =
            totals.values.bytes.iter().enumerate().fold(0, |mask, (i, &v)| mask | u64::from(v != 0) << i);
        self.put(nonzero);
        for &value in totals.values.bytes.iter().filter(|&&value| value != 0) {
            self.put(value.rotate_right(KIB_BITS));
        }
    }

    /// Appends the sum of `n` merged paths, which belongs to the series `[other]`.
    pub(super) fn push_merged(&mut self, series: u32, totals: &Totals, n: u32) {
        self.push(series, totals);
        self.n_merged += n;
    }

    /// Appends a number with seven bits in each byte, the lowest bits first. The high bit of a byte means
    /// that more bytes follow (LEB128).
    fn put(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.packed.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.packed.push(number as u8);
    }

    /// Calls `each` for every series, in the order in which the series were pushed. The arguments are the
    /// position of the series in this reading, the id of the series, and its totals. A series may come twice.
    pub(super) fn for_each(&self, mut each: impl FnMut(u32, u32, &Totals)) {
        let mut packed = &self.packed[..];
        while !packed.is_empty() {
            let at = self.packed.len() - packed.len();
            let (series, totals) = unpack(&mut packed);
            each(at as u32, series, &totals);
        }
    }

    /// Returns the totals of the series at the position `at`. [`Reading::for_each`] passes such positions to
    /// `each`.
    pub(super) fn totals_at(&self, at: u32) -> Totals {
        unpack(&mut &self.packed[at as usize..]).1
    }
}

/// Decodes the first series and its totals in `packed`, and removes them from `packed`. [`Reading::push`] has
/// written these bytes.
fn unpack(packed: &mut &[u8]) -> (u32, Totals) {
    let mut take = || {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = packed.split_first().expect("push() writes complete numbers");
            *packed = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        number
    };
    let series = take() as u32;
    let mut totals = Totals { n_mappings: take(), ..Totals::default() };
    totals.values.present = take() as u32;
    let mut nonzero = take();
    while nonzero != 0 {
        totals.values.bytes[nonzero.trailing_zeros() as usize] = take().rotate_left(KIB_BITS);
        nonzero &= nonzero - 1;
    }
    (series, totals)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smaps::fields::{ALL_FIELDS, N_FIELDS, Values, values};

    /// Returns every series of a reading, with its totals.
    fn series(reading: &Reading) -> Vec<(u32, Totals)> {
        let mut series = Vec::new();
        reading.for_each(|at, id, totals| {
            assert_eq!(reading.totals_at(at), *totals);
            series.push((id, *totals));
        });
        series
    }

    #[test]
    fn packed_readings_lose_no_number() {
        for bytes in [0, 1, 1023, 1024, 4096, 127 << 10, 128 << 10, 1 << 40, u64::MAX - 1023, u64::MAX] {
            for n_mappings in [1, 127, 128, 65_530, u64::MAX] {
                let all = Values { present: ALL_FIELDS, bytes: [bytes; N_FIELDS] };
                let some = values(&[("rss", bytes), ("locked", 0)]);
                let pushed = [all, some].map(|values| Totals { values, n_mappings });
                let mut reading = Reading::default();
                for _ in 0..2 {
                    reading.begin(7, 42, 1);
                    reading.push(3, &pushed[0]);
                    reading.push(u32::MAX, &pushed[1]);
                }
                assert_eq!((reading.command, reading.pid, reading.n_merged()), (7, 42, 1));
                assert_eq!(series(&reading), [(3, pushed[0]), (u32::MAX, pushed[1])]);
            }
        }
    }

    #[test]
    fn merged_series_become_one_and_are_counted() {
        let totals = |rss| Totals { values: values(&[("rss", rss)]), n_mappings: 1 };
        let mut reading = Reading::default();
        reading.begin(7, 42, 1);
        (1..5).for_each(|id| reading.push(id, &totals(u64::from(id))));
        reading.merge(9, |id| id > 7);
        assert_eq!((series(&reading).len(), reading.n_merged()), (4, 1));
        reading.merge(9, |id| id % 2 == 0);
        let merged = Totals { n_mappings: 2, ..totals(6) };
        assert_eq!(series(&reading), [(1, totals(1)), (3, totals(3)), (9, merged)]);
        assert_eq!((reading.command, reading.pid, reading.n_merged()), (7, 42, 3));
        assert_eq!(reading.state, State::Counted);
    }
}
