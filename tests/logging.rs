//! Tests that the exporter keeps running if nothing reads its log.

use std::io::Read as _;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Directory, Serving, exporter};

/// A number of lines of 4 KiB that fits neither into a pipe (64 KiB) nor into the queue of log lines (1 MiB).
const MORE_THAN_FIT: u32 = 400;

/// Returns a recording whose first scrape logs `n_lines` debug lines of 4 KiB.
fn talkative(n_lines: u32) -> Directory {
    let recording = Directory::new();
    recording.one_container();
    recording.process(
        1,
        "app",
        "00400000-00401000 r--p 00000000 fe:00 1    /x\nRss:                   4 kB\n",
    );
    for pid in 2..2 + n_lines {
        recording.write(&format!("proc/{pid}/cgroup"), format!("0::/{}\n", "elsewhere/".repeat(400)));
        recording.write(&format!("proc/{pid}/comm"), "other\n");
    }
    recording
}

fn serve(recording: &Directory) -> Serving {
    let args = [
        "--filter=*/*/*/*",
        "--log-level=debug",
        "--scrape-interval=10ms",
        "--addr=127.0.0.1:0",
        "--fixture",
    ];
    Serving::start(exporter(&[&args[..], &[recording.path().to_str().unwrap()]].concat()))
}

#[test]
fn unread_log_does_not_stop_scrapes() {
    let recording = talkative(MORE_THAN_FIT);
    let mut exporter = serve(&recording);
    let number = |exporter: &Serving, name| exporter.value(name).parse::<u64>().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while number(&exporter, "smaps_exporter_scrapes_total") < 5 {
        assert!(Instant::now() < deadline, "no further scrape");
    }
    assert!(exporter.get("/healthz").starts_with("HTTP/1.1 200 "));
    let n_dropped = number(&exporter, "smaps_exporter_log_lines_dropped_total");
    assert!(n_dropped >= 100, "{n_dropped}");
    // Now the test begins to read the log. The first lines were written to the pipe before it was full. The
    // next line has the number of dropped lines. It is written before the lines that are still in the queue.
    let report = loop {
        let line = exporter.line();
        assert!(!line.is_empty());
        if line.contains(" log lines were dropped: ") {
            break line;
        }
    };
    let n_reported: u64 = report.split(' ').find_map(|word| word.parse().ok()).expect(&report);
    assert!(report.starts_with("[WARN ] ") && n_reported >= n_dropped, "{report}");
}

/// Before the program exits, it writes queued lines for at most half a second. It then exits even if nothing
/// reads the lines.
#[test]
fn unread_log_does_not_stop_the_shutdown() {
    let recording = talkative(MORE_THAN_FIT);
    let mut exporter = serve(&recording);
    assert_eq!(exporter.value("smaps_exporter_containers"), "1");
    kill_process(Pid::from_raw(exporter.child.id().try_into().unwrap()).unwrap(), Signal::TERM).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let status = loop {
        match exporter.child.try_wait().unwrap() {
            Some(status) => break status,
            None => assert!(Instant::now() < deadline, "it does not end"),
        }
        std::thread::yield_now();
    };
    assert_eq!(status.code(), Some(0));
}

/// A reader of the log gets every line, including the last.
#[test]
fn log_that_is_read_is_complete() {
    let recording = talkative(100);
    let mut exporter = serve(&recording);
    let pid = Pid::from_raw(exporter.child.id().try_into().unwrap()).unwrap();
    let mut text = String::new();
    while !text.contains("a scrape of 1 processes took") {
        text += &exporter.line();
    }
    kill_process(pid, Signal::TERM).unwrap();
    exporter.log.read_to_string(&mut text).unwrap();
    assert!(text.contains("[INFO ] received SIGTERM, shutting down\n"), "{text}");
    assert_eq!(text.matches(" is no container's cgroup").count(), 100);
}
