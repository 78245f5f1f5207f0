//! What one process maps, summed by what a series stands for, while it is read. Knows neither its name nor its container: those are
//! known for sure only when the read has ended.
//!
//! A hash table of its own over one buffer of text: it is filled anew for every process, and std's map would allocate each key.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::grouping::GroupBy;
use crate::smaps::fields::{ALL_FIELDS, FIRST_LARGEST, N_FIELDS, NOT_IN_ROLLUP, PSS, ROUNDED, RSS, Values};
use crate::smaps::scanner::Mapping;

/// Values of several mappings together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Their fields, in bytes: sums, and for page sizes the largest.
    pub values: Values,
    /// How many mappings they are.
    pub n_mappings: u64,
}

impl Totals {
    /// Adds others.
    pub fn add(&mut self, other: &Totals) {
        self.add_values(&other.values, other.n_mappings);
    }

    fn add_values(&mut self, values: &Values, n_mappings: u64) {
        self.values.present |= values.present;
        self.n_mappings += n_mappings;
        let (sums, largest) = self.values.bytes.split_at_mut(FIRST_LARGEST);
        let (other_sums, other_largest) = values.bytes.split_at(FIRST_LARGEST);
        for (sum, other) in sums.iter_mut().zip(other_sums) {
            *sum = sum.saturating_add(*other);
        }
        for (largest, other) in largest.iter_mut().zip(other_largest) {
            *largest = (*largest).max(*other);
        }
    }
}

/// The value under which is summed what is not told apart.
pub const OTHER: &str = "[other]";

/// Of one process so many values are told apart at least, if there are as many; and so many bytes of text for each.
const MIN_VALUES: usize = 1024;
const VALUE_BYTES: usize = 128;
/// The most text where samples have no limit.
const MAX_TEXT_BYTES: usize = 16 << 20;

/// The totals of one process by value.
#[derive(Debug)]
pub struct Tally {
    group_by: GroupBy,
    /// The values, one after the other.
    text: Vec<u8>,
    sums: Vec<Sum>,
    /// Open addressing: one more than a position in `sums`, or 0. Its length is a power of two, and at most half is in use.
    table: Vec<u32>,
    hasher: RandomState,
    /// The position of the last mapping's value: neighbours mostly have the same, such as the segments of a library.
    last: usize,
    /// So many values, and bytes of them, are told apart at most.
    limits: (usize, usize),
    /// Hashes of the values that are not told apart any more: a value is either wholly under its name or not at all.
    cut: HashSet<u64>,
    /// The most values, and bytes of them, since the memory was last given back.
    most: (usize, usize),
}

#[derive(Debug)]
struct Sum {
    /// Where its value ends in the text; it begins where the one before it ends.
    end: usize,
    /// Its place in the table.
    place: usize,
    totals: Totals,
}

const MIN_TABLE: usize = 64;

impl Tally {
    /// An empty one, for an exposition of at most so many samples; 0 is no limit.
    pub fn new(group_by: GroupBy, max_samples: usize) -> Self {
        let limits = match max_samples {
            0 => (usize::MAX, MAX_TEXT_BYTES),
            // Hardly any choice of fields gives a series fewer than four samples.
            _ => (MIN_VALUES.max(max_samples / 4), MIN_VALUES.max(max_samples / 4) * VALUE_BYTES),
        };
        Self {
            group_by,
            limits,
            cut: HashSet::new(),
            text: Vec::new(),
            sums: Vec::new(),
            table: vec![0; MIN_TABLE],
            hasher: RandomState::new(),
            last: 0,
            most: (0, 0),
        }
    }

    /// Forgets everything, for the next process.
    pub fn clear(&mut self) {
        self.most = (self.most.0.max(self.sums.len()), self.most.1.max(self.text.len()));
        for sum in self.sums.drain(..) {
            self.table[sum.place] = 0;
        }
        self.text.clear();
        self.cut.clear();
        self.last = 0;
    }

    /// Adds a mapping.
    pub fn add(&mut self, mapping: &Mapping<'_>) {
        let value = self.group_by.value(mapping.path);
        if self.last >= self.sums.len() || self.value(self.last) != value {
            self.last = self.find_or_insert(value);
        }
        self.sums[self.last].totals.add_values(mapping.values, mapping.count);
    }

    /// Adds what is not told apart.
    pub fn add_other(&mut self, mapping: &Mapping<'_>) {
        self.last = self.find_or_insert(OTHER.as_bytes());
        self.sums[self.last].totals.add_values(mapping.values, mapping.count);
    }

