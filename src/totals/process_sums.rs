//! Sums what one process maps, while the process is read. The name and the container of the process are known
//! only after the read, and are not needed here.
//!
//! [`ProcessSums`] has its own hash table, which keeps all paths in one buffer and is reused for every
//! process. The standard library's map would allocate memory for each path.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::other::{Candidate, OTHER, merge_smallest};
use super::sums::Totals;
use crate::smaps::fields::{ALL_FIELDS, N_FIELDS, NOT_IN_ROLLUP, ROUNDED, Values};
use crate::smaps::scanner::Mapping;

/// The totals of one process by path.
#[derive(Debug)]
pub struct ProcessSums {
    /// The texts of all paths, one after another.
    text: Vec<u8>,
    sums: Vec<Sum>,
    /// The hash table, with open addressing. A free entry is 0. Any other entry is a position in `sums` plus
    /// one. The length is a power of two, and at most half of the entries are used.
    table: Vec<u32>,
    hasher: RandomState,
    /// The position in `sums` of the path that was added last. The next mapping often has the same path,
    /// because a library is mapped in several segments.
    last: usize,
    /// How many bytes `text` and `sums` may take together.
    max_bytes: usize,
    /// Hashes of the paths that were merged into [`OTHER`]. A further mapping of such a path is also added to
    /// [`OTHER`], so that no path appears with only a part of its memory.
    merged: HashSet<u64>,
    /// The largest number of sums and of text bytes since memory was last freed.
    most: (usize, usize),
}

#[derive(Debug)]
struct Sum {
    /// Where the path ends in the text. It begins where the previous path ends.
    end: usize,
    /// The position of this sum's entry in the hash table.
    place: usize,
    totals: Totals,
}

const MIN_TABLE: usize = 64;
/// The smallest capacity to which the set of merged paths is shrunk.
const MIN_MERGED: usize = 1024;

