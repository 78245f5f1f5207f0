//! One scrape's totals: mappings of processes, summed by command and by path.
//!
//! A *command* is a command name in a container; a *series* is what is summed under one label text. Each process keeps
//! the *reading* it gave last, packed; a snapshot is the sum over the readings of the processes that live. So a process that was not read
//! this time counts with its last values, and one that is gone no longer counts, without any subtraction.
//!
//! Nothing is allocated while the commands and paths stay the same.

use std::collections::HashMap;

use crate::args::GroupBy;
use crate::fields::FIRST_LARGEST;
use crate::labels;
use crate::slots::Slots;
use crate::smaps::{Mapping, Values};

/// Values of several mappings together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Their fields: sums, and for page sizes the largest.
    pub values: Values,
    /// How many mappings they are.
    pub n_mappings: u64,
}

impl Totals {
    fn add(&mut self, other: &Totals) {
        self.values.present |= other.values.present;
        self.n_mappings += other.n_mappings;
        let (sums, largest) = self.values.bytes.split_at_mut(FIRST_LARGEST);
        let (other_sums, other_largest) = other.values.bytes.split_at(FIRST_LARGEST);
        for (sum, other) in sums.iter_mut().zip(other_sums) {
            *sum = sum.saturating_add(*other);
        }
        for (largest, other) in largest.iter_mut().zip(other_largest) {
            *largest = (*largest).max(*other);
        }
    }
}

/// Names a command of a [`Snapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandId(u32);

/// A command name in a container; with `--pid`, one process of it.
#[derive(Debug)]
pub struct Command {
    /// `{namespace="..",pod="..",container="..",comm=".."` and the pid, left open for further labels.
    labels: Box<str>,
    /// Up to here, `labels` holds no pid.
    comm_end: usize,
    n_processes: u64,
    paths: HashMap<Box<str>, u32>,
}

/// What is summed under one label text.
#[derive(Debug)]
pub struct Series {
    /// The whole label text, with its braces.
    pub labels: Box<str>,
    /// The sums.
    pub totals: Totals,
    /// Where `pending` holds what the process that is being read adds; valid if it is of this series.
    pending: u32,
}

/// What one process contributes: its totals by series, packed to about 20 bytes a series.
#[derive(Debug, Default)]
pub struct Reading {
    command: u32,
    packed: Vec<u8>,
}

impl Reading {
    /// Whether it holds no mapping.
    pub fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    /// Forgets what it holds.
    pub fn clear(&mut self) {
        self.packed.clear();
    }

    fn pack(&mut self, series: u32, totals: &Totals) {
        self.put(u64::from(series));
        self.put(totals.n_mappings);
        self.put(u64::from(totals.values.present));
        let nonzero =
            totals.values.bytes.iter().enumerate().fold(0, |mask, (i, &v)| mask | u64::from(v != 0) << i);
        self.put(nonzero);
        for &value in totals.values.bytes.iter().filter(|&&value| value != 0) {
            self.put(value.rotate_right(KIB_BITS));
        }
    }

    /// Seven bits a byte, the lowest first, the high bit says that more follow (LEB128).
    fn put(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.packed.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.packed.push(number as u8);
    }

    fn unpack(mut packed: &[u8], mut each: impl FnMut(u32, &Totals)) {
        while !packed.is_empty() {
            let mut take = || {
                let mut number = 0;
                for shift in (0..64).step_by(7) {
                    let (&byte, rest) = packed.split_first().expect("pack() writes whole numbers");
                    packed = rest;
                    number |= u64::from(byte & 0x7f) << shift;
                    if byte < 0x80 {
                        break;
                    }
                }
                number
            };
            let series = take() as u32;
            let mut totals = Totals { n_mappings: take(), ..Totals::default() };
            totals.values.present = take() as u32;
            let mut nonzero = take();
            while nonzero != 0 {
                totals.values.bytes[nonzero.trailing_zeros() as usize] = take().rotate_left(KIB_BITS);
                nonzero &= nonzero - 1;
            }
            each(series, &totals);
        }
    }
}

/// smaps counts in KiB: rotated by these bits, usual values become small numbers and none is lost.
const KIB_BITS: u32 = 10;

/// The commands and series of a node.
#[derive(Debug, Default)]
pub struct Snapshot {
    commands: Slots<Command>,
    commands_by_labels: HashMap<Box<str>, u32>,
    series: Slots<Series>,
    order: Order,
    group_by: GroupBy,
    by_pid: bool,
    /// The command that is being read, and what it has added by series.
    command: u32,
    pending: Vec<(u32, Totals)>,
    /// Scratch.
    text: String,
    lossy: String,
}

/// Live commands and series, each in the order of their label text.
#[derive(Debug, Default)]
struct Order {
    commands: Vec<u32>,
    series: Vec<u32>,
    stale: bool,
}

impl Snapshot {
    /// An empty one that sums by `group_by`, and by process with `by_pid`.
    pub fn new(group_by: GroupBy, by_pid: bool) -> Self {
        Self { group_by, by_pid, ..Self::default() }
    }

