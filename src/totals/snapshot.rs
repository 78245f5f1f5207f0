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
use super::memory::{Container, READING_BYTES, size};
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
    pub(super) container: u32,
    /// `{namespace="..",pod="..",container="..",comm=".."` and the pid, left open for further labels.
    pub(super) labels: Box<str>,
    /// Up to here, `labels` holds no pid.
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
    /// Its label text without a pid, left open.
    pub(super) fn comm(&self) -> &str {
        &self.labels[..self.comm_end]
    }

    /// Its name, escaped, of one in the container with this label text.
    pub(super) fn name(&self, container: &str) -> &str {
        let comm = &self.comm()[container.len()..];
        comm.strip_prefix(",comm=\"").and_then(|rest| rest.strip_suffix('"')).unwrap_or_default()
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
    /// How many readings have it, and whether they no longer may.
    pub(super) n_readings: usize,
    pub(super) is_dropped: bool,
    /// Others fold into it. It stays while its command does.
    pub(super) is_other: bool,
    /// The length of its path, if that is a long one; else 0.
    long_len: usize,
}

impl Series {
    /// What it stands for within its command, escaped.
    pub(super) fn value(&self, command: &Command) -> &str {
        let label = &self.labels[command.labels.len()..];
        label.split_once('"').and_then(|(_, rest)| rest.strip_suffix("\"}")).unwrap_or_default()
    }

    pub(super) fn new(labels: &str, command: u32, is_other: bool) -> Self {
        let totals = Totals::default();
        Self {
            labels: labels.into(),
            totals,
            command,
            is_folded: false,
            position: 0,
            n_readings: 0,
            is_dropped: false,
            is_other,
            long_len: 0,
        }
    }
}

