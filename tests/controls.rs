//! Tests the options that reduce the number of series by omitting or combining series. The sums must stay the
//! same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::support::{Directory, assert_golden, fixture, once};

/// Each row has the name of a golden file, and the options that make it from `fixtures/node`.
const CONTROLS: [(&str, &[&str]); 10] = [
    ("plain", &[]),
    ("fields", &["--fields", "rss,pss,private_dirty"]),
    ("kind", &["--group-by", "kind"]),
    ("process", &["--group-by", "process"]),
    ("process-fields", &["--group-by", "process", "--fields", "rss,pss,swap"]),
    ("pid", &["--pid", "--fields", "pss"]),
    ("pid-kind", &["--pid", "--group-by", "kind", "--fields", "rss,kernel_page_size"]),
    ("omit-zero", &["--omit-zero"]),
    ("max-samples", &["--max-samples", "1000"]),
    ("all", &["--pid", "--omit-zero", "--max-samples", "500", "--fields", "rss,swap,mmu_page_size"]),
];

/// Some long-term stores reject a sample if one of its labels is longer than 1 KiB.
#[test]
fn paths_are_cut_at_1_kib_by_default() {
    let recording = Directory::new();
    recording.one_container();
    let paths = ["x", "y"].map(|end| format!("/{}{end}", "é".repeat(1000)));
    let smaps: String = (1..)
        .zip(&paths)
        .map(|(i, path)| format!("{i}0000-{i}1000 r--p 00000000 08:01 42 {path}\nRss: {i} kB\n"))
        .collect();
    recording.process(1, "app", smaps);
    let rss = |args: &[&str]| -> Vec<(String, u64)> {
        let samples = samples(&once(recording.path(), args)).into_iter();
        let rss = samples.filter(|(family, ..)| family == "process_smaps_rss_bytes");
        rss.map(|(_, labels, bytes)| (labels["path"].clone(), bytes)).collect()
    };
    let cut = |n_bytes: usize| (paths[0][..n_bytes].to_owned(), 3 << 10);
    assert_eq!(rss(&[]), [cut(1023)], "a character is kept whole or not at all; equal paths are summed");
    assert_eq!(rss(&["--max-label-bytes", "65"]), [cut(65)]);
    let whole = [(paths[0].clone(), 1 << 10), (paths[1].clone(), 2 << 10)];
    assert_eq!(rss(&["--max-label-bytes=4096"]), whole);
}

type Series = BTreeMap<String, String>;

/// Returns the samples of the smaps metrics: family, labels, value.
fn samples(text: &str) -> Vec<(String, Series, u64)> {
    let lines = text.lines().filter(|line| line.starts_with("process_smaps_"));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (family, labels) = series.split_once('{').unwrap();
            let mut labels = labels.strip_suffix('}').unwrap();
            let mut series = Series::new();
            while let Some((name, rest)) = labels.split_once("=\"") {
                let mut escaped = false;
                let end = rest.find(|c| {
                    let is_end = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    is_end
                });
                let end = end.unwrap();
                series.insert(name.trim_start_matches(',').into(), rest[..end].into());
                labels = &rest[end + 1..];
            }
            assert!(labels.is_empty(), "{line}");
            (family.to_owned(), series, value.parse().unwrap())
        })
        .collect()
}

/// Returns the values of each family, summed over the labels path, kind and pid. For families of page sizes,
/// returns the largest page size instead of the sum.
fn sums(text: &str) -> BTreeMap<(String, Series), u64> {
    let mut sums = BTreeMap::new();
    for (family, mut labels, value) in samples(text) {
        for label in ["path", "kind", "pid"] {
            labels.remove(label);
        }
        let is_largest = family.contains("page_size");
        let sum: &mut u64 = sums.entry((family, labels)).or_default();
        *sum = if is_largest { (*sum).max(value) } else { sum.checked_add(value).unwrap() };
    }
    sums
}

/// Asserts that each sum is the same with these options as without them. With `--fields`, only the sums of
/// the selected fields may be exported. With `--omit-zero`, sums of 0 may be missing.
fn assert_sums(recording: &Path, args: &[&str]) {
    let unlimited: &[&str] = if args.contains(&"--max-samples") { &[] } else { &["--max-samples", "0"] };
    let args = [unlimited, args].concat();
    let plain = sums(&once(recording, &["--max-samples", "0"]));
    let text = once(recording, &args);
    let controlled = sums(&text);
    let selected: Option<BTreeSet<String>> = args.iter().position(|arg| *arg == "--fields").map(|i| {
        let fields = args[i + 1].split(',').map(|name| format!("process_smaps_{name}_bytes"));
        fields.chain(["mappings", "processes"].map(|name| format!("process_smaps_{name}"))).collect()
    });
    for (key @ (family, labels), sum) in &plain {
        if selected.as_ref().is_some_and(|selected| !selected.contains(family)) {
            assert!(!controlled.contains_key(key), "{args:?}: {family} was not selected");
            continue;
        }
        match controlled.get(key) {
            None if args.contains(&"--omit-zero") && *sum == 0 => {}
            found => assert_eq!(found, Some(sum), "{args:?}: {family} {labels:?}"),
        }
    }
    assert!(controlled.keys().all(|key| plain.contains_key(key)), "{args:?}");
    let limit: usize =
        args[args.iter().rposition(|arg| *arg == "--max-samples").unwrap() + 1].parse().unwrap();
    let n_samples = samples(&text).len();
    assert!(limit == 0 || n_samples <= limit, "{args:?}: {n_samples} samples");
}

