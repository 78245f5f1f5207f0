//! The README's tables, which follow from the program: `BLESS=1` writes them anew.

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
use smaps_container_exporter::smaps::fields::{Combine, FIELDS};

use crate::support::{Directory, exporter, fixture, once};

/// Holds what stands in the README between `<!-- name -->` and `<!-- end -->` against `block`.
#[track_caller]
fn assert_block(name: &str, block: &str) {
    // Several tests may bless at once.
    static README: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _alone = README.lock();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let begin = format!("<!-- {name} -->\n");
    let start = readme.find(&begin).unwrap_or_else(|| panic!("README.md has no {begin}")) + begin.len();
    let end = start + readme[start..].find("<!-- end -->").unwrap_or_else(|| panic!("{begin} has no end"));
    if std::env::var_os("BLESS").is_some() {
        return fs::write(&path, [&readme[..start], block, &readme[end..]].concat()).unwrap();
    }
    assert_eq!(&readme[start..end], block, "BLESS=1 writes it anew");
}

#[test]
fn options() {
    assert_block("options", &format!("```text\n{}```\n", help()));
}

#[test]
fn fields() {
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
    assert_block("metrics", &table);
}

/// A row for each file with many lines, and one for the files of one number; an asterisk for what version 1 does not have.
#[test]
fn cgroup_fields() {
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
    assert_block("cgroups", &table);
}

#[test]
fn own_metrics() {
    let known = Some(1);
    let report = Report {
        containerd_up: Some(true),
        n_unmatched_links: known,
        virtual_bytes: known,
        resident_bytes: known,
        n_open_files: known,
        max_open_files: known,
        ..Report::default()
    };
    let mut text = Vec::new();
    let filters = ["*/*/*/*".to_owned()].into_iter();
    SelfMetrics::new(["", "", ""], filters, Some("worker-1"), SystemTime::now()).render(
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
    assert_block("own", &table);
}

/// A hundred pods: twenty times those of `fixtures/node`, each with names, pids and cgroups of its own.
fn hundred_pods() -> Directory {
    let node = fixture("node");
    let recording = Directory::new();
    let containers = fs::read_to_string(node.join("containers.tsv")).unwrap();
    let (header, rows) = containers.split_once('\n').unwrap();
    let mut table = format!("{header}\n");
    for i in 0..20 {
        let pid_of = |pid: &str| (pid.parse::<u32>().unwrap() + 100_000 * i).to_string();
        for row in rows.lines() {
            let [id, pid, namespace, pod, name] = row.split('\t').collect::<Vec<_>>()[..] else {
                panic!("{row}")
            };
            writeln!(table, "{i:02x}{}\t{}\t{namespace}\t{pod}-{i}\t{name}", &id[2..], pid_of(pid)).unwrap();
        }
        for process in fs::read_dir(node.join("proc")).unwrap() {
            let process = process.unwrap().path();
            let to = format!("proc/{}", pid_of(process.file_name().unwrap().to_str().unwrap()));
            let cgroup = fs::read_to_string(process.join("cgroup")).unwrap();
            let (above, id) = cgroup.trim_end().rsplit_once('/').unwrap();
            recording.write(&format!("{to}/cgroup"), format!("{above}/{i:02x}{}\n", &id[2..]));
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

/// The resident bytes of an exporter of this recording that has made five scrapes.
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

/// All but the last column, resident memory, which varies: `make sizing` measures it with the static binary.
#[test]
fn counts() {
    let recording = hundred_pods();
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let mut table = String::from(
        "| 100 pods | series | samples | MiB of exposition | MiB resident |\n| --- | ---: | ---: | ---: | ---: |\n",
    );
    for args in [
        "",
        "--omit-zero",
        "--fields rss,pss",
        "--group-by kind",
        "--group-by kind --fields rss,pss,private_dirty,private_clean,swap",
        "--group-by process",
    ] {
        let split: Vec<_> = args.split_terminator(' ').collect();
        let text = once(recording.path(), &split);
        let n_samples = text.lines().filter(|line| !line.starts_with('#')).count();
        let n_series = text.lines().filter(|line| line.starts_with("process_smaps_mappings{")).count();
        let name = if args.is_empty() { "(the defaults)".to_owned() } else { format!("`{args}`") };
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        let row = format!("| {name} | {n_series} | {n_samples} | {} |", mib(text.len() as u64));
        let resident = match std::env::var_os("BLESS") {
            Some(_) => mib(resident_bytes(recording.path(), &split)),
            None => {
                let told = readme.split_once(&row).map(|(_, rest)| rest.split(" |").next().unwrap().trim());
                told.unwrap_or("?").to_owned()
            }
        };
        writeln!(table, "{row} {resident} |").unwrap();
    }
    assert_block("counts", &table);
}
