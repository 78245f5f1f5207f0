//! Tests views, which are expositions with other options for a single request. A view must show what version
//! 0.1 printed with the same options.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use smaps_container_exporter::smaps::fields::FIELDS;

use crate::support::{Directory, Numbers, Serving, exporter, fixture, once, stdout_of};

/// The number of random recordings.
const N_RANDOM: u64 = 20;
/// Paths that the kernel prints, and some that it never prints.
const PATHS: [&[u8]; 23] = [
    b"",
    b"[anon]",
    b"[heap]",
    b"[stack]",
    b"[vdso]",
    b"[vvar]",
    b"[anon:glibc: malloc]",
    b"[anon: Go: heap]",
    b"[anon_shmem:x]",
    b"/usr/lib/libc.so.6",
    b"/usr/bin/app",
    b"/usr/bin/app (deleted)",
    b"/dev/zero (deleted)",
    b"/dev/shm/a b",
    b"/memfd:x (deleted)",
    b"/SYSV00000000 (deleted)",
    b"/dev/nvidia0",
    b"/dmabuf:",
    b"/a\"b\\c\\012d",
    b"/\xff\xfe",
    b"/\xff\xfd",
    b"anon_inode:[perf_event]",
    b"/",
];

/// Returns a recording of up to 4 pods, each with up to 3 containers. The same seed always gives the same
/// recording.
fn random_recording(seed: u64) -> Directory {
    let mut numbers = Numbers(seed * 0x9e37_79b9);
    let recording = Directory::new();
    let mut listed = String::from("id\tinit_pid\tnamespace\tpod\tcontainer\n");
    let mut pid = 1 + numbers.below(20) as u32;
    for pod in 0..1 + numbers.below(4) {
        for container in 0..1 + numbers.below(3) {
            let id = format!("c{pod}x{container}");
            writeln!(listed, "{id}\t{pid}\tns-{}\tpod-{pod}\tapp-{container}", pod % 2).unwrap();
            for _ in 0..1 + numbers.small(9) {
                recording.write(&format!("proc/{pid}/cgroup"), format!("0::/{id}\n"));
                let name = ["app", "a b", "w/1", "sh\"", "[other]x", "app-2"][numbers.below(6) as usize];
                recording.write(&format!("proc/{pid}/comm"), format!("{name}\n"));
                recording.write(&format!("proc/{pid}/smaps"), random_smaps(&mut numbers));
                pid += 1 + numbers.small(30) as u32;
            }
        }
    }
    recording.write("containers.tsv", listed);
    recording
}

fn random_smaps(numbers: &mut Numbers) -> Vec<u8> {
    let mut text = Vec::new();
    let has_field: Vec<bool> = FIELDS.iter().map(|_| numbers.below(8) > 0).collect();
    for i in 0..1 + numbers.small(80) {
        let start = 0x10000 * (i + 1);
        text.extend(format!("{start:x}-{:x} r--p 00000000 08:01 42 ", start + 0x1000).bytes());
        match numbers.below(3) {
            0 => text.extend(format!("/data/{}", numbers.small(40)).bytes()),
            _ => text.extend(PATHS[numbers.below(PATHS.len() as u64) as usize]),
        }
        text.push(b'\n');
        for (field, _) in FIELDS.iter().zip(&has_field).filter(|(_, has_field)| **has_field) {
            let kib = if numbers.below(3) == 0 { 0 } else { numbers.small(1 << 20) };
            text.extend(format!("{}: {kib} kB\n", field.key).bytes());
        }
    }
    text
}

/// Returns the recordings by name: the recorded node `fixtures/node`, and random recordings.
fn recordings() -> BTreeMap<String, Option<Directory>> {
    let random = (1..=N_RANDOM).map(|seed| (format!("random-{seed:02}"), Some(random_recording(seed))));
    random.chain([("node".to_owned(), None)]).collect()
}

