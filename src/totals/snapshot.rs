//! Keeps the readings of all processes, and sums them by path. A [view](super::view) decides what is exported
//! of these sums.
//!
//! Each process has the [reading](super::reading) of its last read. Each scrape sums the readings of all
//! processes that exist. So if a process was not read in this scrape, its last values are included. The
//! values of a process that has ended are not included. Nothing is ever subtracted.
//!
//! While commands and paths stay the same, this allocates no memory.

use super::labels;
use super::memory;
use super::other::OTHER;
use super::process_sums::ProcessSums;
use super::reading::{Reading, ReadingId, State};
use super::rows::Summed;
use super::slab::Slab;
use super::sums::Totals;
use super::table::{ContainerKey, Table};
use crate::smaps::fields::RSS;

/// The process to which a reading belongs.
#[derive(Clone, Copy, Debug)]
pub struct Process<'a> {
    /// The process's container. It must have been [registered](Snapshot::register).
    pub container: ContainerKey,
    /// The process's name, which may have any bytes.
    pub comm: &'a [u8],
    /// The pid of the process.
    pub pid: u32,
}

/// The readings of the processes of a node, and their sums.
#[derive(Debug)]
pub struct Snapshot {
    table: Table,
    readings: Slab<Reading>,
    /// The maximum memory of the table and the readings together.
    max_bytes: usize,
    /// If a new reading makes the snapshot larger than this, paths are merged before the next `sum`.
    reduce_above: usize,
    lossy: String, // scratch
}

impl Snapshot {
    /// Returns an empty snapshot. Paths longer than `max_label_bytes` are cut; 0 means no limit.
    pub fn new(max_bytes: usize, max_label_bytes: usize) -> Self {
        Self {
            table: Table::new(max_label_bytes),
            readings: Slab::default(),
            max_bytes,
            reduce_above: max_bytes,
            lossy: String::new(),
        }
    }

    /// Returns the result of the last [`Snapshot::sum`].
    pub fn summed(&self) -> Summed<'_> {
        Summed { table: &self.table, readings: &self.readings }
    }

    /// Returns the table with the result of the last [`Snapshot::sum`].
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Returns the memory limit of the snapshot.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Registers `key` for the container with these labels. The labels have the form of
    /// [`labels::container`]. A container must be registered before its processes are recorded. Registering
    /// it again costs one look-up.
    pub fn register(&mut self, key: ContainerKey, labels: &str) {
        self.table.register(key, labels);
    }

    /// Stores the result of a read of a process, in place of the result of its previous read.
    ///
    /// Panics if the container is not registered.
    pub fn record(&mut self, process: Process<'_>, process_sums: &ProcessSums, id: &mut Option<ReadingId>) {
        let container = self.table.container(process.container).expect("the container is registered");
        let command = self.command(container, process);
        let slot = id.get_or_insert_with(|| ReadingId(self.readings.insert(Reading::default()))).0;
        let mut reading = std::mem::take(self.readings.get_mut(slot));
        let n_bytes_before = if reading.state == State::Unused { 0 } else { reading.n_bytes() };
        reading.begin(command, process.pid, process_sums.n_merged());
        let (mut others, mut n_others) = (Totals::default(), 0);
        for (value, totals) in process_sums.sums() {
            let value = self.table.cut(labels::lossy(value, &mut self.lossy));
            if memory::admits_path(&self.table, command, value, totals) {
                reading.push(self.table.series_of(command, value), totals);
            } else {
                others.add(totals);
                n_others += 1;
            }
        }
        if n_others > 0 {
            reading.push_merged(self.table.series_of(command, OTHER), &others, n_others);
        }
        reading.shrink();
        self.table.take_bytes(container, reading.n_bytes().saturating_sub(n_bytes_before));
        *self.readings.get_mut(slot) = reading;
        if self.table.n_bytes > self.reduce_above {
            self.add_up();
            self.reduce(self.max_bytes / 4 * 3);
        }
    }

    /// Returns the id of the process's command, or of `[other]` if there is no memory for a new command.
    fn command(&mut self, container: u32, process: Process<'_>) -> u32 {
        let comm = labels::lossy(process.comm, &mut self.lossy);
        let max_bytes = self.max_bytes;
        let has_room = |table: &Table, n_bytes| memory::has_room(table, container, n_bytes, max_bytes);
        let command = self.table.command(container, comm, has_room);
        command.unwrap_or_else(|| self.table.other_command(container))
    }

    /// Returns a reading.
    pub(super) fn reading(&self, id: &ReadingId) -> &Reading {
        self.readings.get(id.0)
    }

    /// Whether paths of this reading were merged into `[other]`. Only a new read can separate them again.
    pub fn has_merged(&self, id: &ReadingId) -> bool {
        self.reading(id).n_merged() > 0
    }

    /// Returns the resident bytes in a reading.
    pub fn resident(&self, id: &ReadingId) -> u64 {
        let mut resident = 0;
        self.reading(id).for_each(|_, _, totals| resident += totals.values.bytes[RSS]);
        resident
    }

    /// Sums the readings. `owned` lists the readings of all processes, each with a flag. A reading with the
    /// flag false is kept, but not added to the sums. Readings that are not listed are removed.
    pub fn sum<'a>(&mut self, owned: impl Iterator<Item = (&'a ReadingId, bool)>) {
        self.readings.iter_mut().for_each(|reading| reading.state = State::Unused);
        for (id, counts) in owned {
            self.readings.get_mut(id.0).state = if counts { State::Counted } else { State::Kept };
        }
        if self.readings.iter().any(|reading| reading.state == State::Unused) {
            self.readings.retain(|_, reading| reading.state != State::Unused);
        }
        self.add_up();
        self.table.remove_unused();
        self.reduce(self.max_bytes);
        memory::forget_merged(&mut self.table, self.max_bytes);
        self.table.sort();
    }

    fn add_up(&mut self) {
        let Self { table, readings, .. } = self;
        table.clear_sums();
        for reading in readings.iter() {
            let command = table.commands.get_mut(reading.command);
            command.n_readings += 1;
            let counts = reading.state == State::Counted;
            command.n_processes += u64::from(counts);
            let container = table.containers.get_mut(command.container);
            container.n_folded += if counts { u64::from(reading.n_merged()) } else { 0 };
            reading.for_each(|_, id, totals| {
                let series = table.series.get_mut(id);
                series.n_readings += 1;
                if counts {
                    series.totals.add(totals);
                    container.has_unnamed_files |= series.is_other && totals.of_files() > 0;
                }
            });
        }
    }

    /// Merges paths until the memory is below `max_bytes`, or nothing is left to merge.
    fn reduce(&mut self, max_bytes: usize) {
        memory::keep_within(&mut self.table, &mut self.readings, max_bytes);
        // If nothing is left to merge, the memory stays above the limit. Merging is then tried again after a
        // growth by a quarter of the limit, because trying it after each reading would use too much CPU time.
        self.reduce_above = self.max_bytes.max(self.table.n_bytes + self.max_bytes / 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smaps::fields::{RSS, values};
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
            let name =
                |labels: &'_ str| labels.len() - labels.strip_prefix("{container=\"0\",").unwrap().len();
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
        node.snapshot.record(
            Process { container: ContainerKey(7), comm: b"a", pid: 9 },
            &process_sums,
            &mut id,
        );
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

    /// Whatever a container maps, its data in the snapshot stays within the memory limit, its sums do not
    /// change, and its largest paths keep their names. Other containers lose nothing.
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
                let own: Vec<Vec<u8>> =
                    (0..400).map(|i| format!("/{process}/{i:0>400}").into_bytes()).collect();
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
}
