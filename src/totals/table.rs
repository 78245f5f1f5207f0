//! The table of containers, their commands, and the series of each command.
//!
//! A *command* is one command name in a container. A *series* is one path that the processes of a command
//! map. Containers, commands and series have ids, which they keep until they are removed.

use std::collections::HashMap;

use super::grouping::kind_position;
use super::labels;
use super::other::OTHER;
use super::slab::Slab;
use super::sums::{Size, Totals};

/// About how much memory an entry of a hash table takes, without its key.
const ENTRY_BYTES: usize = 48;

/// The key by which the caller identifies a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerKey(pub u32);

/// A container, or several containers with the same labels.
#[derive(Debug)]
pub(super) struct Container {
    /// The beginning of each label text: `{namespace="..",pod="..",container=".."`.
    pub(super) labels: Box<str>,
    /// The bytes that the exporter itself uses to store the container's commands, series and readings. A
    /// reading is the stored result of a process's last read.
    pub(super) n_bytes: usize,
    /// How many paths of the container are summed as `[other]`.
    pub(super) n_folded: u64,
    /// The size of the largest path that was merged into `[other]` to save memory; `None` once there is
    /// enough memory again.
    pub(super) largest_merged: Option<Size>,
    /// Whether `[other]` includes file pages. If so, the paths of these pages are unknown.
    pub(super) has_unnamed_files: bool,
    is_used: bool,
}

/// A command name in a container.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) container: u32,
    /// The container's label text, followed by `,comm=".."`. There is no closing brace.
    pub(super) labels: Box<str>,
    /// The position of the command among all commands, sorted by label text.
    pub(super) position: u32,
    /// The number of the command's processes that are included in the sums.
    pub(super) n_processes: u64,
    /// How many readings the command has. A reading is the stored result of a process's last read.
    pub(super) n_readings: u32,
    /// The ids of the command's series. The key is the path that the series stands for.
    pub(super) series: HashMap<Box<str>, u32>,
    /// The id of the series `[other]`, once there is one.
    pub(super) other: Option<u32>,
    /// Whether this is the command `[other]`.
    pub(super) is_other: bool,
}

/// A path that the processes of a command map, or `[other]`. The series `[other]` is the sum of everything in
/// the command that has no series of its own, such as paths that were merged to save memory.
#[derive(Debug)]
pub struct Series {
    /// The whole label text, with its braces.
    pub labels: Box<str>,
    /// The sums over all readings, except the readings that [`Snapshot::sum`](super::snapshot::Snapshot::sum)
    /// leaves out.
    pub totals: Totals,
    pub(super) command: u32,
    /// How many readings contain the series.
    pub(super) n_readings: u32,
    /// The position of the series among all series, sorted by label text.
    pub(super) position: u32,
    /// The position of the path's kind in [`KIND_LABELS`](super::grouping::KIND_LABELS).
    pub(super) kind: u8,
    /// Whether this is the series `path="[other]"`, which stays in the table until its command is removed.
    pub(super) is_other: bool,
}

/// The containers, commands and series. Looking up one of them that is in the table allocates no memory.
#[derive(Debug, Default)]
pub struct Table {
    /// The maximum length of a path in bytes; 0 means no limit. Paths are cut, because long-term stores
    /// refuse samples with longer label values. Grafana Mimir refuses values above 2 KiB.
    max_label_bytes: usize,
    /// How many bytes the whole table and all readings take. A reading is the stored result of a process's
    /// last read.
    pub(super) n_bytes: usize,
    pub(super) containers: Slab<Container>,
    pub(super) commands: Slab<Command>,
    pub(super) series: Slab<Series>,
    pub(super) order: Order,
    keys: HashMap<ContainerKey, u32>,
    containers_by_labels: HashMap<Box<str>, u32>,
    commands_by_labels: HashMap<Box<str>, u32>,
    /// Memory that is reused for building label text.
    text: String,
}

/// The ids of all commands, and the ids of all series. Both lists are sorted by label text.
#[derive(Debug, Default)]
pub(super) struct Order {
    pub(super) commands: Vec<u32>,
    pub(super) series: Vec<u32>,
    pub(super) is_stale: bool,
}

