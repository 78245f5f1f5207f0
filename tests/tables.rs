//! Compares the tables of README.md and of the list of metrics with the program. `BLESS=1` writes them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use smaps_container_exporter::cgroupfs::fields::{self, GROUPS};
use smaps_container_exporter::cli::help::help;
use smaps_container_exporter::exposition::self_metrics::{OLDEST_DATA, Report, SelfMetrics};
use smaps_container_exporter::procfs::node_memory;
use smaps_container_exporter::smaps::fields::{Combine, FIELDS};

use crate::support::{Directory, Serving, exporter, fixture, once};

const FRONT_PAGE: &str = "README.md";
const LIST_OF_METRICS: &str = "src/exposition/README.md";

/// Compares `block` with the part of a page between `<!-- name -->` and `<!-- end -->`.
#[track_caller]
fn assert_block(page: &str, name: &str, block: &str) {
    // With `BLESS=1`, several tests write README.md and the list of metrics. Because of this lock, only one
    // of them writes at a time.
    static PAGES: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = PAGES.lock();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = fs::read_to_string(&path).unwrap();
    let begin = format!("<!-- {name} -->\n");
    let start = text.find(&begin).unwrap_or_else(|| panic!("{page} has no {begin}")) + begin.len();
    let end = start + text[start..].find("<!-- end -->").unwrap_or_else(|| panic!("{begin} has no end"));
    if std::env::var_os("BLESS").is_some() {
        return fs::write(&path, [&text[..start], block, &text[end..]].concat()).unwrap();
    }
    assert_eq!(&text[start..end], block, "BLESS=1 rewrites it");
}

#[test]
fn the_front_page_lists_the_options() {
    assert_block(FRONT_PAGE, "options", &format!("```text\n{}```\n", help()));
}

#[test]
fn the_list_of_metrics_has_the_fields() {
    let mut table =
        String::from("| metric | smaps field | combined by | meaning |\n| --- | --- | --- | --- |\n");
    for field in &FIELDS {
        let combine = match field.combine {
            Combine::Sum => "sum",
            Combine::Largest => "largest",
        };
        writeln!(
            table,
            "| `process_smaps_{}_bytes` | {} | {combine} | {} |",
            field.name, field.key, field.help
        )
        .unwrap();
    }
    assert_block(LIST_OF_METRICS, "metrics", &table);
}

/// Compares the documented table of cgroup metrics with the program. A cgroup file with keys, such as
/// `memory.stat`, has its own row. Files with a single number, such as `memory.max`, share one row for each
/// group of metrics. An asterisk marks a metric that cgroup version 1 lacks.
#[test]
fn the_list_of_metrics_has_the_cgroup_fields() {
    let mut rows: Vec<(String, String)> = Vec::new();
    for field in &fields::FIELDS {
        let (group, in_v1) = (GROUPS[field.group()], !field.v1.file.is_empty() || field.v2.file.is_empty());
        let from = if field.v2.key.is_empty() { format!("{group}.*") } else { field.v2.file.to_owned() };
        let labels = if field.labels == "}" { String::new() } else { format!("{{{}", &field.labels[1..]) };
        let name =
            format!("`{}{}{labels}`{}", field.name, field.unit.suffix(), if in_v1 { "" } else { "\\*" });
        match rows.iter_mut().find(|(known, _)| *known == from) {
            Some((_, names)) => *names += &format!(", {name}"),
            None => rows.push((from, name)),
        }
    }
    let mut table = String::from("| version 2 | metrics; all begin with `cgroup_` |\n| --- | --- |\n");
    rows.iter().for_each(|(from, names)| writeln!(table, "| `{from}` | {names} |").unwrap());
    assert_block(LIST_OF_METRICS, "cgroups", &table);
}

#[test]
fn the_list_of_metrics_has_those_of_pods_and_the_node() {
    let mut table = String::from("| metric | type | meaning |\n| --- | --- | --- |\n");
    let text = once(&fixture("cgroups/v2"), &["--group-by", "process"]);
    let lines: Vec<&str> = text.lines().collect();
    for (i, line) in lines.iter().enumerate() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) else {
            continue;
        };
        if !["cgroup_pod_", "cgroup_node_", "smaps_exporter_pod_"].iter().any(|begin| name.starts_with(begin))
        {
            continue;
        }
        let (_, kind) = lines[i + 1].rsplit_once(' ').unwrap();
        let (_, labels) = lines[i + 2].split_once('{').unwrap();
        let labels: Vec<&str> = labels.split("\",").map(|label| label.split('=').next().unwrap()).collect();
        writeln!(table, "| `{name}{{{}}}` | {kind} | {help} |", labels.join(",")).unwrap();
    }
    assert_block(LIST_OF_METRICS, "above", &table);
}