/// Returns combinations of the options that decide which families and labels an exposition has. The
/// combinations do not contain `--max-samples`, because each test adds this option with its own value.
fn shapes() -> Vec<Vec<&'static str>> {
    let mut shapes = Vec::new();
    for group_by in ["path", "kind", "process"] {
        for fields in ["all", "rss,pss,private_dirty,private_clean,swap", "size,mmu_page_size"] {
            for flags in [&[][..], &["--pid"], &["--omit-zero"], &["--pid", "--omit-zero"]] {
                shapes.push([&["--group-by", group_by, "--fields", fields], flags].concat());
            }
        }
    }
    shapes
}

/// Returns the `process_smaps_*` families of an exposition, which come first.
fn families_of_processes(text: &str) -> &str {
    let others = ["# HELP cgroup_", "# HELP smaps_exporter_"];
    let end = others.iter().filter_map(|begin| text.find(begin)).min();
    &text[..end.unwrap_or(text.len())]
}

/// Returns a hash of a text (FNV-1a), which is the same on every machine.
fn hash(text: &str) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

fn path_of(name: &str, recording: &Option<Directory>) -> PathBuf {
    recording.as_ref().map_or_else(|| fixture(name), |recording| recording.path().to_owned())
}

/// Compares the output of the program with a golden file, for each combination of options in `shapes`.
/// `max_samples` is added as `--max-samples`. Each line of the file has a recording, the options, and the
/// length and the hash of the output.
fn assert_printed(golden: &str, shapes: &[Vec<&str>], max_samples: &str, min_lines: usize) {
    let recordings = recordings();
    if std::env::var_os("BLESS").is_some() {
        let mut lines = String::from("recording\toptions\tlength\thash\n");
        let has_anon_parts = String::from_utf8(stdout_of(&["--help"])).unwrap().contains("--anon-parts");
        for (name, recording) in &recordings {
            for shape in shapes {
                let options = [&shape[..], &["--max-samples", max_samples]].concat();
                let more: &[&str] = if has_anon_parts { &["--anon-parts", "off"] } else { &[] };
                let text = once(&path_of(name, recording), &[&options, more].concat());
                let text = families_of_processes(&text);
                // To stay within `--max-samples`, the program may sum some commands into one command
                // `[other]`. Versions of the program may choose these commands differently, so such outputs
                // are left out.
                if !text.contains("comm=\"[other]\"") {
                    let (length, hash) = (text.len(), hash(text));
                    writeln!(lines, "{name}\t{}\t{length}\t{hash:016x}", options.join(" ")).unwrap();
                }
            }
        }
        return fs::write(fixture(golden), lines).unwrap();
    }
    let lines = fs::read_to_string(fixture(golden)).unwrap();
    assert!(lines.lines().count() > min_lines, "{golden} is whole");
    for line in lines.lines().skip(1) {
        let [name, options, length, expected] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let options: Vec<&str> = options.split(' ').chain(["--anon-parts", "off"]).collect();
        let text = once(&path_of(name, &recordings[name]), &options);
        let text = families_of_processes(&text);
        let got = (text.len().to_string(), format!("{:016x}", hash(text)));
        assert_eq!(got, (length.to_owned(), expected.to_owned()), "{name} with {options:?}");
    }
}

/// The golden file has the output of version 0.1. To write the file again, build commit be28605, and run this
/// test with `BLESS=1`. Set `EXPORTER` to the path of the program that was built.
#[test]
fn options_print_the_same_as_version_0_1() {
    assert_printed("views.tsv", &shapes(), "100000", 700);
}

/// The golden file has the output of commit ae59f4e, the last commit without views. To write the file again,
/// build commit ae59f4e, and run this test with `BLESS=1`. Set `EXPORTER` to the path of the program that was
/// built. Version 0.1 is not used, because it summed more series into `[other]` than `--max-samples`
/// requires.
#[test]
fn same_paths_fold_as_before_views_existed() {
    let by_path: Vec<_> = shapes().into_iter().filter(|shape| shape[1] == "path").collect();
    assert_printed("views-folded.tsv", &by_path, "900", 200);
}

