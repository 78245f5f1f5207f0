//! Folds commands and paths of one container into `[other]` until its samples are within its share of
//! `--max-samples`. Folding means that their values are shown only as a part of the sum `[other]`.
//!
//! The share is first used for the names of commands. The largest commands keep their names, as long as one
//! series for each of them fits into the share. All other commands are folded into `comm="[other]"`. The rest
//! of the share goes to the largest paths of the named commands. All other paths of a command are folded into
//! its `path="[other]"`.

use std::ops::Range;

use super::grouping::GroupBy;
use super::other::{Candidate, merge_smallest};
use super::row::{Command, Label, Outline, Source};
use super::rows::{OTHER_PATH, Rows, Summed};

/// A container of a view, and how far it is folded.
#[derive(Debug)]
pub(super) struct ContainerFold {
    pub(super) container: u32,
    /// The positions of the container's commands in the view.
    pub(super) commands: Range<usize>,
    /// The number of samples that `--max-samples` counts for the container. A series with a long label text
    /// counts as several samples.
    pub(super) cost: usize,
    /// How many paths are folded into `[other]`.
    pub(super) n_folded: u64,
}

/// Buffers that are reused for each container.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    candidates: Vec<Candidate>,
    n_named: Vec<u32>,
}

impl Scratch {
    /// Frees memory that an earlier, larger view needed.
    pub(super) fn shrink(&mut self, n_rows: usize) {
        self.candidates.shrink_to(2 * n_rows);
    }
}

/// Returns the lowest cost, in samples, that folding can reach for the rows of a command. In a view by path,
/// all paths of the command can be folded into one row `[other]`. In any other view, the rows of a command
/// cannot be folded into each other.
fn least_cost(rows: &Rows, command: &Command) -> usize {
    if rows.shape.group_by == GroupBy::Path {
        return rows.shape.cost(command.label_len + OTHER_PATH.len(), &command.fold.sum);
    }
    rows_cost(rows, command)
}

/// Returns the cost of a command's rows before any of them is folded, in samples.
fn rows_cost(rows: &Rows, command: &Command) -> usize {
    rows.rows[command.rows.clone()].iter().map(|row| rows.cost_of(row)).sum()
}

impl ContainerFold {
    /// Folds until the container uses at most `share` samples, or until nothing more can be folded.
    pub(super) fn fold(&mut self, rows: &mut Rows, summed: Summed<'_>, share: usize, scratch: &mut Scratch) {
        self.fold_commands(rows, summed, share, scratch);
        if rows.shape.group_by == GroupBy::Path {
            self.fold_paths(rows, summed, share, &mut scratch.candidates);
        }
    }

    /// Folds the smallest commands into the command `[other]`. Stops as soon as folding paths alone can
    /// reduce the container to `share` samples. `fold_paths` then folds only as many paths as necessary.
    fn fold_commands(&mut self, rows: &mut Rows, summed: Summed<'_>, share: usize, scratch: &mut Scratch) {
        let Scratch { candidates, n_named } = scratch;
        candidates.clear();
        n_named.clear();
        n_named.resize(self.commands.len(), 0);
        let start = self.commands.start;
        let mut least = 0;
        for position in self.commands.clone() {
            let command = &rows.commands[position];
            if command.n_processes == 0 {
                continue;
            }
            let n_named = &mut n_named[command.first_of_name - start];
            least += least_cost(rows, command) + usize::from(*n_named == 0);
            *n_named += 1;
            if !command.is_other {
                candidates.push(((command.fold.sum.size, position as u32), position as u32));
            }
        }
        let other = self.commands.clone().find(|&position| rows.commands[position].is_other);
        let Some(other) = other.filter(|_| least > share && candidates.len() > 1) else { return };
        let full_cost = |rows: &Rows| {
            let other = &rows.commands[other];
            rows_cost(rows, other) + usize::from(other.n_processes > 0)
        };
        let least_of_other = |rows: &Rows| {
            let other = &rows.commands[other];
            if other.n_processes == 0 { 0 } else { 1 + least_cost(rows, other) }
        };
        let full_before = full_cost(rows);
        merge_smallest(candidates, least, share, |position, least| {
            let position = position as usize;
            let command = &rows.commands[position];
            let n_named = &mut n_named[command.first_of_name - start];
            *n_named -= 1;
            let is_last = usize::from(*n_named == 0);
            self.cost -= command.fold.cost + is_last;
            let freed = least_cost(rows, command) + is_last + least_of_other(rows);
            self.fold_command(rows, summed, position, other);
            least + least_of_other(rows) - freed
        });
        self.cost = self.cost + full_cost(rows) - full_before;
    }

