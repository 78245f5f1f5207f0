//! The containers of a node, their commands, and the series of each command: data that is summed, folded and
//! rendered.
//!
//! A *command* is a command name in a container, with `--pid` one process of it; a *series* is what is summed
//! under one label text. Numbers of containers, commands and series stay the same while these live.

use std::collections::HashMap;

use super::grouping::GroupBy;
use super::labels;
use super::other::OTHER;
use super::shape::Shape;
use super::slab::Slab;
use super::sums::{Size, Totals};

/// What an entry of a hash table takes beside its key, about.
const ENTRY_BYTES: usize = 48;

/// The caller's number for a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerKey(pub u32);

/// A container, or several that share their labels.
#[derive(Debug)]
pub(super) struct Container {
    /// `{namespace="..",pod="..",container=".."`, left open for further labels.
    pub(super) labels: Box<str>,
    /// The memory that its commands, series and readings take. Between two sums, readings of processes that
    /// are gone are included.
    pub(super) n_bytes: usize,
    /// The number of its paths that are summed as `[other]`.
    pub(super) n_folded: u64,
    /// The size of the largest path that was merged to save memory, until there is plenty again.
    pub(super) largest_merged: Option<Size>,
    is_used: bool,
}

/// A command name in a container; with `--pid`, one process of it.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) container: u32,
    /// The container's label text, then `,comm=".."` and the pid, left open for further labels.
    pub(super) labels: Box<str>,
    /// `labels` holds no pid up to here.
    comm_end: usize,
    /// The number of processes that count, and of all readings that name the command.
    pub(super) n_processes: u64,
    pub(super) n_readings: u32,
    /// Its series by their value.
    pub(super) series: HashMap<Box<str>, u32>,
    /// The series of its paths that are not shown under their names, once there has been one.
    pub(super) other: Option<u32>,
    /// It is `[other]`: commands may be folded into it.
    pub(super) is_other: bool,
    pub(super) fold: CommandFold,
}

/// What folding decides about a command, and what it needs to know for that.
#[derive(Debug, Default)]
pub(super) struct CommandFold {
    /// The command is summed in `comm="[other]"`.
    pub(super) is_folded: bool,
    /// Others are folded into this one. It stays while they are.
    pub(super) takes_in: bool,
    /// How many of its paths are folded, and the last of them.
    pub(super) n_paths: u64,
    pub(super) last_path: u32,
    /// What its series cost, and their sum.
    pub(super) cost: usize,
    pub(super) sum: Totals,
    /// The place of the first command with the same name, in the order of commands.
    pub(super) comm: u32,
}

/// What is summed under one label text.
#[derive(Debug)]
pub struct Series {
    /// The whole label text, with its braces.
    pub labels: Box<str>,
    /// The sums.
    pub totals: Totals,
    pub(super) command: u32,
    /// How many readings name it.
    pub(super) n_readings: u32,
    /// Its place in the order of series, while folding.
    pub(super) position: u32,
    /// It is summed in another series.
    pub(super) is_folded: bool,
    /// It is `path="[other]"`. It stays while its command does.
    pub(super) is_other: bool,
}

/// Containers, commands and series. Finding those that are known allocates nothing.
#[derive(Debug, Default)]
pub struct Table {
    pub(super) shape: Shape,
    /// What everything in it, and the readings, take.
    pub(super) n_bytes: usize,
    pub(super) containers: Slab<Container>,
    pub(super) commands: Slab<Command>,
    pub(super) series: Slab<Series>,
    pub(super) order: Order,
    keys: HashMap<ContainerKey, u32>,
    containers_by_labels: HashMap<Box<str>, u32>,
    commands_by_labels: HashMap<Box<str>, u32>,
    /// Scratch.
    text: String,
}

/// Commands and series, each in the order of their label text.
#[derive(Debug, Default)]
pub(super) struct Order {
    pub(super) commands: Vec<u32>,
    pub(super) series: Vec<u32>,
    pub(super) is_stale: bool,
}

impl Command {
    /// Its label text without a pid, left open.
    pub(super) fn comm(&self) -> &str {
        &self.labels[..self.comm_end]
    }

    /// Its name, escaped. `container` is the label text of its container.
    pub(super) fn name(&self, container: &str) -> &str {
        let comm = &self.comm()[container.len()..];
        comm.strip_prefix(",comm=\"").and_then(|rest| rest.strip_suffix('"')).unwrap_or_default()
    }

