//! The command line: arguments become [`Options`], or one line that says what is wrong with them.

use std::ffi::OsString;
use std::fmt;

use lexopt::Arg;

use super::options::{Options, SPECS};

/// What the user asked for.
#[expect(clippy::large_enum_variant, reason = "there is one in a program's life")]
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Export, record, or print once.
    Run(Options),
    /// Print [`help`](super::help::help).
    Help,
    /// Print the version.
    Version,
}

/// A command line that makes no sense; one line that quotes the argument and says what is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError {
    text: String,
}

/// Parses the arguments that follow the program's name.
///
/// Of a repeated option the last value counts, except where all of them do.
pub fn parse<I: IntoIterator<Item = OsString>>(args: I) -> Result<Command, UsageError> {
    let mut options = Options::unset();
    let mut given = [false; SPECS.len()];
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
            Arg::Long(name) => match SPECS.iter().position(|spec| spec.name == name) {
                Some(i) => i,
                None => return Err(UsageError::unknown(format!("--{name}"))),
            },
            Arg::Short(letter) => {
                // What double_dashes() left alone: not a cluster of short options but an unknown long one.
                let rest = parser.optional_value().unwrap_or_default();
                return match (letter, rest.is_empty()) {
                    ('h', true) => Ok(Command::Help),
                    ('V', true) => Ok(Command::Version),
                    _ => Err(UsageError::unknown(format!("-{letter}{}", rest.display()))),
                };
            }
            Arg::Value(value) => {
                return Err(UsageError::new(format!(
                    "unexpected argument {value:?}: expected an option, see --help"
                )));
            }
        };
        let spec = &SPECS[i];
        let value = match spec.value {
            "" => OsString::new(),
            _ => parser.value().map_err(|_| {
                UsageError::new(format!("missing value for --{}: expected {}", spec.name, spec.expected()))
            })?,
        };
        spec.set(&mut options, &value)?;
        given[i] = true;
    }
    for (spec, _) in SPECS.iter().zip(given).filter(|(spec, given)| !given && !spec.default.is_empty()) {
        spec.set(&mut options, spec.default.as_ref())?;
    }
    if options.once && options.record.is_some() {
        return Err(UsageError::new("--once and --record cannot be combined: expected one of them".into()));
    }
    Ok(Command::Run(options))
}

/// The single-dash spelling of Go's flag package: `-addr` means `--addr`. An option's value stays what it is.
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
        let spec = SPECS.iter().find(|spec| spec.name.as_bytes() == name);
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

impl UsageError {
    pub(super) fn new(text: String) -> UsageError {
        UsageError { text }
    }

