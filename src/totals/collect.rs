//! Collects the commands and rows of a view from the readings and their sums. A view is one way to show the
//! readings. Small rows are summed as `[other]` only afterwards, in [`fold`](super::fold).

use std::ops::Range;

use super::grouping::{GroupBy, KIND_LABELS, N_KINDS, shown_kind};
use super::labels;
use super::reading::State;
use super::row::{Command, CommandFold, Label, Outline, Source};
use super::rows::{OTHER_COMMAND, OTHER_PATH, Rows, Summed};
use super::sums::Totals;
use super::table;

/// Buffers that are reused for each view. Collecting then allocates no memory.
#[derive(Debug, Default)]
pub(super) struct Collector {
    /// The processes that the sums include. The list is filled only if each process has its own series. Each
    /// entry has three parts: the position of the process's command, a key that sorts pids like their decimal
    /// texts, and the id of the process's reading.
    processes: Vec<(u32, u64, u32)>,
    /// The series of one reading. Each entry has three parts: the position of the series in the sort order,
    /// the id of the series, and the position of its totals in the reading.
    entries: Vec<(u32, u32, u32)>,
    /// The totals of one command or process, by kind.
    kinds: [Totals; N_KINDS],
}

/// The command that is being collected. `command` is its position in the view. `other` is the position of its
/// row `[other]`, once there is such a row.
struct Current {
    command: usize,
    other: Option<usize>,
}

impl Collector {
    /// Fills `rows` with the commands for which `selects` returns true. The arguments of `selects` are
    /// the container's label text without the closing brace, and the command's escaped name.
    pub(super) fn collect(
        &mut self,
        rows: &mut Rows,
        summed: Summed<'_>,
        selects: impl Fn(&str, &str) -> bool,
    ) {
        rows.clear();
        if rows.shape.by_pid {
            self.sort_processes(summed);
        }
        let table = summed.table;
        let order = &table.order;
        let (mut start, mut first_process) = (0, 0);
        // The container of the previous command, and whether its command `[other]` was already added.
        let mut container: Option<(u32, bool)> = None;
        for (position, &id) in (0..).zip(&order.commands) {
            let command = table.commands.get(id);
            let n_series = order.series[start..].iter().take_while(|&&s| table.series.get(s).command == id);
            let series = start..start + n_series.count();
            start = series.end;
            let of_command = self.processes[first_process..].iter();
            let n_processes = of_command.take_while(|process| process.0 == position).count();
            let processes = first_process..first_process + n_processes;
            first_process = processes.end;
            let labels = &*table.containers.get(command.container).labels;
            if command.n_processes == 0 || !selects(labels, command.name(labels)) {
                continue;
            }
            let has_other = match container {
                Some((same, has_other)) if same == command.container => has_other,
                before => {
                    self.end_container(rows, summed, before);
                    false
                }
            };
            let is_behind_other = command.labels[labels.len()..] >= *OTHER_COMMAND;
            let is_own_other = command.is_other && !rows.shape.by_pid;
            if is_behind_other && !has_other && !is_own_other {
                self.add_other(rows, summed, command.container);
            }
            container = Some((command.container, has_other || is_behind_other));
            if rows.shape.by_pid {
                self.add_processes(rows, summed, (id, command), processes);
            } else {
                self.add_command(rows, summed, (id, command), &order.series[series]);
            }
        }
        self.end_container(rows, summed, container);
        self.entries.shrink_to(1024);
    }

    /// Sorts the processes by command, and the processes of one command by pid as text. Processes that the
    /// sums do not include are left out.
    fn sort_processes(&mut self, summed: Summed<'_>) {
        self.processes.shrink_to(2 * self.processes.len());
        self.processes.clear();
        for id in summed.readings.ids() {
            let reading = summed.readings.get(id);
            if reading.state == State::Counted {
                let position = summed.table.commands.get(reading.command).position;
                self.processes.push((position, order_as_text(reading.pid), id));
            }
        }
        self.processes.sort_unstable();
    }

