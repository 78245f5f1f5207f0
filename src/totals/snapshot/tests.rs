use super::*;
use crate::smaps::fields::values;
use crate::smaps::{place::PlaceText, scanner::Mapping};
use crate::totals::table::Series;

/// A snapshot for tests, and the readings of its processes.
struct Node {
    snapshot: Snapshot,
    readings: Vec<Option<ReadingId>>,
}

impl Node {
    fn new(max_bytes: usize) -> Self {
        Self { snapshot: Snapshot::new(max_bytes, 0), readings: Vec::new() }
    }

    /// Adds a process to the container with this key. Its mappings are given as paths and resident bytes.
    fn process_in(&mut self, container: u32, comm: &[u8], mappings: &[(&[u8], u64)]) {
        let mut process_sums = ProcessSums::new(self.snapshot.max_bytes);
        for &(path, rss) in mappings {
            let values = values(&[("rss", rss), ("mmu_page_size", 4096)]);
            process_sums.add(&Mapping { path, values: &values, place: PlaceText::default(), count: 1 });
        }
        let (key, labels) = (ContainerKey(container), format!("{{container=\"{container}\""));
        self.snapshot.register(key, &labels);
        self.readings.push(None);
        let (pid, id) = (self.readings.len() as u32, self.readings.last_mut().unwrap());
        self.snapshot.record(Process { container: key, comm, pid }, &process_sums, id);
    }

    fn process(&mut self, comm: &[u8], mappings: &[(&[u8], u64)]) {
        self.process_in(0, comm, mappings);
    }

    fn sum(&mut self) {
        self.snapshot.sum(self.readings.iter().flatten().map(|id| (id, true)));
    }

    fn rss(&self, is_of: impl Fn(&Series) -> bool) -> u64 {
        let series = self.snapshot.table().series().filter(|series| is_of(series));
        series.map(|series| series.totals.values.bytes[RSS]).sum()
    }

    /// Returns `comm` and `path`, the resident bytes and the number of mappings of each series.
    fn series(&self) -> Vec<(&str, u64, u64)> {
        let prefix = "{container=\"0\",".len();
        let series = self.snapshot.table().series();
        series.map(|s| (&s.labels[prefix..], s.totals.values.bytes[RSS], s.totals.n_mappings)).collect()
    }

    fn processes(&self) -> Vec<(&str, u64)> {
        let table = self.snapshot.table();
        let commands = table.order.commands.iter().map(|&id| table.commands.get(id));
        let counted = commands.filter(|command| command.n_processes > 0);
        let name = |labels: &'_ str| labels.len() - labels.strip_prefix("{container=\"0\",").unwrap().len();
        counted.map(|command| (&command.labels[name(&command.labels)..], command.n_processes)).collect()
    }

    /// Returns the number of folded paths of each container that has folded paths.
    fn folded(&self) -> Vec<u64> {
        let containers = self.snapshot.table().containers.iter();
        containers.map(|container| container.n_folded).filter(|&n_folded| n_folded > 0).collect()
    }
}