#[test]
fn expositions_equal_golden_files() {
    for (name, args) in CONTROLS {
        assert_golden(&format!("golden/{name}.prom"), &once(&fixture("node"), args));
    }
}

#[test]
fn options_keep_the_sums_of_the_recorded_node() {
    for (_, args) in CONTROLS {
        assert_sums(&fixture("node"), args);
    }
}

/// Returns a node with many small series of equal size, so that ties are common. One path has the name
/// `[other]`. The exporter gives the same name to the sum of paths that do not fit into `--max-samples`.
fn generated_node() -> Directory {
    let node = Directory::new();
    node.one_container();
    for pid in 1..=40 {
        let mut smaps = String::new();
        for n in 0..30 {
            let rss = [0, 4, 4, 8, 400][(pid * n) as usize % 5];
            let path = match n {
                0 => "[other]".to_owned(),
                1 => String::new(),
                _ => format!("/lib/{}.so", n * pid % 50),
            };
            let swap = if n % 3 == 0 { "Swap:                  4 kB\n" } else { "" };
            smaps += &format!(
                "7f{pid:04x}{n:02x}000-7f{pid:04x}{n:02x}fff r--p 00000000 fe:00 \
                 {n}  {path}\nSize:                  8 kB\n\
                 KernelPageSize:        {} kB\nRss:            {rss:>8} kB\nPss:            {:>8} \
                 kB\n{swap}VmFlags: rd\n",
                if n == 7 { 2048 } else { 4 },
                rss / 2,
            );
        }
        node.process(pid, format!("worker-{}", pid % 12), smaps);
    }
    node
}

#[test]
fn options_keep_the_sums_of_a_generated_node() {
    let node = generated_node();
    for (_, args) in CONTROLS {
        assert_sums(node.path(), args);
    }
    for limit in [61, 70, 100, 163, 164, 165, 500, 999, 1300, 100_000] {
        // If all paths are summed into `[other]`, each of the 12 commands still has 6 samples. Five of them
        // are for `[other]`, and one is the number of processes.
        if limit >= 12 * 6 {
            assert_sums(node.path(), &["--max-samples", &limit.to_string()]);
        }
    }
}

/// Only the smallest paths are summed into `[other]`, so the largest paths keep their names.
#[test]
fn smallest_paths_fold_first() {
    let node = generated_node();
    let rss = |text: &str| -> BTreeMap<Series, u64> {
        let rss = samples(text).into_iter().filter(|(family, ..)| family == "process_smaps_rss_bytes");
        rss.map(|(_, labels, value)| (labels, value)).collect()
    };
    let plain = rss(&once(node.path(), &["--max-samples", "0"]));
    let folded = rss(&once(node.path(), &["--max-samples", "500"]));
    let is_other = |labels: &Series| labels["path"] == "[other]";
    let kept: Vec<u64> = folded.iter().filter(|(labels, _)| !is_other(labels)).map(|(_, rss)| *rss).collect();
    let lost = plain.iter().filter(|(labels, _)| !is_other(labels) && !folded.contains_key(*labels));
    let largest_lost = lost.map(|(_, rss)| *rss).max().unwrap();
    // Each of the 12 commands may keep one small path. Replacing a single path by `[other]` would save no
    // sample, so the exporter does not do it.
    let n_smaller = kept.iter().filter(|rss| **rss < largest_lost).count();
    assert!(
        n_smaller <= 12 && kept.len() > 20,
        "{n_smaller} of {} are smaller than {largest_lost}",
        kept.len()
    );
}

#[test]
fn same_input_gives_same_bytes() {
    let node = generated_node();
    for limit in ["0", "100", "500"] {
        let texts: BTreeSet<String> = (0..5).map(|_| once(node.path(), &["--max-samples", limit])).collect();
        assert_eq!(texts.len(), 1, "--max-samples {limit}");
    }
}