/// Starts an exporter of a recording.
fn serve(recording: &Path, args: &[&str]) -> Serving {
    let more = ["--addr", "127.0.0.1:0", "--fixture", recording.to_str().unwrap()];
    let all: &[&str] = if args.contains(&"--filter") { &[] } else { &["--filter", "*/*/*/*"] };
    let serving = Serving::start(exporter(&[args, &more, all].concat()));
    serving.value("smaps_exporter_processes");
    serving
}

/// Returns the body of the response with a view. Repeats the request if the view must wait for CPU time.
fn view(serving: &Serving, parameters: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let response = serving.get(&format!("/metrics?{parameters}"));
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        if head.starts_with("HTTP/1.1 200 ") {
            return body.to_owned();
        }
        assert!(head.starts_with("HTTP/1.1 503 ") && Instant::now() < deadline, "{parameters}: {response}");
    }
}

/// The parameters of a request can set options such as `group-by`. The response must equal the output of
/// version 0.1 with these options. The options with which the exporter was started must not matter.
#[test]
fn parameters_give_the_same_as_version_0_1() {
    let recordings = recordings();
    let golden = fs::read_to_string(fixture("views.tsv")).unwrap();
    let golden: Vec<Vec<&str>> = golden.lines().skip(1).map(|line| line.split('\t').collect()).collect();
    let own_options = [&["--group-by", "kind"][..], &["--pid"], &["--omit-zero", "--fields", "rss"]];
    for ((name, recording), own_options) in recordings.iter().zip(own_options.iter().cycle()) {
        let serving = serve(&path_of(name, recording), &[own_options, &["--anon-parts", "off"][..]].concat());
        let of_recording: Vec<_> = golden.iter().filter(|line| line[0] == *name).collect();
        assert!(of_recording.len() > 30, "{name}");
        for line in of_recording {
            let words: Vec<&str> = line[1].split(' ').collect();
            let [pid, omit_zero] = ["--pid", "--omit-zero"].map(|flag| words.contains(&flag));
            let parameters =
                format!("group-by={}&fields={}&pid={pid}&omit-zero={omit_zero}", words[1], words[3]);
            let text = view(&serving, &parameters);
            let text = families_of_processes(&text);
            let got = (text.len().to_string(), format!("{:016x}", hash(text)));
            assert_eq!(
                got,
                (line[2].to_owned(), line[3].to_owned()),
                "{name}, {own_options:?}, {parameters}"
            );
        }
    }
}

#[test]
fn filter_selects_processes_and_accounts() {
    let serving = serve(&fixture("node"), &["--filter", "shop/*/*/*", "--group-by", "kind"]);
    let all = view(&serving, "group-by=path&fields=rss&filter=*/*/*/*");
    let some = view(&serving, "group-by=path&fields=rss&filter=shop/redis*/*/*&filter=default/*/*/*");
    let lines = |text: &str, begin: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with(begin)).map(str::to_owned).collect()
    };
    for begin in ["process_smaps_rss_bytes{", "process_smaps_processes{", "cgroup_memory_current_bytes{"] {
        let is_of_redis = |line: &&String| line.contains("pod=\"redis-0\"");
        let expected: Vec<String> = lines(&all, begin).iter().filter(is_of_redis).cloned().collect();
        assert_eq!(lines(&some, begin), expected);
        assert!(!expected.is_empty() && expected.len() < lines(&all, begin).len());
    }
    let by_command = view(&serving, "filter=*/*/*/postgres");
    let commands = lines(&by_command, "process_smaps_processes{");
    assert!(commands.len() == 1 && commands[0].contains("comm=\"postgres\""), "{commands:?}");
    assert!(view(&serving, "filter=nowhere/*/*/*").contains("\nsmaps_exporter_samples 0\n"));
}

