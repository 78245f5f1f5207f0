//! Folds the smallest paths and commands into `[other]` to stay within `--max-samples`. The sums over all
//! series stay the same.
//!
//! Each container has a fair share of the samples. If a container has more samples than its share, its
//! commands and paths are folded, see [`container_fold`](super::container_fold).

use std::cmp::Reverse;

use super::container_fold::{ContainerFold, Scratch};
use super::fair_share::FairShare;
use super::row::CommandFold;
use super::rows::{Rows, Summed};
use super::table::Table;

/// Folded paths are reported for at most this many containers.
const MAX_REPORTED: usize = 100;

/// The result of folding a view, and memory that is reused for the next view. Folding sums small paths and
/// commands as `[other]`.
#[derive(Debug, Default)]
pub(super) struct Folding {
    /// The reported containers. An entry is the id of the container in the table, and how many of its paths
    /// are summed as `[other]`.
    reported: Vec<(u32, u64)>,
    containers: Vec<ContainerFold>,
    scratch: Scratch,
}

impl Folding {
    /// If there are more samples than `--max-samples`, sums the smallest paths and commands as `[other]`.
    /// This is done only in containers with more samples than their fair share. The number of samples may
    /// still be above the limit afterwards, because each container keeps the samples of at least one command.
    pub(super) fn fold(&mut self, rows: &mut Rows, summed: Summed<'_>) {
        self.containers.clear();
        let limit = rows.shape.max_samples;
        if limit > 0 && rows.cost(summed.table) > limit {
            self.measure(rows);
            self.containers.sort_unstable_by_key(|container| (container.cost, container.commands.start));
            let mut shares = FairShare::new(limit, self.containers.len());
            for container in &mut self.containers {
                let share = shares.next();
                if container.cost > share {
                    container.fold(rows, summed, share, &mut self.scratch);
                }
                shares.take(container.cost);
            }
            self.scratch.shrink(rows.rows.len());
        }
        self.choose_reported(rows, summed.table);
    }

    /// Computes the cost of each container and of each command. The cost is the number of samples that
    /// `--max-samples` counts.
    fn measure(&mut self, rows: &mut Rows) {
        for position in 0..rows.commands.len() {
            let command = &rows.commands[position];
            let mut fold = CommandFold::default();
            for row in &rows.rows[command.rows.clone()] {
                fold.cost += rows.cost_of(row);
                fold.sum.add(&row.outline);
            }
            let (container, n_processes) = (command.container, command.n_processes);
            let before = &rows.commands[command.first_of_name..position];
            // One more sample is exported for each command name: the number of processes with that name. If
            // several commands have the same name, this sample is added only to the cost of the first one
            // that has processes.
            let is_first = n_processes > 0 && before.iter().all(|before| before.n_processes == 0);
            let cost = fold.cost + usize::from(is_first);
            match self.containers.last_mut().filter(|last| last.container == container) {
                Some(container) => {
                    container.commands.end = position + 1;
                    container.cost += cost;
                }
                None => {
                    let commands = position..position + 1;
                    self.containers.push(ContainerFold { container, commands, cost, n_folded: 0 });
                }
            }
            rows.commands[position].fold = fold;
        }
    }

    fn choose_reported(&mut self, rows: &Rows, table: &Table) {
        let Self { reported, containers, .. } = self;
        reported.clear();
        let mut last = None;
        for command in &rows.commands {
            if last.replace(command.container) != Some(command.container) {
                reported.push((command.container, table.containers.get(command.container).n_folded));
            }
        }
        // `reported` is in the order of the view's commands. `containers` is sorted in the same order, so
        // that the two lists can be joined by position.
        containers.sort_unstable_by_key(|container| container.commands.start);
        for (reported, container) in reported.iter_mut().zip(&*containers) {
            reported.1 += container.n_folded;
        }
        reported.retain(|&(_, n_folded)| n_folded > 0);
        if reported.len() > MAX_REPORTED {
            let labels = |id| &table.containers.get(id).labels;
            reported.sort_unstable_by_key(|&(id, n_folded)| (Reverse(n_folded), labels(id)));
            reported.truncate(MAX_REPORTED);
            reported.sort_unstable_by_key(|&(id, _)| labels(id));
        }
    }