    /// The memory that a command with such labels takes: they are kept twice.
    pub(super) fn n_bytes(label_len: usize) -> usize {
        size_of::<Self>() + 2 * label_len + ENTRY_BYTES
    }
}

impl Series {
    /// What it stands for within its command, escaped.
    pub(super) fn value(&self, command: &Command) -> &str {
        let label = &self.labels[command.labels.len()..];
        label.split_once('"').and_then(|(_, rest)| rest.strip_suffix("\"}")).unwrap_or_default()
    }

    /// The memory that a series takes: its labels, and its value once more as a key.
    pub(super) fn n_bytes(label_len: usize, value_len: usize) -> usize {
        size_of::<Self>() + label_len + value_len + ENTRY_BYTES
    }
}

impl Table {
    /// An empty table of this shape.
    pub(super) fn new(shape: Shape) -> Self {
        Self { shape, ..Self::default() }
    }

    /// What series stand for, and which samples are exported.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Makes `key` stand for the container with these labels. Containers that share their labels are one
    /// container.
    pub(super) fn register(&mut self, key: ContainerKey, labels: &str) {
        if self.container(key).is_some_and(|id| *self.containers.get(id).labels == *labels) {
            return;
        }
        let id = self.containers_by_labels.get(labels).copied().unwrap_or_else(|| {
            let container = Container {
                labels: labels.into(),
                n_bytes: 0,
                n_folded: 0,
                largest_merged: None,
                is_used: true,
            };
            let id = self.containers.insert(container);
            self.containers_by_labels.insert(labels.into(), id);
            id
        });
        self.keys.insert(key, id);
    }

    /// The number of the container with this key, if it is registered.
    pub(super) fn container(&self, key: ContainerKey) -> Option<u32> {
        self.keys.get(&key).copied()
    }

    /// The command with this name; one that is new must pass `is_allowed`, which gets the memory that it
    /// would take.
    pub(super) fn command(
        &mut self,
        container: u32,
        comm: &str,
        pid: u32,
        is_allowed: impl FnOnce(&Self, usize) -> bool,
    ) -> Option<u32> {
        let labels = &self.containers.get(container).labels;
        self.text.clear();
        labels::command(&mut self.text, labels, comm, None);
        let comm_end = self.text.len();
        if self.shape.by_pid {
            self.text.clear();
            labels::command(&mut self.text, labels, comm, Some(pid));
        }
        if let Some(&id) = self.commands_by_labels.get(self.text.as_str()) {
            return Some(id);
        }
        let n_bytes = Command::n_bytes(self.text.len()) + Series::n_bytes(self.text.len(), 0);
        if !is_allowed(self, n_bytes) {
            return None;
        }
        Some(self.insert_command(container, comm_end, comm == OTHER && !self.shape.by_pid))
    }

    /// The command that others of a container are folded into.
    pub(super) fn other_command(&mut self, container: u32) -> u32 {
        self.text.clear();
        labels::command(&mut self.text, &self.containers.get(container).labels, OTHER, None);
        match self.commands_by_labels.get(self.text.as_str()) {
            Some(&id) => id,
            None => self.insert_command(container, self.text.len(), true),
        }
    }

    /// Inserts the command whose labels are in `text`.
    fn insert_command(&mut self, container: u32, comm_end: usize, is_other: bool) -> u32 {
        let labels: Box<str> = self.text.as_str().into();
        self.take_bytes(container, Command::n_bytes(labels.len()));
        let id = self.commands.insert(Command {
            container,
            labels: labels.clone(),
            comm_end,
            n_processes: 0,
            n_readings: 0,
            series: HashMap::new(),
            other: None,
            is_other,
            fold: CommandFold::default(),
        });
        self.commands_by_labels.insert(labels, id);
        self.order.is_stale = true;
        id
    }

    /// The series of a command that has this value.
    pub(super) fn series_of(&mut self, command_id: u32, value: &str) -> u32 {
        let command = self.commands.get_mut(command_id);
        if let Some(&id) = command.series.get(value) {
            return id;
        }
        let is_other = self.shape.group_by == GroupBy::Path && value == OTHER;
        self.shape.label(&mut self.text, &command.labels, value);
        let id = self.series.insert(Series {
            labels: self.text.as_str().into(),
            totals: Totals::default(),
            command: command_id,
            n_readings: 0,
            position: 0,
            is_folded: false,
            is_other,
        });
        if is_other {
            command.other = Some(id);
        }
        command.series.insert(value.into(), id);
        let container = command.container;
        self.order.is_stale = true;
        self.take_bytes(container, Series::n_bytes(self.text.len(), value.len()));
        id
    }