    /// How many values are not told apart, for there are too many.
    pub fn n_cut(&self) -> usize {
        self.cut.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// Whether the kernel's own sums over the same mappings are these. It rounds what is shared out only after adding up.
    pub fn adds_up_to(&self, sums: &Values) -> bool {
        let mut all = Totals::default();
        self.sums.iter().for_each(|sum| all.add(&sum.totals));
        let fields = ALL_FIELDS & !NOT_IN_ROLLUP & sums.present;
        let rounding = all.n_mappings << 10;
        (0..N_FIELDS).filter(|i| fields & 1 << i != 0).all(|i| {
            let slack = if ROUNDED & 1 << i != 0 { rounding } else { 0 };
            let (own, sum) = (all.values.bytes[i], sums.bytes[i]);
            (own..=own.saturating_add(slack)).contains(&sum)
        })
    }

    /// Each value, as the kernel printed it, with its totals, in the order in which they came.
    pub fn sums(&self) -> impl Iterator<Item = (&[u8], &Totals)> {
        self.sums.iter().enumerate().map(|(i, sum)| (self.value(i), &sum.totals))
    }

    /// Gives back the memory that no process has needed since this was called last.
    pub fn shrink(&mut self) {
        let (n_sums, n_bytes) = std::mem::take(&mut self.most);
        self.sums.shrink_to(2 * n_sums);
        self.text.shrink_to(2 * n_bytes);
        self.cut.shrink_to(MIN_VALUES);
        let needed = (4 * n_sums).next_power_of_two().max(MIN_TABLE);
        if self.table.len() > 2 * needed && self.sums.is_empty() {
            self.table.truncate(needed); // all of it is 0
            self.table.shrink_to_fit();
        }
    }

    fn value(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.sums[i - 1].end };
        &self.text[start..self.sums[i].end]
    }

    fn find_or_insert(&mut self, value: &[u8]) -> usize {
        let place = match self.find(value) {
            Ok(found) => return found,
            Err(place) => place,
        };
        if value != OTHER.as_bytes() {
            if !self.cut.is_empty() && self.cut.contains(&self.hasher.hash_one(value)) {
                return self.find_or_insert(OTHER.as_bytes());
            }
            if self.sums.len() >= self.limits.0 || self.text.len() + value.len() > self.limits.1 {
                self.keep_the_larger_half();
                return self.find_or_insert(value);
            }
        }
        self.text.extend_from_slice(value);
        self.sums.push(Sum { end: self.text.len(), place, totals: Totals::default() });
        self.table[place] = self.sums.len() as u32; // fewer than the mappings of a process
        if 2 * self.sums.len() > self.table.len() {
            self.grow();
        }
        self.sums.len() - 1
    }

    /// The position of a value in `sums`, or else its place in the table.
    fn find(&self, value: &[u8]) -> Result<usize, usize> {
        let mask = self.table.len() - 1;
        // Randomly keyed: whoever chooses the paths cannot make them collide.
        let mut place = self.hasher.hash_one(value) as usize & mask;
        loop {
            match self.table[place] {
                0 => return Err(place),
                found if self.value(found as usize - 1) == value => return Ok(found as usize - 1),
                _ => place = (place + 1) & mask,
            }
        }
    }

    /// Sums the smaller half of the values as [`OTHER`], for good.
    fn keep_the_larger_half(&mut self) {
        let size = |sum: &Sum| {
            let bytes = &sum.totals.values.bytes;
            (bytes[PSS], bytes[RSS])
        };
        let mut sizes: Vec<_> = (0..self.sums.len()).map(|i| (size(&self.sums[i]), i)).collect();
        let (_, median, _) = sizes.select_nth_unstable(self.sums.len() / 2);
        let median = *median;
        let (text, sums) = (std::mem::take(&mut self.text), std::mem::take(&mut self.sums));
        let (mut start, mut other) = (0, Totals::default());
        for (i, sum) in sums.into_iter().enumerate() {
            let value = &text[start..sum.end];
            start = sum.end;
            if value == OTHER.as_bytes() {
                other.add(&sum.totals);
            } else if (size(&sum), i) < median {
                other.add(&sum.totals);
                self.cut.insert(self.hasher.hash_one(value));
            } else {
                self.text.extend_from_slice(value);
                self.sums.push(Sum { end: self.text.len(), ..sum });
            }
        }
        self.text.extend_from_slice(OTHER.as_bytes());
        self.sums.push(Sum { end: self.text.len(), place: 0, totals: other });
        self.last = 0;
        self.fill_table();
    }

    fn grow(&mut self) {
        self.table.resize(2 * self.table.len(), 0);
        self.fill_table();
    }

