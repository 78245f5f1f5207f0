//! A view: one way to show the readings of all processes. A view decides which memory one series sums up,
//! which samples there are, and what is folded into `[other]` to stay within `--max-samples`.
//!
//! A view is computed from the sums by path, or from the readings if each process has its own series. This
//! changes neither the sums nor the readings. While commands and paths stay the same, computing a view again
//! allocates no memory.

use super::collect::Collector;
use super::fold::Folding;
use super::row::Row;
use super::rows::{Rows, Summed};
use super::shape::Shape;

/// How many bytes a sample takes in addition to its labels. Its name has at most 38 bytes, and there is room
/// for 9 digits.
const SAMPLE_BYTES: usize = 48;

/// The series of one exposition.
#[derive(Debug, Default)]
pub struct View {
    rows: Rows,
    collector: Collector,
    folding: Folding,
}

/// One series of a view.
#[derive(Clone, Copy, Debug)]
pub struct Series<'a> {
    /// The label text in three pieces, with its braces.
    pub labels: [&'a str; 3],
    view: &'a View,
    summed: Summed<'a>,
    row: &'a Row,
}

impl View {
    /// Returns an empty view of this shape.
    pub fn new(shape: Shape) -> Self {
        Self { rows: Rows { shape, ..Rows::default() }, ..Self::default() }
    }

    /// Returns which memory one series of the view sums up, and which samples are exported.
    pub fn shape(&self) -> &Shape {
        &self.rows.shape
    }

    /// Computes the view from the current sums. If there are more samples than `--max-samples`, the smallest
    /// paths and commands are summed as `[other]`. Only the commands for which `selects` returns true are
    /// shown. The arguments of `selects` are the container's label text without the closing brace, and the
    /// command's escaped name.
    pub fn update(&mut self, summed: Summed<'_>, selects: impl Fn(&str, &str) -> bool) {
        self.collector.collect(&mut self.rows, summed, selects);
        self.folding.fold(&mut self.rows, summed);
    }

    /// Returns the series in the order of their label texts. `summed` must be the value that was passed to
    /// the last call of [`update`](Self::update).
    pub fn series<'a>(&'a self, summed: Summed<'a>) -> impl Iterator<Item = Series<'a>> {
        let rows = self.rows.rows.iter().filter(|row| self.rows.is_shown(row));
        rows.map(move |row| Series { labels: self.rows.labels(summed.table, row), view: self, summed, row })
    }

    /// Returns the label text and the value of each series that has a sample of this field.
    pub fn samples<'a>(
        &'a self,
        summed: Summed<'a>,
        field: usize,
    ) -> impl Iterator<Item = ([&'a str; 3], u64)> {
        let rows = &self.rows;
        let has_sample = move |row: &&Row| rows.is_shown(row) && rows.shape.has_sample(&row.outline, field);
        let shown = rows.rows.iter().filter(has_sample);
        shown.map(move |row| (rows.labels(summed.table, row), rows.value(summed, row, field)))
    }

    /// Returns the label text and the number of processes of each command name. The label text comes in two
    /// pieces, which the caller writes one after the other. It lacks the closing brace.
    pub fn processes<'a>(&'a self, summed: Summed<'a>) -> impl Iterator<Item = ([&'a str; 2], u64)> {
        self.rows.processes(summed.table)
    }

    /// Returns the number of samples of `process_smaps_*`.
    pub fn n_samples(&self, summed: Summed<'_>) -> usize {
        let shown = self.rows.rows.iter().filter(|row| self.rows.is_shown(row));
        shown.map(|row| self.rows.shape.n_samples(&row.outline)).sum::<usize>()
            + self.processes(summed).count()
    }

    /// Estimates how many bytes the samples of `process_smaps_*` take as text. The estimate is rarely too
    /// low.
    pub fn text_bytes(&self) -> usize {
        let rows = self
            .rows
            .rows
            .iter()
            .filter(|row| self.rows.is_shown(row))
            .map(|row| self.rows.shape.n_samples(&row.outline) * (row.label_len as usize + SAMPLE_BYTES));
        let commands = self.rows.commands.iter().map(|command| command.label_len + SAMPLE_BYTES);
        rows.sum::<usize>() + commands.sum::<usize>()
    }

    /// Returns how much memory the view takes.
    pub fn n_bytes(&self) -> usize {
        self.rows.n_bytes()
    }

    /// Returns the containers with paths that are shown only as a part of the sum `[other]`. Each item is the
    /// label text of a container (without its closing brace) and the number of such paths. If there are more
    /// than 100 such containers, returns those with the most such paths.
    pub fn folded<'a>(&'a self, summed: Summed<'a>) -> impl Iterator<Item = (&'a str, u64)> {
        self.folding.reported(summed.table)
    }
}

impl Series<'_> {
    /// Returns the number of mappings that the series sums up.
    pub fn n_mappings(&self) -> u64 {
        self.row.outline.n_mappings
    }

    /// Returns the series' value of a field, given the field's position in the table of fields. Returns
    /// `None` if the series has no sample of that field.
    pub fn value(&self, field: usize) -> Option<u64> {
        let rows = &self.view.rows;
        let has_sample = rows.shape.has_sample(&self.row.outline, field);
        has_sample.then(|| rows.value(self.summed, self.row, field))
    }
}
