//! Tests how the program starts and ends: its limit of open files, and signals.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Directory, Serving, describe, exporter, fixture};

/// Returns a command that sets a limit in a shell and then runs the program.
fn limited(ulimit: &str, args: &[&str]) -> Command {
    let program = exporter(args);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit {ulimit} && exec \"$@\""), "sh"]);
    shell.arg(program.get_program()).args(program.get_args());
    shell
}

const SERVE: [&str; 5] = ["--fixture", "fixtures/node", "--filter=*/*/*/*", "--addr", "127.0.0.1:0"];

#[test]
fn soft_limit_of_open_files_is_raised_to_the_hard_limit() {
    let command = limited("-Sn 64 && ulimit -Hn 500", &SERVE);
    assert_eq!(Serving::start(command).value("process_max_fds"), "500");
}

/// If the program may not open enough files, it prints one error line. It must neither panic nor print an
/// exposition that lacks most of its lines.
#[test]
fn too_few_open_files_are_reported_in_one_line() {
    let node = Directory::new();
    node.one_container();
    let socket = node.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let socket = ["--containerd-sock", socket.to_str().unwrap(), "--addr", "127.0.0.1:0"];
    let once = ["--fixture", "fixtures/node", "--once"];
    for (limit, args) in [(6, &once[..]), (6, &SERVE), (6, &socket), (12, &socket), (63, &once)] {
        let mut command = limited(&format!("-n {limit}"), args);
        let output = command.output().unwrap();
        let expected = format!(
            "smaps-container-exporter: cannot run with at most {limit} open files (ulimit -n): expected at \
             least 64\n"
        );
        assert_eq!(String::from_utf8_lossy(&output.stderr), expected, "{}", describe(&command, &output));
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
    }
    let node = fixture("node");
    let args = ["--once", "--filter=*/*/*/*", "--fixture", node.to_str().unwrap()];
    let output = limited("-n 64", &args).output().unwrap();
    assert_eq!(
        output.stdout,
        exporter(&args).output().unwrap().stdout,
        "the least that is accepted is enough"
    );
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), signal).unwrap();
}

/// Waits until the process handles SIGINT and SIGTERM (bits 1 and 14 of `SigCgt`).
fn wait_for_handler(child: &Child) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        let handlers = 1 << 14 | 1 << 1;
        if u64::from_str_radix(caught.trim(), 16).unwrap() & handlers == handlers {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "a signal has no handler: {status}");
        std::thread::yield_now();
    }
}

/// A signal ends the program at any time, even while a container runtime does not answer, or while nothing
/// reads the program's output.
#[test]
fn signal_ends_unfinished_work() {
    let directory = Directory::new();
    let socket = directory.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let socket = socket.to_str().unwrap();
    let recording = directory.path().join("recording");
    let once = ["--once", "--containerd-sock", socket];
    let record = ["--record", recording.to_str().unwrap(), "--containerd-sock", socket];
    for (args, how, code) in [
        (&once[..], Signal::TERM, 143),
        (&once, Signal::INT, 130),
        (&record, Signal::TERM, 143),
        (&["--help"], Signal::TERM, 143),
        (&["--once", "--fixture", "fixtures/node", "--filter=*/*/*/*"], Signal::INT, 130),
    ] {
        let (reader, mut full) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&full, true).unwrap();
        while full.write(&[0; 4096]).is_ok() {}
        rustix::io::ioctl_fionbio(&full, false).unwrap();
        let mut child = exporter(args).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        wait_for_handler(&child);
        signal(&child, how);
        let status = child.wait().unwrap();
        drop(reader);
        let mut log = String::new();
        child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert_eq!(status.code(), Some(code), "{args:?} {status}\n{log}");
        // The log may also have a line from the unfinished work, which runs in another thread.
        let line = if code == 143 { ": ended by SIGTERM\n" } else { ": ended by SIGINT\n" };
        assert!(log.contains(line), "{log}");
    }
}

/// A SIGTERM just after exec may kill the program, because the program cannot handle signals yet. After the
/// first log line, a SIGTERM must make the program shut down and exit with 0.
#[test]
fn early_signals_end_the_program_properly() {
    for i in 0..40 {
        let mut child = exporter(&SERVE).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut text = String::new();
        match i % 2 {
            // the signal arrives after a different time in each run
            0 => std::thread::sleep(Duration::from_micros(i * 125)),
            _ => _ = log.read_line(&mut text).unwrap(),
        }
        signal(&child, Signal::TERM);
        let status = child.wait().unwrap();
        log.read_to_string(&mut text).unwrap();
        let is_before_main = text.is_empty() && status.signal() == Some(Signal::TERM.as_raw());
        assert!(is_before_main || status.code() == Some(0), "{status}\n{text}");
        assert!(is_before_main || text.contains("[INFO ] received SIGTERM, shutting down\n"), "{text}");
    }
}

/// Some kernels are built without support for smaps.
#[test]
fn kernel_without_smaps_is_reported() {
    let node = Directory::new();
    let socket = node.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    node.write("proc/self/status", "Name:\tx\n");
    let proc = node.path().join("proc");
    let args =
        ["--once", "--containerd-sock", socket.to_str().unwrap(), "--proc-path", proc.to_str().unwrap()];
    let mut command = exporter(&args);
    let output = command.output().unwrap();
    let expected = format!(
        "smaps-container-exporter: no smaps in {:?}: expected a kernel with CONFIG_PROC_PAGE_MONITOR\n",
        proc.join("self")
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected, "{}", describe(&command, &output));
    assert_eq!(output.status.code(), Some(1));
}