#[test]
fn processes_of_a_command_are_summed() {
    let mut node = Node::new(usize::MAX);
    node.process(b"a", &[(b"/x", 1024), (b"", 2048), (b"/x", 4096)]);
    node.process(b"b", &[(b"/x", 1024)]);
    node.process(b"a", &[(b"[anon]", 1024)]);
    node.sum();
    let of_a = [(r#"comm="a",path="/x"}"#, 5120, 2), (r#"comm="a",path="[anon]"}"#, 3072, 2)];
    assert_eq!(node.series(), [of_a[0], of_a[1], (r#"comm="b",path="/x"}"#, 1024, 1)]);
    assert_eq!(node.processes(), [(r#"comm="a""#, 2), (r#"comm="b""#, 1)]);
}

#[test]
fn adds_and_removes_processes() {
    let mut node = Node::new(usize::MAX);
    node.process(b"a", &[(b"/x", 1024), (b"/y", 1024)]);
    node.process(b"b", &[(b"/z", 1024)]);
    node.sum();
    node.readings.remove(0);
    node.process(b"c", &[(b"/w", 2048)]);
    node.sum();
    let expected = [(r#"comm="b",path="/z"}"#, 1024, 1), (r#"comm="c",path="/w"}"#, 2048, 1)];
    assert_eq!(node.series(), expected);
    node.process(b"a", &[(b"/y", 512)]);
    node.sum();
    assert_eq!(node.series(), [(r#"comm="a",path="/y"}"#, 512, 1), expected[0], expected[1]]);
    node.readings.clear();
    node.sum();
    assert_eq!((node.series().len(), node.snapshot.table().n_processes()), (0, 0));
}

#[test]
fn kept_reading_can_count_again() {
    let mut node = Node::new(usize::MAX);
    node.process(b"a", &[(b"/x", 1), (b"/y", 2)]);
    node.process(b"b", &[(b"/z", 4)]);
    let sum = |node: &mut Node, counts: bool| {
        let owned = node.readings.iter().flatten().enumerate();
        node.snapshot.sum(owned.map(|(i, id)| (id, i > 0 || counts)));
        (node.rss(|_| true), node.processes().len())
    };
    assert_eq!(sum(&mut node, false), (4, 1));
    node.process(b"c", &[(b"/v", 8), (b"/w", 16)]);
    assert_eq!(sum(&mut node, false), (28, 2));
    assert_eq!(sum(&mut node, true), (31, 3));
}

#[test]
fn containers_that_share_labels_are_one_and_keys_are_reused() {
    let mut node = Node::new(usize::MAX);
    node.process_in(0, b"a", &[(b"/x", 1)]);
    node.snapshot.register(ContainerKey(7), "{container=\"0\"");
    let process_sums = ProcessSums::new(usize::MAX);
    let mut id = None;
    node.snapshot.record(Process { container: ContainerKey(7), comm: b"a", pid: 9 }, &process_sums, &mut id);
    node.readings.push(id);
    node.sum();
    assert_eq!(node.processes(), [(r#"comm="a""#, 2)]);
    node.snapshot.register(ContainerKey(7), "{container=\"7\"");
    node.process_in(7, b"b", &[(b"/x", 2)]);
    node.sum();
    assert_eq!(node.rss(|series| series.labels.contains("container=\"7\",comm=\"b\"")), 2);
    node.readings.clear();
    node.sum();
    assert_eq!(node.snapshot.table().container(ContainerKey(7)), None, "no reading names it");
}

#[test]
fn paths_with_equal_text_are_one_series() {
    let mut node = Node::new(usize::MAX);
    node.process(b"a\xff", &[(b"/\xff", 1024), (b"/\xfe", 2048), ("/\u{fffd}".as_bytes(), 4096)]);
    node.process(b"a\xfe", &[(b"/\xff", 1024)]);
    node.sum();
    assert_eq!(node.series(), [("comm=\"a\u{fffd}\",path=\"/\u{fffd}\"}", 8192, 4)]);
}

/// If a container maps very many paths, merging its small paths keeps the snapshot close to the memory limit.
/// The merging does not change the container's sums, and its largest path keeps its name. The other container
/// keeps all its paths and values.
#[test]
fn one_container_cannot_use_all_memory() {
    let paths: Vec<Vec<u8>> = (0..400_u64).map(|i| format!("/{i:0>400}").into_bytes()).collect();
    let mut node = Node::new(1 << 20);
    let quiet: Vec<(&[u8], u64)> = paths[..50].iter().map(|path| (path.as_slice(), 100)).collect();
    node.process_in(1, b"app", &quiet);
    node.sum();
    for round in 0..4 {
        node.readings.truncate(1);
        for process in 0..60 {
            // Each process maps small paths of its own, and all processes map `/large`.
            let own: Vec<Vec<u8>> = (0..400).map(|i| format!("/{process}/{i:0>400}").into_bytes()).collect();
            let mut mappings: Vec<(&[u8], u64)> = own.iter().map(|path| (path.as_slice(), 1)).collect();
            mappings.push((b"/large", 1000));
            mappings.extend(paths.iter().map(|path| (path.as_slice(), 0)));
            node.process_in(0, format!("crowd-{}", process % 2).as_bytes(), &mappings);
            assert!(node.snapshot.table.n_bytes < 2 << 20, "round {round}");
        }
        node.sum();
        assert!(node.snapshot.table.n_bytes <= (1 << 20) + (16 << 10));
        assert_eq!(node.rss(|series| series.labels.contains("container=\"0\"")), 60 * 1400);
        assert_eq!(node.rss(|series| series.labels.contains("container=\"1\"")), 5000);
        assert_eq!(node.rss(|series| series.labels.contains("/large")), 60_000);
        let series = node.snapshot.table().series();
        assert_eq!(series.filter(|series| series.labels.contains("container=\"1\"")).count(), 50);
        let folded = node.folded();
        assert!(folded.len() == 1 && folded[0] > 20_000, "{folded:?}");
    }
    node.readings.truncate(1);
    node.sum();
    assert!(node.snapshot.table.n_bytes < 100_000 && node.snapshot.table().series().count() == 50);
}

/// A path that was merged into `[other]` to save memory is not added again by the next read.
#[test]
fn merged_paths_stay_merged_until_memory_is_free() {
    let mut node = Node::new(1 << 20);
    let paths: Vec<Vec<u8>> = (0..300_u64).map(|i| format!("/{i:0>800}").into_bytes()).collect();
    let mappings: Vec<(&[u8], u64)> = (0..).zip(&paths).map(|(i, path)| (path.as_slice(), i)).collect();
    let scrape = |node: &mut Node| {
        node.readings.clear();
        (0..10).for_each(|i| node.process_in(i, b"a", &mappings));
        let n_bytes = node.snapshot.table.n_bytes;
        node.sum();
        (n_bytes > node.snapshot.max_bytes, node.snapshot.table.series.len())
    };
    let (_, n_series) = scrape(&mut node);
    assert!((300..900).contains(&n_series), "{n_series}");
    for _ in 0..3 {
        assert_eq!(scrape(&mut node), (false, n_series));
    }
    node.readings.clear();
    node.process_in(0, b"a", &[(b"/x", 0)]);
    node.sum();
    node.process_in(0, b"b", &mappings);
    assert_eq!(node.snapshot.table.series.len(), 301);
}

/// If the commands of a container take too much memory, processes with new names count as `[other]`.
#[test]
fn commands_without_room_are_other() {
    let mut node = Node::new(1 << 20);
    node.process_in(1, b"app", &[(b"", 1)]);
    for i in 0..5000 {
        node.process(format!("name-{i}").as_bytes(), &[(b"", 1)]);
    }
    assert!(node.snapshot.table.n_bytes < 2 << 20);
    let n_commands = node.snapshot.table.commands.len();
    assert!((500..2500).contains(&n_commands), "{n_commands}");
    node.process_in(1, b"another", &[(b"", 2)]);
    assert_eq!(node.snapshot.table.commands.len(), n_commands + 1, "others still get new commands");
    node.sum();
    assert_eq!(node.rss(|_| true), 5003);
}
