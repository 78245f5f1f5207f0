//! One scrape's totals: the readings of the processes that live, summed by command and by what a series stands for.
//!
//! A *command* is a command name in a container; a *series* is what is summed under one label text. Each process keeps the
//! [`Reading`] it gave last; a snapshot is the sum over those of the processes that live. So a process that was not read
//! this time counts with its last values, and one that is gone no longer counts, without any subtraction.
//!
//! Nothing is allocated while the commands and paths stay the same.

use std::collections::HashMap;

use super::fold::Folding;
use super::grouping::GroupBy;
use super::labels;
use super::reading::Reading;
use super::slab::Slab;
use super::tally::{OTHER, Tally, Totals};
use crate::smaps::fields::{FieldMask, N_FIELDS, NOT_IN_ROLLUP};

/// What a snapshot sums by, and which samples of it are exported.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// What one series stands for.
    pub group_by: GroupBy,
    /// Each process has series of its own.
    pub by_pid: bool,
    /// The fields that are exported.
    pub fields: FieldMask,
    /// Samples of value 0 are left out.
    pub omit_zero: bool,
    /// Beyond so many samples paths are folded; 0 is no limit.
    pub max_samples: usize,
}

impl Shape {
    /// Whether the kernel's own sum over the mappings of a process says enough: it has neither sizes nor page sizes.
    pub fn is_rollup(&self) -> bool {
        self.group_by == GroupBy::Process && self.fields & NOT_IN_ROLLUP == 0
    }

    /// Whether the field at this position of the table gives a sample.
    pub fn has_sample(&self, totals: &Totals, field: usize) -> bool {
        totals.values.present & self.fields & 1 << field != 0
            && !(self.omit_zero && totals.values.bytes[field] == 0)
    }

    /// Makes `text` the label text of a series: the command's, and what it is grouped by.
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

    /// How many samples a series with these totals gives.
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
}

/// A path longer than this is a long one. Programs do not have such; whoever makes them could fill our memory, for a path
/// stands in every sample of its series.
const LONG_PATH_LEN: usize = 512;

/// Long paths beyond so many bytes on the node are not told apart: they fold from the start.
const MAX_LONG_BYTES: usize = 1 << 20;

/// A command name in a container; with `--pid`, one process of it.
#[derive(Debug)]
pub(super) struct Command {
    /// `{namespace="..",pod="..",container="..",comm=".."` and the pid, left open for further labels.
    pub(super) labels: Box<str>,
    /// Up to here, `labels` holds nothing but the container's, and up to there no pid.
    container_end: usize,
    comm_end: usize,
    pub(super) n_processes: u64,
    pub(super) series: HashMap<Box<str>, u32>,
    /// The series into which paths are folded, once there has been one, and which of them are at the moment.
    pub(super) other: Option<u32>,
    pub(super) n_folded: u64,
    pub(super) last_folded: u32,
    /// Commands may fold into it, and whether some do. It stays while they do.
    pub(super) is_other: bool,
    pub(super) takes_in: bool,
    /// It stands in that command.
    pub(super) is_folded: bool,
    /// While it is decided what folds: its samples, and the sum of its series.
    pub(super) n_samples: usize,
    pub(super) sum: Totals,
}

impl Command {
    /// The label text of its container, left open.
    pub(super) fn container(&self) -> &str {
        &self.labels[..self.container_end]
    }

    /// Its label text without a pid, left open.
    pub(super) fn comm(&self) -> &str {
        &self.labels[..self.comm_end]
    }
}

/// What is summed under one label text.
#[derive(Debug)]
pub struct Series {
    /// The whole label text, with its braces.
    pub labels: Box<str>,
    /// The sums.
    pub totals: Totals,
    pub(super) command: u32,
    /// Its totals stand in the series of the other paths.
    pub(super) is_folded: bool,
    /// Its place in the order, while it is decided what folds.
    pub(super) position: u32,
    /// Others fold into it. It stays while its command does.
    pub(super) is_other: bool,
    /// The length of its path, if that is a long one; else 0.
    long_len: usize,
}