impl ProcessSums {
    /// Returns an empty set of sums. `max_bytes` is the memory limit of the snapshot, which stores the
    /// values of all processes. The sums of one process may use half of that limit.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes: max_bytes / 2,
            merged: HashSet::new(),
            text: Vec::new(),
            sums: Vec::new(),
            table: vec![0; MIN_TABLE],
            hasher: RandomState::new(),
            last: 0,
            most: (0, 0),
        }
    }

    /// Removes all sums, for the next process.
    pub fn clear(&mut self) {
        self.most = (self.most.0.max(self.sums.len()), self.most.1.max(self.text.len()));
        for sum in self.sums.drain(..) {
            self.table[sum.place] = 0;
        }
        self.text.clear();
        self.merged.clear();
        self.last = 0;
    }

    /// Adds a mapping.
    pub fn add(&mut self, mapping: &Mapping<'_>) {
        let value = if mapping.path.is_empty() { b"[anon]" } else { mapping.path };
        if self.last >= self.sums.len() || self.value(self.last) != value {
            self.last = self.find_or_insert(value);
        }
        self.sums[self.last].totals.add_values(mapping.values, mapping.count);
    }

    /// Adds the sum of mappings that were not read one by one, under the name [`OTHER`].
    pub fn add_other(&mut self, mapping: &Mapping<'_>) {
        self.last = self.find_or_insert(OTHER.as_bytes());
        self.sums[self.last].totals.add_values(mapping.values, mapping.count);
    }

    /// Returns how many paths were merged into [`OTHER`].
    pub(super) fn n_merged(&self) -> usize {
        self.merged.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// Whether these sums equal `sums`, the kernel's own sums over the same mappings. Some fields are shares
    /// of shared memory. The kernel adds up the shares of all mappings before it rounds, so these fields may
    /// differ a little.
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

    /// Returns each path, as the kernel printed it, and its totals. The order is that in which the paths were
    /// first added.
    pub(super) fn sums(&self) -> impl Iterator<Item = (&[u8], &Totals)> {
        self.sums.iter().enumerate().map(|(i, sum)| (self.value(i), &sum.totals))
    }

    /// Frees memory that no process has needed since the last call.
    pub fn shrink(&mut self) {
        let (n_sums, n_bytes) = std::mem::take(&mut self.most);
        self.sums.shrink_to(2 * n_sums);
        self.text.shrink_to(2 * n_bytes);
        self.merged.shrink_to(MIN_MERGED);
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
        let mut place = match self.find(value) {
            Ok(found) => return found,
            Err(place) => place,
        };
        if value != OTHER.as_bytes() {
            if !self.merged.is_empty() && self.merged.contains(&self.hasher.hash_one(value)) {
                return self.find_or_insert(OTHER.as_bytes());
            }
            if self.n_bytes() + Self::value_bytes(value.len()) > self.max_bytes {
                self.merge_smallest();
                place = self.place_of_new(value);
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

    /// Returns the position of a path in `sums`. If the path is not in `sums`, returns the free place for it
    /// in the hash table.
    fn find(&self, value: &[u8]) -> Result<usize, usize> {
        let mask = self.table.len() - 1;
        // The hash has a random key, so a workload cannot choose paths with equal hashes.
        let mut place = self.hasher.hash_one(value) as usize & mask;
        loop {
            match self.table[place] {
                0 => return Err(place),
                found if self.value(found as usize - 1) == value => return Ok(found as usize - 1),
                _ => place = (place + 1) & mask,
            }
        }
    }

    fn n_bytes(&self) -> usize {
        self.text.len() + self.sums.len() * size_of::<Sum>()
    }

    fn value_bytes(len: usize) -> usize {
        len + size_of::<Sum>()
    }

    /// Merges the smallest paths into [`OTHER`] until at least half of `max_bytes` is free. Paths stay merged
    /// until the sums are cleared.
    fn merge_smallest(&mut self) {
        let mut candidates: Vec<Candidate> = (0..)
            .zip(&self.sums)
            .map(|(i, sum)| ((sum.totals.size(), i), i))
            .filter(|&(_, i)| self.value(i as usize) != OTHER.as_bytes())
            .collect();
        let mut is_merged = vec![false; self.sums.len()];
        merge_smallest(&mut candidates, self.n_bytes(), self.max_bytes / 2, |i, n_bytes| {
            is_merged[i as usize] = true;
            n_bytes - Self::value_bytes(self.value(i as usize).len())
        });
        let (text, sums) = (std::mem::take(&mut self.text), std::mem::take(&mut self.sums));
        let (mut start, mut other) = (0, Totals::default());
        for (sum, is_merged) in sums.into_iter().zip(is_merged) {
            let value = &text[start..sum.end];
            start = sum.end;
            if value == OTHER.as_bytes() {
                other.add(&sum.totals);
            } else if is_merged {
                other.add(&sum.totals);
                self.merged.insert(self.hasher.hash_one(value));
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
            let place = self.place_of_new(self.value(i));
            self.table[place] = i as u32 + 1;
            self.sums[i].place = place;
        }
    }

    fn place_of_new(&self, value: &[u8]) -> usize {
        self.find(value).expect_err("the table does not hold this value yet")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smaps::fields::values;
    use crate::smaps::place::PlaceText;

    fn add(process_sums: &mut ProcessSums, path: &[u8], rss: u64) {
        process_sums.add(&Mapping {
            path,
            values: &values(&[("rss", rss)]),
            place: PlaceText::default(),
            count: 1,
        });
    }

    /// Returns each path with its resident bytes and its number of mappings.
    fn sums(process_sums: &ProcessSums) -> Vec<(String, u64, u64)> {
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let sums = process_sums.sums();
        sums.map(|(value, totals)| (text(value), totals.values.bytes[1], totals.n_mappings)).collect()
    }

    #[test]
    fn mappings_of_one_value_are_summed() {
        let mut process_sums = ProcessSums::new(usize::MAX);
        for _ in 0..2 {
            assert!(process_sums.is_empty());
            for (path, rss) in [("/a", 1), ("/a", 2), ("", 4), ("/b", 8), ("/a", 16), ("[anon]", 32)] {
                add(&mut process_sums, path.as_bytes(), rss);
            }
            let expected = [("/a".into(), 19, 3), ("[anon]".into(), 36, 2), ("/b".into(), 8, 1)];
            assert_eq!(sums(&process_sums), expected);
            process_sums.clear();
        }
    }

    #[test]
    fn many_values_are_found_and_their_memory_is_freed() {
        let mut process_sums = ProcessSums::new(usize::MAX);
        let paths: Vec<String> = (0..5000).map(|i| format!("/{i}")).collect();
        for _ in 0..2 {
            paths.iter().chain(&paths).for_each(|path| add(&mut process_sums, path.as_bytes(), 1));
            assert!(
                sums(&process_sums).iter().eq(paths
                    .iter()
                    .map(|path| (path.clone(), 2, 2))
                    .collect::<Vec<_>>()
                    .iter())
            );
            process_sums.clear();
            process_sums.shrink();
            assert!(process_sums.table.len() >= 10_000, "the table is kept while it is needed");
        }
        add(&mut process_sums, b"/0", 1);
        process_sums.clear();
        process_sums.shrink();
        assert_eq!(process_sums.table.len(), MIN_TABLE);
        assert!(process_sums.table.iter().all(|&place| place == 0));
        assert!(process_sums.sums.capacity() < 100 && process_sums.text.capacity() < 1000);
    }

    #[test]
    fn long_values_stay_within_the_limit() {
        let mut process_sums = ProcessSums::new(1 << 20);
        for i in 0..2000 {
            add(&mut process_sums, format!("/{i:0>4000}").as_bytes(), 1);
            assert!(process_sums.n_bytes() <= 1 << 19);
        }
        add(&mut process_sums, b"/short", 1);
        let sums = sums(&process_sums);
        assert_eq!(sums.iter().map(|(_, rss, _)| rss).sum::<u64>(), 2001);
        assert!(sums.iter().any(|(value, rss, _)| value == OTHER && *rss > 900));
    }

    #[test]
    fn a_value_above_the_limit_is_kept_beside_other() {
        let mut process_sums = ProcessSums::new(1 << 20);
        for path in [b'x', b'y', b'x'].map(|c| [c; 1 << 20]) {
            add(&mut process_sums, &path, 1);
        }
        assert_eq!(sums(&process_sums).iter().map(|(_, rss, _)| rss).sum::<u64>(), 3);
        assert!(process_sums.n_bytes() < 2 << 20 && process_sums.n_merged() == 1);
    }

    /// If there is no room for all paths, the smallest paths are merged into `[other]`. The sum of every
    /// other path includes all mappings of that path.
    #[test]
    fn each_value_is_either_complete_or_merged() {
        let mut process_sums = ProcessSums::new(1 << 20);
        for round in 1..=3 {
            for i in 0..5000 {
                add(&mut process_sums, format!("/{i}").as_bytes(), if i % 100 == 0 { 1000 + i } else { 1 });
            }
            assert!(process_sums.n_bytes() <= 1 << 19);
            let sums = sums(&process_sums);
            assert!(sums.len() > 1000, "at least half of what fits is kept");
            assert_eq!(sums.len() - 1 + process_sums.n_merged(), 5000, "[other] is one more");
            let named = sums.iter().filter(|(value, ..)| value != OTHER);
            assert!(named.clone().all(|(_, _, n_mappings)| *n_mappings == round));
            assert_eq!(named.filter(|(_, rss, _)| *rss >= 1000).count(), 50);
            assert_eq!(sums.iter().map(|(.., n_mappings)| n_mappings).sum::<u64>(), 5000 * round);
        }
        process_sums.clear();
        process_sums.shrink();
        assert_eq!((process_sums.n_merged(), process_sums.is_empty()), (0, true));
    }
}
