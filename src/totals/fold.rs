//! Folds into `[other]` what exceeds `--max-samples`. Every sum stays the same.
//!
//! Each container gets a fair share of the samples; one that needs more folds its commands and paths, see
//! [`part`](super::part).

use std::cmp::Reverse;

use super::fair_share::FairShare;
use super::other::Candidate;
use super::part::Part;
use super::sums::Totals;
use super::table::Table;

/// Folded paths are reported for at most this many containers.
const MAX_REPORTED: usize = 100;

/// The containers for which folded paths are reported, and scratch for the next scrape.
#[derive(Debug, Default)]
pub(super) struct Folding {
    reported: Vec<u32>,
    parts: Vec<Part>,
    candidates: Vec<Candidate>,
    n_named: Vec<u32>,
}

impl Folding {
    /// Folds until the samples are within the limit, or until each container above its share has one series
    /// left.
    pub(super) fn fold(&mut self, table: &mut Table) {
        table.commands.iter_mut().for_each(|command| command.fold.takes_in = false);
        self.parts.clear();
        let limit = table.shape.max_samples;
        if limit > 0 && table.cost() > limit {
            self.measure(table);
            self.parts.sort_unstable_by_key(|part| (part.cost, part.commands.start));
            let mut shares = FairShare::new(limit, self.parts.len());
            for part in &mut self.parts {
                let share = shares.next();
                if part.cost > share {
                    part.fold(table, share, &mut self.candidates, &mut self.n_named);
                }
                shares.take(part.cost);
            }
            self.candidates.shrink_to(2 * table.order.series.len());
        }
        self.choose_reported(table);
    }

    /// Measures what each container and each command costs.
    fn measure(&mut self, table: &mut Table) {
        let Table { shape, commands, series, order, .. } = table;
        for command in commands.iter_mut() {
            (command.fold.cost, command.fold.sum) = (0, Totals::default());
        }
        for (position, &id) in (0..).zip(&order.series) {
            let series = series.get_mut(id);
            series.position = position;
            let fold = &mut commands.get_mut(series.command).fold;
            fold.cost += shape.cost(series.labels.len(), &series.totals);
            fold.sum.add(&series.totals);
        }
        let mut before: Option<(u32, u32)> = None;
        for (position, &id) in (0..).zip(&order.commands) {
            let command = commands.get(id);
            // A command without processes has no sample for the number of processes.
            if command.n_processes == 0 {
                continue;
            }
            let same = before.map(|(id, comm)| (commands.get(id), comm)).filter(|(before, _)| {
                before.container == command.container && before.comm() == command.comm()
            });
            let comm = same.map_or(position, |(_, comm)| comm);
            let cost = command.fold.cost + usize::from(comm == position);
            match self.parts.last_mut().filter(|part| part.container == command.container) {
                Some(part) => {
                    part.commands.end = position as usize + 1;
                    part.cost += cost;
                }
                None => {
                    let commands = position as usize..position as usize + 1;
                    self.parts.push(Part { container: command.container, commands, cost });
                }
            }
            commands.get_mut(id).fold.comm = comm;
            before = Some((id, comm));
        }
    }

    fn choose_reported(&mut self, table: &Table) {
        let containers = &table.containers;
        let reported = &mut self.reported;
        reported.clear();
        reported.extend(containers.ids().filter(|&id| containers.get(id).n_folded > 0));
        reported
            .sort_unstable_by_key(|&id| (Reverse(containers.get(id).n_folded), &containers.get(id).labels));
        reported.truncate(MAX_REPORTED);
        reported.sort_unstable_by_key(|&id| &containers.get(id).labels);
    }

