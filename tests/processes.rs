//! Tests how processes are handled from scrape to scrape, with a recording that changes.

use std::ffi::OsString;
use std::fs;
use std::process::Command as Program;
use std::time::{Duration, Instant};

use smaps_container_exporter::cli::args::{self, Command};
use smaps_container_exporter::scrape::Scraper;
use smaps_container_exporter::start;

use crate::support::{Directory, Serving, describe, exporter};

const SMAPS: &str =
    "1000-2000 r--p 00000000 00:01 1 /lib/x\nSize:                  4 kB\nRss:                   4 kB\n";

/// Returns a scraper without a CPU budget, unless the test sets one. The budget is a fraction of the time
/// between scrapes. These tests have nearly no time between scrapes, so with a budget a scrape would read
/// only some processes.
fn scraper(recording: &Directory, more: &[&str]) -> Scraper {
    let args = ["--fixture", recording.path().to_str().unwrap(), "--fields", "rss"];
    let budget: &[&str] = if more.contains(&"--cpu-budget") { &[] } else { &["--cpu-budget", "0"] };
    let args = args.iter().chain(more).chain(budget).map(OsString::from);
    match args::parse(args).unwrap() {
        Command::Run(options) => start::scraper(&options).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Scrapes once. Returns each command with the number of its processes.
fn scrape(scraper: &mut Scraper) -> Vec<String> {
    let mut reader = scraper.reader();
    scraper.scrape(&mut reader).unwrap();
    let mut text = Vec::new();
    scraper.render_processes(&mut text);
    let text = String::from_utf8(text).unwrap();
    let samples = text.lines().filter_map(|line| line.strip_prefix("process_smaps_processes"));
    samples.map(|line| line.rsplit_once("comm=").unwrap().1.replace(['"', '}'], "")).collect()
}

fn three() -> Directory {
    let recording = Directory::new();
    recording.one_container();
    for (pid, comm) in [(1, "init"), (7, "worker"), (8, "worker")] {
        recording.process(pid, comm, SMAPS);
    }
    recording
}

#[test]
fn processes_are_added_and_removed() {
    let recording = three();
    let mut scraper = scraper(&recording, &["--filter", "*/*/*/*"]);
    assert_eq!(scrape(&mut scraper), ["init 1", "worker 2"]);
    fs::remove_dir_all(recording.path().join("proc/7")).unwrap();
    recording.process(9, "other", SMAPS);
    assert_eq!(scrape(&mut scraper), ["init 1", "other 1", "worker 1"]);
    recording.process(8, "renamed", SMAPS);
    assert_eq!(scrape(&mut scraper), ["init 1", "other 1", "renamed 1"]);
    recording.write("proc/9/cgroup", "0::/elsewhere\n");
    assert_eq!(scrape(&mut scraper), ["init 1", "renamed 1"]);
    recording.process(8, "renamed", ""); // a zombie
    assert_eq!(scrape(&mut scraper), ["init 1"]);
}

/// The first scrape recognizes zombies, and later scrapes read no files of a zombie. So for 20,000 zombies, a
/// scrape only has to list 20,000 more entries of /proc.
#[test]
fn zombie_is_not_read_again() {
    let recording = three();
    let stat = |state: &str, n_threads: u32| {
        format!("7 (x) {state} 1 1 1 0 -1 4194304 0 0 0 0 1 1 0 0 20 0 {n_threads} 0 7 9 9 0 10 0 20\n")
    };
    recording.process(7, "worker", "");
    recording.write("proc/7/stat", stat("Z", 1));
    recording.process(8, "leader", "");
    recording.write("proc/8/stat", stat("Z", 2));
    recording.process(9, "hidden", "");
    // With version 1 cgroups, the kernel prints `/` as the cgroup of a zombie.
    recording.write("proc/9/cgroup", "4:memory:/\n1:name=systemd:/\n0::/\n");
    recording.write("proc/9/status", "Name:\thidden\nState:\tZ (zombie)\nThreads:\t1\n");
    let args =
        ["--addr", "127.0.0.1:0", "--scrape-interval", "10ms", "--cpu-budget", "0", "--filter", "*/*/*/*"];
    let serving =
        Serving::start(exporter(&[&args[..], &["--fixture", recording.path().to_str().unwrap()]].concat()));
    let shown = || {
        let text = serving.get("/metrics");
        let names = ["init", "leader", "worker", "hidden"];
        names.map(|comm| {
            text.contains(&format!(
                "process_smaps_mappings{{namespace=\"shop\",pod=\"web-0\",container=\"app\",comm=\"{comm}\""
            ))
        })
    };
    wait_until(|| shown() == [true, false, false, false]);
    // Processes 7 and 9 are zombies. In process 8, only the first thread has exited, and another thread still
    // runs.
    for pid in [7, 8, 9] {
        recording.write(&format!("proc/{pid}/cgroup"), "0::/kubepods/pod1/c1\n");
        recording.write(&format!("proc/{pid}/smaps"), SMAPS);
    }
    wait_until(|| shown()[1]);
    assert_eq!(shown(), [true, true, false, false]);
    // A new process gets pid 7, so `proc/7` must get another inode number. If the old `proc/7` were removed
    // first, the new directory could get the same inode number. Therefore the test creates the new directory
    // under the name `proc/70`, while the old `proc/7` still exists, and renames it afterwards.
    recording.process(70, "worker", SMAPS);
    fs::remove_dir_all(recording.path().join("proc/7")).unwrap();
    fs::rename(recording.path().join("proc/70"), recording.path().join("proc/7")).unwrap();
    wait_until(|| shown()[2]);
}

/// Waits until a condition is true, for at most 30 s.
#[track_caller]
fn wait_until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "the condition does not become true");
        std::thread::yield_now();
    }
}

