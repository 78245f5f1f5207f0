//! What the sums are, and what folds.

use std::collections::BTreeMap;

use super::*;
use crate::smaps::fields::{ALL_FIELDS, RSS, values};
use crate::smaps::scanner::Mapping;

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
        self.process_in("c", comm, mappings);
    }

    fn process_in(&mut self, container: &str, comm: &[u8], mappings: &[(&[u8], u64)]) {
        let pid = self.readings.len() as u32 + 1;
        let mut tally = Tally::new(self.snapshot.shape.group_by, self.snapshot.shape.max_samples);
        for &(path, rss) in mappings {
            let values = values(&[("rss", rss), ("mmu_page_size", 4096)]);
            tally.add(&Mapping { path, values: &values, count: 1 });
        }
        let mut reading = Reading::default();
        let container = format!("{{container=\"{container}\"");
        if !self.snapshot.record(&container, comm, pid, &tally, &mut reading) {
            let others = &mut self.readings;
            self.snapshot.make_room(|each| others.iter_mut().chain([&mut reading]).for_each(each));
            self.snapshot.record(&container, comm, pid, &tally, &mut reading);
        }
        self.readings.push(reading);
    }

    fn sum(&mut self) {
        self.snapshot.sum(|each| self.readings.iter_mut().for_each(each));
    }

    /// Label text behind the container, resident bytes and mappings of each series.
    fn series(&self) -> Vec<(String, u64, u64)> {
        let text = |series: &Series| series.labels.strip_prefix("{container=\"c\",").unwrap().to_owned();
        let series = self.snapshot.series();
        series.map(|s| (text(s), s.totals.values.bytes[RSS], s.totals.n_mappings)).collect()
    }

    /// How many paths are folded.
    fn n_folded(&self) -> u64 {
        self.snapshot.folded().map(|(_, n_folded)| n_folded).sum()
    }

    /// Resident bytes by container.
    fn sums(&self) -> BTreeMap<&str, u64> {
        let mut sums = BTreeMap::new();
        for series in self.snapshot.series() {
            let container = series.labels.split('"').nth(1).unwrap();
            *sums.entry(container).or_default() += series.totals.values.bytes[RSS];
        }
        sums
    }

    fn processes(&self) -> Vec<(&str, u64)> {
        let processes = self.snapshot.processes();
        processes.map(|(labels, n)| (labels.strip_prefix("{container=\"c\",").unwrap(), n)).collect()
    }
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
fn texts_that_read_the_same_are_one_series() {
    let mut node = Node::new(Shape::default());
    node.process(b"a\xff", &[(b"/\xff", 1024), (b"/\xfe", 2048), ("/\u{fffd}".as_bytes(), 4096)]);
    node.process(b"a\xfe", &[(b"/\xff", 1024)]);
    node.sum();
    assert_eq!(node.series(), owned(&[("comm=\"a\u{fffd}\",path=\"/\u{fffd}\"}", 8192, 4)]));
    assert_eq!(node.processes(), [("comm=\"a\u{fffd}\"", 2)]);
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
        assert_eq!((node.snapshot.n_samples(), node.n_folded()), (14, 2));
        node.sum();
    }
    node.readings.pop();
    node.sum();
    let unfolded: Vec<String> = node.series().into_iter().map(|(labels, ..)| labels).collect();
    assert_eq!(unfolded, ["/big", "/m", "/n", "/o"].map(|path| format!(r#"comm="a",path="{path}"}}"#)));
    assert_eq!((node.snapshot.n_samples(), node.n_folded()), (13, 0));
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

/// Whatever a container maps: what it makes the exporter keep has a bound, its sums stay, its largest paths keep their names, and nobody
/// else loses anything.
#[test]
fn no_container_fills_the_memory() {
    let max_samples = 2000;
    let paths: Vec<Vec<u8>> = (0..400_u64).map(|i| format!("/{i:0>400}").into_bytes()).collect();
    let mut node = Node::new(Shape { max_samples, ..Shape::default() });
    let quiet: Vec<(&[u8], u64)> = paths[..50].iter().map(|path| (path.as_slice(), 100)).collect();
    node.process_in("quiet", b"app", &quiet);
    node.sum();
    for round in 0..4 {
        node.readings.truncate(1);
        for process in 0..60 {
            // Each has paths of its own, and one that is large.
            let own: Vec<Vec<u8>> = (0..400).map(|i| format!("/{process}/{i:0>400}").into_bytes()).collect();
            let mut mappings: Vec<(&[u8], u64)> = own.iter().map(|path| (path.as_slice(), 1)).collect();
            mappings.push((b"/large", 1000));
            mappings.extend(paths.iter().map(|path| (path.as_slice(), 0)));
            let comm = format!("crowd-{}", process % 2);
            node.process_in("crowd", comm.as_bytes(), &mappings);
            assert!(node.snapshot.n_bytes < 4 << 20, "{} bytes, round {round}", node.snapshot.n_bytes);
        }
        node.sum();
        assert!(node.snapshot.n_bytes <= (1 << 20) + (16 << 10), "{} bytes", node.snapshot.n_bytes);
        assert!(node.snapshot.n_samples() <= max_samples);
        assert_eq!(node.sums(), [("crowd", 60 * 1400), ("quiet", 5000)].into());
        let is_large = |series: &Series| series.labels.contains("/large");
        let large: u64 =
            node.snapshot.series().filter(|s| is_large(s)).map(|s| s.totals.values.bytes[RSS]).sum();
        assert_eq!(large, 60_000);
        let n_quiet = node.snapshot.series().filter(|series| series.labels.contains("quiet")).count();
        assert_eq!(n_quiet, 50);
        assert!(node.n_folded() > 20_000);
    }
    node.readings.truncate(1);
    node.sum();
    assert!(node.snapshot.n_bytes < 100_000 && node.snapshot.series.len() == 50);
}

#[test]
fn a_path_that_is_named_as_the_fold_is() {
    let mut node = Node::new(Shape { max_samples: 4, ..Shape::default() });
    node.process(b"a", &[(b"[other]", 1), (b"/x", 2), (b"/y", 4)]);
    node.sum();
    assert_eq!(node.series(), owned(&[(r#"comm="a",path="[other]"}"#, 7, 3)]));
    assert_eq!(node.n_folded(), 2);
}

/// As many paths as it likes, without a byte behind them or with more than anybody else: nobody else loses a name.
#[test]
fn no_container_folds_the_paths_of_another() {
    for rss in [0, 1 << 25] {
        let mut node = Node::new(Shape { max_samples: 1000, ..Shape::default() });
        let paths: Vec<Vec<u8>> = (0..2000).map(|i| format!("/link-{i}").into_bytes()).collect();
        let crowd: Vec<(&[u8], u64)> = paths.iter().map(|path| (path.as_slice(), rss)).collect();
        node.process_in("crowd", b"crowd", &crowd);
        for container in ["a", "b"] {
            node.process_in(container, b"app", &[(b"/bin/app", 1024), (b"/buffer", 20 << 20), (b"", 0)]);
        }
        for _ in 0..2 {
            node.sum();
            assert!(node.snapshot.n_samples() <= 1000 && node.snapshot.n_samples() > 980);
            let folded: Vec<&str> = node.snapshot.folded().map(|(container, _)| container).collect();
            assert_eq!(folded, ["{container=\"crowd\""]);
            let expected = [("a", 1024 + (20 << 20)), ("b", 1024 + (20 << 20)), ("crowd", 2000 * rss)];
            assert_eq!(node.sums(), expected.into());
        }
    }
}

/// Two containers that both need more than there is have half of it each.
#[test]
fn what_is_shared_is_shared_equally() {
    let mut node = Node::new(Shape { max_samples: 200, ..Shape::default() });
    let paths: Vec<Vec<u8>> = (0..500).map(|i| format!("/{i}").into_bytes()).collect();
    for (container, n) in [("large", 500), ("small", 60)] {
        let mappings: Vec<(&[u8], u64)> = paths[..n].iter().map(|path| (path.as_slice(), 7)).collect();
        node.process_in(container, b"app", &mappings);
    }
    node.sum();
    let n_series = |of: &str| node.snapshot.series().filter(|series| series.labels.contains(of)).count();
    assert_eq!((n_series("large"), n_series("small")), (33, 33)); // 3 * 33 + 1 = 100 each
    assert_eq!(node.sums(), [("large", 3500), ("small", 420)].into());
}

/// Many commands: the samples keep to the limit, the largest commands keep their names, and all processes count.
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
            node.process_in("many", comm.as_bytes(), &[(b"/bin/worker", 10), (b"[heap]", i)]);
        }
        node.process_in("one", b"app", &[(b"/bin/app", 5)]);
        for _ in 0..3 {
            node.sum();
            let n_samples = node.snapshot.n_samples();
            assert!((40..=120).contains(&n_samples), "{group_by:?} {by_pid}: {n_samples}");
            assert_eq!(node.sums(), [("many", 3000 + 299 * 300 / 2), ("one", 5)].into());
            assert_eq!(node.snapshot.processes().map(|(_, n)| n).sum::<u64>(), 301);
            let has = |text: &str| node.snapshot.series().any(|series| series.labels.contains(text));
            assert!(has("comm=\"[other]\"") && has("comm=\"app\""));
            let (largest, smallest) =
                if by_pid { ("pid=\"300\"", "pid=\"1\"") } else { ("worker-299", "worker-000") };
            assert!(has(largest) && !has(smallest), "{group_by:?} {by_pid}");
        }
        // and they come back
        node.readings.drain(10..300);
        node.sum();
        let other = node.snapshot.series().find(|series| series.labels.contains("[other]"));
        assert!(other.is_none(), "{group_by:?} {by_pid}: {other:?}");
        assert_eq!(node.n_folded(), 0);
    }
}