    /// Notes that a container takes this much more memory.
    pub(super) fn take_bytes(&mut self, container: u32, n_bytes: usize) {
        self.containers.get_mut(container).n_bytes += n_bytes;
        self.n_bytes += n_bytes;
    }

    /// Sets all sums to zero and unfolds everything.
    pub(super) fn clear_sums(&mut self) {
        for container in self.containers.iter_mut() {
            container.n_folded = 0;
        }
        for series in self.series.iter_mut() {
            (series.totals, series.n_readings, series.is_folded) = (Totals::default(), 0, false);
        }
        for command in self.commands.iter_mut() {
            (command.n_processes, command.n_readings) = (0, 0);
            (command.fold.is_folded, command.fold.n_paths) = (false, 0);
        }
    }

    /// Removes commands and series that no reading names. What others were folded into stays, for mostly they
    /// are folded again.
    pub(super) fn remove_unused(&mut self) {
        let commands = &self.commands;
        let is_used = |series: &Series| {
            let command = commands.get(series.command);
            series.n_readings > 0 || command.fold.takes_in || series.is_other && command.n_readings > 0
        };
        if !self.series.iter().all(is_used) {
            self.series.retain(|_, series| is_used(series));
            self.forget_removed_series();
        }
        let is_used = |command: &Command| command.n_readings > 0 || command.fold.takes_in;
        if !self.commands.iter().all(is_used) {
            self.commands.retain(|_, command| is_used(command));
            self.commands_by_labels.retain(|_, id| self.commands.has(*id));
            self.commands_by_labels.shrink_to(2 * self.commands.len());
            self.remove_unused_containers();
            self.order.is_stale = true;
        }
    }

    /// Makes commands forget series that were removed.
    pub(super) fn forget_removed_series(&mut self) {
        for command in self.commands.iter_mut() {
            command.series.retain(|_, id| self.series.has(*id));
            command.series.shrink_to(2 * command.series.len());
        }
        self.order.is_stale = true;
    }

    fn remove_unused_containers(&mut self) {
        self.containers.iter_mut().for_each(|container| container.is_used = false);
        for command in self.commands.iter() {
            self.containers.get_mut(command.container).is_used = true;
        }
        self.containers.retain(|_, container| container.is_used);
        self.containers_by_labels.retain(|_, id| self.containers.has(*id));
        self.keys.retain(|_, id| self.containers.has(*id));
        self.keys.shrink_to(2 * self.keys.len());
    }

    /// Puts commands and series in the order of their labels, if there are new ones.
    pub(super) fn sort(&mut self) {
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

    /// The commands of a container, in order.
    pub(super) fn commands_of(&self, container: u32) -> impl Iterator<Item = &Command> {
        let labels = &self.containers.get(container).labels;
        let commands = &self.order.commands;
        let start = commands.partition_point(|&id| self.commands.get(id).labels < *labels);
        let commands = commands[start..].iter().map(|&id| self.commands.get(id));
        commands.take_while(move |command| command.container == container)
    }

    /// The number of samples of `process_smaps_*`.
    pub fn n_samples(&self) -> usize {
        self.series().map(|series| self.shape.n_samples(&series.totals)).sum::<usize>()
            + self.processes().count()
    }

    /// What all series and commands count as towards `--max-samples`.
    pub(super) fn cost(&self) -> usize {
        self.series().map(|series| self.shape.cost(series.labels.len(), &series.totals)).sum::<usize>()
            + self.processes().count()
    }

    /// The label text of each command, left open, and the number of its processes; in the order of label
    /// texts.
    pub fn processes(&self) -> impl Iterator<Item = (&str, u64)> {
        let is_shown = |command: &&Command| command.n_processes > 0 && !command.fold.is_folded;
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

    /// The series that are exported, in the order of their label texts.
    pub fn series(&self) -> impl Iterator<Item = &Series> {
        let series = self.order.series.iter().map(|&id| self.series.get(id));
        series.filter(|series| !series.is_folded && series.totals.n_mappings > 0)
    }
}