impl Series {
    pub(super) fn new(labels: &str, command: u32, is_other: bool) -> Self {
        let totals = Totals::default();
        Self { labels: labels.into(), totals, command, is_folded: false, position: 0, is_other, long_len: 0 }
    }
}

/// The commands and series of a node.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub(super) commands: Slab<Command>,
    commands_by_labels: HashMap<Box<str>, u32>,
    pub(super) series: Slab<Series>,
    pub(super) order: Order,
    pub(super) shape: Shape,
    pub(super) folding: Folding,
    /// What the paths of all series together have in long ones.
    long_bytes: usize,
    /// Scratch.
    pub(super) text: String,
    lossy: String,
}

/// Live commands and series, each in the order of their label text.
#[derive(Debug, Default)]
pub(super) struct Order {
    pub(super) commands: Vec<u32>,
    pub(super) series: Vec<u32>,
    pub(super) is_stale: bool,
}

impl Snapshot {
    /// An empty one of this shape.
    pub fn new(shape: Shape) -> Self {
        Self { shape, ..Self::default() }
    }

    /// What it sums by, and which samples of it are exported.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Makes `reading` what process `pid` has given: a process with the name `comm` (any bytes), in the container with these labels
    /// (as [`labels::container`] makes them).
    pub fn record(&mut self, container: &str, comm: &[u8], pid: u32, tally: &Tally, reading: &mut Reading) {
        let command = self.command(container, comm, pid);
        reading.begin(command);
        for (value, totals) in tally.sums() {
            let series = self.series_of(command, value);
            reading.push(series, totals);
        }
        reading.shrink();
    }

    fn command(&mut self, container: &str, comm: &[u8], pid: u32) -> u32 {
        self.text.clear();
        let comm = labels::lossy(comm, &mut self.lossy);
        labels::command(&mut self.text, container, comm, None);
        let comm_end = self.text.len();
        if self.shape.by_pid {
            self.text.clear();
            labels::command(&mut self.text, container, comm, Some(pid));
        }
        let is_other = comm == OTHER && !self.shape.by_pid;
        self.command_labelled(container.len(), comm_end, is_other)
    }

    /// The command whose label text is in `text`.
    pub(super) fn command_labelled(&mut self, container_end: usize, comm_end: usize, is_other: bool) -> u32 {
        if let Some(&id) = self.commands_by_labels.get(self.text.as_str()) {
            return id;
        }
        let labels: Box<str> = self.text.as_str().into();
        let command = Command {
            labels: labels.clone(),
            container_end,
            comm_end,
            n_processes: 0,
            series: HashMap::new(),
            other: None,
            n_folded: 0,
            last_folded: 0,
            is_other,
            takes_in: false,
            is_folded: false,
            n_samples: 0,
            sum: Totals::default(),
        };
        let id = self.commands.insert(command);
        self.commands_by_labels.insert(labels, id);
        self.order.is_stale = true;
        id
    }

    /// The series of a command to which belongs what is grouped under `value`.
    fn series_of(&mut self, command_id: u32, value: &[u8]) -> u32 {
        let value = labels::lossy(value, &mut self.lossy);
        let command = self.commands.get_mut(command_id);
        if let Some(&id) = command.series.get(value) {
            return id;
        }
        let is_by_path = self.shape.group_by == GroupBy::Path;
        let long_len = if value.len() > LONG_PATH_LEN { value.len() } else { 0 };
        let is_too_long = long_len > 0 && self.long_bytes + long_len > MAX_LONG_BYTES;
        let is_too_many = self.shape.max_samples > 0 && self.series.len() >= 4 * self.shape.max_samples;
        let (value, long_len) =
            if is_by_path && (is_too_long || is_too_many) { (OTHER, 0) } else { (value, long_len) };
        if let Some(&id) = command.series.get(value) {
            return id;
        }
        self.long_bytes += long_len;
        let is_other = is_by_path && value == OTHER;
        let id = command.other.filter(|_| is_other).unwrap_or_else(|| {
            self.shape.label(&mut self.text, &command.labels, value);
            self.order.is_stale = true;
            self.series.insert(Series { long_len, ..Series::new(&self.text, command_id, is_other) })
        });
        if is_other {
            command.other = Some(id);
        }
        command.series.insert(value.into(), id);
        id
    }

