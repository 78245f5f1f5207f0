//! Parses the command line. The result is the [`Options`], or a one-line error that says which argument is
//! invalid.

use std::ffi::OsString;

use lexopt::Arg;

use super::build_info;
use super::exclusive;
use super::options::Options;
use super::suggestion;
use super::table::OPTIONS;
use super::usage_error::UsageError;

/// The action that the arguments request.
#[expect(clippy::large_enum_variant, reason = "there is one in a program's life")]
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Run with these options: serve, record, or print one exposition.
    Run(Options),
    /// Print [`help`](super::help::help).
    Help,
    /// Print the version.
    Version,
    /// Print this text, which is the content of the file that `--print` names.
    Print(String),
}

/// Parses the arguments that follow the program's name.
///
/// Fails if an option is given twice, unless the option is repeatable.
pub fn parse<I: IntoIterator<Item = OsString>>(args: I) -> Result<Command, UsageError> {
    let mut options = Options::unset();
    let mut given = [false; OPTIONS.len()];
    let mut parser = lexopt::Parser::from_args(double_dashes(args));
    loop {
        let arg = match parser.next() {
            Ok(Some(arg)) => arg,
            Ok(None) => break,
            Err(lexopt::Error::UnexpectedValue { option, value }) => {
                return Err(UsageError::new(format!(
                    "unexpected value {value:?} for {option}: expected none"
                )));
            }
            Err(error) => return Err(UsageError::new(error.to_string())),
        };
        let i = match arg {
            Arg::Long("help") => return Ok(Command::Help),
            Arg::Long("version") => return Ok(Command::Version),
            Arg::Long(name) => match OPTIONS.iter().position(|spec| spec.name == name) {
                Some(i) => i,
                None => return Err(unknown_option("--", name)),
            },
            Arg::Short(letter) => {
                // `-h` and `-V` are the only valid options with one dash here, because double_dashes() has
                // given a second dash to long options such as `-addr`. The parser splits an unknown option
                // such as `-adr` into its first letter and the rest.
                let rest = parser.optional_value().unwrap_or_default();
                return match (letter, rest.is_empty()) {
                    ('h', true) => Ok(Command::Help),
                    ('V', true) => Ok(Command::Version),
                    _ => Err(unknown_option("-", &format!("{letter}{}", rest.display()))),
                };
            }
            Arg::Value(value) => {
                return Err(UsageError::new(format!(
                    "unexpected argument {value:?}: expected an option, see --help"
                )));
            }
        };
        let spec = &OPTIONS[i];
        let value = match spec.value {
            "" => OsString::new(),
            _ => parser.value().map_err(|_| {
                UsageError::new(format!("missing value for --{}: expected {}", spec.name, spec.expected()))
            })?,
        };
        spec.set(&format!("--{}", spec.name), &mut options, &value)?;
        if std::mem::replace(&mut given[i], true) && !spec.is_repeatable {
            let value = if spec.value.is_empty() { String::new() } else { format!(" {value:?}") };
            return Err(UsageError::new(format!("unexpected second --{}{value}: expected one", spec.name)));
        }
    }
    exclusive::refuse(&given, &options.image)?;
    for (spec, _) in OPTIONS.iter().zip(given).filter(|(spec, given)| !given && !spec.default.is_empty()) {
        spec.set(spec.name, &mut options, spec.default.as_ref())?;
    }
    Ok(match options.print {
        Some(text) => Command::Print(text.replace(build_info::LOCAL_IMAGE, &options.image)),
        None => Command::Run(options),
    })
}

/// Changes the single dash of Go's flag package into two: `-addr` becomes `--addr`. Does not change an
/// argument that is the value of the option before it.
fn double_dashes(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let mut rest = args.iter_mut();
    while let Some(arg) = rest.next() {
        let bytes = arg.as_encoded_bytes();
        if bytes == b"--" {
            break;
        }
        let n_dashes = bytes.iter().take_while(|byte| **byte == b'-').count();
        let name = bytes[n_dashes..].split(|byte| *byte == b'=').next().unwrap_or_default();
        let spec = OPTIONS.iter().find(|spec| spec.name.as_bytes() == name);
        let is_known = spec.is_some() || [&b"help"[..], b"version"].contains(&name);
        let is_whole = bytes.len() == n_dashes + name.len();
        let takes_the_next = n_dashes > 0 && is_whole && spec.is_some_and(|spec| !spec.value.is_empty());
        if is_known && n_dashes == 1 {
            let mut long = OsString::from("-");
            long.push(&arg);
            *arg = long;
        }
        if takes_the_next {
            rest.next();
        }
    }
    args
}