    /// Returns the containers in which paths are folded. A folded path is shown only as a part of the sum
    /// `[other]`. Each item is the label text of a container (without its closing brace) and the number of
    /// its folded paths. At most 100 containers are returned, namely those with the most folded paths.
    pub(super) fn reported<'a>(&'a self, table: &'a Table) -> impl Iterator<Item = (&'a str, u64)> {
        self.reported.iter().map(|&(id, n_folded)| (&*table.containers.get(id).labels, n_folded))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::smaps::fields::{ALL_FIELDS, RSS, values};
    use crate::smaps::{place::PlaceText, scanner::Mapping};
    use crate::totals::grouping::GroupBy;
    use crate::totals::process_sums::ProcessSums;
    use crate::totals::shape::Shape;
    use crate::totals::snapshot::{Process, Snapshot};
    use crate::totals::table::ContainerKey;
    use crate::totals::view::View;

    /// A node for tests. Each series has 3 samples. In addition, each command has 1 sample.
    struct Node {
        snapshot: Snapshot,
        view: View,
        /// The mappings: container, command, pid, path, resident bytes.
        mapped: Vec<(u32, String, u32, String, u64)>,
    }

    impl Node {
        fn new(shape: Shape) -> Self {
            let view = View::new(Shape { fields: ALL_FIELDS, ..shape });
            Self { snapshot: Snapshot::new(usize::MAX, 0), view, mapped: Vec::new() }
        }

        fn process(&mut self, container: u32, comm: &str, mappings: impl Iterator<Item = (String, u64)>) {
            let pid = self.mapped.last().map_or(0, |mapped| mapped.2) + 1;
            self.mapped.extend(mappings.map(|(path, rss)| (container, comm.to_owned(), pid, path, rss)));
        }

        /// Sums the readings and folds the sums.
        fn fold(&mut self) {
            let mut readings = Vec::new();
            for mapped in self.mapped.chunk_by(|a, b| a.2 == b.2) {
                let (container, comm, pid, ..) = &mapped[0];
                let (container, mut process_sums) = (ContainerKey(*container), ProcessSums::new(usize::MAX));
                for (.., path, rss) in mapped {
                    let values = &values(&[("rss", *rss), ("mmu_page_size", 4096)]);
                    let place = PlaceText::default();
                    process_sums.add(&Mapping { path: path.as_bytes(), values, place, count: 1 });
                }
                self.snapshot.register(container, &format!("{{c=\"{}\"", container.0));
                readings.push(None);
                let of = Process { container, comm: comm.as_bytes(), pid: *pid };
                self.snapshot.record(of, &process_sums, readings.last_mut().unwrap());
            }
            self.snapshot.sum(readings.iter().flatten().map(|id| (id, true)));
            self.view.update(self.snapshot.summed(), |_, _| true);
        }

        /// Returns the label text and the resident bytes of each series in the view.
        fn series(&self) -> Vec<(String, u64)> {
            let series = self.view.series(self.snapshot.summed());
            series.map(|series| (series.labels.concat(), series.value(RSS).unwrap())).collect()
        }

        fn n_samples(&self) -> usize {
            self.view.n_samples(self.snapshot.summed())
        }

        fn folded(&self) -> Vec<(&str, u64)> {
            self.view.folded(self.snapshot.summed()).collect()
        }

        fn n_folded(&self) -> u64 {
            self.folded().iter().map(|(_, n)| n).sum()
        }

        /// Returns the resident bytes by container.
        fn sums(&self) -> BTreeMap<String, u64> {
            let mut sums = BTreeMap::new();
            for (labels, rss) in self.series() {
                *sums.entry(labels.split('"').nth(1).unwrap().to_owned()).or_default() += rss;
            }
            sums
        }
    }

    fn sums<const N: usize>(by_container: [(&str, u64); N]) -> BTreeMap<String, u64> {
        by_container.map(|(container, rss)| (container.to_owned(), rss)).into()
    }

    fn paths(n: u64, rss: impl Fn(u64) -> u64) -> impl Iterator<Item = (String, u64)> {
        (0..n).map(move |i| (format!("/{i:03}"), rss(i)))
    }

    #[test]
    fn smallest_paths_fold_and_unfold() {
        let mut node = Node::new(Shape { max_samples: 14, ..Shape::default() });
        let mappings = [("/big", 900), ("/m", 20), ("/n", 20), ("/o", 30)];
        node.process(0, "a", mappings.iter().map(|&(path, rss)| (path.to_owned(), rss)));
        node.process(0, "b", [("/tiny".to_owned(), 1)].into_iter());
        // The smallest path, /tiny, would be the only one in `[other]`, so it keeps its name. Of two paths
        // with the same size, the first one in the sort order is folded first.
        let folded = [
            (r#"{c="0",comm="a",path="/big"}"#, 900),
            (r#"{c="0",comm="a",path="/o"}"#, 30),
            (r#"{c="0",comm="a",path="[other]"}"#, 40),
            (r#"{c="0",comm="b",path="/tiny"}"#, 1),
        ];
        for _ in 0..3 {
            node.fold();
            assert_eq!(node.series(), folded.map(|(labels, rss)| (labels.to_owned(), rss)));
            assert_eq!((node.n_samples(), node.n_folded()), (14, 2));
        }
        node.mapped.pop();
        node.fold();
        assert_eq!((node.series().len(), node.n_samples(), node.n_folded()), (4, 13, 0));
    }

    #[test]
    fn a_path_named_other_is_summed_with_what_folds() {
        let mut node = Node::new(Shape { max_samples: 4, ..Shape::default() });
        let mappings = [("[other]", 1), ("/x", 2), ("/y", 4)];
        node.process(0, "a", mappings.iter().map(|&(path, rss)| (path.to_owned(), rss)));
        node.fold();
        assert_eq!(node.series(), [(r#"{c="0",comm="a",path="[other]"}"#.to_owned(), 7)]);
        assert_eq!(node.n_folded(), 2);
    }

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
                assert!((980..=1000).contains(&node.n_samples()));
                let folded: Vec<&str> = node.folded().into_iter().map(|(container, _)| container).collect();
                assert_eq!(folded, ["{c=\"0\""]);
                assert_eq!(node.sums(), sums([("0", 2000 * rss), ("1", 3 << 20), ("2", 3 << 20)]));
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
                let n_samples = node.n_samples();
                assert!((114..=120).contains(&n_samples), "{group_by:?} {by_pid}: {n_samples}");
                assert_eq!(node.sums(), sums([("0", 3000 + 299 * 300 / 2), ("1", 5)]));
                let processes = node.view.processes(node.snapshot.summed());
                assert_eq!(processes.map(|(_, n)| n).sum::<u64>(), 301);
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

    /// A series with a long path counts as several samples, because each of its samples repeats the path.
    #[test]
    fn long_paths_count_as_several_samples() {
        let mut node = Node::new(Shape { max_samples: 300, ..Shape::default() });
        node.process(0, "a", (0..300).map(|i| (format!("/{i:0>4000}"), 1)));
        node.process(0, "b", paths(3, |_| 7));
        node.fold();
        let n_bytes: usize = node.series().iter().map(|(labels, _)| 3 * labels.len()).sum();
        assert!((200 * 512..300 * 512).contains(&n_bytes), "{n_bytes}");
        assert_eq!(node.series().iter().filter(|(labels, _)| labels.contains("comm=\"b\"")).count(), 3);
        assert_eq!(node.sums(), sums([("0", 300 + 21)]));
    }
}