    fn unknown(option: String) -> UsageError {
        UsageError::new(format!("unknown option {option:?}: expected one of those that --help lists"))
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for UsageError {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use log::LevelFilter;

    use super::*;
    use crate::node::filter::Filter;
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
    fn defaults() {
        let expected = Options {
            addr: ":8080".into(),
            proc_path: "/proc".into(),
            scrape_interval: Duration::from_secs(1),
            log_level: LevelFilter::Info,
            containerd_sock: "/run/containerd/containerd.sock".into(),
            containerd_namespaces: vec!["k8s.io".into()],
            filters: filters(&["default/*/*/*"]),
            fixture: None,
            record: None,
            once: false,
            fields: ALL_FIELDS,
            group_by: GroupBy::Path,
            pid: false,
            omit_zero: false,
            max_samples: 100_000,
            cpu_budget: 0.25,
            allowed_hosts: Vec::new(),
            sandbox: true,
        };
        assert_eq!(run(&[]), expected);
    }

    /// Each option in each of its four spellings.
    #[test]
    fn options() {
        type Change = fn(&mut Options);
        let cases: &[(&str, &str, Change)] = &[
            ("addr", "127.0.0.1:0", |options| options.addr = "127.0.0.1:0".into()),
            ("proc-path", "/host/proc", |options| options.proc_path = "/host/proc".into()),
            ("scrape-interval", "1m30s", |options| options.scrape_interval = Duration::from_secs(90)),
            ("log-level", "warning", |options| options.log_level = LevelFilter::Warn),
            ("log-level", "WARN", |options| options.log_level = LevelFilter::Warn),
            ("log-level", "debug", |options| options.log_level = LevelFilter::Debug),
            ("log-level", "Error", |options| options.log_level = LevelFilter::Error),
            ("log-level", "none", |options| options.log_level = LevelFilter::Off),
            ("containerd-sock", "/a b", |options| options.containerd_sock = "/a b".into()),
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
            ("cpu-budget", "1.5", |options| options.cpu_budget = 1.5),
            ("allowed-host", "Node.example.org", |options| {
                options.allowed_hosts = vec!["node.example.org".into()]
            }),
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
                // The option that follows is not swallowed.
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
    fn repeated() {
        let options = run(&["--addr", ":1", "-addr=:2", "--fields=rss", "--fields=all"]);
        assert_eq!((options.addr.as_str(), options.fields), (":2", ALL_FIELDS));
        let options = run(&["--filter=a/b/c/d", "-filter", "e/f/g/h"]);
        assert_eq!(options.filters, filters(&["a/b/c/d", "e/f/g/h"]));
        let options = run(&[
            "--containerd-namespace=moby",
            "-containerd-namespace=k8s.io",
            "-containerd-namespace=moby",
        ]);
        assert_eq!(options.containerd_namespaces, ["moby", "k8s.io"]);
    }

    #[test]
    fn paths_need_not_be_utf8() {
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
    fn help_and_version() {
        for arg in ["-h", "-help", "--help"] {
            assert_eq!(parse(["--addr=:1".into(), arg.into(), "--bogus".into()]), Ok(Command::Help), "{arg}");
        }
        for arg in ["-V", "-version", "--version"] {
            assert_eq!(parse(["-once".into(), arg.into(), "--bogus".into()]), Ok(Command::Version), "{arg}");
        }
    }

    #[test]
    fn refuses_values() {
        let names = "size,rss,pss,pss_dirty,shared_clean,shared_dirty,private_clean,private_dirty,referenced,anonymous,ksm,\
                     lazyfree,anon_hugepages,shmem_pmdmapped,file_pmdmapped,shared_hugetlb,private_hugetlb,swap,swap_pss,\
                     locked,kernel_page_size,mmu_page_size";
        let fields = format!(r#""all" or a comma-separated list, each name once, of {names}"#);
        let expected = [
            ("addr", r#"":PORT", "HOST:PORT" or "[IPv6]:PORT""#, vec!["", "8080", "::1:80"]),
            ("proc-path", "a directory", vec![""]),
            (
                "scrape-interval",
                r#"a positive duration such as "500ms", "1s" or "1m30s""#,
                vec!["", "abc", "0s", "-1s", "1", "9999999h"],
            ),
            ("log-level", r#""debug", "info", "warn", "error" or "none""#, vec!["", "trace", "off"]),
            ("containerd-sock", "the path of a socket", vec![""]),
            (
                "containerd-namespace",
                r#"a containerd namespace such as "k8s.io", "moby" or "default""#,
                vec!["", "a b", "a/b", "\n", "\u{e9}"],
            ),
            (
                "filter",
                r#""<namespace>/<pod>/<container>/<command>", where "*" stands for any run of characters"#,
                vec!["", "*", "a/b/c"],
            ),
            ("fixture", "a directory", vec![""]),
            ("record", "a directory that does not exist", vec![""]),
            ("fields", &fields, vec!["", "rss,", "Rss", "rss,rss", "rss, pss", "all,rss", "mappings"]),
            ("group-by", r#""path", "kind" or "process""#, vec!["", "pod"]),
            (
                "max-samples",
                "a whole number of samples, 0 for no limit",
                vec!["", "-1", "1.5", "1e5", "99999999999999999999"],
            ),
            (
                "cpu-budget",
                "a fraction of one core from 0 to 1024, 0 for no limit",
                vec!["", "-0.1", "1025", "nan", "inf", "50%"],
            ),
            ("allowed-host", "a host name without a port", vec!["", "a:80", "a/b", "*"]),
            ("sandbox", r#""on" or "off""#, vec!["", "On", "1"]),
        ];
        for (name, expected, values) in expected {
            for value in values {
                let message = format!("invalid value {value:?} for --{name}: expected {expected}");
                assert_eq!(refused(&[&format!("-{name}={value}")]), message);
                assert_eq!(refused(&[&format!("--{name}"), value]), message);
                assert_eq!(message.lines().count(), 1);
            }
            assert_eq!(
                refused(&[&format!("-{name}")]),
                format!("missing value for --{name}: expected {expected}")
            );
        }
        let text = [b"--filter=*/*/*/".to_vec(), vec![0xff]].concat();
        assert_eq!(
            parse([OsString::from_vec(text)]).expect_err("not UTF-8").to_string(),
            r#"invalid value "*/*/*/\xFF" for --filter: expected "<namespace>/<pod>/<container>/<command>", where "*" stands for any run of characters"#
        );
    }

    #[test]
    fn refuses_the_rest() {
        let unknown =
            |option: &str| format!("unknown option {option:?}: expected one of those that --help lists");
        for option in ["--bogus", "-bogus", "-b", "-hV", "-Verbose", "--h", "--Addr", "-addrs"] {
            assert_eq!(refused(&["--once", option]), unknown(option));
        }
        assert_eq!(refused(&["--bogus=1"]), unknown("--bogus"));
        assert_eq!(refused(&["-bogus=1"]), unknown("-bogus=1"));
        for args in [&["extra"][..], &["--", "extra"], &["--once", "extra"]] {
            assert_eq!(refused(args), r#"unexpected argument "extra": expected an option, see --help"#);
        }
        assert_eq!(refused(&["-"]), r#"unexpected argument "-": expected an option, see --help"#);
        assert_eq!(
            refused(&["--", "-addr"]),
            r#"unexpected argument "-addr": expected an option, see --help"#
        );
        assert_eq!(refused(&["--once=yes"]), r#"unexpected value "yes" for --once: expected none"#);
        assert_eq!(
            refused(&["--once", "--record=x"]),
            "--once and --record cannot be combined: expected one of them"
        );
    }
}
