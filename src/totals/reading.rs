//! What one process gave when it was read last: its totals by series, packed to about 20 bytes a series.

use super::tally::Totals;

/// What one process contributes to the series of its command.
#[derive(Debug, Default)]
pub struct Reading {
    pub(super) command: u32,
    packed: Vec<u8>,
    /// How many of its values are not told apart, for there are too many.
    pub(super) n_cut: u32,
}

/// smaps counts in KiB: rotated by these bits, usual values become small numbers and none is lost.
const KIB_BITS: u32 = 10;

impl Reading {
    /// Whether it holds no mapping.
    pub fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    /// Whether values of it are not told apart that may be told apart by the next read.
    pub fn is_cut(&self) -> bool {
        self.n_cut > 0
    }

    /// Forgets what it holds.
    pub fn clear(&mut self) {
        self.packed = Vec::new();
        self.n_cut = 0;
    }

    /// Begins anew, for a process of this command.
    pub(super) fn begin(&mut self, command: u32) {
        self.command = command;
        self.packed.clear();
        self.n_cut = 0;
    }

    /// How long it is.
    pub(super) fn len(&self) -> usize {
        self.packed.len()
    }

    /// How many bytes it takes.
    pub(super) fn n_bytes(&self) -> usize {
        self.packed.capacity()
    }

    /// Gives back memory that a larger reading before this one has needed.
    pub(super) fn shrink(&mut self) {
        self.packed.shrink_to(2 * self.packed.len());
    }

    /// Puts the values of series under others, where `instead` says which; those are not told apart any more.
    pub(super) fn replace(&mut self, instead: impl Fn(u32) -> Option<u32>) {
        let mut is_affected = false;
        self.for_each(|series, _| is_affected |= instead(series).is_some());
        if !is_affected {
            return;
        }
        let before = std::mem::take(self);
        self.begin(before.command);
        self.n_cut = before.n_cut;
        let mut others = Totals::default();
        let mut other = None;
        before.for_each(|series, totals| match instead(series) {
            Some(into) => {
                others.add(totals);
                other = Some(into);
                self.n_cut += 1;
            }
            None => self.push(series, totals),
        });
        if let Some(other) = other {
            self.push(other, &others);
        }
        self.shrink();
    }

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

    /// Seven bits a byte, the lowest first, the high bit says that more follow (LEB128).
    fn put(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.packed.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.packed.push(number as u8);
    }

    /// Calls `each` with every series and its totals, in the order in which they were pushed; a series may come more than once.
    pub(super) fn for_each(&self, mut each: impl FnMut(u32, &Totals)) {
        let mut packed = &self.packed[..];
        while !packed.is_empty() {
            let mut take = || {
                let mut number = 0;
                for shift in (0..64).step_by(7) {
                    let (&byte, rest) = packed.split_first().expect("push() writes whole numbers");
                    packed = rest;
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
            each(series, &totals);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smaps::fields::{ALL_FIELDS, N_FIELDS, Values, values};

    #[test]
    fn readings_hold_every_number() {
        for bytes in [0, 1, 1023, 1024, 4096, 127 << 10, 128 << 10, 1 << 40, u64::MAX - 1023, u64::MAX] {
            for n_mappings in [1, 127, 128, 65_530, u64::MAX] {
                let all = Values { present: ALL_FIELDS, bytes: [bytes; N_FIELDS] };
                let some = values(&[("rss", bytes), ("locked", 0)]);
                let pushed = [all, some].map(|values| Totals { values, n_mappings });
                let mut reading = Reading::default();
                for _ in 0..2 {
                    reading.begin(7);
                    reading.push(3, &pushed[0]);
                    reading.push(u32::MAX, &pushed[1]);
                }
                let mut read = Vec::new();
                reading.for_each(|series, totals| read.push((series, *totals)));
                assert_eq!((reading.command, read), (7, vec![(3, pushed[0]), (u32::MAX, pushed[1])]));
            }
        }
    }
}
