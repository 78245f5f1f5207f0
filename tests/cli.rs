//! The command line of the built program.

use crate::support::{Directory, exporter, once, stdout_of, told};

/// Runs the program, which must fail with this exit code, print nothing and say one line; returns the line.
#[track_caller]
fn error_of(args: &[&str], code: i32) -> String {
    let mut command = exporter(args);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", told(&command, &output));
    assert!(output.stdout.is_empty(), "{}", told(&command, &output));
    let line = String::from_utf8(output.stderr).unwrap();
    let line = line.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "{line}");
    line.strip_prefix("smaps-container-exporter: ").unwrap().to_owned()
}

#[test]
fn usage_errors_exit_with_2() {
    for (args, error) in [
        (&["--adr", ":1"][..], r#"unknown option "--adr": did you mean --addr?"#),
        (&["--bogus"], r#"unknown option "--bogus": expected one of those that --help lists"#),
        (&["-pid", "--pid"], "unexpected second --pid: expected one"),
        (
            &["--fixture", "fixtures/node", "--proc-path=/proc"],
            "--fixture and --proc-path cannot be combined: expected one of them",
        ),
        (&["now"], r#"unexpected argument "now": expected an option, see --help"#),
        (
            &["-scrape-interval", "0s"],
            r#"invalid value "0s" for --scrape-interval: expected a duration from "10ms" to "24h", such as "500ms", "1s" or "1m30s""#,
        ),
    ] {
        assert_eq!(error_of(args, 2), error);
    }
}

#[test]
fn startup_failures_exit_with_1() {
    for (args, error) in [
        (
            &["--fixture", "/does/not/exist"][..],
            r#"cannot open "/does/not/exist/proc": no such file or directory"#,
        ),
        (
            &["--containerd-sock", "/does/not/exist.sock"],
            r#"no socket at "/does/not/exist.sock": no such file or directory"#,
        ),
        (
            &["--cri-sock", "unix:///does/not/exist.sock"],
            r#"no socket at "/does/not/exist.sock": no such file or directory"#,
        ),
        (
            &["--container-logs", "/does/not/exist"],
            r#"cannot list "/does/not/exist": no such file or directory"#,
        ),
    ] {
        let args = [args, &["--addr", "127.0.0.1:0"]].concat();
        assert_eq!(error_of(&args, 1), error);
    }
    let recording = Directory::new();
    recording.write("proc/x", "");
    recording.write("containers.tsv", "id\tpid\n");
    let error = error_of(&["--once", "--fixture", recording.path().to_str().unwrap()], 1);
    let path = recording.path().join("containers.tsv");
    let expected = r#"line 1 is "id\tpid": expected "id\tinit_pid\tnamespace\tpod\tcontainer""#;
    assert_eq!(error, format!("cannot read {path:?}: {expected}"));
}

#[test]
fn an_address_in_use_exits_with_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let recording = Directory::new();
    recording.one_container();
    recording.process(1, "x", "");
    let error = error_of(&["--fixture", recording.path().to_str().unwrap(), "--addr", &addr], 1);
    // glibc's words, and musl's
    let causes = ["address already in use", "address in use"];
    assert!(causes.iter().any(|cause| error == format!("cannot listen on {addr:?}: {cause}")), "{error}");
}

#[test]
fn help_and_version() {
    let help = String::from_utf8(stdout_of(&["--help"])).unwrap();
    assert!(help.lines().count() <= 40 && help.lines().all(|line| line.chars().count() <= 110), "{help}");
    assert!(help.contains("--filter PATTERN") && help.contains("[default/*/*/*]"), "{help}");
    assert_eq!(stdout_of(&["-h"]), help.as_bytes());
    let version = String::from_utf8(stdout_of(&["-V"])).unwrap();
    assert!(
        version.starts_with(concat!("smaps-container-exporter ", env!("CARGO_PKG_VERSION"), " ")),
        "{version}"
    );
}

const SMAPS: &str = "00400000-00401000 r--p 00000000 fe:00 1    /usr/bin/x\nRss:                   4 kB\n";

#[test]
fn the_filter_sees_what_the_labels_show() {
    let recording = Directory::new();
    recording.one_container();
    recording.process(1, "plain", SMAPS);
    recording.process(2, b"a\nb\"c/\xff", SMAPS);
    let recording = recording.path();
    let taken = |filter: &str| {
        let text = once_filtered(recording, filter);
        text.lines().filter(|line| line.starts_with("process_smaps_processes{")).count()
    };
    for (filter, expected) in [
        ("*/*/*/*", 2),
        ("shop/web-*/app/plain", 1),
        ("shop/web-0/app/a\nb\"c/\u{fffd}", 1),
        ("shop/web-0/app/a*/*", 1),
        ("default/*/*/*", 0),
        ("shop/web-0/ap/*", 0),
    ] {
        assert_eq!(taken(filter), expected, "{filter:?}");
    }
    let text = once(recording, &[]);
    assert!(text.contains("comm=\"a\\nb\\\"c/\u{fffd}\",path=\"/usr/bin/x\"} 4096\n"), "{text}");
}

fn once_filtered(recording: &std::path::Path, filter: &str) -> String {
    let args = ["--once", "--fixture", recording.to_str().unwrap(), "--filter", filter];
    String::from_utf8(stdout_of(&args)).unwrap()
}

/// A recording of a recording is the recording.
#[test]
fn a_recording_is_recorded_again() {
    let first = Directory::new();
    first.one_container();
    first.process(1, "init", SMAPS);
    first.process(7, b"odd\xff\nname ", SMAPS.repeat(3));
    first.process(8, "zombie", "");
    let second = Directory::new();
    let to = second.path().join("again");
    let paths = [first.path(), &to].map(|path| path.to_str().unwrap());
    stdout_of(&["--filter", "*/*/*/*", "--fixture", paths[0], "--record", paths[1]]);
    for name in
        ["containers.tsv", "proc/1/smaps", "proc/7/comm", "proc/7/cgroup", "proc/7/smaps", "proc/8/smaps"]
    {
        let read = |path: &std::path::Path| std::fs::read(path.join(name)).unwrap();
        assert_eq!(read(first.path()), read(&to), "{name}");
    }
    assert_eq!(once(first.path(), &[]), once(&to, &[]));
    let error = error_of(&["--fixture", paths[0], "--record", paths[1]], 1);
    assert!(error.starts_with("cannot record to ") && error.ends_with("file exists"), "{error}");
}

/// What the filters select is told once, on standard error; nothing of it is a warning unless nothing is selected.
#[test]
fn the_first_scrape_says_what_the_filters_select() {
    let node = "fixtures/node";
    for (filter, expected) in [
        (
            "shop/*/*/*",
            "[INFO ] filter shop/*/*/* selects 12 of 17 processes in 3 of 6 containers; namespaces here: batch, default, shop\n",
        ),
        (
            "nowhere/*/*/*",
            "[WARN ] filter nowhere/*/*/* selects none of 17 processes in 6 containers; namespaces here: batch, default, shop\n",
        ),
    ] {
        let mut command = exporter(&["--once", "--fixture", node, "--filter", filter]);
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), expected, "{}", told(&command, &output));
    }
    // why a process is not exported
    let mut command =
        exporter(&["--once", "--fixture", node, "--filter", "shop/*/nginx/*", "--log-level", "debug"]);
    let output = command.output().unwrap();
    let story = String::from_utf8_lossy(&output.stderr);
    for line in [
        "[DEBUG] 6 containers are listed\n",
        "[DEBUG] a new container that no filter selects: ",
        " is not exported: no filter selects shop/",
        "[DEBUG] a scrape of ",
    ] {
        assert!(story.contains(line), "{line:?} is missing in\n{}", told(&command, &output));
    }
}