    /// Begins to read process `pid` with the name `comm` (any bytes), in the container with these labels (as [`labels::container`] makes
    /// them). What an earlier process has left unfinished is forgotten.
    pub fn begin(&mut self, container: &str, comm: &[u8], pid: u32) {
        self.pending.clear();
        self.text.clear();
        let comm = labels::lossy(comm, &mut self.lossy);
        labels::command(&mut self.text, container, comm, None);
        let comm_end = self.text.len();
        if self.by_pid {
            self.text.clear();
            labels::command(&mut self.text, container, comm, Some(pid));
        }
        self.command = match self.commands_by_labels.get(self.text.as_str()) {
            Some(&id) => id,
            None => {
                let labels: Box<str> = self.text.as_str().into();
                let command =
                    Command { labels: labels.clone(), comm_end, n_processes: 0, paths: HashMap::new() };
                let id = self.commands.insert(command);
                self.commands_by_labels.insert(labels, id);
                self.order.stale = true;
                id
            }
        };
    }

    /// Adds a mapping to the process that is being read.
    pub fn add(&mut self, mapping: Mapping<'_>) {
        let id = self.series_of(mapping.path);
        let series = self.series.get_mut(id);
        let totals = Totals { values: *mapping.values, n_mappings: 1 };
        match self.pending.get_mut(series.pending as usize) {
            Some((owner, sum)) if *owner == id => sum.add(&totals),
            _ => {
                series.pending = self.pending.len() as u32;
                self.pending.push((id, totals));
            }
        }
    }

    /// Ends the process: puts all that was added since [`Snapshot::begin`] into `reading`.
    pub fn finish(&mut self, reading: &mut Reading) {
        reading.clear();
        reading.command = self.command;
        for (series, totals) in &self.pending {
            reading.pack(*series, totals);
        }
    }

    /// The series of the command that is being read to which a mapping of `path` belongs.
    fn series_of(&mut self, path: &[u8]) -> u32 {
        let path = match path {
            b"" => "[anon]",
            path => labels::lossy(path, &mut self.lossy),
        };
        let value = match self.group_by {
            GroupBy::Path => path,
            GroupBy::Kind => labels::kind(path),
            GroupBy::Process => "",
        };
        let command = self.commands.get_mut(self.command);
        if let Some(&id) = command.paths.get(value) {
            return id;
        }
        self.text.clear();
        self.text.push_str(&command.labels);
        match self.group_by {
            GroupBy::Path => labels::push(&mut self.text, ",path=\"", value),
            GroupBy::Kind => labels::push(&mut self.text, ",kind=\"", value),
            GroupBy::Process => {}
        }
        self.text.push('}');
        let labels = self.text.as_str().into();
        let id = self.series.insert(Series { labels, totals: Totals::default(), pending: 0 });
        command.paths.insert(value.into(), id);
        self.order.stale = true;
        id
    }

    /// Makes the totals the sum over `readings`, and drops the commands and series that none of them names.
    pub fn sum<'a>(&mut self, readings: impl Iterator<Item = &'a Reading>) {
        for series in self.series.iter_mut() {
            series.totals = Totals::default();
        }
        for command in self.commands.iter_mut() {
            command.n_processes = 0;
        }
        // A process without mappings (a zombie, a kernel thread) is not counted.
        for reading in readings.filter(|reading| !reading.is_empty()) {
            self.commands.get_mut(reading.command).n_processes += 1;
            Reading::unpack(&reading.packed, |id, totals| self.series.get_mut(id).totals.add(totals));
        }
        self.drop_unused();
        if self.order.stale {
            self.sort();
        }
    }

    fn drop_unused(&mut self) {
        let n_used = self.series.iter().filter(|series| series.totals.n_mappings > 0).count();
        if n_used < self.series.len() {
            for command in self.commands.iter_mut() {
                command.paths.retain(|_, id| self.series.get(*id).totals.n_mappings > 0);
            }
            self.series.retain(|series| series.totals.n_mappings > 0);
            self.order.stale = true;
        }
        let n_used = self.commands.iter().filter(|command| command.n_processes > 0).count();
        if n_used < self.commands.len() {
            self.commands_by_labels.retain(|_, id| self.commands.get(*id).n_processes > 0);
            self.commands.retain(|command| command.n_processes > 0);
            self.order.stale = true;
        }
    }

    fn sort(&mut self) {
        let Order { commands, series, stale } = &mut self.order;
        commands.clear();
        commands.extend(self.commands.ids());
        commands.sort_by(|&a, &b| self.commands.get(a).labels.cmp(&self.commands.get(b).labels));
        series.clear();
        series.extend(self.series.ids());
        series.sort_by(|&a, &b| self.series.get(a).labels.cmp(&self.series.get(b).labels));
        *stale = false;
    }

    /// How many processes stand behind each command: its label text, left open, and their number; by label text.
    pub fn processes(&self) -> impl Iterator<Item = (&str, u64)> {
        let mut commands = self.order.commands.iter().map(|&id| self.commands.get(id)).peekable();
        std::iter::from_fn(move || {
            let command = commands.next()?;
            let labels = &command.labels[..command.comm_end];
            let mut n_processes = command.n_processes;
            // With --pid, the processes of one command follow each other.
            while let Some(same) = commands.next_if(|next| &next.labels[..next.comm_end] == labels) {
                n_processes += same.n_processes;
            }
            Some((labels, n_processes))
        })
    }

    /// The series, by their label text.
    pub fn series(&self) -> impl Iterator<Item = &Series> {
        self.order.series.iter().map(|&id| self.series.get(id))
    }
}
