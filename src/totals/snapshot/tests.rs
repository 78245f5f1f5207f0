//! What the sums are, and what folds.

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
        let pid = self.readings.len() as u32 + 1;
        let mut tally = Tally::new(self.snapshot.shape.group_by);
        for &(path, rss) in mappings {
            let values = values(&[("rss", rss), ("mmu_page_size", 4096)]);
            tally.add(&Mapping { path, values: &values, count: 1 });
        }
        let mut reading = Reading::default();
        self.snapshot.record("{container=\"c\"", comm, pid, &tally, &mut reading);
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
