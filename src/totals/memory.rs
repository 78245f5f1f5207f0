//! How much memory the readings, series and commands of a container may take, so that no workload can make the exporter large.
//!
//! The bytes are shared out among containers as the samples are: each that needs no more than its share keeps everything. Of one that needs
//! more, the smallest paths are not told apart: they are dropped, and what they had counts as `[other]`, whichever process has it.

use super::fold::share;
use super::reading::Reading;
use super::snapshot::{Command, Series, Snapshot};
use super::tally::{OTHER, Totals};
use crate::smaps::fields::{PSS, RSS};

/// As much is kept of all containers together for each sample that may be exported.
const BYTES_PER_SAMPLE: usize = 256;
/// And at least so much.
const MIN_BYTES: usize = 1 << 20;

/// What an entry of a hash table takes beside its key, and how much a series takes in a reading, about.
const ENTRY_BYTES: usize = 48;
const READING_BYTES: usize = 24;

/// What a container takes.
#[derive(Debug)]
pub(super) struct Container {
    /// Its label text, left open.
    pub(super) labels: Box<str>,
    /// What its commands, series and readings take. Between two sums it may be more than it is.
    n_bytes: usize,
    /// How much that may be.
    max_bytes: usize,
    /// The proportional and resident bytes of the largest series that was dropped for it.
    dropped: (u64, u64),
    pub(super) n_commands: usize,
}

/// Proportional and resident bytes.
fn size(totals: &Totals) -> (u64, u64) {
    (totals.values.bytes[PSS], totals.values.bytes[RSS])
}

impl Container {
    pub(super) fn new(labels: &str, max_bytes: usize) -> Self {
        Self { labels: labels.into(), n_bytes: 0, max_bytes, dropped: (0, 0), n_commands: 0 }
    }

    /// Whether there is room for so many bytes more, for something of this size. A newcomer is ranked like the others when all of them are
    /// known, so for a while there is room for twice as many.
    pub(super) fn has_room(&self, n_bytes: usize, totals: &Totals) -> bool {
        let total = self.n_bytes + n_bytes;
        total <= self.max_bytes || size(totals) > self.dropped && total <= self.max_bytes.saturating_mul(2)
    }

    pub(super) fn take(&mut self, n_bytes: usize) {
        self.n_bytes += n_bytes;
    }
}

impl Series {
    /// What it takes: its label text, and its value once more as a key.
    pub(super) fn n_bytes(label_len: usize, value_len: usize) -> usize {
        size_of::<Self>() + label_len + value_len + ENTRY_BYTES
    }
}

impl Command {
    /// What it takes: its label text, twice.
    pub(super) fn n_bytes(label_len: usize) -> usize {
        size_of::<Self>() + 2 * label_len + ENTRY_BYTES
    }
}

impl Snapshot {
    /// How much all containers together may take.
    fn max_bytes(&self) -> usize {
        match self.shape.max_samples {
            0 => usize::MAX,
            max_samples => MIN_BYTES.max(BYTES_PER_SAMPLE * max_samples),
        }
    }

    /// How much a container may take that nothing is known of.
    pub(super) fn fair_share(&self) -> usize {
        self.max_bytes() / (self.containers.len() + 1)
    }

    /// Sees what each container takes, and drops the smallest series of those that take more than their share.
    pub(super) fn keep_to_memory(&mut self, mut readings: impl FnMut(&mut dyn FnMut(&mut Reading))) {
        for container in self.containers.iter_mut() {
            container.n_bytes = 0;
        }
        for command in self.commands.iter() {
            let n_bytes = Command::n_bytes(command.labels.len());
            self.containers.get_mut(command.container).n_bytes += n_bytes;
        }
        for series in self.series.iter() {
            let command = self.commands.get(series.command);
            let n_bytes = Series::n_bytes(series.labels.len(), series.labels.len() - command.labels.len());
            self.containers.get_mut(command.container).n_bytes += n_bytes;
        }
        readings(&mut |reading| {
            if !reading.is_empty() {
                let command = self.commands.get(reading.command);
                self.containers.get_mut(command.container).n_bytes += reading.n_bytes();
            }
        });
        let mut needs: Vec<usize> = self.containers.iter().map(|container| container.n_bytes).collect();
        let (max_bytes, fair_share) = (self.max_bytes(), self.fair_share());
        if needs.iter().sum::<usize>() <= max_bytes {
            // What is left is anybody's.
            let left = max_bytes - needs.iter().sum::<usize>();
            for container in self.containers.iter_mut() {
                container.max_bytes = container.n_bytes + left;
                container.dropped = (0, 0);
            }
            return;
        }
        let share = share(&mut needs, max_bytes);
        for container in self.containers.iter_mut() {
            container.max_bytes = share.max(fair_share);
        }
        self.drop_smallest(readings);
    }
