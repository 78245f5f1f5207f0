//! Tests how series are folded, which means summed into `[other]`, to stay within `--max-samples`. Series
//! that fit are never folded, and only little of the limit stays unused.

use std::collections::{BTreeMap, BTreeSet};

use smaps_container_exporter::smaps::fields::{ALL_FIELDS, FIRST_LARGEST, N_FIELDS, Values};
use smaps_container_exporter::smaps::place::PlaceText;
use smaps_container_exporter::smaps::scanner::Mapping;
use smaps_container_exporter::totals::grouping::GroupBy;
use smaps_container_exporter::totals::process_sums::ProcessSums;
use smaps_container_exporter::totals::reading::ReadingId;
use smaps_container_exporter::totals::shape::Shape;
use smaps_container_exporter::totals::snapshot::{Process, Snapshot};
use smaps_container_exporter::totals::table::ContainerKey;
use smaps_container_exporter::totals::view::View;

use crate::support::{Directory, Numbers, once};

/// Scrapes a recording of these containers. A container is a list of numbers. Each number stands for a
/// command and says how many paths the command maps. Returns the number of samples, and the number of
/// commands that are exported by name. The other commands are summed into `[other]` because of `max_samples`.
fn shown(containers: &[Vec<usize>], max_samples: usize) -> (usize, usize) {
    let recording = Directory::new();
    let mut listed = String::from("id\tinit_pid\tnamespace\tpod\tcontainer\n");
    let mut pid = 0;
    for (id, commands) in containers.iter().enumerate() {
        listed += &format!("c{id}\t{}\tns\tpod-{id}\tapp\n", pid + 1);
        for &n_paths in commands {
            pid += 1;
            let smaps: String = (0..n_paths)
                .map(|path| {
                    let start = 0x10000 * (path + 1);
                    let fields = ["Size", "KernelPageSize", "MMUPageSize", "Rss", "Pss", "Swap"]
                        .map(|field| format!("{field}: {} kB\n", pid + path));
                    format!("{start:x}-{:x} r--p 00000000 08:01 42 /{path}\n", start + 0x1000)
                        + &fields.concat()
                })
                .collect();
            recording.write(&format!("proc/{pid}/cgroup"), format!("0::/c{id}\n"));
            recording.write(&format!("proc/{pid}/comm"), format!("worker-{pid}\n"));
            recording.write(&format!("proc/{pid}/smaps"), smaps);
        }
    }
    recording.write("containers.tsv", listed);
    let text = once(recording.path(), &["--max-samples", &max_samples.to_string()]);
    let samples = || text.lines().filter(|line| line.starts_with("process_smaps_"));
    let commands = samples().filter(|line| line.starts_with("process_smaps_processes{"));
    (samples().count(), commands.filter(|line| !line.contains("comm=\"[other]\"")).count())
}

/// Each case has the containers, the sample limit, the smallest expected number of samples, and the expected
/// number of commands that are exported by name. Each path has 7 samples, and each command has one more. In
/// the first case, the 101 commands with one path have 101 * 8 = 808 samples, which just fit.
#[test]
fn fitting_commands_are_not_folded() {
    for (containers, max_samples, min_samples, n_commands) in [
        (vec![vec![1; 101]], 808, 808, 101),
        // The 101 commands have 808 samples, one more than the limit. To fold only one of them would save
        // nothing, because `[other]` has 8 samples, too. So two commands are folded into `[other]`. The 99
        // other commands and `[other]` have 100 * 8 = 800 samples.
        (vec![vec![1; 101]], 807, 800, 99),
        // The second container has one command with 30 paths, so it has 30 * 7 + 1 = 211 samples. It keeps
        // all of them, because they are less than half of the limit. This leaves 808 - 211 = 597 samples for
        // the first container. At 8 samples each, they are enough for 73 of its commands and for `[other]`.
        (vec![vec![1; 100], vec![30]], 808, 803, 74),
        (vec![vec![2; 50], vec![1; 50], vec![30]], 820, 819, 75),
        (vec![vec![3; 100], vec![1]], 808, 808, 101),
        // The 100 commands with one path have 800 samples. The last command has 15 samples, because one of
        // its 30 paths keeps its name and the other 29 are folded into `[other]`. To show another path by
        // its name would take 7 more samples, but only 5 are left.
        (vec![[vec![1; 100], vec![30]].concat()], 820, 815, 101),
    ] {
        let (n_samples, n_shown) = shown(&containers, max_samples);
        assert!(
            (min_samples..=max_samples).contains(&n_samples) && n_shown == n_commands,
            "{containers:?}: {n_samples} of {max_samples} samples, {n_shown} commands"
        );
    }
}

