//! The shape of a view: which memory one series sums up, and which samples each series has.

use super::grouping::GroupBy;
use super::row::Outline;
use crate::smaps::fields::{FieldMask, NOT_IN_ROLLUP};

/// A sample with a label text of up to this many bytes counts as one sample towards `--max-samples`. With up
/// to twice as many bytes, it counts as two samples, and so on. So all label texts in an exposition take at
/// most `--max-samples` times this many bytes.
const LABEL_BYTES_PER_SAMPLE: usize = 512;

/// The shape of a view: which memory one series sums up, such as that of one path or of one process, and
/// which samples each series has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Whether one series sums up one path of a command, one kind of mapping of a command, or everything that
    /// a command maps. If `by_pid` is true, a command is a single process.
    pub group_by: GroupBy,
    /// Whether anonymous memory is shown as several kinds, by its use, instead of the one kind `anon`.
    pub anon_parts: bool,
    /// Whether each process has its own series.
    pub by_pid: bool,
    /// The fields that are exported.
    pub fields: FieldMask,
    /// Whether samples of value 0 are omitted.
    pub omit_zero: bool,
    /// The maximum number of samples; 0 means no limit. To stay within the maximum, small paths and commands
    /// are summed as `[other]`.
    pub max_samples: usize,
}

impl Shape {
    /// Whether all values of the view are in smaps_rollup, the kernel's own sums over the mappings of a
    /// process. That file lacks `Size`, `KernelPageSize` and `MMUPageSize`.
    pub fn is_rollup(&self) -> bool {
        self.group_by == GroupBy::Process && self.fields & NOT_IN_ROLLUP == 0
    }

    /// Whether a series has a sample of the field at this position in the table of fields.
    pub(super) fn has_sample(&self, series: &Outline, field: usize) -> bool {
        self.shown(series) & 1 << field != 0
    }

    /// Returns which fields of a series have samples.
    fn shown(&self, series: &Outline) -> FieldMask {
        let omitted = if self.omit_zero { !series.nonzero } else { 0 };
        series.present & self.fields & !omitted
    }

    /// Returns the number of samples of a series.
    pub(super) fn n_samples(&self, series: &Outline) -> usize {
        match series.n_mappings {
            0 => 0,
            _ => self.shown(series).count_ones() as usize + 1, // and process_smaps_mappings
        }
    }

    /// Returns the number of samples that `--max-samples` counts for a series. If the label text, of
    /// `label_len` bytes, is longer than [`LABEL_BYTES_PER_SAMPLE`], each sample counts several times.
    pub(super) fn cost(&self, label_len: usize, series: &Outline) -> usize {
        self.n_samples(series) * label_len.div_ceil(LABEL_BYTES_PER_SAMPLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smaps::fields::{ALL_FIELDS, values};
    use crate::totals::sums::Totals;

    #[test]
    fn samples_are_counted_and_long_labels_count_more() {
        let totals = Totals { values: values(&[("rss", 1), ("pss", 0), ("swap", 0)]), n_mappings: 2 };
        let outline = Outline::of(&totals);
        let all = Shape { fields: ALL_FIELDS, ..Shape::default() };
        let some = Shape { fields: values(&[("rss", 0), ("swap", 0)]).present, ..Shape::default() };
        for (shape, n_samples) in [
            (all, 4),
            (some, 3),
            (Shape { omit_zero: true, ..all }, 2),
            (Shape { omit_zero: true, ..some }, 2),
        ] {
            assert_eq!(shape.n_samples(&outline), n_samples);
            assert_eq!(shape.n_samples(&Outline::default()), 0);
            for (label_len, factor) in [(1, 1), (512, 1), (513, 2), (4096, 8)] {
                assert_eq!(shape.cost(label_len, &outline), factor * n_samples);
            }
        }
    }
}
