//! What folds into `[other]` until the samples keep to `--max-samples`. Every sum stays what it was.
//!
//! The samples are shared out among containers: each that needs no more than its share keeps everything, and what it leaves is the
//! others'. Within a container its smallest paths fold. Where that is not enough, because there are too many commands, the smallest
//! commands fold into one, too.

use std::cmp::Reverse;
use std::ops::Range;

use super::grouping::GroupBy;
use super::labels;
use super::memory::{Size, size};
use super::snapshot::{Command, Snapshot};
use super::tally::{OTHER, Totals};

/// Of more containers is not told how many paths are folded.
const MAX_TOLD: usize = 100;

/// Of which containers it is told how many paths are folded, and scratch for the next scrape.
#[derive(Debug, Default)]
pub(super) struct Folding {
    told: Vec<u32>,
    containers: Vec<Part>,
    needs: Vec<usize>,
    /// What may fold, to be sorted by its size.
    smallest: Vec<Candidate>,
}

/// A container's part of the samples.
#[derive(Debug)]
struct Part {
    container: u32,
    /// Its place in the order of commands.
    commands: Range<usize>,
    n_samples: usize,
}

/// The size of what may fold, its place among equals, and its number.
type Candidate = ((Size, u32), u32);

/// The largest share for each, if none gets more than it needs and all together get `total`. Sorts the needs.
pub(super) fn share(needs: &mut [usize], total: usize) -> usize {
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
        let Folding { told, containers, needs, smallest } = &mut folding;
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
        }
        let containers = &self.containers;
        told.clear();
        told.extend(containers.ids().filter(|&id| containers.get(id).n_folded > 0));
        told.sort_unstable_by_key(|&id| (Reverse(containers.get(id).n_folded), &containers.get(id).labels));
        told.truncate(MAX_TOLD);
        told.sort_unstable_by_key(|&id| &containers.get(id).labels);
        self.folding = folding;
    }

    /// The label text of each container of which paths are folded, left open, and how many; of the hundred of which most are.
    pub fn folded(&self) -> impl Iterator<Item = (&str, u64)> {
        let told = self.folding.told.iter().map(|&id| self.containers.get(id));
        told.map(|container| (&*container.labels, container.n_folded))
    }

    /// Finds the containers and the samples of each, and of each command.
    fn count_samples(&mut self, containers: &mut Vec<Part>) {
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
            if before.is_none_or(|before| before.container != command.container) {
                let commands = position..position;
                containers.push(Part { container: command.container, commands, n_samples: 0 });
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
    fn fold_commands(&mut self, container: &mut Part, share: usize, smallest: &mut Vec<Candidate>) {
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
                    smallest.push(((size(&command.sum), position), id));
                }
            }
        }
        if n_least <= share || smallest.len() < 2 {
            return;
        }
        smallest.sort_unstable();
        let other = self.other_command(container.container);
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
                self.containers.get_mut(container.container).n_folded += u64::from(by_path && !one.is_other);
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

    /// The command that others of a container fold into.
    pub(super) fn other_command(&mut self, container: u32) -> u32 {
        self.text.clear();
        labels::command(&mut self.text, &self.containers.get(container).labels, OTHER, None);
        self.command_labelled(container, self.text.len(), true)
    }

    /// Folds the smallest paths, until the container keeps to its share.
    fn fold_paths(&mut self, container: &mut Part, share: usize, smallest: &mut Vec<Candidate>) {
        smallest.clear();
        for &id in &self.order.commands[container.commands.clone()] {
            for &id in self.commands.get(id).series.values() {
                let series = self.series.get(id);
                if !series.is_other && !series.is_folded {
                    smallest.push(((size(&series.totals), series.position), id));
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
            self.containers.get_mut(container.container).n_folded += 1;
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
                self.containers.get_mut(container.container).n_folded -= 1;
            }
        }
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