impl Command {
    /// Returns the escaped name of the command. `container` is the label text of the command's container,
    /// with which the label text of the command begins.
    pub(super) fn name(&self, container: &str) -> &str {
        let comm = &self.labels[container.len()..];
        comm.strip_prefix(",comm=\"").and_then(|rest| rest.strip_suffix('"')).unwrap_or_default()
    }

    /// Returns how many bytes a command takes in the table. `label_len` is the length of its label text,
    /// which is kept twice.
    pub(super) fn n_bytes(label_len: usize) -> usize {
        size_of::<Self>() + 2 * label_len + ENTRY_BYTES
    }
}

impl Series {
    /// Returns the path of the series, escaped as a label value. `command` is the command of the series.
    pub(super) fn value(&self, command: &Command) -> &str {
        let label = &self.labels[command.labels.len()..];
        label.split_once('"').and_then(|(_, rest)| rest.strip_suffix("\"}")).unwrap_or_default()
    }

    /// Returns how many bytes a series takes in the table. `label_len` is the length of its label text.
    /// `value_len` is the length of its path, which is also stored as a key of [`Command::series`].
    pub(super) fn n_bytes(label_len: usize, value_len: usize) -> usize {
        size_of::<Self>() + label_len + value_len + ENTRY_BYTES
    }
}

impl Table {
    /// Returns an empty table that cuts paths to this length; 0 means no limit.
    pub(super) fn new(max_label_bytes: usize) -> Self {
        Self { max_label_bytes, ..Self::default() }
    }