#[test]
fn values_are_kept_until_the_next_read_or_the_end_of_the_process() {
    let recording = three();
    let mut scraper = scraper(&recording, &["--filter", "*/*/*/*", "--cpu-budget", "0.000000001"]);
    assert_eq!(scrape(&mut scraper), ["init 1", "worker 2"], "the first scrape reads all");
    for _ in 0..5 {
        assert_eq!(scrape(&mut scraper), ["init 1", "worker 2"]);
    }
    fs::remove_dir_all(recording.path().join("proc/7")).unwrap();
    assert_eq!(scrape(&mut scraper), ["init 1", "worker 1"]);
    recording.process(8, "renamed", SMAPS);
    assert_eq!(scrape(&mut scraper), ["init 1"], "without stat it may be another program");
}

/// A process that has changed its name may have executed another program. Usually the exporter sees in `stat`
/// whether the program is still the same, but the recordings of this test have no `stat`. So the exporter
/// drops the values of the process until its next read, and then exports the process under the new name. A
/// process that has moved to another cgroup leaves its container immediately. Neither change is counted as a
/// read error.
#[test]
fn changed_name_or_cgroup_is_no_read_error() {
    // In the first case, CPU time is not limited. In the second case, the first scrape uses up the budget.
    for (budget, found) in [("0", &["init 1", "renamed 1"][..]), ("0.000000001", &["init 1"])] {
        let recording = three();
        let mut scraper = scraper(&recording, &["--filter", "*/*/*/*", "--cpu-budget", budget]);
        assert_eq!(scrape(&mut scraper), ["init 1", "worker 2"]);
        recording.write("proc/7/cgroup", "0::/elsewhere\n");
        recording.write("proc/8/comm", "renamed\n");
        assert_eq!(scrape(&mut scraper), found, "--cpu-budget {budget}");
        let mut text = Vec::new();
        scraper.render(&mut text);
        let text = String::from_utf8(text).unwrap();
        let errors: Vec<_> =
            text.lines().filter(|line| line.starts_with("smaps_exporter_read_errors_total{")).collect();
        assert_eq!(errors.len(), 7, "{text}");
        assert!(errors.iter().all(|line| line.ends_with(" 0")), "{errors:?}");
        recording.write("proc/7/cgroup", "0::/kubepods/pod1/c1\n");
        recording.write("proc/8/comm", "worker\n");
        if budget == "0" {
            assert_eq!(scrape(&mut scraper), ["init 1", "worker 2"]);
        }
    }
}