    fn fill_table(&mut self) {
        self.table.fill(0);
        for i in 0..self.sums.len() {
            let Err(place) = self.find(self.value(i)) else { unreachable!("each value is there once") };
            self.table[place] = i as u32 + 1;
            self.sums[i].place = place;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smaps::fields::values;

    fn add(tally: &mut Tally, path: &[u8], rss: u64) {
        tally.add(&Mapping { path, values: &values(&[("rss", rss)]), count: 1 });
    }

    /// Each value, its resident bytes and its number of mappings.
    fn sums(tally: &Tally) -> Vec<(String, u64, u64)> {
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let sums = tally.sums();
        sums.map(|(value, totals)| (text(value), totals.values.bytes[1], totals.n_mappings)).collect()
    }

    #[test]
    fn mappings_of_one_value_are_summed() {
        let mut tally = Tally::new(GroupBy::Path, 0);
        for _ in 0..2 {
            assert!(tally.is_empty());
            for (path, rss) in [("/a", 1), ("/a", 2), ("", 4), ("/b", 8), ("/a", 16), ("[anon]", 32)] {
                add(&mut tally, path.as_bytes(), rss);
            }
            let expected = [("/a".into(), 19, 3), ("[anon]".into(), 36, 2), ("/b".into(), 8, 1)];
            assert_eq!(sums(&tally), expected);
            tally.clear();
        }
        let mut kinds = Tally::new(GroupBy::Kind, 0);
        [b"/a", b"/b"].iter().for_each(|path| add(&mut kinds, *path, 1));
        assert_eq!(sums(&kinds), [("file".into(), 2, 2)]);
    }

    #[test]
    fn many_values_are_found_again_and_their_memory_goes() {
        let mut tally = Tally::new(GroupBy::Path, 0);
        let paths: Vec<String> = (0..5000).map(|i| format!("/{i}")).collect();
        for _ in 0..2 {
            paths.iter().chain(&paths).for_each(|path| add(&mut tally, path.as_bytes(), 1));
            assert!(
                sums(&tally).iter().eq(paths
                    .iter()
                    .map(|path| (path.clone(), 2, 2))
                    .collect::<Vec<_>>()
                    .iter())
            );
            tally.clear();
            tally.shrink();
            assert!(tally.table.len() >= 10_000, "it is needed again");
        }
        add(&mut tally, b"/0", 1);
        tally.clear();
        tally.shrink();
        assert_eq!(tally.table.len(), MIN_TABLE);
        assert!(tally.table.iter().all(|&place| place == 0));
        assert!(tally.sums.capacity() < 100 && tally.text.capacity() < 1000);
    }

    #[test]
    fn text_has_a_bound() {
        let mut tally = Tally::new(GroupBy::Path, 0);
        for i in 0..2000 {
            add(&mut tally, format!("/{i:0>16000}").as_bytes(), 1);
        }
        add(&mut tally, b"/short", 1);
        assert!(tally.text.len() <= MAX_TEXT_BYTES + OTHER.len());
        let sums = sums(&tally);
        assert_eq!(sums.iter().map(|(_, rss, _)| rss).sum::<u64>(), 2001);
        assert!(sums.iter().any(|(value, rss, _)| value == OTHER && *rss > 900));
    }

    /// More values than are told apart: those that are have all of theirs, the largest among them.
    #[test]
    fn a_value_is_wholly_under_its_name_or_not_at_all() {
        let mut tally = Tally::new(GroupBy::Path, 4000);
        for round in 1..=3 {
            for i in 0..5000 {
                add(&mut tally, format!("/{i}").as_bytes(), if i % 100 == 0 { 1000 + i } else { 1 });
            }
            assert!(tally.sums.len() <= MIN_VALUES + 1);
            let sums = sums(&tally);
            assert_eq!(sums.len() - 1 + tally.n_cut(), 5000, "with [other]");
            let named = sums.iter().filter(|(value, ..)| value != OTHER);
            assert!(named.clone().all(|(_, _, n_mappings)| *n_mappings == round));
            assert_eq!(named.filter(|(_, rss, _)| *rss >= 1000).count(), 50);
            assert_eq!(sums.iter().map(|(.., n_mappings)| n_mappings).sum::<u64>(), 5000 * round);
        }
        tally.clear();
        tally.shrink();
        assert_eq!((tally.n_cut(), tally.is_empty()), (0, true));
    }

    #[test]
    fn sums_saturate_and_page_sizes_do_not_add_up() {
        let totals = |fields: &[(&str, u64)], n_mappings| Totals { values: values(fields), n_mappings };
        let mut sum = totals(&[("rss", u64::MAX - 1), ("mmu_page_size", 4096)], 1);
        sum.add(&totals(&[("rss", 1 << 20), ("mmu_page_size", 2 << 20)], 2));
        sum.add(&totals(&[("swap", 5), ("mmu_page_size", 4096)], 1));
        assert_eq!(sum, totals(&[("rss", u64::MAX), ("swap", 5), ("mmu_page_size", 2 << 20)], 4));
    }
}
