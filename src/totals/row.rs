//! The parts of a view: its commands and its rows. Each row is one series of the exposition.

use std::ops::Range;

use super::sums::{Size, Totals};
use crate::smaps::fields::FieldMask;

/// One series of a view, with its own label text. A row without mappings is not shown. The row `[other]` may
/// have no mappings at first. It gets mappings when the values of other rows are added to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// The position, in the list of commands, of the command that the row belongs to.
    pub(super) command: u32,
    /// The length of the label text.
    pub(super) label_len: u32,
    pub(super) label: Label,
    pub(super) source: Source,
    pub(super) outline: Outline,
    /// Whether the values of the row were added to another row, so that this row is not shown.
    pub(super) is_folded: bool,
}

/// The part of a [`Command`]'s memory that one series shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    /// The path of the series with this id.
    Path(u32),
    /// All paths that are not shown by name.
    Other,
    /// The kind at this position in [`KIND_LABELS`](super::grouping::KIND_LABELS).
    Kind(u8),
    /// All memory of the command.
    Command,
}

/// Where the totals of a row are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// All totals are 0.
    Nothing,
    /// The totals are in the [`Series`](super::table::Series) with this id. Each total is a sum over all
    /// processes.
    Series(u32),
    /// The totals are in the reading `id`, at the position `at`. A reading is the stored result of a read of
    /// one process, in a packed form. Unpacked, the 90,000 totals of 1,500 processes would take 17 MB.
    Reading { id: u32, at: u32 },
    /// The totals are at this position of [`Rows::sums`](super::rows::Rows::sums).
    Sum(u32),
}

/// A summary of a row's totals. It decides how many samples the row has, and which rows are summed as
/// `[other]` first: those with the smallest size.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outline {
    pub(super) size: Size,
    pub(super) n_mappings: u64,
    pub(super) present: FieldMask,
    /// The fields with a value above 0.
    pub(super) nonzero: FieldMask,
}

impl Outline {
    /// Summarizes `totals` as a size, a number of mappings and the fields that are present.
    pub(super) fn of(totals: &Totals) -> Self {
        let bits = totals.values.bytes.iter().enumerate();
        let nonzero = bits.fold(0, |mask, (i, &value)| mask | FieldMask::from(value != 0) << i);
        let present = totals.values.present;
        Self { size: totals.size(), n_mappings: totals.n_mappings, present, nonzero }
    }

    /// Adds the size, the number of mappings and the fields of another row.
    pub(super) fn add(&mut self, other: &Self) {
        self.size = (self.size.0.saturating_add(other.size.0), self.size.1.saturating_add(other.size.1));
        self.n_mappings += other.n_mappings;
        self.present |= other.present;
        self.nonzero |= other.nonzero;
    }
}

/// A command of a view: all processes with one name in a container, or a single process.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) container: u32,
    /// The id of the command in the table. `None` if the view itself has added this command as `[other]`, so
    /// that small commands can be summed in it.
    pub(super) id: Option<u32>,
    /// The label `pid`, as a range of the view's text. It is empty unless each process has its own series.
    pub(super) pid: Range<usize>,
    /// The length of the command's label text. Each row adds its own label to this text.
    pub(super) label_len: usize,
    pub(super) n_processes: u64,
    /// The rows of the command, in the order of their label texts.
    pub(super) rows: Range<usize>,
    /// The position of the row `[other]`, if small paths may be summed in such a row.
    pub(super) other: Option<usize>,
    /// The position of the first command with the same name in the container. If each process has its own
    /// series, each process is a command, and several commands can have the same name.
    pub(super) first_of_name: usize,
    /// Whether this is the command `[other]`, to which small commands of the container may be added.
    pub(super) is_other: bool,
    /// Whether the command is shown only as a part of the command `[other]`.
    pub(super) is_folded: bool,
    pub(super) fold: CommandFold,
}

/// What folding has to know about a command. Folding sums small paths and commands as `[other]`.
#[derive(Debug, Default)]
pub(super) struct CommandFold {
    /// How many paths of the command are summed in its row `[other]`.
    pub(super) n_paths: u64,
    /// The position of the row that was summed into the row `[other]` last.
    pub(super) last_path: usize,
    /// The number of samples that `--max-samples` counts for the rows of the command.
    pub(super) cost: usize,
    /// What the rows of the command add up to (see [`Outline`]).
    pub(super) sum: Outline,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smaps::fields::values;

    #[test]
    fn outlines_add_up_as_totals_do() {
        let totals = |fields: &[(&str, u64)]| Totals { values: values(fields), n_mappings: 1 };
        let parts = [
            totals(&[("rss", u64::MAX), ("pss", 3), ("swap", 0)]),
            totals(&[("rss", 4), ("locked", 0), ("mmu_page_size", 4096)]),
            totals(&[("pss", 1 << 20), ("swap", 1)]),
        ];
        let (mut sum, mut outline) = (Totals::default(), Outline::default());
        for part in &parts {
            sum.add(part);
            outline.add(&Outline::of(part));
            let expected = Outline::of(&sum);
            assert_eq!((outline.size, outline.n_mappings), (expected.size, expected.n_mappings));
            assert_eq!((outline.present, outline.nonzero), (expected.present, expected.nonzero));
        }
    }
}