/// Returns the `stat` file of a process. `code` and `stack` are the start addresses of its code and stack. A
/// kernel that hides these addresses prints 1 for the code and 0 for the stack.
fn stat(pid: u32, [code, stack]: [u64; 2]) -> String {
    format!("{pid} (x) S 1 1 1 0 -1 4194304 0 0 0 0 1 1 0 0 20 0 1 0 {pid} 9 9 0 {code} 0 {stack}\n")
}

/// The first scrape uses up the CPU budget, so later scrapes read no smaps. They keep the values of the first
/// scrape, unless the process has executed another program. This is found out from the addresses in `stat`.
/// If `stat` does not show them, it is found out from the name of the process.
#[test]
fn kept_values_are_dropped_after_an_exec() {
    const PROGRAM: [u64; 2] = [4_198_400, 140_000_000];
    const HIDDEN: [u64; 2] = [1, 0];
    for (before, comm, now, stays, why) in [
        (PROGRAM, "worker", PROGRAM, true, "nothing has changed"),
        (PROGRAM, "worker", [PROGRAM[0], 150_000_000], false, "the same program at another address"),
        (PROGRAM, "worker", [PROGRAM[0] + 4096, PROGRAM[1]], false, "another program of the same name"),
        (PROGRAM, "other", [PROGRAM[0] + 4096, PROGRAM[1]], false, "another program"),
        (PROGRAM, "other", PROGRAM, true, "only the name has changed"),
        (PROGRAM, "other", HIDDEN, false, "the name decides where stat no longer shows the program"),
        (PROGRAM, "worker", HIDDEN, true, "no sign of another program"),
        (HIDDEN, "other", HIDDEN, false, "the name decides where stat shows no program"),
        (HIDDEN, "worker", HIDDEN, true, "nothing has changed"),
    ] {
        let recording = three();
        recording.write("proc/7/stat", stat(7, before));
        let mut scraper = scraper(&recording, &["--filter", "*/*/*/*", "--cpu-budget", "0.000000001"]);
        assert_eq!(scrape(&mut scraper), ["init 1", "worker 2"], "the first scrape reads all");
        recording.write("proc/7/comm", format!("{comm}\n"));
        recording.write("proc/7/stat", stat(7, now));
        let expected = if stays { ["init 1", "worker 2"] } else { ["init 1", "worker 1"] };
        assert_eq!(scrape(&mut scraper), expected, "{why}");
    }
}

/// If the kernel prints two mappings with the same start address, the second one is the same mapping after a
/// change, and only the second one is counted. If two mappings overlap and have different start addresses,
/// the read fails, and the values of the previous read are kept.
#[test]
fn torn_read_keeps_the_last_values() {
    let recording = three();
    let mut scraper = scraper(&recording, &["--filter", "*/*/*/*"]);
    let mappings = |scraper: &mut Scraper| {
        let found = scrape(scraper);
        let mut text = Vec::new();
        scraper.render(&mut text);
        let text = String::from_utf8(text).unwrap();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().parse::<u64>().unwrap()
        };
        (found, value("smaps_exporter_mappings"), value("smaps_exporter_read_errors_total{reason=\"torn\"}"))
    };
    let shown = |n: u64, n_torn| (vec!["init 1".to_owned(), "worker 2".to_owned()], n, n_torn);
    assert_eq!(mappings(&mut scraper), shown(3, 0));
    let grown = SMAPS.replace("1000-2000", "1000-3000");
    recording.process(7, "worker", [SMAPS, &grown].concat());
    assert_eq!(mappings(&mut scraper), shown(3, 0), "printed again");
    recording.process(7, "worker", [SMAPS, &SMAPS.replace("1000-2000", "2000-3000")].concat());
    assert_eq!(mappings(&mut scraper), shown(4, 0), "a second mapping");
    recording.process(
        7,
        "worker",
        [&grown, &SMAPS.replace("1000-2000", "2000-3000")].map(|text| text.as_str()).concat(),
    );
    assert_eq!(mappings(&mut scraper), shown(4, 1), "torn");
    assert_eq!(mappings(&mut scraper), shown(4, 2), "torn again");
    recording.process(7, "worker", SMAPS);
    assert_eq!(mappings(&mut scraper), shown(3, 2), "whole");
}