    /// Adds a command of the table as one command of the view, with the sum over its processes.
    fn add_command(
        &mut self,
        rows: &mut Rows,
        summed: Summed<'_>,
        (id, command): (u32, &table::Command),
        series: &[u32],
    ) {
        let mut current = begin(rows, command.container, Some(id), command.labels.len());
        let new = &mut rows.commands[current.command];
        (new.n_processes, new.is_other) = (command.n_processes, command.is_other);
        let is_other = command.is_other;
        match rows.shape.group_by {
            GroupBy::Path => {
                for &id in series {
                    let series = summed.table.series.get(id);
                    let outline = Outline::of(&series.totals);
                    add_path(rows, summed, &mut current, id, Source::Series(id), outline);
                }
            }
            GroupBy::Kind => {
                for series in series.iter().map(|&id| summed.table.series.get(id)) {
                    self.kinds[shown_kind(series.kind, rows.shape.anon_parts)].add(&series.totals);
                }
                self.add_kinds(rows, current.command, is_other);
            }
            GroupBy::Process => {
                let mut sum = Totals::default();
                series.iter().for_each(|&id| sum.add(&summed.table.series.get(id).totals));
                rows.push_sum(current.command, Label::Command, 1, &sum);
            }
        }
        end(rows, &mut current);
    }

    /// Adds the processes of a command one by one, so that each process has its own series.
    fn add_processes(
        &mut self,
        rows: &mut Rows,
        summed: Summed<'_>,
        command: (u32, &table::Command),
        processes: Range<usize>,
    ) {
        let mut first = rows.commands.len();
        if command.1.is_other && rows.shape.max_samples > 0 {
            first -= 1; // the command into which others fold has the same name
        }
        for process in processes {
            let (.., reading) = self.processes[process];
            self.add_process(rows, summed, command, reading);
            rows.commands.last_mut().expect("it was added").first_of_name = first;
        }
    }

    fn add_process(
        &mut self,
        rows: &mut Rows,
        summed: Summed<'_>,
        (id, command): (u32, &table::Command),
        reading_id: u32,
    ) {
        let reading = summed.readings.get(reading_id);
        let start = rows.text.len();
        labels::push_pid(&mut rows.text, reading.pid);
        let pid = start..rows.text.len();
        let label_len = command.labels.len() + pid.len();
        let mut current = begin(rows, command.container, Some(id), label_len);
        let new = &mut rows.commands[current.command];
        (new.n_processes, new.pid) = (1, pid);
        match rows.shape.group_by {
            GroupBy::Path => {
                self.entries.clear();
                let table = summed.table;
                reading.for_each(|at, id, _| self.entries.push((table.series.get(id).position, id, at)));
                self.entries.sort_unstable();
                for &(_, id, at) in &self.entries {
                    let totals = reading.totals_at(at);
                    let source = Source::Reading { id: reading_id, at };
                    match rows.rows.last() {
                        Some(last)
                            if last.label == Label::Path(id) && last.command == current.command as u32 =>
                        {
                            rows.add(summed, rows.rows.len() - 1, &totals);
                        }
                        _ => add_path(rows, summed, &mut current, id, source, Outline::of(&totals)),
                    }
                }
            }
            GroupBy::Kind => {
                reading.for_each(|_, id, totals| {
                    let kind = summed.table.series.get(id).kind;
                    self.kinds[shown_kind(kind, rows.shape.anon_parts)].add(totals);
                });
                self.add_kinds(rows, current.command, false);
            }
            GroupBy::Process => {
                let mut sum = Totals::default();
                reading.for_each(|_, _, totals| sum.add(totals));
                rows.push_sum(current.command, Label::Command, 1, &sum);
            }
        }
        end(rows, &mut current);
    }

    /// Adds the command `[other]` to a container after its last command, unless the container already has the
    /// command `[other]`.
    fn end_container(&mut self, rows: &mut Rows, summed: Summed<'_>, container: Option<(u32, bool)>) {
        if let Some((container, false)) = container {
            self.add_other(rows, summed, container);
        }
    }