    /// Adds the rows and the processes of a command to the rows and the processes of the command `other`.
    fn fold_command(&mut self, rows: &mut Rows, summed: Summed<'_>, position: usize, other: usize) {
        for row in rows.commands[position].rows.clone() {
            rows.rows[row].is_folded = true;
            if rows.rows[row].outline.n_mappings == 0 {
                continue;
            }
            let of_other = &rows.commands[other];
            let into = match rows.rows[row].label {
                Label::Kind(kind) => of_other.rows.start + usize::from(kind),
                Label::Command => of_other.rows.start,
                Label::Path(_) | Label::Other => of_other.other.expect("paths may fold"),
            };
            let is_path = matches!(rows.rows[row].label, Label::Path(_));
            self.n_folded += u64::from(is_path && rows.commands[position].other != Some(row));
            let totals = rows.totals(summed, &rows.rows[row]);
            rows.add(summed, into, &totals);
        }
        let command = &mut rows.commands[position];
        command.is_folded = true;
        let (n_processes, sum) = (command.n_processes, command.fold.sum);
        let other = &mut rows.commands[other];
        other.n_processes += n_processes;
        other.fold.sum.add(&sum);
    }

    /// Folds the smallest paths until the container uses at most `share` samples.
    fn fold_paths(
        &mut self,
        rows: &mut Rows,
        summed: Summed<'_>,
        share: usize,
        candidates: &mut Vec<Candidate>,
    ) {
        candidates.clear();
        for command in &rows.commands[self.commands.clone()] {
            for row in command.rows.clone().filter(|&row| command.other != Some(row)) {
                if rows.is_shown(&rows.rows[row]) {
                    candidates.push(((rows.rows[row].outline.size, row as u32), row as u32));
                }
            }
        }
        let n_folded = &mut self.n_folded;
        self.cost = merge_smallest(candidates, self.cost, share, |row, cost| {
            *n_folded += 1;
            fold_path(rows, summed, row as usize, cost)
        });
        for position in self.commands.clone() {
            self.unfold_single(rows, summed, position, share);
        }
    }

    /// If the row `[other]` of a command sums only one path, shows that path by name again. A long path
    /// counts as several samples. If the container would therefore exceed its `share`, nothing is changed.
    fn unfold_single(&mut self, rows: &mut Rows, summed: Summed<'_>, position: usize, share: usize) {
        let command = &rows.commands[position];
        let Some(other) = command.other.filter(|_| command.fold.n_paths == 1) else { return };
        let path = command.fold.last_path;
        let totals = rows.totals(summed, &rows.rows[path]);
        let cost_after = self.cost + rows.cost_of(&rows.rows[path]) - rows.cost_of(&rows.rows[other]);
        if rows.totals(summed, &rows.rows[other]) == totals && cost_after <= share.max(self.cost) {
            self.cost = cost_after;
            let row = &mut rows.rows[other];
            (row.source, row.outline) = (Source::Nothing, Outline::default());
            rows.rows[path].is_folded = false;
            rows.commands[position].fold.n_paths = 0;
            self.n_folded -= 1;
        }
    }
}

/// Folds a path: adds its totals to the row `[other]` of its command. Returns the container's new cost in
/// samples.
fn fold_path(rows: &mut Rows, summed: Summed<'_>, row: usize, cost: usize) -> usize {
    let command = &mut rows.commands[rows.rows[row].command as usize];
    (command.fold.n_paths, command.fold.last_path) = (command.fold.n_paths + 1, row);
    let other = command.other.expect("paths may fold");
    let before = rows.cost_of(&rows.rows[row]) + rows.cost_of(&rows.rows[other]);
    rows.rows[row].is_folded = true;
    let totals = rows.totals(summed, &rows.rows[row]);
    rows.add(summed, other, &totals);
    cost + rows.cost_of(&rows.rows[other]) - before
}
