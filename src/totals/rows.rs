//! The commands and rows of a view, in the order of their label texts. A command is all processes with one
//! name in a container, or a single process. A row is one series of a command.

use super::grouping::KIND_LABELS;
use super::reading::Reading;
use super::row::{Command, Label, Outline, Row, Source};
use super::shape::Shape;
use super::slab::Slab;
use super::sums::Totals;
use super::table::Table;

/// The label of the command in which small commands are summed.
pub(super) const OTHER_COMMAND: &str = r#",comm="[other]""#;
/// The label of the row in which small paths are summed.
pub(super) const OTHER_PATH: &str = r#",path="[other]"}"#;

/// The source of all views: the stored result of each process's last read (its reading), and the sums over
/// these readings by path.
#[derive(Clone, Copy, Debug)]
pub struct Summed<'a> {
    pub(super) table: &'a Table,
    pub(super) readings: &'a Slab<Reading>,
}

/// The commands and rows of a view.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) shape: Shape,
    pub(super) commands: Vec<Command>,
    pub(super) rows: Vec<Row>,
    pub(super) sums: Vec<Totals>,
    /// The labels `pid` of single processes, one after another.
    pub(super) text: String,
}

impl Rows {
    /// Removes the commands and rows of the last view. Keeps the memory for the next view, but at most twice
    /// as much as the last view used.
    pub(super) fn clear(&mut self) {
        let Self { commands, rows, sums, text, .. } = self;
        commands.shrink_to(2 * commands.len());
        rows.shrink_to(2 * rows.len());
        sums.shrink_to(2 * sums.len());
        text.shrink_to(2 * text.len());
        commands.clear();
        rows.clear();
        sums.clear();
        text.clear();
    }

    /// Returns how many bytes of memory the commands and rows take.
    pub(super) fn n_bytes(&self) -> usize {
        let Self { commands, rows, sums, text, .. } = self;
        size_of_val(&commands[..]) + size_of_val(&rows[..]) + size_of_val(&sums[..]) + text.len()
    }

    /// Whether a row is part of the exposition.
    pub(super) fn is_shown(&self, row: &Row) -> bool {
        !row.is_folded && row.outline.n_mappings > 0
    }

    /// Returns the label text of a command, in two pieces and without the closing brace.
    pub(super) fn labels_of<'a>(&'a self, table: &'a Table, command: &Command) -> [&'a str; 2] {
        match command.id {
            Some(id) => [&table.commands.get(id).labels, &self.text[command.pid.clone()]],
            None => [&table.containers.get(command.container).labels, OTHER_COMMAND],
        }
    }

    /// Returns the label text of a row, in three pieces and with its braces.
    pub(super) fn labels<'a>(&'a self, table: &'a Table, row: &Row) -> [&'a str; 3] {
        let command = &self.commands[row.command as usize];
        let [name, pid] = self.labels_of(table, command);
        match row.label {
            Label::Path(id) if pid.is_empty() => [&table.series.get(id).labels, "", ""],
            Label::Path(id) => [name, pid, &table.series.get(id).labels[name.len()..]],
            Label::Other => [name, pid, OTHER_PATH],
            Label::Kind(kind) => [name, pid, KIND_LABELS[kind as usize]],
            Label::Command => [name, pid, "}"],
        }
    }

    /// Returns the totals of a row.
    pub(super) fn totals(&self, summed: Summed<'_>, row: &Row) -> Totals {
        match row.source {
            Source::Nothing => Totals::default(),
            Source::Series(id) => summed.table.series.get(id).totals,
            Source::Reading { id, at } => summed.readings.get(id).totals_at(at),
            Source::Sum(i) => self.sums[i as usize],
        }
    }

    /// Returns the value of one field of a row.
    pub(super) fn value(&self, summed: Summed<'_>, row: &Row, field: usize) -> u64 {
        match row.source {
            Source::Series(id) => summed.table.series.get(id).totals.values.bytes[field],
            Source::Sum(i) => self.sums[i as usize].values.bytes[field],
            Source::Nothing | Source::Reading { .. } => self.totals(summed, row).values.bytes[field],
        }
    }

    /// Appends a row to the command at the position `command`, which must be the last command. `len` is the
    /// length of the row's own label, without the labels of the command.
    pub(super) fn push(
        &mut self,
        command: usize,
        label: Label,
        len: usize,
        source: Source,
        outline: Outline,
    ) {
        let label_len = (self.commands[command].label_len + len) as u32;
        let command = command as u32;
        self.rows.push(Row { command, label_len, label, source, outline, is_folded: false });
    }

    /// Appends a row with these totals to the command at the position `command`, which must be the last
    /// command. `len` is the length of the row's own label, without the labels of the command.
    pub(super) fn push_sum(&mut self, command: usize, label: Label, len: usize, totals: &Totals) {
        let source = Source::Sum(self.sums.len() as u32);
        self.sums.push(*totals);
        self.push(command, label, len, source, Outline::of(totals));
    }

    /// Adds `totals` to the totals of the row at this position.
    pub(super) fn add(&mut self, summed: Summed<'_>, row: usize, totals: &Totals) {
        let i = match self.rows[row].source {
            Source::Sum(i) => i as usize,
            _ => {
                self.sums.push(self.totals(summed, &self.rows[row]));
                self.sums.len() - 1
            }
        };
        self.sums[i].add(totals);
        let row = &mut self.rows[row];
        row.source = Source::Sum(i as u32);
        row.outline = Outline::of(&self.sums[i]);
    }

    /// Returns how many samples `--max-samples` counts for a row. A sample with a long label text counts as
    /// several samples.
    pub(super) fn cost_of(&self, row: &Row) -> usize {
        self.shape.cost(row.label_len as usize, &row.outline)
    }

    /// Returns the label text and the number of processes of each command name that is shown. The label text
    /// comes in two pieces, which the caller writes one after the other. It lacks the closing brace.
    pub(super) fn processes<'a>(&'a self, table: &'a Table) -> impl Iterator<Item = ([&'a str; 2], u64)> {
        let is_shown = |command: &&Command| command.n_processes > 0 && !command.is_folded;
        let mut commands = self.commands.iter().filter(is_shown).peekable();
        std::iter::from_fn(move || {
            let command = commands.next()?;
            let mut n_processes = command.n_processes;
            while let Some(same) = commands.next_if(|next| next.first_of_name == command.first_of_name) {
                n_processes += same.n_processes;
            }
            let [name, rest] = self.labels_of(table, command);
            Some(([name, if command.id.is_some() { "" } else { rest }], n_processes))
        })
    }

    /// Returns how many samples `--max-samples` counts for the whole view (see [`cost_of`](Self::cost_of)).
    pub(super) fn cost(&self, table: &Table) -> usize {
        let shown = self.rows.iter().filter(|row| self.is_shown(row));
        shown.map(|row| self.cost_of(row)).sum::<usize>() + self.processes(table).count()
    }
}