    /// If the number of samples is limited, adds the command `[other]` to a container. To stay within the
    /// limit, small commands of the container may later be summed in that command.
    fn add_other(&mut self, rows: &mut Rows, summed: Summed<'_>, container: u32) {
        if rows.shape.max_samples == 0 {
            return;
        }
        let label_len = summed.table.containers.get(container).labels.len() + OTHER_COMMAND.len();
        let mut current = begin(rows, container, None, label_len);
        rows.commands[current.command].is_other = true;
        match rows.shape.group_by {
            GroupBy::Path => {}
            GroupBy::Kind => self.add_kinds(rows, current.command, true),
            GroupBy::Process => {
                rows.push(current.command, Label::Command, 1, Source::Nothing, Outline::default());
            }
        }
        end(rows, &mut current);
    }

    /// Adds a row for each kind that has mappings, or for every kind if `all` is true. Then sets the totals
    /// of all kinds to zero.
    fn add_kinds(&mut self, rows: &mut Rows, command: usize, all: bool) {
        for (kind, totals) in (0..).zip(&mut self.kinds) {
            let (label, len) = (Label::Kind(kind), KIND_LABELS[kind as usize].len());
            if totals.n_mappings > 0 {
                rows.push_sum(command, label, len, totals);
                *totals = Totals::default();
            } else if all {
                rows.push(command, label, len, Source::Nothing, Outline::default());
            }
        }
    }
}

/// Begins a command.
fn begin(rows: &mut Rows, container: u32, id: Option<u32>, label_len: usize) -> Current {
    let command = rows.commands.len();
    rows.commands.push(Command {
        container,
        id,
        pid: 0..0,
        label_len,
        n_processes: 0,
        rows: rows.rows.len()..rows.rows.len(),
        other: None,
        first_of_name: command,
        is_other: false,
        is_folded: false,
        fold: CommandFold::default(),
    });
    Current { command, other: None }
}

/// Adds the row of a path. If the number of samples is limited, small paths may later be summed as `[other]`.
/// So this function also adds an empty row `[other]` before the first path that comes after it in the sort
/// order, unless the command already has a row `[other]`.
fn add_path(
    rows: &mut Rows,
    summed: Summed<'_>,
    current: &mut Current,
    id: u32,
    source: Source,
    outline: Outline,
) {
    let series = summed.table.series.get(id);
    let label = &series.labels[summed.table.commands.get(series.command).labels.len()..];
    if series.is_other {
        current.other = Some(rows.rows.len());
    } else if outline.n_mappings == 0 {
        return;
    } else if current.other.is_none() && label > OTHER_PATH {
        add_other_path(rows, current);
    }
    rows.push(current.command, Label::Path(id), label.len(), source, outline);
}

fn add_other_path(rows: &mut Rows, current: &mut Current) {
    if rows.shape.max_samples > 0 && rows.shape.group_by == GroupBy::Path {
        current.other = Some(rows.rows.len());
        rows.push(current.command, Label::Other, OTHER_PATH.len(), Source::Nothing, Outline::default());
    }
}

fn end(rows: &mut Rows, current: &mut Current) {
    if current.other.is_none() {
        add_other_path(rows, current);
    }
    let n_rows = rows.rows.len();
    let command = &mut rows.commands[current.command];
    (command.rows.end, command.other) = (n_rows, current.other);
}

/// Returns a key that sorts pids like their decimal texts: 1, 10, 2.
fn order_as_text(pid: u32) -> u64 {
    let (mut digits, mut n_digits, mut rest) = (0, 0, pid);
    loop {
        digits |= u64::from(rest % 10 + 1) << (4 * n_digits);
        n_digits += 1;
        rest /= 10;
        if rest == 0 {
            return digits << (4 * (16 - n_digits));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pids_sort_as_text() {
        let mut pids: Vec<u32> = vec![0, 1, 2, 9, 10, 11, 19, 100, 101, 4_194_304, u32::MAX, 99, 20];
        let mut texts: Vec<String> = pids.iter().map(|pid| format!("{pid}\"")).collect();
        pids.sort_by_key(|&pid| order_as_text(pid));
        texts.sort();
        assert!(pids.iter().map(|pid| format!("{pid}\"")).eq(texts));
    }
}
