//! One scrape's totals: mappings of processes, summed by command and by path.
//!
//! A *command* is a command name in a container; a *series* is what is summed under one label text. Each process keeps
//! the *reading* it gave last, packed; a snapshot is the sum over the readings of the processes that live. So a process that was not read
//! this time counts with its last values, and one that is gone no longer counts, without any subtraction.
//!
//! Nothing is allocated while the commands and paths stay the same.

use std::collections::HashMap;

use crate::smaps::fields::{FIRST_LARGEST, FieldMask, N_FIELDS, NOT_IN_ROLLUP, RSS};
use crate::smaps::scanner::{Mapping, Values};
use crate::totals::grouping::GroupBy;
use crate::totals::labels;
use crate::totals::slab::Slots;

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
    fn label(&self, text: &mut String, command: &str, value: &str) {
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
    fn n_samples(&self, totals: &Totals) -> usize {
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

/// The path under which paths are folded.
const OTHER: &str = "[other]";

/// A path is cut here. No call takes a longer one than 4,096 bytes, of which the kernel prints each newline as four; but directories
/// can be nested to any depth step by step, and then it prints all of it, on every line that we export.
const MAX_PATH_LEN: usize = 4 * 4096;

/// A path longer than this is a long one. Programs do not have such; whoever makes them could fill our memory, for a path
/// stands in every sample of its series.
const LONG_PATH_LEN: usize = 512;

/// Long paths beyond so many bytes on the node are not told apart: they fold from the start.
const MAX_LONG_BYTES: usize = 1 << 20;

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
        self.add_values(&other.values, other.n_mappings);
    }

    fn add_values(&mut self, values: &Values, n_mappings: u64) {
        self.values.present |= values.present;
        self.n_mappings += n_mappings;
        let (sums, largest) = self.values.bytes.split_at_mut(FIRST_LARGEST);
        let (other_sums, other_largest) = values.bytes.split_at(FIRST_LARGEST);
        for (sum, other) in sums.iter_mut().zip(other_sums) {
            *sum = sum.saturating_add(*other);
        }
        for (largest, other) in largest.iter_mut().zip(other_largest) {
            *largest = (*largest).max(*other);
        }
    }
}

/// A command name in a container; with `--pid`, one process of it.
#[derive(Debug)]
pub struct Command {
    /// `{namespace="..",pod="..",container="..",comm=".."` and the pid, left open for further labels.
    labels: Box<str>,
    /// Up to here, `labels` holds no pid.
    comm_end: usize,
    n_processes: u64,
    paths: HashMap<Box<str>, u32>,
    /// The series into which paths are folded, once there has been one, and which of them are at the moment.
    other: Option<u32>,
    n_folded: u64,
    last_folded: u32,
}

/// What is summed under one label text.
#[derive(Debug)]
pub struct Series {
    /// The whole label text, with its braces.
    pub labels: Box<str>,
    /// The sums.
    pub totals: Totals,
    command: u32,
    /// Its totals stand in the series of the other paths.
    is_folded: bool,
    /// Others fold into it. It stays while its command does.
    is_other: bool,
    /// The length of its path, if that is a long one; else 0.
    long_len: usize,
    /// Where `pending` holds what the process that is being read adds; valid if it is of this series.
    pending: u32,
}

impl Series {
    fn new(labels: &str, command: u32, is_other: bool) -> Self {
        let totals = Totals::default();
        Self { labels: labels.into(), totals, command, is_folded: false, is_other, long_len: 0, pending: 0 }
    }
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
    shape: Shape,
    n_folded: u64,
    /// The command that is being read, and what it has added by series.
    command: u32,
    pending: Vec<(u32, Totals)>,
    /// The path that was added last, and its series: neighbours mostly have the same, such as the segments of a library.
    last_path: Vec<u8>,
    last: Option<u32>,
    /// The most that a process has added since the last sum.
    most_pending: usize,
    /// Resident bytes, position in the order and number of each series that may be folded.
    smallest: Vec<(u64, u32, u32)>,
    /// What the paths of all series together have in long ones.
    long_bytes: usize,
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
    /// An empty one of this shape.
    pub fn new(shape: Shape) -> Self {
        Self { shape, ..Self::default() }
    }