/// The commands and series of a node.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub(super) containers: Slab<Container>,
    containers_by_labels: HashMap<Box<str>, u32>,
    pub(super) commands: Slab<Command>,
    commands_by_labels: HashMap<Box<str>, u32>,
    pub(super) series: Slab<Series>,
    pub(super) order: Order,
    pub(super) shape: Shape,
    pub(super) folding: Folding,
    /// What all containers together take, and whether one needs room.
    pub(super) n_bytes: usize,
    pub(super) is_crowded: bool,
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
    ///
    /// Says whether there was room: where there was not, there is after [`Snapshot::make_room`], and it is to be recorded again.
    pub fn record(
        &mut self,
        container: &str,
        comm: &[u8],
        pid: u32,
        tally: &Tally,
        reading: &mut Reading,
    ) -> bool {
        let container_id = self.container(container);
        let command = self.command(container_id, container, comm, pid);
        let n_bytes = reading.n_bytes();
        reading.begin(command);
        let mut others = Totals::default();
        let mut lossy = std::mem::take(&mut self.lossy);
        for (value, totals) in tally.sums() {
            let value = labels::lossy(value, &mut lossy);
            // What was there before takes nothing more.
            let entry_bytes = if reading.len() < n_bytes { 0 } else { READING_BYTES };
            match self.series_of(command, container_id, value, totals, entry_bytes) {
                Some(series) => reading.push(series, totals),
                None => {
                    others.add(totals);
                    reading.n_cut += 1;
                }
            }
        }
        self.lossy = lossy;
        reading.n_cut += tally.n_cut() as u32;
        if others.n_mappings > 0 {
            reading.push(self.series_in(command, OTHER), &others);
        }
        reading.shrink();
        self.take_bytes(container_id, reading.n_bytes().saturating_sub(n_bytes));
        !std::mem::take(&mut self.is_crowded)
    }

    fn container(&mut self, labels: &str) -> u32 {
        if let Some(&id) = self.containers_by_labels.get(labels) {
            return id;
        }
        let id = self.containers.insert(Container::new(labels));
        self.containers_by_labels.insert(labels.into(), id);
        id
    }

    fn command(&mut self, container_id: u32, container: &str, comm: &[u8], pid: u32) -> u32 {
        let comm = labels::lossy(comm, &mut self.lossy);
        self.text.clear();
        labels::command(&mut self.text, container, comm, None);
        let comm_end = self.text.len();
        if self.shape.by_pid {
            self.text.clear();
            labels::command(&mut self.text, container, comm, Some(pid));
        }
        if let Some(&id) = self.commands_by_labels.get(self.text.as_str()) {
            return id;
        }
        let is_other = comm == OTHER && !self.shape.by_pid;
        let n_bytes = Command::n_bytes(self.text.len()) + Series::n_bytes(self.text.len(), 0);
        if !self.has_room(container_id, n_bytes, (0, 0)) {
            return self.other_command(container_id);
        }
        self.command_labelled(container_id, comm_end, is_other)
    }

    /// The command whose label text is in `text`.
    pub(super) fn command_labelled(&mut self, container: u32, comm_end: usize, is_other: bool) -> u32 {
        if let Some(&id) = self.commands_by_labels.get(self.text.as_str()) {
            return id;
        }
        let labels: Box<str> = self.text.as_str().into();
        let command = Command {
            container,
            labels: labels.clone(),
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
        self.take_bytes(container, Command::n_bytes(labels.len()));
        let id = self.commands.insert(command);
        self.commands_by_labels.insert(labels, id);
        self.order.is_stale = true;
        id
    }

    /// The series of a command to which belongs what is grouped under `value` and has these totals; none if there is no room for it, and
    /// for so many bytes in its reading.
    fn series_of(
        &mut self,
        command_id: u32,
        container: u32,
        value: &str,
        totals: &Totals,
        entry_bytes: usize,
    ) -> Option<u32> {
        let command = self.commands.get(command_id);
        let is_by_path = self.shape.group_by == GroupBy::Path;
        let may_be_cut = is_by_path && value != OTHER;
        if let Some(&id) = command.series.get(value) {
            let has_room =
                !may_be_cut || entry_bytes == 0 || self.has_room(container, entry_bytes, size(totals));
            return has_room.then_some(id);
        }
        let long_len = if may_be_cut && value.len() > LONG_PATH_LEN { value.len() } else { 0 };
        let n_bytes = Series::n_bytes(command.labels.len() + value.len(), value.len());
        let is_too_long = long_len > 0 && self.long_bytes + long_len > MAX_LONG_BYTES;
        if may_be_cut && (is_too_long || !self.has_room(container, n_bytes + entry_bytes, size(totals))) {
            return None;
        }
        let id = self.series_in(command_id, value);
        self.long_bytes += long_len;
        self.series.get_mut(id).long_len = long_len;
        Some(id)
    }

    /// The series of a command that has this value.
    pub(super) fn series_in(&mut self, command_id: u32, value: &str) -> u32 {
        let command = self.commands.get_mut(command_id);
        if let Some(&id) = command.series.get(value) {
            return id;
        }
        let is_other = self.shape.group_by == GroupBy::Path && value == OTHER;
        self.shape.label(&mut self.text, &command.labels, value);
        let id = self.series.insert(Series::new(&self.text, command_id, is_other));
        if is_other {
            command.other = Some(id);
        }
        command.series.insert(value.into(), id);
        let container = command.container;
        self.order.is_stale = true;
        self.take_bytes(container, Series::n_bytes(self.text.len(), value.len()));
        id
    }

    /// Makes the totals the sum over the readings, with each of which `readings` calls what it is given, and drops the commands and series
    /// that none of them names.
    pub fn sum(&mut self, mut readings: impl FnMut(&mut dyn FnMut(&mut Reading))) {
        self.add_up(&mut readings);
        self.drop_unused();
        self.keep_to_memory(self.max_bytes(), readings);
        self.sort();
        self.fold();
        self.sort();
    }

    pub(super) fn add_up(&mut self, readings: &mut impl FnMut(&mut dyn FnMut(&mut Reading))) {
        for container in self.containers.iter_mut() {
            container.n_folded = 0;
        }
        for series in self.series.iter_mut() {
            (series.totals, series.n_readings) = (Totals::default(), 0);
            series.is_folded = false;
        }
        for command in self.commands.iter_mut() {
            command.n_processes = 0;
            command.n_folded = 0;
            command.is_folded = false;
        }
        // A process without mappings (a zombie, a kernel thread) is not counted.
        readings(&mut |reading| {
            if reading.is_empty() {
                return;
            }
            let command = self.commands.get_mut(reading.command);
            command.n_processes += 1;
            self.containers.get_mut(command.container).n_folded += u64::from(reading.n_cut);
            reading.for_each(|id, totals| {
                let series = self.series.get_mut(id);
                series.totals.add(totals);
                series.n_readings += 1;
            });
        });
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
            self.drop_unused_containers();
            self.order.is_stale = true;
        }
    }

    fn drop_unused_containers(&mut self) {
        self.containers.iter_mut().for_each(|container| container.has_commands = false);
        for command in self.commands.iter() {
            self.containers.get_mut(command.container).has_commands = true;
        }
        self.containers.retain(|container| container.has_commands);
        self.containers_by_labels.retain(|_, id| self.containers.has(*id));
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
