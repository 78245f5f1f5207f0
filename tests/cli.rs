//! Tests the command line of the built program.

use crate::support::{Directory, describe, exporter, once, stdout_of};

/// Runs the program, and returns the line that it prints to standard error. Asserts that the program exits
/// with this code and prints nothing else.
#[track_caller]
fn error_of(args: &[&str], code: i32) -> String {
    let mut command = exporter(args);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", describe(&command, &output));
    assert!(output.stdout.is_empty(), "{}", describe(&command, &output));
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
        (
            &["--image", "x y", "--print=rules"],
            concat!(
                r#"invalid value "x y" for --image: "#,
                r#"expected an image such as "registry.example/smaps-container-exporter:1.0""#
            ),
        ),
        (&["--image=x:1"], r#"unexpected --image "x:1" without --print: expected both"#),
        (&["--print=rules", "--once"], "--print and --once cannot be combined: expected one of them"),
        (&["now"], r#"unexpected argument "now": expected an option, see --help"#),
        (
            &["-scrape-interval", "0s"],
            "invalid value \"0s\" for --scrape-interval: expected a duration from \"10ms\" to \"24h\", \
             such as \"500ms\", \"1s\" or \"1m30s\"",
        ),
    ] {
        assert_eq!(error_of(args, 2), error);
    }
}

/// `--print` needs no rights and no other option.
#[test]
fn print_writes_the_file_and_exits_with_0() {
    let manifest = include_str!("../src/kubernetes/daemonset.yaml");
    let image = concat!("localhost/smaps-container-exporter:", env!("CARGO_PKG_VERSION"));
    let cases = [
        ("manifest", manifest.replace(image, "registry.example/x:1")),
        ("podmonitor", include_str!("../src/kubernetes/podmonitor.yaml").into()),
        ("prometheusrule", include_str!("../src/kubernetes/prometheusrule.yaml").into()),
        ("rules", include_str!("../src/kubernetes/rules.yaml").into()),
        ("dashboard", include_str!("../src/http/dashboard.json").into()),
    ];
    for (what, expected) in cases {
        let text = stdout_of(&["--print", what, "--image", "registry.example/x:1"]);
        assert_eq!(String::from_utf8(text).unwrap(), expected, "{what}");
    }
}

#[test]
fn startup_failures_exit_with_1() {
    for (args, error) in [
        (
            &["--fixture", "/does/not/exist"][..],
            r#"no recording at "/does/not/exist": no such file or directory"#,
        ),
        (&["--fixture", "Cargo.toml"], r#"no recording at "Cargo.toml": it is not a directory"#),
        (
            &["--fixture", "fixtures"],
            r#"no recording at "fixtures": it has no "containers.tsv", as --record makes"#,
        ),
        (
            &["--containerd-sock", "/does/not/exist.sock"],
            r#"no socket at "/does/not/exist.sock": no such file or directory"#,
        ),
        (
            &["--cri-sock", "unix:///does/not/exist.sock"],
            r#"no socket at "/does/not/exist.sock": no such file or directory"#,
        ),
        (&["--containerd-sock", "src"], r#"no socket at "src": it is a directory"#),
        (&["--cri-sock", "unix://Cargo.toml"], r#"no socket at "Cargo.toml": it is a file"#),
        (&["--cri-sock", "/dev/null"], r#"no socket at "/dev/null": it is a device, a pipe or the like"#),
        (
            &["--container-logs", "/does/not/exist"],
            r#"cannot list "/does/not/exist": no such file or directory"#,
        ),
    ] {
        let args = [args, &["--addr", "127.0.0.1:0"]].concat();
        assert_eq!(error_of(&args, 1), error);
    }
    let empty = Directory::new();
    empty.write("proc/1/comm", "app\n");
    empty.write("containers.tsv", "");
    let error = error_of(&["--fixture", empty.path().to_str().unwrap(), "--once"], 1);
    assert!(
        error.ends_with(
            r#"containers.tsv": line 1 is "": expected "id\tinit_pid\tnamespace\tpod\tcontainer""#
        ),
        "{error}"
    );
    let recording = Directory::new();
    recording.write("containers.tsv", "");
    recording.write("proc/x", "");
    recording.write("containers.tsv", "id\tpid\n");
    let error = error_of(&["--once", "--fixture", recording.path().to_str().unwrap()], 1);
    let path = recording.path().join("containers.tsv");
    let expected = r#"line 1 is "id\tpid": expected "id\tinit_pid\tnamespace\tpod\tcontainer""#;
    assert_eq!(error, format!("cannot read {path:?}: {expected}"));
}

/// The default port is in use. With `--addr`, this must not matter, because the exporter listens on another
/// port. So the error must name the actual cause, which is that the recording has no `proc`.
#[test]
fn listener_on_the_default_port_does_not_hide_the_cause() {
    let listener = std::net::TcpListener::bind("127.0.0.1:8080");
    if let Err(error) = &listener {
        // Another program, such as `make run`, may already listen on the default port.
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    }
    let recording = Directory::new();
    recording.write("containers.tsv", "");
    let error = error_of(&["--addr", "127.0.0.1:0", "--fixture", recording.path().to_str().unwrap()], 1);
    assert!(error.ends_with(r#": it has no "proc", as --record makes"#), "{error}");
}

#[test]
fn address_in_use_exits_with_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let recording = Directory::new();
    recording.one_container();
    recording.process(1, "x", "");
    let error = error_of(&["--fixture", recording.path().to_str().unwrap(), "--addr", &addr], 1);
    // The first text is glibc's, the second is musl's.
    let causes = ["address already in use", "address in use"];
    assert!(causes.iter().any(|cause| error == format!("cannot listen on {addr:?}: {cause}")), "{error}");
}

#[test]
fn help_and_version_are_printed() {
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

/// A missing cgroup file system is logged once, and only if `--cgroup-path` is given. It is not logged for a
/// recording, which need not have one.
#[test]
fn missing_cgroups_are_logged_once() {
    let recording = Directory::new();
    recording.one_container();
    recording.process(1, "app", SMAPS);
    let path = recording.path().to_str().unwrap();
    let nowhere = recording.path().join("nowhere");
    let missing = format!("[WARN ] no cgroup_* metrics: cannot open {nowhere:?}: no such file or directory");
    let given = &["--cgroup-path", nowhere.to_str().unwrap()];
    for (args, expected) in [(&[][..], None), (given, Some(&missing)), (&["--cgroup-metrics=none"], None)] {
        let args = [&["--once", "--filter", "*/*/*/*", "--fixture", path], args].concat();
        let mut command = exporter(&args);
        let output = command.output().unwrap();
        let (text, log) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr).unwrap());
        assert!(text.unwrap().contains("process_smaps_rss_bytes{"), "{command:?}\n{log}");
        assert_eq!(
            log.lines().find(|line| line.contains("cgroup")),
            expected.map(String::as_str),
            "{command:?}"
        );
    }
}

const SMAPS: &str = "00400000-00401000 r--p 00000000 fe:00 1    /usr/bin/x\nRss:                   4 kB\n";

#[test]
fn filter_is_compared_with_label_values() {
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

/// A recording that is made from another recording is identical to that recording.
#[test]
fn recording_of_a_recording_is_identical() {
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
    assert!(error.starts_with("cannot record to ") && error.ends_with("it exists already"), "{error}");
    let nowhere = second.path().join("no/where");
    let error = error_of(&["--fixture", paths[0], "--record", nowhere.to_str().unwrap()], 1);
    assert!(
        error.starts_with("cannot record to ") && error.ends_with("no such file or directory"),
        "{error}"
    );
}

/// If there is nothing to record, the program prints one line that says why, and creates nothing.
#[test]
fn empty_selection_records_nothing() {
    let directory = Directory::new();
    let to = directory.path().join("recording");
    let record = |node: &str, filter: &str| {
        let args = ["--fixture", node, "--filter", filter, "--record", to.to_str().unwrap()];
        let error = error_of(&args, 1);
        assert!(!to.exists(), "{error}");
        error
    };
    assert_eq!(
        record("fixtures/node", "nowhere/*/*/*"),
        "nothing to record: filter nowhere/*/*/* selects none of 17 processes in 6 containers; namespaces \
         here: batch, default, shop"
    );
    let empty = Directory::new();
    empty.write("containers.tsv", "id\tinit_pid\tnamespace\tpod\tcontainer\n");
    empty.write("proc/x", "");
    let error = record(empty.path().to_str().unwrap(), "*/*/*/*");
    assert_eq!(error, "nothing to record: no container runs here: the recording lists none");
    let unreadable = Directory::new();
    unreadable.one_container();
    unreadable.process(1, "x", SMAPS);
    std::fs::remove_file(unreadable.path().join("proc/1/smaps")).unwrap();
    std::fs::create_dir(unreadable.path().join("proc/1/smaps")).unwrap();
    let args = ["--fixture", unreadable.path().to_str().unwrap(), "--filter", "*/*/*/*", "--record"];
    let output = exporter(&[&args[..], &[to.to_str().unwrap()]].concat()).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.ends_with("nothing to record: none of the 1 processes selected can be read\n"), "{log}");
    assert!(!to.exists());
}

/// On a node without containers, the log says that no container runs. It does not say that the filter selects
/// no container.
#[test]
fn node_without_containers_is_logged() {
    let empty = Directory::new();
    empty.write("containers.tsv", "id\tinit_pid\tnamespace\tpod\tcontainer\n");
    empty.write("proc/x", "");
    let mut command = exporter(&["--once", "--fixture", empty.path().to_str().unwrap()]);
    let output = command.output().unwrap();
    let expected = "[WARN ] no container runs here: the recording lists none\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected, "{}", describe(&command, &output));
    assert!(output.status.success());
}

/// After the first scrape, one log line says what the filters select. The line is a warning only if they
/// select nothing.
#[test]
fn selection_is_logged_after_the_first_scrape() {
    let node = "fixtures/node";
    for (filter, expected) in [
        (
            "shop/*/*/*",
            "[INFO ] filter shop/*/*/* selects 12 of 17 processes in 3 of 6 containers; namespaces here: \
             batch, default, shop\n",
        ),
        (
            "nowhere/*/*/*",
            "[WARN ] filter nowhere/*/*/* selects none of 17 processes in 6 containers; namespaces here: \
             batch, default, shop\n",
        ),
    ] {
        let mut command = exporter(&["--once", "--fixture", node, "--filter", filter]);
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), expected, "{}", describe(&command, &output));
    }
    // With debug logging, there is a line for each process that is not exported. The line says why.
    let mut command =
        exporter(&["--once", "--fixture", node, "--filter", "shop/*/nginx/*", "--log-level", "debug"]);
    let output = command.output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    for line in [
        "[DEBUG] 6 containers are listed\n",
        "[DEBUG] a new container that no filter selects: ",
        " is not exported: no filter selects shop/",
        "[DEBUG] a scrape of 0 processes took ",
        " CPU for reading\n",
    ] {
        assert!(log.contains(line), "{line:?} is missing in\n{}", describe(&command, &output));
    }
}