/// For a live process, the sums that the kernel computes equal the sums over its mappings. Only `pss` and
/// `locked` may differ, because the kernel rounds their value in each mapping.
#[test]
#[cfg(target_os = "linux")]
fn rollup_equals_the_sum_over_smaps() {
    let recording = Directory::new();
    let name = format!("roll-{}", std::process::id());
    let program = recording.path().join(&name);
    // The program is a symbolic link, because starting a copy may fail with ETXTBSY. If another test forks
    // while the copy is written, the child process still has the copy open for writing.
    std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
    let child = Running(
        std::process::Command::new(&program).arg("1000").stdout(std::process::Stdio::null()).spawn().unwrap(),
    );
    std::os::unix::fs::symlink("/proc", recording.path().join("proc")).unwrap();
    let header = "id\tinit_pid\tnamespace\tpod\tcontainer";
    recording.write("containers.tsv", format!("{header}\nc1\t{}\tns\tp\tc\n", child.0.id()));
    let fields: Vec<&str> = smaps_container_exporter::smaps::fields::FIELDS
        .iter()
        .map(|field| field.name)
        .filter(|name| !["size", "kernel_page_size", "mmu_page_size"].contains(name))
        .collect();
    let fields = fields.join(",");
    let filter = format!("ns/p/c/{name}");
    let scrape = |fields: &str| {
        let recording = recording.path().to_str().unwrap();
        let args = [
            "--once",
            "--fixture",
            recording,
            "--filter",
            &filter,
            "--group-by",
            "process",
            "--fields",
            fields,
        ];
        let text = String::from_utf8(crate::support::stdout_of(&args)).unwrap();
        let samples = samples(&text).into_iter().map(|(family, _, value)| (family, value));
        samples.filter(|(family, _)| family != "process_smaps_size_bytes").collect::<BTreeMap<_, _>>()
    };
    // If another process that shares memory with this process starts or ends between the two scrapes, the
    // values of the scrapes can differ, for example the PSS. Then the loop scrapes again.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let (smaps, rollup) = (scrape(&format!("size,{fields}")), scrape(&fields));
        let n_mappings = smaps.get("process_smaps_mappings").copied().unwrap_or_default();
        let is_close = |(family, sum): (&String, &u64)| {
            let is_share = family.contains("pss") || family.contains("locked");
            let tolerance = if is_share { 1024 * n_mappings } else { 0 };
            rollup.get(family).is_some_and(|rollup| sum.abs_diff(*rollup) <= tolerance)
        };
        let is_whole =
            n_mappings > 10 && smaps.get("process_smaps_rss_bytes").is_some_and(|rss| *rss > 100_000);
        if is_whole && smaps.len() == rollup.len() && smaps.iter().all(is_close) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "by smaps {smaps:?}\nby rollup {rollup:?}");
    }
}

/// A program that ends when the test ends, even if the test fails.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// With `--group-by kind`, nothing is summed into `[other]`. So all samples are exported, even if they exceed
/// `--max-samples`. The exporter logs this only once, not in every scrape.
#[test]
fn samples_over_the_limit_are_logged_once() {
    use std::io::{BufRead, BufReader, Read};

    let node = fixture("node");
    let args = ["--fixture", node.to_str().unwrap(), "--filter", "*/*/*/*", "--addr", "127.0.0.1:0"];
    let more = ["--group-by", "kind", "--max-samples", "10", "--scrape-interval", "20ms"];
    let mut child = Running(
        crate::support::exporter(&[&args[..], &more[..]].concat())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut log = BufReader::new(child.0.stderr.take().unwrap());
    let mut lines: Vec<String> = vec![];
    while !["listening on", "--max-samples"].iter().all(|text| lines.iter().any(|line| line.contains(text))) {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "{lines:?}");
        lines.push(line);
    }
    let is_listening =
        |line: &String| line.split_once("listening on http://").map(|(_, addr)| addr.trim().replace('/', ""));
    let addr = lines.iter().find_map(is_listening).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let mut scrapes = BTreeSet::new();
    while scrapes.len() < 4 && std::time::Instant::now() < deadline {
        let mut text = String::new();
        let mut client = std::net::TcpStream::connect(&addr).unwrap();
        std::io::Write::write_all(&mut client, b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        client.read_to_string(&mut text).unwrap();
        if text.split(' ').nth(1) == Some("503") {
            continue; // no scrape has ended yet
        }
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.rsplit_once(' ').unwrap().1.to_owned()
        };
        assert_eq!(value("smaps_exporter_samples "), "972");
        scrapes.insert(value("smaps_exporter_last_scrape_timestamp_seconds "));
    }
    drop(child);
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert!(scrapes.len() == 4 && !rest.contains("--max-samples"), "{scrapes:?}\n{rest}");
    let text = "exporting 972 samples, over --max-samples 10: one command per container is always kept";
    assert!(lines.iter().any(|line| line.contains(text)), "{lines:?}");
}
