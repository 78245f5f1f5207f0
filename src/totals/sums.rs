//! Adds up the values of mappings.

use crate::smaps::fields::{ANONYMOUS, FIRST_LARGEST, PSS, RSS, Values};

/// The combined values of several mappings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// The value of each field in bytes. Page sizes are not added up: the largest one is kept.
    pub values: Values,
    /// The number of mappings.
    pub n_mappings: u64,
}

/// A size, by which paths and commands are ordered: the proportional bytes come first, then the resident
/// bytes.
pub(super) type Size = (u64, u64);

impl Totals {
    /// Returns the proportional bytes that belong to files. The kernel prints only how much of the resident
    /// memory is anonymous. The proportional bytes are assumed to have the same anonymous fraction.
    pub fn of_files(&self) -> u64 {
        let [rss, pss] = [RSS, PSS].map(|field| self.values.bytes[field]);
        match rss.saturating_sub(self.values.bytes[ANONYMOUS]) {
            of_files if of_files == rss => pss,
            of_files => (u128::from(pss) * u128::from(of_files) / u128::from(rss)) as u64,
        }
    }

    /// Adds other totals.
    pub fn add(&mut self, other: &Totals) {
        self.add_values(&other.values, other.n_mappings);
    }

    /// Adds the values of `n_mappings` mappings. A sum that is too large becomes `u64::MAX`.
    pub fn add_values(&mut self, values: &Values, n_mappings: u64) {
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

    /// Returns the proportional and the resident bytes.
    pub(super) fn size(&self) -> Size {
        (self.values.bytes[PSS], self.values.bytes[RSS])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smaps::fields::values;

    #[test]
    fn sums_saturate_and_page_sizes_do_not_add_up() {
        let totals = |fields: &[(&str, u64)], n_mappings| Totals { values: values(fields), n_mappings };
        let mut sum = totals(&[("rss", u64::MAX - 1), ("mmu_page_size", 4096)], 1);
        sum.add(&totals(&[("rss", 1 << 20), ("mmu_page_size", 2 << 20)], 2));
        sum.add(&totals(&[("swap", 5), ("mmu_page_size", 4096)], 1));
        assert_eq!(sum, totals(&[("rss", u64::MAX), ("swap", 5), ("mmu_page_size", 2 << 20)], 4));
        assert_eq!(sum.size(), (0, u64::MAX));
    }
}