    /// What it sums by, and which samples of it are exported.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Begins to read process `pid` with the name `comm` (any bytes), in the container with these labels (as [`labels::container`] makes
    /// them). What an earlier process has left unfinished is forgotten.
    pub fn begin(&mut self, container: &str, comm: &[u8], pid: u32) {
        self.pending.clear();
        self.last = None;
        self.text.clear();
        let comm = labels::lossy(comm, &mut self.lossy);
        labels::command(&mut self.text, container, comm, None);
        let comm_end = self.text.len();
        if self.shape.by_pid {
            self.text.clear();
            labels::command(&mut self.text, container, comm, Some(pid));
        }
        self.command = match self.commands_by_labels.get(self.text.as_str()) {
            Some(&id) => id,
            None => {
                let labels: Box<str> = self.text.as_str().into();
                let command = Command {
                    labels: labels.clone(),
                    comm_end,
                    n_processes: 0,
                    paths: HashMap::new(),
                    other: None,
                    n_folded: 0,
                    last_folded: 0,
                };
                let id = self.commands.insert(command);
                self.commands_by_labels.insert(labels, id);
                self.order.stale = true;
                id
            }
        };
    }

    /// Adds a mapping to the process that is being read.
    pub fn add(&mut self, mapping: Mapping<'_>) {
        let id = match self.last {
            Some(id) if self.last_path == mapping.path => id,
            _ => self.series_of(mapping.path),
        };
        let series = self.series.get_mut(id);
        match self.pending.get_mut(series.pending as usize) {
            Some((owner, sum)) if *owner == id => sum.add_values(mapping.values, mapping.count),
            _ => {
                series.pending = self.pending.len() as u32;
                self.pending.push((id, Totals { values: *mapping.values, n_mappings: mapping.count }));
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
        reading.packed.shrink_to(2 * reading.packed.len());
        self.most_pending = self.most_pending.max(self.pending.len());
    }

    /// The series of the command that is being read to which a mapping of `path` belongs.
    fn series_of(&mut self, path: &[u8]) -> u32 {
        let id = self.find_or_insert(path);
        self.last = Some(id);
        self.last_path.clear();
        self.last_path.extend_from_slice(path);
        id
    }

    fn find_or_insert(&mut self, path: &[u8]) -> u32 {
        let path = match path {
            b"" => "[anon]",
            path => labels::lossy(&path[..path.len().min(MAX_PATH_LEN)], &mut self.lossy),
        };
        let value = match self.shape.group_by {
            GroupBy::Path => path,
            GroupBy::Kind => labels::kind(path),
            GroupBy::Process => "",
        };
        let command = self.commands.get_mut(self.command);
        if let Some(&id) = command.paths.get(value) {
            return id;
        }
        let is_by_path = self.shape.group_by == GroupBy::Path;
        let long_len = if value.len() > LONG_PATH_LEN { value.len() } else { 0 };
        let is_too_long = long_len > 0 && self.long_bytes + long_len > MAX_LONG_BYTES;
        let is_too_many = self.shape.max_samples > 0 && self.series.len() >= 4 * self.shape.max_samples;
        let (value, long_len) =
            if is_by_path && (is_too_long || is_too_many) { (OTHER, 0) } else { (value, long_len) };
        if let Some(&id) = command.paths.get(value) {
            return id;
        }
        self.long_bytes += long_len;
        let is_other = is_by_path && value == OTHER;
        let id = command.other.filter(|_| is_other).unwrap_or_else(|| {
            self.shape.label(&mut self.text, &command.labels, value);
            self.order.stale = true;
            self.series.insert(Series { long_len, ..Series::new(&self.text, self.command, is_other) })
        });
        if is_other {
            command.other = Some(id);
        }
        command.paths.insert(value.into(), id);
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
        }
        // A process without mappings (a zombie, a kernel thread) is not counted.
        for reading in readings.filter(|reading| !reading.is_empty()) {
            self.commands.get_mut(reading.command).n_processes += 1;
            Reading::unpack(&reading.packed, |id, totals| self.series.get_mut(id).totals.add(totals));
        }
        self.drop_unused();
        self.sort();
        self.fold();
        self.sort();
    }

    fn drop_unused(&mut self) {
        let commands = &self.commands;
        let is_used = |series: &Series| {
            series.totals.n_mappings > 0 || series.is_other && commands.get(series.command).n_processes > 0
        };
        if !self.series.iter().all(is_used) {
            self.series.retain(is_used);
            self.long_bytes = self.series.iter().map(|series| series.long_len).sum();
            for command in self.commands.iter_mut() {
                command.paths.retain(|_, id| self.series.has(*id));
                command.paths.shrink_to(2 * command.paths.len());
            }
            self.order.stale = true;
        }
        if self.commands.iter().any(|command| command.n_processes == 0) {
            self.commands.retain(|command| command.n_processes > 0);
            self.commands_by_labels.retain(|_, id| self.commands.has(*id));
            self.commands_by_labels.shrink_to(2 * self.commands.len());
            self.order.stale = true;
        }
        self.pending.shrink_to(2 * std::mem::take(&mut self.most_pending));
    }

    fn sort(&mut self) {
        let Order { commands, series, stale } = &mut self.order;
        if !std::mem::take(stale) {
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

    /// Folds the smallest paths of the node, by resident bytes and then by label text, until the samples keep to the limit.
    fn fold(&mut self) {
        self.n_folded = 0;
        let Shape { group_by, max_samples, .. } = self.shape;
        if max_samples == 0 || group_by != GroupBy::Path {
            return;
        }
        let mut n_samples = self.n_samples();
        if n_samples <= max_samples {
            return;
        }
        self.smallest.clear();
        for (position, &id) in self.order.series.iter().enumerate() {
            let series = self.series.get(id);
            if !series.is_other {
                self.smallest.push((series.totals.values.bytes[RSS], position as u32, id));
            }
        }
        self.smallest.sort_unstable();
        for &(_, _, id) in &self.smallest {
            if n_samples <= max_samples {
                break;
            }
            let series = self.series.get_mut(id);
            series.is_folded = true;
            let (totals, owner) = (series.totals, series.command);
            let command = self.commands.get_mut(owner);
            (command.n_folded, command.last_folded) = (command.n_folded + 1, id);
            let other = *command.other.get_or_insert_with(|| {
                self.shape.label(&mut self.text, &command.labels, OTHER);
                self.order.stale = true;
                self.series.insert(Series::new(&self.text, owner, true))
            });
            let other = &mut self.series.get_mut(other).totals;
            n_samples -= self.shape.n_samples(other) + self.shape.n_samples(&totals);
            other.add(&totals);
            n_samples += self.shape.n_samples(other);
            self.n_folded += 1;
        }
        self.smallest.shrink_to(2 * self.order.series.len());
        self.unfold_lonely();
    }

    /// Shows a path under its name again that is alone in its fold: it takes as many samples either way.
    fn unfold_lonely(&mut self) {
        for command in self.commands.iter_mut().filter(|command| command.n_folded == 1) {
            let lonely = self.series.get(command.last_folded).totals;
            let other = command.other.map(|other| self.series.get_mut(other));
            if let Some(other) = other.filter(|other| other.totals == lonely) {
                other.totals = Totals::default();
                self.series.get_mut(command.last_folded).is_folded = false;
                command.n_folded = 0;
                self.n_folded -= 1;
            }
        }
    }

    /// How many samples of `process_smaps_*` it gives.
    pub fn n_samples(&self) -> usize {
        self.series().map(|series| self.shape.n_samples(&series.totals)).sum::<usize>()
            + self.processes().count()
    }

    /// How many paths are folded.
    pub fn n_folded(&self) -> u64 {
        self.n_folded
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

    /// The series that are exported, by their label text.
    pub fn series(&self) -> impl Iterator<Item = &Series> {
        let series = self.order.series.iter().map(|&id| self.series.get(id));
        series.filter(|series| !series.is_folded && series.totals.n_mappings > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smaps::fields::{ALL_FIELDS, by_name};

    /// A snapshot and the readings of its processes.
    struct Node {
        snapshot: Snapshot,
        readings: Vec<Reading>,
    }

    impl Node {
        fn new(shape: Shape) -> Self {
            Self { snapshot: Snapshot::new(Shape { fields: ALL_FIELDS, ..shape }), readings: Vec::new() }
        }

        /// Adds a process with mappings of these paths and resident bytes.
        fn process(&mut self, comm: &[u8], mappings: &[(&[u8], u64)]) {
            let pid = self.readings.len() as u32 + 1;
            self.snapshot.begin("{container=\"c\"", comm, pid);
            for &(path, rss) in mappings {
                let values = values(&[("rss", rss), ("mmu_page_size", 4096)]);
                self.snapshot.add(Mapping { path, values: &values, count: 1 });
            }
            let mut reading = Reading::default();
            self.snapshot.finish(&mut reading);
            self.readings.push(reading);
        }

        fn sum(&mut self) {
            self.snapshot.sum(self.readings.iter());
        }

        /// Label text behind the container, resident bytes and mappings of each series.
        fn series(&self) -> Vec<(String, u64, u64)> {
            let text = |series: &Series| series.labels.strip_prefix("{container=\"c\",").unwrap().to_owned();
            let series = self.snapshot.series();
            series.map(|s| (text(s), s.totals.values.bytes[RSS], s.totals.n_mappings)).collect()
        }

        fn processes(&self) -> Vec<(&str, u64)> {
            let processes = self.snapshot.processes();
            processes.map(|(labels, n)| (labels.strip_prefix("{container=\"c\",").unwrap(), n)).collect()
        }
    }

    fn values(fields: &[(&str, u64)]) -> Values {
        let mut values = Values::default();
        for (name, bytes) in fields {
            let field = by_name(name).unwrap();
            values.present |= 1 << field;
            values.bytes[field] = *bytes;
        }
        values
    }

    fn owned(series: &[(&str, u64, u64)]) -> Vec<(String, u64, u64)> {
        series.iter().map(|&(labels, rss, n)| (labels.to_owned(), rss, n)).collect()
    }

    #[test]
    fn processes_of_a_command_are_summed() {
        let mut node = Node::new(Shape::default());
        node.process(b"a", &[(b"/x", 1024), (b"", 2048), (b"/x", 4096)]);
        node.process(b"b", &[(b"/x", 1024)]);
        node.process(b"a", &[(b"[anon]", 1024)]);
        node.process(b"zombie", &[]);
        node.sum();
        assert_eq!(
            node.series(),
            owned(&[
                (r#"comm="a",path="/x"}"#, 5120, 2),
                (r#"comm="a",path="[anon]"}"#, 3072, 2),
                (r#"comm="b",path="/x"}"#, 1024, 1),
            ])
        );
        assert_eq!(node.processes(), [(r#"comm="a""#, 2), (r#"comm="b""#, 1)]);
    }

    #[test]
    fn what_is_gone_is_gone_and_numbers_are_used_again() {
        let mut node = Node::new(Shape::default());
        node.process(b"a", &[(b"/x", 1024), (b"/y", 1024)]);
        node.process(b"b", &[(b"/z", 1024)]);
        node.sum();
        node.readings.remove(0);
        node.process(b"c", &[(b"/w", 2048)]);
        node.sum();
        let expected = [(r#"comm="b",path="/z"}"#, 1024, 1), (r#"comm="c",path="/w"}"#, 2048, 1)];
        assert_eq!(node.series(), owned(&expected));
        node.process(b"a", &[(b"/y", 512)]);
        node.sum();
        let expected = [(r#"comm="a",path="/y"}"#, 512, 1), expected[0], expected[1]];
        assert_eq!(node.series(), owned(&expected));
        node.readings.clear();
        node.sum();
        assert_eq!((node.series().len(), node.processes().len(), node.snapshot.n_samples()), (0, 0, 0));
    }

    #[test]
    fn a_read_that_is_not_finished_leaves_nothing() {
        let mut node = Node::new(Shape::default());
        node.snapshot.begin("{container=\"c\"", b"a", 1);
        node.snapshot.add(Mapping { path: b"/x", values: &values(&[("rss", 4096)]), count: 1 });
        node.process(b"b", &[(b"/y", 1024)]);
        node.sum();
        assert_eq!(node.series(), owned(&[(r#"comm="b",path="/y"}"#, 1024, 1)]));
        assert_eq!(node.processes(), [(r#"comm="b""#, 1)]);
    }

    #[test]
    fn texts_that_read_the_same_are_one_series() {
        let mut node = Node::new(Shape::default());
        node.process(b"a\xff", &[(b"/\xff", 1024), (b"/\xfe", 2048), ("/\u{fffd}".as_bytes(), 4096)]);
        node.process(b"a\xfe", &[(b"/\xff", 1024)]);
        node.sum();
        assert_eq!(node.series(), owned(&[("comm=\"a\u{fffd}\",path=\"/\u{fffd}\"}", 8192, 4)]));
        assert_eq!(node.processes(), [("comm=\"a\u{fffd}\"", 2)]);
    }

    #[test]
    fn sums_saturate_and_page_sizes_do_not_add_up() {
        let mut totals =
            Totals { values: values(&[("rss", u64::MAX - 1), ("mmu_page_size", 4096)]), n_mappings: 1 };
        totals
            .add(&Totals { values: values(&[("rss", 1 << 20), ("mmu_page_size", 2 << 20)]), n_mappings: 2 });
        totals.add(&Totals { values: values(&[("swap", 5), ("mmu_page_size", 4096)]), n_mappings: 1 });
        let expected = values(&[("rss", u64::MAX), ("swap", 5), ("mmu_page_size", 2 << 20)]);
        assert_eq!(totals, Totals { values: expected, n_mappings: 4 });
    }

    #[test]
    fn readings_hold_every_number() {
        for bytes in [0, 1, 1023, 1024, 4096, 127 << 10, 128 << 10, 1 << 40, u64::MAX - 1023, u64::MAX] {
            for n_mappings in [1, 127, 128, 65_530, u64::MAX] {
                let all = Values { present: ALL_FIELDS, bytes: [bytes; N_FIELDS] };
                let some = values(&[("rss", bytes), ("locked", 0)]);
                let written = [all, some].map(|values| Totals { values, n_mappings });
                let mut reading = Reading::default();
                reading.pack(3, &written[0]);
                reading.pack(u32::MAX, &written[1]);
                let mut read = Vec::new();
                Reading::unpack(&reading.packed, |series, totals| read.push((series, *totals)));
                assert_eq!(read, [(3, written[0]), (u32::MAX, written[1])]);
            }
        }
    }

    #[test]
    fn grouped_by_kind_and_process_and_pid() {
        let mappings: &[(&[u8], u64)] = &[(b"/x", 1), (b"/y", 2), (b"", 4), (b"[heap]", 8), (b"[vdso]", 16)];
        let mut kinds = Node::new(Shape { group_by: GroupBy::Kind, ..Shape::default() });
        kinds.process(b"a", mappings);
        kinds.sum();
        assert_eq!(
            kinds.series(),
            owned(&[
                (r#"comm="a",kind="anon"}"#, 4, 1),
                (r#"comm="a",kind="file"}"#, 3, 2),
                (r#"comm="a",kind="heap"}"#, 8, 1),
                (r#"comm="a",kind="special"}"#, 16, 1),
            ])
        );
        let mut whole = Node::new(Shape { group_by: GroupBy::Process, by_pid: true, ..Shape::default() });
        whole.process(b"a", mappings);
        whole.process(b"a", &mappings[..1]);
        whole.sum();
        let expected = [(r#"comm="a",pid="1"}"#, 31, 5), (r#"comm="a",pid="2"}"#, 1, 1)];
        assert_eq!(whole.series(), owned(&expected));
        assert_eq!(whole.processes(), [(r#"comm="a""#, 2)]);
    }

    #[test]
    fn the_smallest_paths_fold_and_come_back() {
        // A series of this kind has 3 samples, a command one more: 3 * 4 + 1 + 3 + 1 = 17.
        let mut node = Node::new(Shape { max_samples: 14, ..Shape::default() });
        node.process(b"a", &[(b"/big", 900), (b"/m", 20), (b"/n", 20), (b"/o", 30)]);
        node.process(b"b", &[(b"/tiny", 1)]);
        node.sum();
        // /tiny is the smallest but alone, so it keeps its name; of two of one size the first goes first.
        let folded = [
            (r#"comm="a",path="/big"}"#, 900, 1),
            (r#"comm="a",path="/o"}"#, 30, 1),
            (r#"comm="a",path="[other]"}"#, 40, 2),
            (r#"comm="b",path="/tiny"}"#, 1, 1),
        ];
        for _ in 0..3 {
            assert_eq!(node.series(), owned(&folded));
            assert_eq!((node.snapshot.n_samples(), node.snapshot.n_folded()), (14, 2));
            node.sum();
        }
        node.readings.pop();
        node.sum();
        let unfolded: Vec<String> = node.series().into_iter().map(|(labels, ..)| labels).collect();
        assert_eq!(unfolded, ["/big", "/m", "/n", "/o"].map(|path| format!(r#"comm="a",path="{path}"}}"#)));
        assert_eq!((node.snapshot.n_samples(), node.snapshot.n_folded()), (13, 0));
    }

    /// 3,000 paths of 4,000 bytes, as one process can have: a few hundred keep their names, the sums stay.
    #[test]
    fn long_paths_have_a_bound_and_short_ones_go_on() {
        let long: Vec<Vec<u8>> = (0..3000).map(|i| format!("/{i:0>4000}").into_bytes()).collect();
        let mut mappings: Vec<(&[u8], u64)> = long.iter().map(|path| (path.as_slice(), 1)).collect();
        mappings.push((b"/short", 7));
        let mut node = Node::new(Shape::default());
        node.process(b"a", &mappings);
        node.process(b"b", &mappings[..1]);
        node.sum();
        let series = node.series();
        assert!(series.iter().map(|(labels, ..)| labels.len()).sum::<usize>() < MAX_LONG_BYTES + (64 << 10));
        assert_eq!(series.iter().map(|(_, rss, _)| rss).sum::<u64>(), 3000 + 7 + 1);
        assert!(series.contains(&(r#"comm="a",path="/short"}"#.into(), 7, 1)));
        assert!(series.contains(&(r#"comm="b",path="[other]"}"#.into(), 1, 1)));
        // Once they are gone there is room again.
        node.readings.clear();
        node.process(b"b", &mappings[..1]);
        node.sum();
        node.readings.clear();
        node.process(b"b", &mappings[..1]);
        node.sum();
        assert_eq!(node.series().len(), 1);
        assert!(node.series()[0].0.len() > 4000);
    }

    #[test]
    fn series_beyond_what_could_be_exported_are_not_told_apart() {
        let paths: Vec<Vec<u8>> = (0..1000).map(|i| format!("/{i}").into_bytes()).collect();
        let mappings: Vec<(&[u8], u64)> = paths.iter().map(|path| (path.as_slice(), 1)).collect();
        let mut node = Node::new(Shape { max_samples: 50, ..Shape::default() });
        node.process(b"a", &mappings);
        node.sum();
        assert!(node.snapshot.series.len() <= 201 && node.snapshot.n_samples() <= 50);
        assert_eq!(node.series().iter().map(|(_, rss, _)| rss).sum::<u64>(), 1000);
    }

    #[test]
    fn a_path_that_is_named_as_the_fold_is() {
        let mut node = Node::new(Shape { max_samples: 4, ..Shape::default() });
        node.process(b"a", &[(b"[other]", 1), (b"/x", 2), (b"/y", 4)]);
        node.sum();
        assert_eq!(node.series(), owned(&[(r#"comm="a",path="[other]"}"#, 7, 3)]));
        assert_eq!(node.snapshot.n_folded(), 2);
    }
}