    /// Returns the label text, left open, and the number of folded paths of each container with folded paths;
    /// if there are more than 100, of those with the most.
    pub(super) fn reported<'a>(&'a self, table: &'a Table) -> impl Iterator<Item = (&'a str, u64)> {
        let reported = self.reported.iter().map(|&id| table.containers.get(id));
        reported.map(|container| (&*container.labels, container.n_folded))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::smaps::fields::{ALL_FIELDS, RSS, values};
    use crate::totals::grouping::GroupBy;
    use crate::totals::shape::Shape;
    use crate::totals::table::ContainerKey;

    /// A node in which each series has 3 samples, and each command one more.
    struct Node {
        table: Table,
        folding: Folding,
        /// Container, command, pid, path, resident bytes.
        mapped: Vec<(u32, String, u32, String, u64)>,
    }

    impl Node {
        fn new(shape: Shape) -> Self {
            let table = Table::new(Shape { fields: ALL_FIELDS, ..shape });
            Self { table, folding: Folding::default(), mapped: Vec::new() }
        }

        fn process(&mut self, container: u32, comm: &str, mappings: impl Iterator<Item = (String, u64)>) {
            let pid = self.mapped.last().map_or(0, |mapped| mapped.2) + 1;
            self.mapped.extend(mappings.map(|(path, rss)| (container, comm.to_owned(), pid, path, rss)));
        }

        /// Sums and folds the readings.
        fn fold(&mut self) {
            self.table.clear_sums();
            let mut last_pid = 0;
            for (container, comm, pid, path, rss) in &self.mapped {
                let key = ContainerKey(*container);
                self.table.register(key, &format!("{{c=\"{container}\""));
                let container = self.table.container(key).unwrap();
                let command = self.table.command(container, comm, *pid, |_, _| true).unwrap();
                self.table.commands.get_mut(command).n_readings += 1;
                self.table.commands.get_mut(command).n_processes += u64::from(last_pid != *pid);
                last_pid = *pid;
                let value = str::from_utf8(self.table.shape.group_by.value(path.as_bytes())).unwrap();
                let series = self.table.series_of(command, value);
                let series = self.table.series.get_mut(series);
                let values = values(&[("rss", *rss), ("mmu_page_size", 4096)]);
                series.totals.add(&Totals { values, n_mappings: 1 });
                series.n_readings += 1;
            }
            self.table.remove_unused();
            self.table.sort();
            self.folding.fold(&mut self.table);
            self.table.sort();
        }

        /// Returns the label text and the resident bytes of each series.
        fn series(&self) -> Vec<(&str, u64)> {
            self.table.series().map(|series| (&*series.labels, series.totals.values.bytes[RSS])).collect()
        }

        fn n_folded(&self) -> u64 {
            self.folding.reported(&self.table).map(|(_, n)| n).sum()
        }

        /// Returns the resident bytes by container.
        fn sums(&self) -> BTreeMap<&str, u64> {
            let mut sums = BTreeMap::new();
            for (labels, rss) in self.series() {
                *sums.entry(labels.split('"').nth(1).unwrap()).or_default() += rss;
            }
            sums
        }
    }

    fn paths(n: u64, rss: impl Fn(u64) -> u64) -> impl Iterator<Item = (String, u64)> {
        (0..n).map(move |i| (format!("/{i:03}"), rss(i)))
    }

    #[test]
    fn the_smallest_paths_fold_and_come_back() {
        let mut node = Node::new(Shape { max_samples: 14, ..Shape::default() });
        let mappings = [("/big", 900), ("/m", 20), ("/n", 20), ("/o", 30)];
        node.process(0, "a", mappings.iter().map(|&(path, rss)| (path.to_owned(), rss)));
        node.process(0, "b", [("/tiny".to_owned(), 1)].into_iter());
        // The smallest path, /tiny, is alone in `[other]`, so it keeps its name. Of two paths of equal size,
        // the first folds first.
        let folded = [
            (r#"{c="0",comm="a",path="/big"}"#, 900),
            (r#"{c="0",comm="a",path="/o"}"#, 30),
            (r#"{c="0",comm="a",path="[other]"}"#, 40),
            (r#"{c="0",comm="b",path="/tiny"}"#, 1),
        ];
        for _ in 0..3 {
            node.fold();
            assert_eq!(node.series(), folded);
            assert_eq!((node.table.n_samples(), node.n_folded()), (14, 2));
        }
        node.mapped.pop();
        node.fold();
        assert_eq!((node.series().len(), node.table.n_samples(), node.n_folded()), (4, 13, 0));
    }

    #[test]
    fn a_path_named_other_is_summed_with_what_folds() {
        let mut node = Node::new(Shape { max_samples: 4, ..Shape::default() });
        let mappings = [("[other]", 1), ("/x", 2), ("/y", 4)];
        node.process(0, "a", mappings.iter().map(|&(path, rss)| (path.to_owned(), rss)));
        node.fold();
        assert_eq!(node.series(), [(r#"{c="0",comm="a",path="[other]"}"#, 7)]);
        assert_eq!(node.n_folded(), 2);
    }

    /// However many paths a container has, and of any size, other containers lose no name.
    #[test]
    fn no_container_folds_the_paths_of_another() {
        for rss in [0, 1 << 25] {
            let mut node = Node::new(Shape { max_samples: 1000, ..Shape::default() });
            node.process(0, "crowd", paths(2000, |_| rss));
            for container in [1, 2] {
                node.process(container, "app", paths(3, |i| i << 20));
            }
            for _ in 0..2 {
                node.fold();
                assert!((980..=1000).contains(&node.table.n_samples()));
                let folded: Vec<&str> = node.folding.reported(&node.table).map(|(c, _)| c).collect();
                assert_eq!(folded, ["{c=\"0\""]);
                assert_eq!(node.sums(), [("0", 2000 * rss), ("1", 3 << 20), ("2", 3 << 20)].into());
            }
        }
    }

    #[test]
    fn too_many_commands_fold_into_one() {
        for (group_by, by_pid) in [
            (GroupBy::Path, false),
            (GroupBy::Path, true),
            (GroupBy::Kind, false),
            (GroupBy::Process, false),
            (GroupBy::Process, true),
        ] {
            let mut node = Node::new(Shape { max_samples: 120, group_by, by_pid, ..Shape::default() });
            for i in 0..300 {
                let comm = if by_pid { "same".to_owned() } else { format!("worker-{i:03}") };
                let mappings = [("/bin/worker".to_owned(), 10), ("[heap]".to_owned(), i)];
                node.process(0, &comm, mappings.into_iter());
            }
            node.process(1, "app", paths(1, |_| 5));
            for _ in 0..3 {
                node.fold();
                let n_samples = node.table.n_samples();
                assert!((114..=120).contains(&n_samples), "{group_by:?} {by_pid}: {n_samples}");
                assert_eq!(node.sums(), [("0", 3000 + 299 * 300 / 2), ("1", 5)].into());
                assert_eq!(node.table.processes().map(|(_, n)| n).sum::<u64>(), 301);
                let has = |text: &str| node.series().iter().any(|(labels, _)| labels.contains(text));
                assert!(has("comm=\"[other]\"") && has("comm=\"app\""));
                let (largest, smallest) =
                    if by_pid { ("pid=\"300\"", "pid=\"1\"") } else { ("worker-299", "worker-000") };
                assert!(has(largest) && !has(smallest), "{group_by:?} {by_pid}");
            }
            node.mapped.drain(20..600);
            node.fold();
            let has_other = node.series().iter().any(|(labels, _)| labels.contains("[other]"));
            assert!(!has_other && node.n_folded() == 0, "{group_by:?} {by_pid}: they come back");
        }
    }

    /// The text of a long path is repeated in each of its samples.
    #[test]
    fn long_paths_count_as_several_samples() {
        let mut node = Node::new(Shape { max_samples: 300, ..Shape::default() });
        node.process(0, "a", (0..300).map(|i| (format!("/{i:0>4000}"), 1)));
        node.process(0, "b", paths(3, |_| 7));
        node.fold();
        let n_bytes: usize = node.series().iter().map(|(labels, _)| 3 * labels.len()).sum();
        assert!((200 * 512..300 * 512).contains(&n_bytes), "{n_bytes}");
        assert_eq!(node.series().iter().filter(|(labels, _)| labels.contains("comm=\"b\"")).count(), 3);
        assert_eq!(node.sums(), [("0", 300 + 21)].into());
    }
}