#[test]
fn the_list_of_metrics_has_the_exporters_own() {
    let known = Some(1);
    let report = Report {
        containerd_up: Some(true),
        n_unmatched_links: known,
        virtual_bytes: known,
        resident_bytes: known,
        n_open_files: known,
        max_open_files: known,
        max_map_count: known,
        ..Report::default()
    };
    let mut text = Vec::new();
    let filters = ["*/*/*/*".to_owned()].into_iter();
    SelfMetrics::new(["", "", ""], filters, Some("worker-1"), 0.25, SystemTime::now()).render(
        &mut text,
        &report,
        &[(r#"{namespace="shop"}"#.to_owned(), 1)],
        [(r#"{namespace="shop",pod="cart",container="app""#, 1)].into_iter(),
        [(r#"{namespace="shop",pod="cart",container="app""#, 1)].into_iter(),
    );
    let text = String::from_utf8(text).unwrap() + OLDEST_DATA + "1\n";
    let mut table = String::from("| metric | type | meaning |\n| --- | --- | --- |\n");
    let mut conventional = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|line| line.split_once(' ')) else {
            continue;
        };
        if name.starts_with("process_") {
            conventional.push(format!("`{name}`"));
            continue;
        }
        let (_, kind) = lines.next().unwrap().rsplit_once(' ').unwrap();
        let sample = text.lines().find(|sample| sample.starts_with(name)).unwrap();
        let labels = sample.split_once('{').map_or(String::new(), |(_, labels)| {
            let names =
                labels.split("=\"").filter_map(|part| part.rsplit([',', '"']).next()).collect::<Vec<_>>();
            format!(
                "{{{}}}",
                names[..names.len() - 1].iter().map(|name| name.trim()).collect::<Vec<_>>().join(",")
            )
        });
        writeln!(table, "| `{name}{labels}` | {kind} | {help} |").unwrap();
    }
    writeln!(table, "| {} | | As every exporter has them. |", conventional.join(", ")).unwrap();
    assert_block(LIST_OF_METRICS, "own", &table);
}

/// The files that the exporter reads in a top-level cgroup.
const TOP: [&str; 2] = ["memory.current", "memory.stat"];
/// The cgroup of the pod in `fixtures/cgroups/v2`.
const POD: &str = "kubepods.slice/kubepods-burstable.slice/\
                   kubepods-burstable-pod5f4c0000_0000_4000_8000_000000000001.slice";

/// Returns a recording of a hundred pods: the pods of `fixtures/node`, copied twenty times. Each copy has
/// other names, pids and cgroups. The cgroups have the files of version 2.
fn hundred_pods() -> Directory {
    let (node, v2) = (fixture("node"), fixture("cgroups/v2/cgroup"));
    let recording = Directory::new();
    let containers = fs::read_to_string(node.join("containers.tsv")).unwrap();
    let (header, rows) = containers.split_once('\n').unwrap();
    let rows: Vec<Vec<&str>> = rows.lines().map(|row| row.split('\t').collect()).collect();
    let mut table = format!("{header}\n");
    recording.write("cgroup/cgroup.controllers", fs::read(v2.join("cgroup.controllers")).unwrap());
    for name in node_memory::FILES {
        recording.write(&format!("proc/{name}"), fs::read(fixture("cgroups/v2/proc").join(name)).unwrap());
    }
    for (top, files) in [("", &["memory.stat"][..]), ("kubepods.slice/", &TOP), ("system.slice/", &TOP)] {
        for file in files {
            recording.write(&format!("cgroup/{top}{file}"), fs::read(v2.join(top).join(file)).unwrap());
        }
    }
    for i in 0..20 {
        let pod_of = |pod: &str| {
            let n = rows.iter().position(|row| row[3] == pod).unwrap();
            format!("kubepods.slice/kubepods-pod5f4c0000_0000_4000_8000_00000000{i:02}{n:02}.slice")
        };
        let pid_of = |pid: &str| (pid.parse::<u32>().unwrap() + 100_000 * i).to_string();
        let cgroup_of = |id: &str| {
            let row = rows.iter().find(|row| row[0] == id).unwrap();
            let id = format!("{i:02x}{}", &id[2..]);
            format!("{}/cri-containerd-{id}.scope", pod_of(row[3]))
        };
        for row in &rows {
            let [id, pid, namespace, pod, name] = row[..] else { panic!("{row:?}") };
            writeln!(table, "{i:02x}{}\t{}\t{namespace}\t{pod}-{i}\t{name}", &id[2..], pid_of(pid)).unwrap();
            let full = v2.join(POD).join(format!("cri-containerd-{}.scope", "1a".repeat(32)));
            for (from, to) in [(full, cgroup_of(id)), (v2.join(POD), pod_of(pod))] {
                let files = fs::read_dir(from).unwrap().map(|file| file.unwrap().path());
                for file in files.filter(|file| file.is_file()) {
                    let name = file.file_name().unwrap().to_str().unwrap();
                    recording.write(&format!("cgroup/{to}/{name}"), fs::read(&file).unwrap());
                }
            }
        }
        for process in fs::read_dir(node.join("proc")).unwrap() {
            let process = process.unwrap().path();
            let pid = process.file_name().unwrap().to_str().unwrap();
            if pid == "sys" {
                continue;
            }
            let to = format!("proc/{}", pid_of(pid));
            let cgroup = fs::read_to_string(process.join("cgroup")).unwrap();
            let (_, id) = cgroup.trim_end().rsplit_once('/').unwrap();
            recording.write(&format!("{to}/cgroup"), format!("0::/{}\n", cgroup_of(id)));
            for file in ["comm", "smaps"] {
                let to = recording.path().join(&to).join(file);
                fs::hard_link(process.join(file), &to)
                    .or_else(|_| fs::copy(process.join(file), &to).map(|_| ()))
                    .unwrap();
            }
        }
    }
    recording.write("containers.tsv", table);
    recording
}

/// Returns the resident bytes of an exporter that has scraped this recording five times.
fn resident_bytes(recording: &Path, args: &[&str]) -> u64 {
    let more = ["--filter", "*/*/*/*", "--addr", "127.0.0.1:0", "--fixture", recording.to_str().unwrap()];
    let mut process = exporter(&[args, &more].concat()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
    let addr =
        log.find_map(|line| Some(line.unwrap().split_once("http://")?.1.trim_end_matches('/').to_owned()));
    let mut times = BTreeSet::new();
    while times.len() < 5 {
        let mut client = TcpStream::connect(addr.as_deref().unwrap()).unwrap();
        client.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        let ended = "\nsmaps_exporter_last_scrape_timestamp_seconds ";
        times.extend(text.split_once(ended).map(|(_, rest)| rest.lines().next().unwrap().to_owned()));
        std::thread::sleep(Duration::from_millis(200));
    }
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// The columns of a table in README.md that count series. Each column has a title and a prefix, and counts
/// the series with names that begin with the prefix. A series counts only in the first column that fits.
const COLUMNS: [(&str, &str); 5] = [
    ("smaps", "process_smaps_"),
    ("pods", "cgroup_pod_"),
    ("node", "cgroup_node_"),
    ("containers", "cgroup_"),
    ("own", "smaps_exporter_"),
];

/// Returns the number of Prometheus series in each of the [`COLUMNS`].
fn count_series(text: &str) -> [usize; COLUMNS.len()] {
    let mut counts = [0; COLUMNS.len()];
    for line in text.lines() {
        if let Some(column) = COLUMNS.iter().position(|(_, begin)| line.starts_with(begin)) {
            counts[column] += 1;
        }
    }
    counts
}

/// Returns a number as text, with a comma before each group of three digits.
fn with_commas(number: usize) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => format!("{},{:03}", with_commas(number / 1000), number % 1000),
    }
}

/// The rows of the table in README.md that says how many series the exporter has. Each row has a title, and
/// the options of the exporter.
const SIZED: [(&str, &str); 7] = [
    ("the defaults of the command line", ""),
    ("`--omit-zero`", "--omit-zero"),
    ("`--fields rss,pss`", "--fields rss,pss"),
    ("`--group-by kind`", "--group-by kind"),
    (
        "**the manifest**: by kind, five fields",
        "--group-by kind --fields rss,pss,private_dirty,private_clean,swap",
    ),
    ("by path, five fields", "--group-by path --fields rss,pss,private_dirty,private_clean,swap"),
    ("`--group-by process`", "--group-by process"),
];

/// Tests the table in README.md that says how many series the exporter has with various options. The last
/// column is the resident memory of the exporter. The test does not compare this column, because resident
/// memory varies. `make sizing` measures the resident memory with the static binary.
#[test]
fn series_counts() {
    let recording = hundred_pods();
    let fixture = recording.path().to_str().unwrap();
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(FRONT_PAGE)).unwrap();
    let names: String = COLUMNS.iter().map(|(name, _)| format!(" {name} |")).collect();
    let mut table = format!(
        "| one node of 100 pods | label sets |{names} MiB | MiB resident |\n| --- | ---: |{} ---: | ---: |\n",
        " ---: |".repeat(COLUMNS.len())
    );
    let mut all_counts = Vec::new();
    for (name, args) in SIZED {
        let args: Vec<_> = args.split_terminator(' ').collect();
        let more = ["--filter", "*/*/*/*", "--addr", "127.0.0.1:0", "--fixture", fixture];
        let serving = Serving::start(exporter(&[&args[..], &more].concat()));
        let text = serving.complete(20 * 17);
        let n_sets = text.lines().filter(|line| line.starts_with("process_smaps_mappings{")).count();
        let counts = count_series(&text);
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        let cells: String = counts.iter().map(|count| format!(" {count} |")).collect();
        let row = format!("| {name} | {n_sets} |{cells} {} |", mib(text.len() as u64));
        let resident = match std::env::var_os("BLESS") {
            Some(_) => mib(resident_bytes(recording.path(), &args)),
            None => {
                let in_readme =
                    readme.split_once(&row).map(|(_, rest)| rest.split(" |").next().unwrap().trim());
                in_readme.unwrap_or("?").to_owned()
            }
        };
        writeln!(table, "{row} {resident} |").unwrap();
        all_counts.push(counts);
    }
    assert_block(FRONT_PAGE, "counts", &table);
    // The text of README.md states some numbers of this table, and must contain the current numbers.
    let [defaults, .., manifest, by_path, _] = &all_counts[..] else { panic!("{all_counts:?}") };
    let mut numbers = readme.split(|c: char| !c.is_ascii_digit() && c != ',').collect::<Vec<_>>();
    numbers.iter_mut().for_each(|number| *number = number.trim_end_matches(','));
    for number in [defaults[0], manifest[0], manifest[3], by_path.iter().sum()] {
        let number = with_commas(number);
        assert!(numbers.contains(&number.as_str()), "the text does not say {number}");
    }
    let total = format!("{} series", with_commas(manifest.iter().sum()));
    assert!(readme.contains(&total), "the text does not say {total:?}");
}

/// With the options of the manifest, Prometheus stores few series, and the page still shows paths.
#[test]
fn manifest_exports_few_series_and_keeps_paths() {
    let recording = hundred_pods();
    let manifest = include_str!("../src/kubernetes/daemonset.yaml");
    let args = manifest.lines().filter_map(|line| line.trim().strip_prefix("- "));
    let shapes = ["--group-by=", "--fields="];
    let args: Vec<&str> = args.filter(|arg| shapes.iter().any(|shape| arg.starts_with(shape))).collect();
    assert_eq!(args.len(), 2, "{args:?}");
    let text = once(recording.path(), &[&args[..], &["--anon-parts", "off"]].concat());
    let [n_smaps, ..] = count_series(&text);
    assert!(n_smaps > 1000 && n_smaps <= 4500, "{n_smaps} series");

    let of_page = fs::read_to_string("src/http/page/script/poll.js").unwrap();
    let (_, of_page) = of_page.split_once("fetch('metrics?").unwrap();
    let (parameters, _) = of_page.split_once('\'').unwrap();
    let more = ["--filter", "*/*/*/*", "--addr", "127.0.0.1:0", "--fixture"];
    let fixture = recording.path().to_str().unwrap();
    let serving = Serving::start(exporter(&[&args[..], &more, &[fixture]].concat()));
    serving.complete(20 * 17);
    let page = serving.get(&format!("/metrics?{parameters}"));
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{}", &page[..200]);
    for expected in
        ["process_smaps_pss_bytes{", "comm=\"postgres\",path=\"/usr/lib/", "\nprocess_smaps_size_bytes{"]
    {
        assert!(page.contains(expected), "{expected}");
    }
}