#[test]
fn invalid_parameters_are_refused_with_one_line() {
    let serving = serve(&fixture("node"), &[]);
    for (target, status, expected) in [
        (
            "/metrics?group-by=pod",
            "400 Bad Request",
            r#"invalid value "pod" for group-by: expected "path", "#,
        ),
        ("/metrics?max-samples=0", "400 Bad Request", r#"unknown parameter "max-samples": expected one of "#),
        (
            "/metrics?groupby=path",
            "400 Bad Request",
            r#"unknown parameter "groupby": did you mean group-by?"#,
        ),
        ("/metrics?", "200 OK", "# HELP process_smaps_size_bytes "),
        ("/ooms?x=1", "200 OK", "{"),
    ] {
        let response = serving.get(target);
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{target}: {response}");
        assert!(body.starts_with(expected), "{target}: {response}");
        assert!(status == "200 OK" || body.lines().count() == 1, "{body}");
    }
}

/// The exporter is started with options that need no paths and no page sizes. So its scrapes read only the
/// sums in `smaps_rollup` of a live process. A request for an exposition by path must wait for a scrape that
/// reads `smaps`, because `smaps_rollup` has no paths.
#[test]
fn view_by_path_makes_scrapes_read_paths() {
    let recording = Directory::new();
    recording.write(
        "containers.tsv",
        format!("id\tinit_pid\tnamespace\tpod\tcontainer\nself\t{}\tns\tpod\tc\n", std::process::id()),
    );
    std::os::unix::fs::symlink("/proc", recording.path().join("proc")).unwrap();
    let own = ["--group-by", "process", "--fields", "rss", "--cgroup-metrics", "none", "--cpu-budget", "0"];
    let serving = serve(recording.path(), &own);
    let path = format!("path=\"{}\"", std::env::current_exe().unwrap().display());
    // After a long read, the exporter does not read the process again for 100 times as long as the read took.
    // So on a busy machine, the process may be read again only after some seconds.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let paths = view(&serving, "group-by=path&filter=*/*/*/*");
        if paths.contains(&path) {
            break;
        }
        assert!(paths.contains("path=\"[other]\"") && Instant::now() < deadline, "{paths}");
        thread::sleep(Duration::from_millis(100));
    }
    assert!(view(&serving, "group-by=kind").contains("kind=\"file\""));
}

/// 64 clients request different views and do not read the responses. Four of them get a view. The others get
/// an error that says after which time to try again. During this time, the usual exposition is still served.
#[test]
fn many_views_at_once_stay_within_limits() {
    let recording = fixture("node");
    let serving = serve(&recording, &[]);
    let before = peak_bytes(&serving);
    let mut clients = Vec::new();
    for i in 0..64 {
        let mut client = TcpStream::connect(serving.addr()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let filter = format!("filter=*/*/*/*&filter=no-{i}/*/*/*");
        write!(client, "GET /metrics?pid=true&{filter} HTTP/1.0\r\n\r\n").unwrap();
        clients.push(client);
    }
    let mut n_views = 0;
    for client in &mut clients {
        let mut head = [0; 12];
        client.read_exact(&mut head).unwrap();
        match &head {
            b"HTTP/1.1 200" => n_views += 1,
            b"HTTP/1.1 503" => {
                let mut rest = String::new();
                client.read_to_string(&mut rest).unwrap();
                assert!(rest.contains("\r\nRetry-After: 5\r\n") && rest.ends_with("at a time\n"), "{rest}");
            }
            head => panic!("{}", String::from_utf8_lossy(head)),
        }
    }
    assert_eq!(n_views, 4);
    assert!(serving.get("/metrics").starts_with("HTTP/1.1 200 OK\r\n"));
    let n_bytes = once(&recording, &["--pid"]).len() as u64;
    let after = peak_bytes(&serving);
    // The exporter has four views in memory at once, and each has a little more than `n_bytes`. Rendering a
    // view also needs memory for its rows. For all rows, the test allows 2 * `n_bytes` + 4 MiB.
    assert!(after - before < 6 * n_bytes + (4 << 20), "{before} to {after}, a view has {n_bytes}");
    drop(clients);
    assert!(
        view(&serving, "pid=true").starts_with("# HELP process_smaps_size_bytes "),
        "views are served again"
    );
}

/// Returns the peak memory of the exporter.
fn peak_bytes(serving: &Serving) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", serving.child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
