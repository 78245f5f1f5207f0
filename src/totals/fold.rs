//! What folds into `[other]` until the samples keep to `--max-samples`. Every sum stays what it was.
//!
//! The samples are shared out among containers: each that needs no more than its share keeps everything, and what it leaves is the
//! others'. Within a container its smallest paths fold. Where that is not enough, because there are too many commands, the smallest
//! commands fold into one, too.

use std::cmp::Reverse;
use std::ops::Range;

use super::grouping::GroupBy;
use super::labels;
use super::snapshot::{Command, Series, Snapshot};
use super::tally::{OTHER, Totals};
use crate::smaps::fields::{PSS, RSS};

/// Of more containers is not told how many paths are folded.
const MAX_TOLD: usize = 100;

/// Of which containers paths are folded, and scratch for the next scrape.
#[derive(Debug, Default)]
pub(super) struct Folding {
    containers: Vec<Container>,
    needs: Vec<usize>,
    /// What may fold, to be sorted by its size.
    smallest: Vec<(Size, u32)>,
}

/// A container, and what it still takes.
#[derive(Debug)]
struct Container {
    /// Its place in the order of commands, and the first of these.
    commands: Range<usize>,
    first: u32,
    n_samples: usize,
    n_folded: u64,
}

/// How much memory something is, and its place among equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Size {
    pss: u64,
    rss: u64,
    position: u32,
}

impl Size {
    fn new(totals: &Totals, position: u32) -> Self {
        let bytes = &totals.values.bytes;
        Self { pss: bytes[PSS], rss: bytes[RSS], position }
    }
}

/// The largest share for each, if none gets more than it needs and all together get `total`. Sorts the needs.
fn share(needs: &mut [usize], total: usize) -> usize {
    needs.sort_unstable();
    let (mut left, mut n_left) = (total, needs.len());
    for &need in needs.iter() {
        if need > left / n_left {
            return left / n_left;
        }
        (left, n_left) = (left - need, n_left - 1);
    }
    usize::MAX
}

impl Snapshot {
    /// Folds until the samples keep to the limit, or one series is left of each container that has more than its share.
    pub(super) fn fold(&mut self) {
        for command in self.commands.iter_mut() {
            command.takes_in = false;
        }
        let mut folding = std::mem::take(&mut self.folding);
        let Folding { containers, needs, smallest } = &mut folding;
        containers.clear();
        let max_samples = self.shape.max_samples;
        if max_samples > 0 && self.n_samples() > max_samples {
            self.count_samples(containers);
            needs.clear();
            needs.extend(containers.iter().map(|container| container.n_samples));
            let share = share(needs, max_samples);
            for container in containers.iter_mut().filter(|container| container.n_samples > share) {
                self.fold_commands(container, share, smallest);
                if self.shape.group_by == GroupBy::Path {
                    self.fold_paths(container, share, smallest);
                }
            }
            smallest.shrink_to(2 * self.order.series.len());
            containers.retain(|container| container.n_folded > 0);
            containers.sort_unstable_by_key(|container| Reverse(container.n_folded));
            containers.truncate(MAX_TOLD);
            containers.sort_unstable_by_key(|container| container.commands.start);
        }
        self.folding = folding;
    }

    /// The label text of each container of which paths are folded, left open, and how many; of the hundred of which most are.
    pub fn folded(&self) -> impl Iterator<Item = (&str, u64)> {
        let folded = self.folding.containers.iter();
        folded.map(|container| (self.commands.get(container.first).container(), container.n_folded))
    }

    /// Finds the containers and the samples of each, and of each command.
    fn count_samples(&mut self, containers: &mut Vec<Container>) {
        for command in self.commands.iter_mut() {
            (command.n_samples, command.sum) = (0, Totals::default());
        }
        for (position, &id) in (0..).zip(&self.order.series) {
            let series = self.series.get_mut(id);
            series.position = position;
            let command = self.commands.get_mut(series.command);
            command.n_samples += self.shape.n_samples(&series.totals);
            command.sum.add(&series.totals);
        }
        let mut before: Option<&Command> = None;
        for (position, &id) in self.order.commands.iter().enumerate() {
            let command = self.commands.get(id);
            if before.is_none_or(|before| before.container() != command.container()) {
                let commands = position..position;
                containers.push(Container { commands, first: id, n_samples: 0, n_folded: 0 });
            }
            let is_counted =
                command.n_processes > 0 && before.is_none_or(|before| before.comm() != command.comm());
            if let Some(container) = containers.last_mut() {
                container.commands.end = position + 1;
                container.n_samples += command.n_samples + usize::from(is_counted);
            }
            before = Some(command);
        }
    }