    /// Makes the totals the sum over `readings`, and drops the commands and series that none of them names.
    pub fn sum<'a>(&mut self, readings: impl Iterator<Item = &'a Reading>) {
        for series in self.series.iter_mut() {
            series.totals = Totals::default();
            series.is_folded = false;
        }
        for command in self.commands.iter_mut() {
            command.n_processes = 0;
            command.n_folded = 0;
            command.is_folded = false;
        }
        // A process without mappings (a zombie, a kernel thread) is not counted.
        for reading in readings.filter(|reading| !reading.is_empty()) {
            self.commands.get_mut(reading.command).n_processes += 1;
            reading.for_each(|id, totals| self.series.get_mut(id).totals.add(totals));
        }
        self.drop_unused();
        self.sort();
        self.fold();
        self.sort();
    }

    fn drop_unused(&mut self) {
        let commands = &self.commands;
        // What folds mostly folds again in the next scrape.
        let is_used = |series: &Series| {
            let command = commands.get(series.command);
            series.totals.n_mappings > 0 || command.takes_in || series.is_other && command.n_processes > 0
        };
        if !self.series.iter().all(is_used) {
            self.series.retain(is_used);
            self.long_bytes = self.series.iter().map(|series| series.long_len).sum();
            for command in self.commands.iter_mut() {
                command.series.retain(|_, id| self.series.has(*id));
                command.series.shrink_to(2 * command.series.len());
            }
            self.order.is_stale = true;
        }
        let is_used = |command: &Command| command.n_processes > 0 || command.takes_in;
        if !self.commands.iter().all(is_used) {
            self.commands.retain(is_used);
            self.commands_by_labels.retain(|_, id| self.commands.has(*id));
            self.commands_by_labels.shrink_to(2 * self.commands.len());
            self.order.is_stale = true;
        }
    }

    fn sort(&mut self) {
        let Order { commands, series, is_stale } = &mut self.order;
        if !std::mem::take(is_stale) {
            return;
        }
        commands.clear();
        commands.extend(self.commands.ids());
        commands.sort_by(|&a, &b| self.commands.get(a).labels.cmp(&self.commands.get(b).labels));
        series.clear();
        series.extend(self.series.ids());
        series.sort_by(|&a, &b| self.series.get(a).labels.cmp(&self.series.get(b).labels));
        series.shrink_to(2 * series.len());
    }

    /// How many samples of `process_smaps_*` it gives.
    pub fn n_samples(&self) -> usize {
        self.series().map(|series| self.shape.n_samples(&series.totals)).sum::<usize>()
            + self.processes().count()
    }

    /// How many processes stand behind each command: its label text, left open, and their number; by label text.
    pub fn processes(&self) -> impl Iterator<Item = (&str, u64)> {
        let is_shown = |command: &&Command| command.n_processes > 0 && !command.is_folded;
        let commands = self.order.commands.iter().map(|&id| self.commands.get(id));
        let mut commands = commands.filter(is_shown).peekable();
        std::iter::from_fn(move || {
            let command = commands.next()?;
            let mut n_processes = command.n_processes;
            // With --pid, the processes of one command follow each other.
            while let Some(same) = commands.next_if(|next| next.comm() == command.comm()) {
                n_processes += same.n_processes;
            }
            Some((command.comm(), n_processes))
        })
    }

    /// The series that are exported, by their label text.
    pub fn series(&self) -> impl Iterator<Item = &Series> {
        let series = self.order.series.iter().map(|&id| self.series.get(id));
        series.filter(|series| !series.is_folded && series.totals.n_mappings > 0)
    }
}

#[cfg(test)]
mod tests;
