//! One container's part of the samples: folds its commands and paths until the part is within the share.
//!
//! The largest commands keep their names, as many as fit into the share with one series each; the others
//! become `comm="[other]"`. The rest of the share goes to the largest paths of the named commands; their
//! other paths become `path="[other]"` of the command.

use std::ops::Range;

use super::grouping::GroupBy;
use super::other::{Candidate, OTHER, merge_smallest};
use super::sums::Totals;
use super::table::{Command, Series, Table};

/// The length of `,path="[other]"}`.
const OTHER_LABEL_LEN: usize = 9 + OTHER.len();

/// One container's part of the samples.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) container: u32,
    /// The positions of the container's commands in the order of commands.
    pub(super) commands: Range<usize>,
    pub(super) cost: usize,
}

/// Returns the cost of a command's series when as much as possible is folded: one path, or all kinds.
fn least_cost(table: &Table, command: &Command) -> usize {
    if table.shape.group_by == GroupBy::Path {
        return table.shape.cost(command.labels.len() + OTHER_LABEL_LEN, &command.fold.sum);
    }
    series_cost(table, command)
}

/// Returns the cost of a command's series when nothing is folded.
fn series_cost(table: &Table, command: &Command) -> usize {
    let series = command.series.values().map(|&id| table.series.get(id));
    series.map(|series| table.shape.cost(series.labels.len(), &series.totals)).sum()
}

impl Part {
    /// Folds until the container is within its share, or one series is left. `candidates` and `n_named` are
    /// scratch.
    pub(super) fn fold(
        &mut self,
        table: &mut Table,
        share: usize,
        candidates: &mut Vec<Candidate>,
        n_named: &mut Vec<u32>,
    ) {
        self.fold_commands(table, share, candidates, n_named);
        if table.shape.group_by == GroupBy::Path {
            self.fold_paths(table, share, candidates);
        }
    }

    /// If the commands do not all fit into the share with their paths folded, folds the smallest commands
    /// until the others fit.
    fn fold_commands(
        &mut self,
        table: &mut Table,
        share: usize,
        candidates: &mut Vec<Candidate>,
        n_named: &mut Vec<u32>,
    ) {
        candidates.clear();
        n_named.clear();
        n_named.resize(self.commands.len(), 0);
        let start = self.commands.start;
        let mut least = 0;
        for (position, &id) in (0..).zip(&table.order.commands[self.commands.clone()]) {
            let command = table.commands.get(id);
            if command.n_processes == 0 {
                continue;
            }
            let n_named = &mut n_named[command.fold.comm as usize - start];
            least += least_cost(table, command) + usize::from(*n_named == 0);
            *n_named += 1;
            if !command.is_other {
                candidates.push(((command.fold.sum.size(), position), id));
            }
        }
        if least <= share || candidates.len() < 2 {
            return;
        }
        let other = table.other_command(self.container);
        let full_cost = |table: &Table| {
            let other = table.commands.get(other);
            series_cost(table, other) + usize::from(other.n_processes > 0)
        };
        let least_of_other = |table: &Table| {
            let other = table.commands.get(other);
            if other.n_processes == 0 { 0 } else { 1 + least_cost(table, other) }
        };
        let full_before = full_cost(table);
        merge_smallest(candidates, least, share, |id, least| {
            let command = table.commands.get(id);
            let n_named = &mut n_named[command.fold.comm as usize - start];
            *n_named -= 1;
            let is_last = usize::from(*n_named == 0);
            self.cost -= command.fold.cost + is_last;
            let freed = least_cost(table, command) + is_last + least_of_other(table);
            fold_command(table, id, other);
            least + least_of_other(table) - freed
        });
        self.cost = self.cost + full_cost(table) - full_before;
    }

    /// Folds the smallest paths until the container is within its share.
    fn fold_paths(&mut self, table: &mut Table, share: usize, candidates: &mut Vec<Candidate>) {
        candidates.clear();
        for &id in &table.order.commands[self.commands.clone()] {
            for &id in table.commands.get(id).series.values() {
                let series = table.series.get(id);
                if !series.is_other && !series.is_folded && series.totals.n_mappings > 0 {
                    candidates.push(((series.totals.size(), series.position), id));
                }
            }
        }
        self.cost = merge_smallest(candidates, self.cost, share, |id, cost| fold_path(table, id, cost));
        // A path that is alone in `[other]` is shown under its name, which takes the same number of samples.
        for &id in &table.order.commands[self.commands.clone()] {
            let command = table.commands.get(id);
            let Some(other) = command.other.filter(|_| command.fold.n_paths == 1) else { continue };
            let (path, other_series) = (table.series.get(command.fold.last_path), table.series.get(other));
            let cost = |series: &Series| table.shape.cost(series.labels.len(), &path.totals);
            let cost_after = self.cost + cost(path) - cost(other_series);
            if other_series.totals == path.totals && cost_after <= share.max(self.cost) {
                self.cost = cost_after;
                let path = command.fold.last_path;
                table.series.get_mut(other).totals = Totals::default();
                table.series.get_mut(path).is_folded = false;
                table.commands.get_mut(id).fold.n_paths = 0;
                table.containers.get_mut(self.container).n_folded -= 1;
            }
        }
    }
}

/// Adds the series and processes of a command to those of `other`.
fn fold_command(table: &mut Table, id: u32, other: u32) {
    let by_path = table.shape.group_by == GroupBy::Path;
    let command = table.commands.get_mut(id);
    command.fold.is_folded = true;
    let (container, sum, n_processes) = (command.container, command.fold.sum, command.n_processes);
    let series = std::mem::take(&mut command.series);
    for (value, &id) in &series {
        let one = table.series.get_mut(id);
        one.is_folded = true;
        let totals = one.totals;
        table.containers.get_mut(container).n_folded += u64::from(by_path && !one.is_other);
        let into = table.series_of(other, if by_path { OTHER } else { value });
        table.series.get_mut(into).totals.add(&totals);
    }
    table.commands.get_mut(id).series = series;
    let other = table.commands.get_mut(other);
    other.fold.takes_in = true;
    other.n_processes += n_processes;
    other.fold.sum.add(&sum);
}

/// Adds a path to `[other]` of its command. Returns the new cost of the container.
fn fold_path(table: &mut Table, id: u32, cost: usize) -> usize {
    let series = table.series.get_mut(id);
    series.is_folded = true;
    let (totals, command_id, label_len) = (series.totals, series.command, series.labels.len());
    let command = table.commands.get_mut(command_id);
    (command.fold.n_paths, command.fold.last_path) = (command.fold.n_paths + 1, id);
    let container = command.container;
    table.containers.get_mut(container).n_folded += 1;
    let other = table.series_of(command_id, OTHER);
    let Table { shape, series, .. } = table;
    let other = series.get_mut(other);
    let before = shape.cost(other.labels.len(), &other.totals) + shape.cost(label_len, &totals);
    other.totals.add(&totals);
    cost + shape.cost(other.labels.len(), &other.totals) - before
}
