//! What is exported of the readings.

use crate::exposition;
use crate::totals::shape::Shape;
use crate::totals::snapshot::Snapshot;
use crate::totals::view::View;

/// The views of the readings.
#[derive(Debug)]
pub struct Views {
    /// What `/metrics` shows without parameters.
    main: View,
}

impl Views {
    /// Creates the view that the options describe.
    pub fn new(shape: Shape) -> Self {
        Self { main: View::new(shape) }
    }

    /// Returns whether anonymous memory is split into parts.
    pub fn anon_parts(&self) -> bool {
        self.main.shape().anon_parts
    }

    /// Whether the kernel's sums over the mappings of a process suffice for `/metrics`.
    pub fn are_sums(&self) -> bool {
        self.main.shape().is_rollup()
    }

    /// Returns the limit of samples; 0 means no limit.
    pub fn max_samples(&self) -> usize {
        self.main.shape().max_samples
    }

    /// Appends the families `process_smaps_*` of the last sums to `text`. Returns the number of their samples.
    pub fn render(&mut self, text: &mut Vec<u8>, snapshot: &Snapshot) -> u64 {
        self.main.update(snapshot.summed(), |_, _| true);
        exposition::text::render(text, &self.main, snapshot.summed())
    }

    /// Returns the label text, left open, and the number of folded paths of the containers in the last
    /// exposition that have folded paths.
    pub fn folded<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = (&'a str, u64)> {
        self.main.folded(snapshot.summed())
    }
}