/// Returns an error that quotes the unknown option and suggests the known option that is most similar to it.
fn unknown_option(dashes: &str, option: &str) -> UsageError {
    let name = option.split('=').next().unwrap_or_default();
    let names = OPTIONS.iter().map(|spec| spec.name).chain(["help", "version"]);
    let option = format!("{dashes}{option}");
    UsageError::new(match suggestion::nearest(name, names) {
        Some(name) => format!("unknown option {option:?}: did you mean --{name}?"),
        None => format!("unknown option {option:?}: expected one of those that --help lists"),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use log::LevelFilter;

    use super::*;
    use crate::node::containers::filter::Filter;
    use crate::smaps::fields::ALL_FIELDS;
    use crate::totals::grouping::GroupBy;
    use std::os::unix::ffi::OsStringExt;

    fn run(args: &[&str]) -> Options {
        match parse(args.iter().map(OsString::from)) {
            Ok(Command::Run(options)) => options,
            other => panic!("{args:?}: {other:?}"),
        }
    }

    fn refused(args: &[&str]) -> String {
        parse(args.iter().map(OsString::from)).expect_err(&args.join(" ")).to_string()
    }

    fn filters(texts: &[&str]) -> Vec<Filter> {
        texts.iter().map(|text| Filter::parse(text).expect("four segments")).collect()
    }

    #[test]
    fn options_have_defaults() {
        let expected = Options {
            addr: ":8080".into(),
            proc_path: "/proc".into(),
            scrape_interval: Duration::from_secs(1),
            cgroup_path: None,
            cgroup_metrics: 0b111,
            log_level: LevelFilter::Info,
            node: None,
            containerd_sock: None,
            cri_sock: None,
            container_logs: None,
            containerd_namespaces: vec!["k8s.io".into()],
            filters: filters(&["default/*/*/*"]),
            fixture: None,
            record: None,
            once: false,
            fields: ALL_FIELDS,
            group_by: GroupBy::Path,
            pid: false,
            omit_zero: false,
            anon_parts: true,
            max_samples: 100_000,
            max_label_bytes: 1024,
            cpu_budget: 0.25,
            allowed_hosts: Vec::new(),
            sandbox: true,
            print: None,
            image: build_info::IMAGE.into(),
        };
        assert_eq!(run(&[]), expected);
    }

    /// Tests each option in four spellings: with one dash or two, and with its value as the next argument or
    /// after `=`.
    #[test]
    fn each_option_has_four_spellings() {
        type Change = fn(&mut Options);
        let cases: &[(&str, &str, Change)] = &[
            ("addr", "127.0.0.1:0", |options| options.addr = "127.0.0.1:0".into()),
            ("proc-path", "/host/proc", |options| options.proc_path = "/host/proc".into()),
            ("cgroup-path", "/host/cgroup", |options| options.cgroup_path = Some("/host/cgroup".into())),
            ("cgroup-metrics", "none", |options| options.cgroup_metrics = 0),
            ("cgroup-metrics", "pids,memory,cpu", |options| options.cgroup_metrics = 0b11001),
            ("scrape-interval", "1m30s", |options| options.scrape_interval = Duration::from_secs(90)),
            ("log-level", "warning", |options| options.log_level = LevelFilter::Warn),
            ("log-level", "WARN", |options| options.log_level = LevelFilter::Warn),
            ("log-level", "debug", |options| options.log_level = LevelFilter::Debug),
            ("log-level", "Error", |options| options.log_level = LevelFilter::Error),
            ("log-level", "none", |options| options.log_level = LevelFilter::Off),
            ("node", "node-1", |options| options.node = Some("node-1".into())),
            ("containerd-sock", "/a b", |options| options.containerd_sock = Some("/a b".into())),
            ("containerd-sock", "unix:///a", |options| options.containerd_sock = Some("/a".into())),
            ("cri-sock", "unix:///run/crio/crio.sock", |options| {
                options.cri_sock = Some("/run/crio/crio.sock".into())
            }),
            ("container-logs", "/var/log/containers", |options| {
                options.container_logs = Some("/var/log/containers".into())
            }),
            ("containerd-namespace", "moby", |options| options.containerd_namespaces = vec!["moby".into()]),
            ("filter", "a=b/c/d/e", |options| options.filters = filters(&["a=b/c/d/e"])),
            ("filter", "-addr/b/c/d", |options| options.filters = filters(&["-addr/b/c/d"])),
            ("fixture", "-addr", |options| options.fixture = Some("-addr".into())),
            ("record", "--", |options| options.record = Some("--".into())),
            ("fields", "rss,pss", |options| options.fields = 1 << 1 | 1 << 2),
            ("fields", "all", |options| options.fields = ALL_FIELDS),
            ("group-by", "kind", |options| options.group_by = GroupBy::Kind),
            ("group-by", "process", |options| options.group_by = GroupBy::Process),
            ("max-samples", "0", |options| options.max_samples = 0),
            ("max-label-bytes", "2048", |options| options.max_label_bytes = 2048),
            ("cpu-budget", "1.5", |options| options.cpu_budget = 1.5),
            ("allowed-host", "Node.example.org", |options| {
                options.allowed_hosts = vec!["node.example.org".into()]
            }),
            ("anon-parts", "off", |options| options.anon_parts = false),
            ("anon-parts", "on", |_| {}),
            ("sandbox", "off", |options| options.sandbox = false),
            ("sandbox", "on", |_| {}),
        ];
        for (name, value, change) in cases {
            let mut expected = run(&[]);
            change(&mut expected);
            for dashes in ["-", "--"] {
                let option = format!("{dashes}{name}");
                assert_eq!(run(&[&option, value]), expected, "{option} {value}");
                assert_eq!(run(&[&format!("{option}={value}")]), expected, "{option}={value}");
                // Only one argument is taken as the value, so the flag `-pid` after the value is an option.
                expected.pid = true;
                assert_eq!(run(&[&option, value, "-pid"]), expected, "{option} {value} -pid");
                expected.pid = false;
            }
        }
        for dashes in ["-", "--"] {
            assert!(run(&[&format!("{dashes}once")]).once);
            assert!(run(&[&format!("{dashes}pid")]).pid);
            assert!(run(&[&format!("{dashes}omit-zero")]).omit_zero);
        }
    }

    #[test]
    fn repeated_options_are_refused_unless_repeatable() {
        let options = run(&["--filter=a/b/c/d", "-filter", "e/f/g/h", "--filter", "a/b/c/d"]);
        assert_eq!(options.filters, filters(&["a/b/c/d", "e/f/g/h"]));
        let options = run(&[
            "--containerd-namespace=moby",
            "-containerd-namespace=k8s.io",
            "-containerd-namespace=moby",
        ]);
        assert_eq!(options.containerd_namespaces, ["moby", "k8s.io"]);
        for (args, error) in [
            (&["--addr", ":1", "-addr=:2"][..], r#"unexpected second --addr ":2": expected one"#),
            (
                &["--fields=rss", "--pid", "--fields", "rss"],
                r#"unexpected second --fields "rss": expected one"#,
            ),
            (&["--once", "-once"], "unexpected second --once: expected one"),
        ] {
            assert_eq!(refused(args), error);
        }
    }

    #[test]
    fn paths_may_be_any_bytes() {
        let fixture = OsString::from_vec(b"/\xff".to_vec());
        let joined = |option: &str| [option.as_ref(), fixture.as_os_str()].into_iter().collect::<OsString>();
        for args in
            [vec!["-fixture".into(), fixture.clone()], vec![joined("-fixture=")], vec![joined("--fixture=")]]
        {
            match parse(args) {
                Ok(Command::Run(options)) => assert_eq!(options.fixture.as_deref(), Some(fixture.as_ref())),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn files_are_printed_for_an_image() {
        let print = |args: &[&str]| match parse(args.iter().map(OsString::from)) {
            Ok(Command::Print(text)) => text,
            other => panic!("{args:?}: {other:?}"),
        };
        let manifest = print(&["--print", "manifest"]);
        assert!(manifest.contains(&format!("image: \"{}\"\n", build_info::IMAGE)), "{manifest}");
        let other = print(&["-image=registry.example:5000/x@sha256:0f", "-print=manifest"]);
        assert!(other.contains("image: \"registry.example:5000/x@sha256:0f\"\n"), "{other}");
        assert_eq!(other.lines().count(), manifest.lines().count());
        assert_eq!(refused(&["--image", "x"]), r#"unexpected --image "x" without --print: expected both"#);
        for args in [["--print=rules", "--pid"], ["--addr=:1", "--print=manifest"]] {
            let error = refused(&args);
            assert!(error.ends_with(" cannot be combined: expected one of them"), "{error}");
        }
    }

    #[test]
    fn help_and_version_are_commands() {
        for arg in ["-h", "-help", "--help"] {
            assert_eq!(parse(["--addr=:1".into(), arg.into(), "--bogus".into()]), Ok(Command::Help), "{arg}");
        }
        for arg in ["-V", "-version", "--version"] {
            assert_eq!(parse(["-once".into(), arg.into(), "--bogus".into()]), Ok(Command::Version), "{arg}");
        }
    }

    #[test]
    fn unknown_arguments_are_refused() {
        for (option, hint) in [
            ("--bogus", "expected one of those that --help lists"),
            ("-bogus", "expected one of those that --help lists"),
            ("-bogus=1", "expected one of those that --help lists"),
            ("-b", "expected one of those that --help lists"),
            ("-hV", "expected one of those that --help lists"),
            ("--h", "expected one of those that --help lists"),
            ("--Addr", "did you mean --addr?"),
            ("-addrs", "did you mean --addr?"),
            ("-filer=a/b/c/d", "did you mean --filter?"),
            ("--interval", "did you mean --scrape-interval?"),
            ("--verison", "did you mean --version?"),
        ] {
            assert_eq!(refused(&["--once", option]), format!("unknown option {option:?}: {hint}"));
        }
        assert_eq!(
            refused(&["--bogus=1"]),
            r#"unknown option "--bogus": expected one of those that --help lists"#
        );
        for args in [&["extra"][..], &["--", "extra"], &["--once", "extra"]] {
            assert_eq!(refused(args), r#"unexpected argument "extra": expected an option, see --help"#);
        }
        assert_eq!(refused(&["-"]), r#"unexpected argument "-": expected an option, see --help"#);
        assert_eq!(
            refused(&["--", "-addr"]),
            r#"unexpected argument "-addr": expected an option, see --help"#
        );
        assert_eq!(refused(&["--once=yes"]), r#"unexpected value "yes" for --once: expected none"#);
    }
}
