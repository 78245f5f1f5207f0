//! How much memory the commands, series and readings of a container may take, so that no workload makes the exporter large.
//!
//! While all together are small enough everything is kept. Beyond that a container has its fair share; of one that takes more, the smallest
//! paths are dropped, and what they had counts as `[other]`. Nothing but size decides: for a newcomer that is larger than what was dropped
//! there is room, if need be by dropping more.

use super::fold::share;
use super::grouping::GroupBy;
use super::reading::Reading;
use super::snapshot::{Command, Series, Snapshot};
use super::tally::{OTHER, Totals};
use crate::smaps::fields::{PSS, RSS};

/// As much is kept of all containers together for each sample that may be exported.
const BYTES_PER_SAMPLE: usize = 128;
/// And at least so much.
const MIN_BYTES: usize = 1 << 20;

/// What an entry of a hash table takes beside its key, and what a series takes in a reading, about.
const ENTRY_BYTES: usize = 48;
pub(super) const READING_BYTES: usize = 24;

/// A container, and what it takes.
#[derive(Debug)]
pub(super) struct Container {
    /// Its label text, left open.
    pub(super) labels: Box<str>,
    /// What its commands, series and readings take; between two sums what processes had that are gone is among it.
    n_bytes: usize,
    /// The size of the largest series that was dropped for it.
    dropped: Size,
    pub(super) has_commands: bool,
    /// How many of its paths are not told apart.
    pub(super) n_folded: u64,
}

impl Container {
    pub(super) fn new(labels: &str) -> Self {
        let dropped = Size::default();
        Self { labels: labels.into(), n_bytes: 0, dropped, has_commands: true, n_folded: 0 }
    }
}

/// By what it is decided what is not told apart: proportional bytes, then resident ones.
pub(super) type Size = (u64, u64);

/// The size of what has these totals.
pub(super) fn size(totals: &Totals) -> Size {
    (totals.values.bytes[PSS], totals.values.bytes[RSS])
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
    pub(super) fn max_bytes(&self) -> usize {
        match self.shape.max_samples {
            0 => usize::MAX,
            max_samples => MIN_BYTES.max(BYTES_PER_SAMPLE * max_samples),
        }
    }

    /// Whether a container may take so many bytes more, for something of this size. Larger newcomers come in until it takes twice its
    /// fair share; those that then come must wait until the smallest are dropped.
    pub(super) fn has_room(&mut self, container: u32, n_bytes: usize, size: Size) -> bool {
        let max_bytes = self.max_bytes();
        if self.n_bytes + n_bytes <= max_bytes {
            return true;
        }
        let fair_share = max_bytes / (self.containers.len() + 1);
        let container = self.containers.get(container);
        let total = container.n_bytes + n_bytes;
        let is_larger = size > container.dropped;
        self.is_crowded |= is_larger && total > 2 * fair_share;
        total <= fair_share || is_larger && total <= 2 * fair_share
    }

    /// A container takes so many bytes more.
    pub(super) fn take_bytes(&mut self, container: u32, n_bytes: usize) {
        self.containers.get_mut(container).n_bytes += n_bytes;
        self.n_bytes += n_bytes;
    }

    /// Drops the smallest paths of the containers that take too much, when [`Snapshot::record`] has found no room.
    pub fn make_room(&mut self, mut readings: impl FnMut(&mut dyn FnMut(&mut Reading))) {
        self.add_up(&mut readings);
        self.keep_to_memory(self.max_bytes() / 2, readings);
    }

    /// Sees what each container takes. Where all together take more than `max_bytes`, drops the smallest paths of those that take more than
    /// their share, from the readings as well.
    pub(super) fn keep_to_memory(
        &mut self,
        max_bytes: usize,
        mut readings: impl FnMut(&mut dyn FnMut(&mut Reading)),
    ) {
        self.is_crowded = false;
        self.count_bytes(&mut readings);
        if self.n_bytes <= max_bytes {
            if self.n_bytes <= max_bytes / 2 {
                self.containers.iter_mut().for_each(|container| container.dropped = Size::default());
            }
            return;
        }
        if self.shape.group_by != GroupBy::Path {
            return; // there are few
        }
        let mut needs: Vec<usize> = self.containers.iter().map(|container| container.n_bytes).collect();
        let share = share(&mut needs, max_bytes);
        let mut smallest: Vec<(Size, u32)> = Vec::new();
        let mut by_container: Vec<u32> = self.series.ids().collect();
        by_container.sort_unstable_by_key(|&id| self.commands.get(self.series.get(id).command).container);
        let container_of = |id: u32| self.commands.get(self.series.get(id).command).container;
        let mut dropped = Vec::new();
        for ids in by_container.chunk_by(|&a, &b| container_of(a) == container_of(b)) {
            let id = container_of(ids[0]);
            let mut n_bytes = self.containers.get(id).n_bytes;
            if n_bytes <= share {
                continue;
            }
            let may_drop = ids.iter().filter(|&&id| !self.series.get(id).is_other);
            smallest.clear();
            smallest.extend(may_drop.map(|&id| (size(&self.series.get(id).totals), id)));
            smallest.sort_unstable();
            for &(size, series) in &smallest {
                if n_bytes <= share {
                    break;
                }
                n_bytes = n_bytes.saturating_sub(self.bytes_of(self.series.get(series)));
                dropped.push((id, size, series));
            }
        }
        for &(container, size, series) in &dropped {
            self.drop_series(container, size, series);
        }
        if dropped.is_empty() {
            return;
        }
        readings(&mut |reading| {
            let command = self.commands.get(reading.command);
            if let Some(other) = command.other {
                reading.replace(|series| self.series.get(series).is_dropped.then_some(other));
            }
        });
        self.series.retain(|series| !series.is_dropped);
        for command in self.commands.iter_mut() {
            command.series.retain(|_, id| self.series.has(*id));
            command.series.shrink_to(2 * command.series.len());
        }
        self.order.is_stale = true;
        self.count_bytes(&mut readings);
    }

    /// Its totals go to the other paths of its command.
    fn drop_series(&mut self, container: u32, size: Size, id: u32) {
        let series = self.series.get_mut(id);
        series.is_dropped = true;
        let (command, totals) = (series.command, series.totals);
        let other = self.series_in(command, OTHER);
        self.series.get_mut(other).totals.add(&totals);
        let container = self.containers.get_mut(container);
        container.dropped = container.dropped.max(size);
        container.n_folded += 1;
    }

    fn bytes_of(&self, series: &Series) -> usize {
        let value_len = series.labels.len() - self.commands.get(series.command).labels.len();
        Series::n_bytes(series.labels.len(), value_len) + READING_BYTES * series.n_readings
    }

    fn count_bytes(&mut self, readings: &mut impl FnMut(&mut dyn FnMut(&mut Reading))) {
        self.n_bytes = 0;
        for container in self.containers.iter_mut() {
            container.n_bytes = 0;
        }
        let Self { containers, commands, series, .. } = self;
        for command in commands.iter() {
            containers.get_mut(command.container).n_bytes += Command::n_bytes(command.labels.len());
        }
        for series in series.iter() {
            let command = commands.get(series.command);
            let value_len = series.labels.len() - command.labels.len();
            containers.get_mut(command.container).n_bytes += Series::n_bytes(series.labels.len(), value_len);
        }
        readings(&mut |reading| {
            if !reading.is_empty() {
                containers.get_mut(commands.get(reading.command).container).n_bytes += reading.n_bytes();
            }
        });
        self.n_bytes = containers.iter().map(|container| container.n_bytes).sum();
    }
}
