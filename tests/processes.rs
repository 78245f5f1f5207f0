//! What becomes of processes from scrape to scrape, over a recording that changes.

use std::ffi::OsString;
use std::fs;
use std::process::Command as Program;

use smaps_container_exporter::cli::args::{self, Command};
use smaps_container_exporter::scrape::Scraper;

use crate::support::{Directory, exporter, told};

const SMAPS: &str =
    "1000-2000 r--p 00000000 00:01 1 /lib/x\nSize:                  4 kB\nRss:                   4 kB\n";

/// Scrapes follow each other at once here: a budget that is a share of the time between them would read now this and now that,
/// so there is none unless the test is about one.
fn scraper(recording: &Directory, more: &[&str]) -> Scraper {
    let args = ["--fixture", recording.path().to_str().unwrap(), "--fields", "rss"];
    let budget: &[&str] = if more.contains(&"--cpu-budget") { &[] } else { &["--cpu-budget", "0"] };
    let args = args.iter().chain(more).chain(budget).map(OsString::from);
    match args::parse(args).unwrap() {
        Command::Run(options) => Scraper::new(&options).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// One scrape: each command and how many processes it has.
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
fn what_is_gone_is_gone_and_what_is_new_is_there() {
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

#[test]
fn values_stay_while_the_turn_has_not_come_and_go_with_their_process() {
    let recording = three();
    let mut scraper = scraper(&recording, &["--filter", "*/*/*/*", "--cpu-budget", "0.000000001"]);
    assert_eq!(scrape(&mut scraper), ["init 1", "worker 2"], "the first scrape reads all");
    for _ in 0..5 {
        assert_eq!(scrape(&mut scraper), ["init 1", "worker 2"]);
    }
    fs::remove_dir_all(recording.path().join("proc/7")).unwrap();
    assert_eq!(scrape(&mut scraper), ["init 1", "worker 1"]);
    recording.process(8, "renamed", SMAPS);
    assert_eq!(scrape(&mut scraper), ["init 1", "worker 1"], "a process cannot hide behind another name");
}

/// What a read has found is not asked again by the next pass. Whoever has another name has it as soon as it is read, and until then that of
/// its values; whoever is elsewhere is another one at once. Neither is an error.
#[test]
fn who_changes_between_two_scrapes() {
    // With all the time there is, and with none after the first scrape.
    for (budget, found) in [("0", &["init 1", "renamed 1"][..]), ("0.000000001", &["init 1", "worker 1"])] {
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
        assert_eq!(errors.len(), 6, "{text}");
        assert!(errors.iter().all(|line| line.ends_with(" 0")), "{errors:?}");
        recording.write("proc/7/cgroup", "0::/kubepods/pod1/c1\n");
        recording.write("proc/8/comm", "worker\n");
        if budget == "0" {
            assert_eq!(scrape(&mut scraper), ["init 1", "worker 2"]);
        }
    }
}

/// Of a process that has ended proc may still have the directory: its values go all the same, though its turn has not come.
#[test]
fn values_go_with_a_process_that_leaves_its_directory() {
    let recording = three();
    let mut scraper = scraper(&recording, &["--filter", "*/*/*/*", "--cpu-budget", "0.000000001"]);
    assert_eq!(scrape(&mut scraper), ["init 1", "worker 2"]);
    fs::remove_file(recording.path().join("proc/7/cgroup")).unwrap();
    assert_eq!(scrape(&mut scraper), ["init 1", "worker 1"]);
}

/// A pid has one name: proc prints no other, but a recording may have anything.
#[test]
fn a_second_name_for_a_pid_is_no_process() {
    let recording = three();
    for name in ["007", "+7", "7 "] {
        for file in ["cgroup", "comm", "smaps"] {
            let content = fs::read(recording.path().join("proc/7").join(file)).unwrap();
            recording.write(&format!("proc/{name}/{file}"), content);
        }
    }
    assert_eq!(scrape(&mut scraper(&recording, &["--filter", "*/*/*/*"])), ["init 1", "worker 2"]);
}

/// Whoever gets a recording from somebody else is not held up by it.
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
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected, "{}", told(&command, &output));
    assert_eq!(output.status.code(), Some(1));
}

/// A recording may be replaced under a running exporter: renamed over, or removed and made again.
#[test]
fn a_proc_that_is_replaced_is_opened_again() {
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
