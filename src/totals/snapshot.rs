//! Keeps the readings of all processes, and sums them by path. A [view](super::view) decides what is exported
//! of these sums.
//!
//! Each process has the [reading](super::reading) of its last read. Each scrape sets the sums to 0, and adds
//! the readings of all processes that exist. So if a process was not read in this scrape, its last values are
//! included. The values of a process that has ended are not added, so nothing ever has to be subtracted.
//!
//! While commands and paths stay the same, this allocates no memory.

use super::labels;
use super::memory;
use super::other::OTHER;
use super::process_sums::ProcessSums;
use super::reading::{Reading, ReadingId, State};
use super::rows::Summed;
use super::slab::Slab;
use super::sums::Totals;
use super::table::{ContainerKey, Table};
use crate::smaps::fields::RSS;

/// The process to which a reading belongs.
#[derive(Clone, Copy, Debug)]
pub struct Process<'a> {
    /// The process's container. It must have been [registered](Snapshot::register).
    pub container: ContainerKey,
    /// The process's name, which may have any bytes.
    pub comm: &'a [u8],
    /// The pid of the process.
    pub pid: u32,
}

/// The readings of the processes of a node, and their sums.
#[derive(Debug)]
pub struct Snapshot {
    table: Table,
    readings: Slab<Reading>,
    /// The maximum memory of the table and the readings together.
    max_bytes: usize,
    /// If a new reading makes the snapshot larger than this, paths are merged at once, without waiting for
    /// the next `sum`. The value is `max_bytes`, or the memory after the last `reduce` plus a quarter of
    /// `max_bytes`, whichever is larger.
    reduce_above: usize,
    lossy: String, // scratch
}

impl Snapshot {
    /// Returns an empty snapshot. Paths longer than `max_label_bytes` are cut; 0 means no limit.
    pub fn new(max_bytes: usize, max_label_bytes: usize) -> Self {
        Self {
            table: Table::new(max_label_bytes),
            readings: Slab::default(),
            max_bytes,
            reduce_above: max_bytes,
            lossy: String::new(),
        }
    }

    /// Returns the result of the last [`Snapshot::sum`].
    pub fn summed(&self) -> Summed<'_> {
        Summed { table: &self.table, readings: &self.readings }
    }

    /// Returns the table with the result of the last [`Snapshot::sum`].
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Returns the memory limit of the snapshot.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Registers `key` for the container with these labels. The labels have the form of
    /// [`labels::container`]. A container must be registered before its processes are recorded. Registering
    /// it again costs one look-up.
    pub fn register(&mut self, key: ContainerKey, labels: &str) {
        self.table.register(key, labels);
    }

    /// Stores the result of a read of a process, in place of the result of its previous read.
    ///
    /// Panics if the container is not registered.
    pub fn record(&mut self, process: Process<'_>, process_sums: &ProcessSums, id: &mut Option<ReadingId>) {
        let container = self.table.container(process.container).expect("the container is registered");
        let command = self.command(container, process);
        let slot = id.get_or_insert_with(|| ReadingId(self.readings.insert(Reading::default()))).0;
        let mut reading = std::mem::take(self.readings.get_mut(slot));
        let n_bytes_before = if reading.state == State::Unused { 0 } else { reading.n_bytes() };
        reading.begin(command, process.pid, process_sums.n_merged());
        let (mut others, mut n_others) = (Totals::default(), 0);
        for (value, totals) in process_sums.sums() {
            let value = self.table.cut(labels::lossy(value, &mut self.lossy));
            if memory::admits_path(&self.table, command, value, totals) {
                reading.push(self.table.series_of(command, value), totals);
            } else {
                others.add(totals);
                n_others += 1;
            }
        }
        if n_others > 0 {
            reading.push_merged(self.table.series_of(command, OTHER), &others, n_others);
        }
        reading.shrink();
        self.table.take_bytes(container, reading.n_bytes().saturating_sub(n_bytes_before));
        *self.readings.get_mut(slot) = reading;
        if self.table.n_bytes > self.reduce_above {
            self.add_up();
            self.reduce(self.max_bytes / 4 * 3);
        }
    }

    /// Returns the id of the process's command, or of `[other]` if there is no memory for a new command.
    fn command(&mut self, container: u32, process: Process<'_>) -> u32 {
        let comm = labels::lossy(process.comm, &mut self.lossy);
        let max_bytes = self.max_bytes;
        let has_room = |table: &Table, n_bytes| memory::has_room(table, container, n_bytes, max_bytes);
        let command = self.table.command(container, comm, has_room);
        command.unwrap_or_else(|| self.table.other_command(container))
    }

    /// Returns a reading.
    pub(super) fn reading(&self, id: &ReadingId) -> &Reading {
        self.readings.get(id.0)
    }

    /// Whether paths of this reading were merged into `[other]`. Only a new read can separate them again.
    pub fn has_merged(&self, id: &ReadingId) -> bool {
        self.reading(id).n_merged() > 0
    }

    /// Returns the resident bytes in a reading.
    pub fn resident(&self, id: &ReadingId) -> u64 {
        let mut resident = 0;
        self.reading(id).for_each(|_, _, totals| resident += totals.values.bytes[RSS]);
        resident
    }

    /// Sums the readings. `owned` lists the readings of all processes, each with a flag. A reading with the
    /// flag false is kept, but not added to the sums. Readings that are not listed are removed.
    pub fn sum<'a>(&mut self, owned: impl Iterator<Item = (&'a ReadingId, bool)>) {
        self.readings.iter_mut().for_each(|reading| reading.state = State::Unused);
        for (id, counts) in owned {
            self.readings.get_mut(id.0).state = if counts { State::Counted } else { State::Kept };
        }
        if self.readings.iter().any(|reading| reading.state == State::Unused) {
            self.readings.retain(|_, reading| reading.state != State::Unused);
        }
        self.add_up();
        self.table.remove_unused();
        self.reduce(self.max_bytes);
        memory::forget_merged(&mut self.table, self.max_bytes);
        self.table.sort();
    }

    fn add_up(&mut self) {
        let Self { table, readings, .. } = self;
        table.clear_sums();
        for reading in readings.iter() {
            let command = table.commands.get_mut(reading.command);
            command.n_readings += 1;
            let counts = reading.state == State::Counted;
            command.n_processes += u64::from(counts);
            let container = table.containers.get_mut(command.container);
            container.n_folded += if counts { u64::from(reading.n_merged()) } else { 0 };
            reading.for_each(|_, id, totals| {
                let series = table.series.get_mut(id);
                series.n_readings += 1;
                if counts {
                    series.totals.add(totals);
                    container.has_unnamed_files |= series.is_other && totals.of_files() > 0;
                }
            });
        }
    }

    /// Merges paths until the memory is below `max_bytes`, or nothing is left to merge.
    fn reduce(&mut self, max_bytes: usize) {
        memory::keep_within(&mut self.table, &mut self.readings, max_bytes);
        // If nothing is left to merge, the memory stays above the limit. Trying to merge after each new
        // reading would then use too much CPU time. So a new reading causes the next merge only if the memory
        // is above the limit, and has also grown by a quarter of the limit since now.
        self.reduce_above = self.max_bytes.max(self.table.n_bytes + self.max_bytes / 4);
    }
}

#[cfg(test)]
mod tests;