/// Returns a snapshot of random processes.
fn snapshot(numbers: &mut Numbers) -> (Snapshot, Vec<Option<ReadingId>>) {
    let (mut snapshot, mut readings) = (Snapshot::new(usize::MAX, 0), Vec::new());
    let mut pid = 0;
    for container in 0..1 + numbers.small(12) as u32 {
        let max_paths = 1 + numbers.small(60);
        for _ in 0..1 + numbers.small(60) {
            pid += 1;
            let comm = format!("command-{}", numbers.small(60));
            let mut process_sums = ProcessSums::new(usize::MAX);
            for _ in 0..1 + numbers.small(max_paths) {
                let path = format!(
                    "{}{}",
                    ["/", "[", "/dev/shm/", "[heap", "x"][numbers.below(5) as usize],
                    numbers.small(60)
                );
                let mut values = Values { present: ALL_FIELDS, bytes: [0; N_FIELDS] };
                values.bytes.iter_mut().for_each(|bytes| *bytes = numbers.small(1 << 20));
                values.bytes[numbers.below(N_FIELDS as u64) as usize] = 0;
                let place = PlaceText::default();
                process_sums.add(&Mapping { path: path.as_bytes(), values: &values, place, count: 1 });
            }
            let key = ContainerKey(container);
            snapshot.register(key, &format!("{{c=\"{container}\""));
            readings.push(None);
            let of = Process { container: key, comm: comm.as_bytes(), pid };
            snapshot.record(of, &process_sums, readings.last_mut().unwrap());
        }
    }
    snapshot.sum(readings.iter().flatten().map(|id| (id, true)));
    (snapshot, readings)
}

/// Returns a view of this shape.
fn view(snapshot: &Snapshot, shape: Shape) -> View {
    let mut view = View::new(shape);
    view.update(snapshot.summed(), |_, _| true);
    view
}

/// What a view shows of one container: the sums of its fields, the numbers of its mappings and processes, and
/// the numbers of samples, commands and series.
#[derive(Debug, Default, PartialEq)]
struct Shown {
    sums: Vec<u64>,
    n_mappings: u64,
    n_processes: u64,
    n_samples: usize,
    commands: BTreeSet<String>,
    n_series: usize,
}

fn by_container(view: &View, snapshot: &Snapshot) -> BTreeMap<String, Shown> {
    let mut containers: BTreeMap<String, Shown> = BTreeMap::new();
    for series in view.series(snapshot.summed()) {
        let labels = series.labels.concat();
        let (container, _) = labels.split_once(",comm").unwrap();
        let shown = containers.entry(container.to_owned()).or_default();
        let values: Vec<Option<u64>> = (0..N_FIELDS).map(|field| series.value(field)).collect();
        shown.sums.resize(FIRST_LARGEST, 0);
        shown.sums.iter_mut().zip(&values).for_each(|(sum, value)| *sum += value.unwrap_or(0));
        shown.n_mappings += series.n_mappings();
        shown.n_samples += 1 + values.iter().flatten().count();
        shown.n_series += 1;
    }
    for (labels, n_processes) in view.processes(snapshot.summed()) {
        let labels = labels.concat();
        let shown = containers.get_mut(labels.split_once(",comm").unwrap().0).unwrap();
        shown.n_processes += n_processes;
        shown.n_samples += 1;
        shown.commands.insert(labels);
    }
    containers
}

