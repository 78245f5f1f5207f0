//! What series stand for, and which samples of them are exported.

use super::grouping::GroupBy;
use super::labels;
use super::sums::Totals;
use crate::smaps::fields::{FieldMask, N_FIELDS, NOT_IN_ROLLUP};

/// A series with a label text longer than this counts as several towards `--max-samples`, because the text is
/// repeated in each of its samples. The labels of an exposition of N samples therefore take at most N times
/// this many bytes.
const LABEL_BYTES_PER_SAMPLE: usize = 512;

/// What series stand for, and which samples of them are exported.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// What one series stands for.
    pub group_by: GroupBy,
    /// Whether anonymous memory is split into parts.
    pub anon_parts: bool,
    /// Whether each process has its own series.
    pub by_pid: bool,
    /// The fields that are exported.
    pub fields: FieldMask,
    /// Whether samples of value 0 are omitted.
    pub omit_zero: bool,
    /// The maximum number of exported samples, beyond which paths are folded. 0 means no limit.
    pub max_samples: usize,
    /// The length in bytes after which a path is cut. 0 means no limit. Long-term stores refuse samples with
    /// a longer label value, Grafana Mimir those over 2 KiB.
    pub max_label_bytes: usize,
}

impl Shape {
    /// Whether the kernel's own sum over the mappings of a process suffices. It contains neither sizes nor
    /// page sizes.
    pub fn is_rollup(&self) -> bool {
        self.group_by == GroupBy::Process && self.fields & NOT_IN_ROLLUP == 0
    }

    /// Whether the field at this position of the table has a sample.
    pub fn has_sample(&self, totals: &Totals, field: usize) -> bool {
        totals.values.present & self.fields & 1 << field != 0
            && !(self.omit_zero && totals.values.bytes[field] == 0)
    }

    /// Returns the beginning of a value that a label may show, without a part of a character.
    pub(super) fn cut<'a>(&self, value: &'a str) -> &'a str {
        match self.max_label_bytes {
            0 => value,
            max => &value[..value.floor_char_boundary(max)],
        }
    }

    /// Sets `text` to the label text of a series of the command with these labels.
    pub(super) fn label(&self, text: &mut String, command: &str, value: &str) {
        text.clear();
        text.push_str(command);
        match self.group_by {
            GroupBy::Path => labels::push(text, ",path=\"", value),
            GroupBy::Kind => labels::push(text, ",kind=\"", value),
            GroupBy::Process => {}
        }
        text.push('}');
    }

    /// Returns the number of samples of a series with these totals.
    pub(super) fn n_samples(&self, totals: &Totals) -> usize {
        if totals.n_mappings == 0 {
            return 0;
        }
        let fields = totals.values.present & self.fields;
        let n_zero = match self.omit_zero {
            true => (0..N_FIELDS).filter(|&i| fields & 1 << i != 0 && totals.values.bytes[i] == 0).count(),
            false => 0,
        };
        fields.count_ones() as usize - n_zero + 1 // and process_smaps_mappings
    }

    /// Returns the number of samples that a series with these totals and a label text of this length counts
    /// as.
    pub(super) fn cost(&self, label_len: usize, totals: &Totals) -> usize {
        self.n_samples(totals) * label_len.div_ceil(LABEL_BYTES_PER_SAMPLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smaps::fields::{ALL_FIELDS, values};

    #[test]
    fn a_value_is_cut_between_characters() {
        for (max_label_bytes, value, expected) in [
            (0, "/abc", "/abc"),
            (4, "/abc", "/abc"),
            (3, "/abc", "/ab"),
            (3, "/aé", "/a"),
            (4, "/aé", "/aé"),
        ] {
            assert_eq!(
                Shape { max_label_bytes, ..Shape::default() }.cut(value),
                expected,
                "{max_label_bytes}"
            );
        }
    }

    #[test]
    fn samples_are_counted_and_long_labels_count_more() {
        let totals = Totals { values: values(&[("rss", 1), ("pss", 0), ("swap", 0)]), n_mappings: 2 };
        let all = Shape { fields: ALL_FIELDS, ..Shape::default() };
        let some = Shape { fields: values(&[("rss", 0), ("swap", 0)]).present, ..Shape::default() };
        for (shape, n_samples) in [
            (all, 4),
            (some, 3),
            (Shape { omit_zero: true, ..all }, 2),
            (Shape { omit_zero: true, ..some }, 2),
        ] {
            assert_eq!(shape.n_samples(&totals), n_samples);
            assert_eq!(shape.n_samples(&Totals::default()), 0);
            for (label_len, factor) in [(1, 1), (512, 1), (513, 2), (4096, 8)] {
                assert_eq!(shape.cost(label_len, &totals), factor * n_samples);
            }
        }
    }
}