    /// Returns as much of the beginning of a path as fits into a label. The path is never cut inside a
    /// character.
    pub(super) fn cut<'a>(&self, path: &'a str) -> &'a str {
        match self.max_label_bytes {
            0 => path,
            max => &path[..path.floor_char_boundary(max)],
        }
    }

    /// Registers `key` for the container with these labels. Containers with the same labels are kept as one.
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
                has_unnamed_files: false,
                is_used: true,
            };
            let id = self.containers.insert(container);
            self.containers_by_labels.insert(labels.into(), id);
            id
        });
        self.keys.insert(key, id);
    }

    /// Returns the id of the container with this key, if it is registered.
    pub(super) fn container(&self, key: ContainerKey) -> Option<u32> {
        self.keys.get(&key).copied()
    }

    /// Returns the id of the command with this name. If there is no such command, `is_allowed` gets the
    /// number of bytes that a new command needs. If `is_allowed` returns true, the command is added.
    /// Otherwise the result is `None`.
    pub(super) fn command(
        &mut self,
        container: u32,
        comm: &str,
        is_allowed: impl FnOnce(&Self, usize) -> bool,
    ) -> Option<u32> {
        let labels = &self.containers.get(container).labels;
        self.text.clear();
        labels::command(&mut self.text, labels, comm);
        if let Some(&id) = self.commands_by_labels.get(self.text.as_str()) {
            return Some(id);
        }
        let n_bytes = Command::n_bytes(self.text.len()) + Series::n_bytes(self.text.len(), 0);
        if !is_allowed(self, n_bytes) {
            return None;
        }
        Some(self.insert_command(container, comm == OTHER))
    }

    /// Returns the id of the command `[other]` of a container. Processes with a new name are counted in this
    /// command if a new command would exceed the exporter's memory limit.
    pub(super) fn other_command(&mut self, container: u32) -> u32 {
        self.text.clear();
        labels::command(&mut self.text, &self.containers.get(container).labels, OTHER);
        match self.commands_by_labels.get(self.text.as_str()) {
            Some(&id) => id,
            None => self.insert_command(container, true),
        }
    }

    /// Adds a command. Its label text is in `self.text`.
    fn insert_command(&mut self, container: u32, is_other: bool) -> u32 {
        let labels: Box<str> = self.text.as_str().into();
        self.take_bytes(container, Command::n_bytes(labels.len()));
        let id = self.commands.insert(Command {
            container,
            labels: labels.clone(),
            position: 0,
            n_processes: 0,
            n_readings: 0,
            series: HashMap::new(),
            other: None,
            is_other,
        });
        self.commands_by_labels.insert(labels, id);
        self.order.is_stale = true;
        id
    }

    /// Returns the id of a command's series for this path. Adds the series if there is none.
    pub(super) fn series_of(&mut self, command_id: u32, path: &str) -> u32 {
        let command = self.commands.get_mut(command_id);
        if let Some(&id) = command.series.get(path) {
            return id;
        }
        let is_other = path == OTHER;
        self.text.clear();
        self.text.push_str(&command.labels);
        labels::push(&mut self.text, ",path=\"", path);
        self.text.push('}');
        let id = self.series.insert(Series {
            labels: self.text.as_str().into(),
            totals: Totals::default(),
            command: command_id,
            n_readings: 0,
            position: 0,
            kind: kind_position(path),
            is_other,
        });
        if is_other {
            command.other = Some(id);
        }
        command.series.insert(path.into(), id);
        let container = command.container;
        self.order.is_stale = true;
        self.take_bytes(container, Series::n_bytes(self.text.len(), path.len()));
        id
    }

    /// Adds `n_bytes` to the memory that the table uses for a container, and to the memory of the whole
    /// table.
    pub(super) fn take_bytes(&mut self, container: u32, n_bytes: usize) {
        self.containers.get_mut(container).n_bytes += n_bytes;
        self.n_bytes += n_bytes;
    }

    /// Sets all sums to zero.
    pub(super) fn clear_sums(&mut self) {
        for container in self.containers.iter_mut() {
            (container.n_folded, container.has_unnamed_files) = (0, false);
        }
        for series in self.series.iter_mut() {
            (series.totals, series.n_readings) = (Totals::default(), 0);
        }
        for command in self.commands.iter_mut() {
            (command.n_processes, command.n_readings) = (0, 0);
        }
    }

    /// Removes the commands and series that no reading contains. The series `[other]` stays until its command
    /// is removed, because paths that were merged are usually merged again.
    pub(super) fn remove_unused(&mut self) {
        let commands = &self.commands;
        let is_used = |series: &Series| {
            series.n_readings > 0 || series.is_other && commands.get(series.command).n_readings > 0
        };
        if !self.series.iter().all(is_used) {
            self.series.retain(|_, series| is_used(series));
            self.forget_removed_series();
        }
        let is_used = |command: &Command| command.n_readings > 0;
        if !self.commands.iter().all(is_used) {
            self.commands.retain(|_, command| is_used(command));
            self.commands_by_labels.retain(|_, id| self.commands.has(*id));
            self.commands_by_labels.shrink_to(2 * self.commands.len());
            self.remove_unused_containers();
            self.order.is_stale = true;
        }
    }

    /// Removes series that no longer exist from the map `series` of each command.
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

    /// Sorts commands and series by label text, if new ones were added.
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
        for (position, &id) in (0..).zip(&*commands) {
            self.commands.get_mut(id).position = position;
        }
        for (position, &id) in (0..).zip(&*series) {
            self.series.get_mut(id).position = position;
        }
    }

    /// Returns the commands of a container, sorted by label text.
    pub(super) fn commands_of(&self, container: u32) -> impl Iterator<Item = &Command> {
        let labels = &self.containers.get(container).labels;
        let commands = &self.order.commands;
        let start = commands.partition_point(|&id| self.commands.get(id).labels < *labels);
        let commands = commands[start..].iter().map(|&id| self.commands.get(id));
        commands.take_while(move |command| command.container == container)
    }

    /// Returns the number of processes that are included in the sums.
    pub fn n_processes(&self) -> u64 {
        self.commands.iter().map(|command| command.n_processes).sum()
    }

    /// Returns the series with at least one mapping in their totals, sorted by label text.
    pub fn series(&self) -> impl Iterator<Item = &Series> {
        let series = self.order.series.iter().map(|&id| self.series.get(id));
        series.filter(|series| series.totals.n_mappings > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_cut_between_characters() {
        for (max_label_bytes, path, expected) in [
            (0, "/abc", "/abc"),
            (4, "/abc", "/abc"),
            (3, "/abc", "/ab"),
            (3, "/aé", "/a"),
            (4, "/aé", "/aé"),
        ] {
            assert_eq!(Table::new(max_label_bytes).cut(path), expected);
        }
    }
}