/// The sums of a container are the same in all views, for any `--group-by`, with or without `--pid`, and for
/// any `--max-samples`.
#[test]
fn sums_of_all_views_agree() {
    for seed in 1..=200 {
        let mut numbers = Numbers(seed * 0x9e37_79b9);
        let (snapshot, _readings) = snapshot(&mut numbers);
        let sums = |shape| {
            let view = view(&snapshot, Shape { fields: ALL_FIELDS, ..shape });
            let labels: Vec<String> =
                view.series(snapshot.summed()).map(|series| series.labels.concat()).collect();
            assert!(labels.is_sorted_by(|a, b| a < b), "seed {seed}: {shape:?}");
            let shown = by_container(&view, &snapshot).into_iter();
            shown.map(|(name, shown)| (name, shown.sums, shown.n_mappings, shown.n_processes)).collect()
        };
        let expected: Vec<_> = sums(Shape::default());
        assert!(!expected.is_empty());
        for group_by in [GroupBy::Path, GroupBy::Kind, GroupBy::Process] {
            for by_pid in [false, true] {
                let max_samples = 1 + numbers.small(4000) as usize;
                for max_samples in [0, max_samples] {
                    let shape = Shape { group_by, by_pid, max_samples, ..Shape::default() };
                    assert_eq!(sums(shape), expected, "seed {seed}: {shape:?}");
                }
            }
        }
    }
}

#[test]
fn random_tables_use_up_the_limit() {
    let (mut n_folded, mut n_minimum) = (0, 0);
    for seed in 1..=2000 {
        let mut numbers = Numbers(seed * 0x9e37_79b9);
        let group_by = [GroupBy::Path, GroupBy::Kind, GroupBy::Process][numbers.below(5).min(2) as usize];
        let shape = Shape {
            group_by,
            anon_parts: true,
            by_pid: numbers.below(3) == 0,
            fields: 1 << numbers.below(22) | (numbers.below(1 << 22) as u32 & ALL_FIELDS),
            omit_zero: numbers.below(3) == 0,
            max_samples: 0,
        };
        let max_samples = 1 + numbers.small(4000) as usize;
        let (snapshot, _readings) = snapshot(&mut numbers);
        let [all, limited] = [shape, Shape { max_samples, ..shape }].map(|shape| view(&snapshot, shape));
        let case = format!("seed {seed}: {:?}", limited.shape());
        let (before, after) = (by_container(&all, &snapshot), by_container(&limited, &snapshot));
        let n_samples = limited.n_samples(snapshot.summed());
        assert_eq!(n_samples, after.values().map(|shown| shown.n_samples).sum(), "{case}");
        assert!(before.keys().eq(after.keys()), "{case}");
        let fields = shape.fields.count_ones() as usize;
        // `least` is the smallest number of samples that a container can have. `step` is the largest number
        // of samples that a further command or path can add.
        let (least, step) = match group_by {
            GroupBy::Kind => (6 * (fields + 1) + 1, 7 * (fields + 1) + 2),
            _ => (fields + 2, 2 * fields + 4),
        };
        let fair_share = max_samples / after.len();
        for (container, shown) in &after {
            let all = &before[container];
            assert_eq!(
                (&shown.sums, shown.n_mappings, shown.n_processes),
                (&all.sums, all.n_mappings, all.n_processes),
                "{case}, {container}"
            );
            assert!(
                shown.n_samples == all.n_samples || shown.n_samples + step > fair_share,
                "{case}, {container}: {} of {fair_share} samples, {} needed",
                shown.n_samples,
                all.n_samples
            );
        }
        let is_folded =
            before.values().map(|shown| shown.n_series).ne(after.values().map(|shown| shown.n_series));
        assert_eq!(is_folded, all.n_samples(snapshot.summed()) > max_samples || before != after, "{case}");
        if !is_folded {
            assert!(before == after && n_samples <= max_samples, "{case}");
            continue;
        }
        n_folded += 1;
        assert!(all.n_samples(snapshot.summed()) > max_samples, "{case}: what fits is not folded");
        assert!(
            n_samples * 100 >= max_samples * 95 || n_samples + step > max_samples,
            "{case}: {n_samples} of {max_samples} samples are used"
        );
        if n_samples > max_samples {
            n_minimum += 1;
            let at_minimum = after.values().filter(|shown| shown.n_samples > fair_share);
            assert!(at_minimum.clone().count() > 0 && fair_share < least, "{case}: {n_samples} samples");
            assert!(n_samples <= after.len() * least.max(fair_share), "{case}: {n_samples} samples");
        }
    }
    assert!(n_folded > 500 && n_minimum > 50, "{n_folded} tables were folded, {n_minimum} to the minimum");
}