    /// If all paths folded are not enough, folds the smallest commands until the rest takes half of the share; the other half is for
    /// the largest paths.
    fn fold_commands(&mut self, container: &mut Container, share: usize, smallest: &mut Vec<(Size, u32)>) {
        let (shape, by_path) = (self.shape, self.shape.group_by == GroupBy::Path);
        // The least that a command takes: one series, or as many as before, and the number of its processes.
        let least =
            |command: &Command| 1 + if by_path { shape.n_samples(&command.sum) } else { command.n_samples };
        smallest.clear();
        let mut n_least = 0;
        for (position, &id) in (0..).zip(&self.order.commands[container.commands.clone()]) {
            let command = self.commands.get(id);
            if command.n_processes > 0 {
                n_least += least(command);
                if !command.is_other {
                    smallest.push((Size::new(&command.sum, position), id));
                }
            }
        }
        if n_least <= share || smallest.len() < 2 {
            return;
        }
        smallest.sort_unstable();
        let other = self.other_command(container.first);
        for &(_, id) in smallest.iter() {
            if n_least + least(self.commands.get(other)) <= share / 2 {
                break;
            }
            let command = self.commands.get_mut(id);
            n_least -= least(command);
            container.n_samples -= command.n_samples + usize::from(!shape.by_pid);
            command.is_folded = true;
            let (sum, n_processes) = (command.sum, command.n_processes);
            let series = std::mem::take(&mut command.series);
            for (value, &id) in &series {
                let one = self.series.get_mut(id);
                one.is_folded = true;
                container.n_folded += u64::from(by_path && !one.is_other);
                let totals = one.totals;
                let into = self.series_in(other, if by_path { OTHER } else { value });
                self.series.get_mut(into).totals.add(&totals);
            }
            self.commands.get_mut(id).series = series;
            let command = self.commands.get_mut(other);
            command.takes_in = true;
            command.n_processes += n_processes;
            command.sum.add(&sum);
        }
        let series = self.commands.get(other).series.values();
        let n_samples: usize = series.map(|&id| shape.n_samples(&self.series.get(id).totals)).sum();
        let other = self.commands.get_mut(other);
        container.n_samples += n_samples + 1 - std::mem::replace(&mut other.n_samples, n_samples);
    }

    /// The command that others of a container fold into, given one of the container's.
    fn other_command(&mut self, of: u32) -> u32 {
        let container = self.commands.get(of).container();
        self.text.clear();
        labels::command(&mut self.text, container, OTHER, None);
        let container_end = container.len();
        let comm_end = self.text.len();
        self.command_labelled(container_end, comm_end, true)
    }

    /// Folds the smallest paths, until the container keeps to its share.
    fn fold_paths(&mut self, container: &mut Container, share: usize, smallest: &mut Vec<(Size, u32)>) {
        smallest.clear();
        for &id in &self.order.commands[container.commands.clone()] {
            for &id in self.commands.get(id).series.values() {
                let series = self.series.get(id);
                if !series.is_other && !series.is_folded {
                    smallest.push((Size::new(&series.totals, series.position), id));
                }
            }
        }
        smallest.sort_unstable();
        for &(_, id) in smallest.iter() {
            if container.n_samples <= share {
                break;
            }
            let series = self.series.get_mut(id);
            series.is_folded = true;
            let (totals, owner) = (series.totals, series.command);
            let command = self.commands.get_mut(owner);
            (command.n_folded, command.last_folded) = (command.n_folded + 1, id);
            let other = self.series_in(owner, OTHER);
            let other = &mut self.series.get_mut(other).totals;
            container.n_samples -= self.shape.n_samples(other) + self.shape.n_samples(&totals);
            other.add(&totals);
            container.n_samples += self.shape.n_samples(other);
            container.n_folded += 1;
        }
        // A path that is alone in its fold is shown under its name again: it takes as many samples either way.
        for &id in &self.order.commands[container.commands.clone()] {
            let command = self.commands.get_mut(id);
            let Some(other) = command.other.filter(|_| command.n_folded == 1) else { continue };
            let lonely = self.series.get(command.last_folded).totals;
            let other = self.series.get_mut(other);
            if other.totals == lonely {
                other.totals = Totals::default();
                self.series.get_mut(command.last_folded).is_folded = false;
                command.n_folded = 0;
                container.n_folded -= 1;
            }
        }
    }

    /// The series of a command into which others fold that have this value.
    fn series_in(&mut self, owner: u32, value: &str) -> u32 {
        let command = self.commands.get_mut(owner);
        if let Some(&id) = command.series.get(value) {
            return id;
        }
        let is_other = self.shape.group_by == GroupBy::Path;
        self.shape.label(&mut self.text, &command.labels, value);
        self.order.is_stale = true;
        let id = self.series.insert(Series::new(&self.text, owner, is_other));
        command.series.insert(value.into(), id);
        if is_other {
            command.other = Some(id);
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn what_one_leaves_is_the_others() {
        for (needs, total, expected) in [
            (&mut [][..], 100, usize::MAX),
            (&mut [100], 100, usize::MAX),
            (&mut [101], 100, 100),
            (&mut [60, 60], 100, 50),
            (&mut [90, 10, 30], 100, 60),
            (&mut [5, 90, 90], 100, 47),
            (&mut [1, 2, 3], 0, 0),
        ] {
            assert_eq!(share(needs, total), expected, "{needs:?}");
        }
    }
}