/// /proc may still list the directory of a process that has ended. The values of the process are dropped even
/// if it was not due to be read.
#[test]
fn values_of_an_ended_process_with_a_directory_are_dropped() {
    let recording = three();
    let mut scraper = scraper(&recording, &["--filter", "*/*/*/*", "--cpu-budget", "0.000000001"]);
    assert_eq!(scrape(&mut scraper), ["init 1", "worker 2"]);
    fs::remove_file(recording.path().join("proc/7/cgroup")).unwrap();
    assert_eq!(scrape(&mut scraper), ["init 1", "worker 1"]);
}

/// The kernel writes pids in /proc without leading zeros, signs or spaces. Directories with other names, such
/// as `007`, are ignored, so that a recording cannot contain process 7 twice.
#[test]
fn second_name_of_a_pid_is_ignored() {
    let recording = three();
    for name in ["007", "+7", "7 "] {
        for file in ["cgroup", "comm", "smaps"] {
            let content = fs::read(recording.path().join("proc/7").join(file)).unwrap();
            recording.write(&format!("proc/{name}/{file}"), content);
        }
    }
    assert_eq!(scrape(&mut scraper(&recording, &["--filter", "*/*/*/*"])), ["init 1", "worker 2"]);
}

/// A recording cannot block the exporter, even if an untrusted person has made it.
#[test]
fn pipes_and_devices_in_a_recording_are_not_read() {
    let recording = three();
    for (pid, file) in [(2, "cgroup"), (3, "comm"), (4, "smaps")] {
        recording.process(pid, "odd", SMAPS);
        let path = recording.path().join(format!("proc/{pid}/{file}"));
        fs::remove_file(&path).unwrap();
        assert!(Program::new("mkfifo").arg(&path).status().unwrap().success());
    }
    recording.process(5, "odd", SMAPS);
    fs::remove_file(recording.path().join("proc/5/smaps")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", recording.path().join("proc/5/smaps")).unwrap();
    assert_eq!(scrape(&mut scraper(&recording, &["--filter", "*/*/*/*"])), ["init 1", "worker 2"]);

    let containers = recording.path().join("containers.tsv");
    fs::remove_file(&containers).unwrap();
    assert!(Program::new("mkfifo").arg(&containers).status().unwrap().success());
    let mut command = exporter(&["--once", "--fixture", recording.path().to_str().unwrap()]);
    let output = command.output().unwrap();
    let expected = format!("smaps-container-exporter: cannot read {containers:?}: it is not a file\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected, "{}", describe(&command, &output));
    assert_eq!(output.status.code(), Some(1));
}

/// With `--fixture`, the exporter reads a copy of /proc. While the exporter runs, the test renames or removes
/// the copy, and creates another copy at the same path.
#[test]
fn replaced_recording_is_opened_again() {
    let recording = three();
    let mut scraper = scraper(&recording, &["--filter", "*/*/*/*"]);
    assert_eq!(scrape(&mut scraper), ["init 1", "worker 2"]);
    let proc = recording.path().join("proc");
    fs::rename(&proc, recording.path().join("before")).unwrap();
    recording.process(1, "replaced", SMAPS);
    assert_eq!(scrape(&mut scraper), ["replaced 1"]);
    fs::remove_dir_all(&proc).unwrap();
    assert!(scraper.scrape(&mut scraper.reader()).is_err(), "there is none for a while");
    recording.process(2, "again", SMAPS);
    assert_eq!(scrape(&mut scraper), ["again 1"]);
}
