//! One way to show the readings: which memory one series sums up, which samples there are, and what is
//! folded.
//!
//! Computing a view changes neither the readings nor the sums. It allocates no memory while commands and
//! paths stay the same.

use super::collect::Collector;
use super::fold::Folding;
use super::row::Row;
use super::rows::{Rows, Summed};
use super::shape::Shape;

/// How many bytes a sample takes besides its labels: at most 38 for its name, and room for 9 digits.
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

    /// Computes the view of the selected commands. `selects` gets the container's label text without closing
    /// brace, and the command's escaped name.
    pub fn update(&mut self, summed: Summed<'_>, selects: impl Fn(&str, &str) -> bool) {
        self.collector.collect(&mut self.rows, summed, selects);
        self.folding.fold(&mut self.rows, summed);
    }

    /// Returns the series in the order of their label texts. `summed` must be the one of the last
    /// [`update`](Self::update).
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

    /// Returns each command's label text, in two pieces and without closing brace, and its number of
    /// processes.
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

    /// Returns the label text, without closing brace, and the number of paths in `[other]`, for the 100
    /// containers with the most such paths.
    pub fn folded<'a>(&'a self, summed: Summed<'a>) -> impl Iterator<Item = (&'a str, u64)> {
        self.folding.reported(summed.table)
    }
}

impl Series<'_> {
    /// Returns the number of mappings that the series sums up.
    pub fn n_mappings(&self) -> u64 {
        self.row.outline.n_mappings
    }

    /// Returns the value of the field at this position in the table of fields, or `None` if it has no sample.
    pub fn value(&self, field: usize) -> Option<u64> {
        let rows = &self.view.rows;
        let has_sample = rows.shape.has_sample(&self.row.outline, field);
        has_sample.then(|| rows.value(self.summed, self.row, field))
    }
}
