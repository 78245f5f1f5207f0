//! The command line: one table of options gives the parser, the defaults and `--help`.

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::Arg;
use log::LevelFilter;

use super::{build_info, duration};
use crate::node::filter::{self, Filter};
use crate::smaps::fields::{self, ALL_FIELDS, FIELDS, FieldMask};

/// What the user asked for.
#[expect(clippy::large_enum_variant, reason = "there is one in a program's life")]
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Export, record, or print once.
    Run(Options),
    /// Print [`help`].
    Help,
    /// Print [`version`].
    Version,
}

/// Every option's value, given or default.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Where to listen: `:PORT`, `HOST:PORT` or `[IPv6]:PORT`; the syntax is checked, the host is not looked up.
    pub addr: String,
    /// Where the node's proc is mounted.
    pub proc_path: PathBuf,
    /// Time between scrape starts, never zero.
    pub scrape_interval: Duration,
    /// What is logged.
    pub log_level: LevelFilter,
    /// Containerd's socket.
    pub containerd_sock: PathBuf,
    /// The containerd namespaces to list, at least one, each once.
    pub containerd_namespaces: Vec<String>,
    /// A process is taken when any of them matches; at least one.
    pub filters: Vec<Filter>,
    /// A recorded node to read in place of containerd and the live proc.
    pub fixture: Option<PathBuf>,
    /// Write a recording here and exit; never together with `once`.
    pub record: Option<PathBuf>,
    /// Print one exposition and exit.
    pub once: bool,
    /// The fields to export, at least one.
    pub fields: FieldMask,
    /// What one series stands for.
    pub group_by: GroupBy,
    /// A series a process, with a `pid` label.
    pub pid: bool,
    /// Leave out samples whose value is 0.
    pub omit_zero: bool,
    /// At most this many `process_smaps_*` samples; 0 is no limit.
    pub max_samples: usize,
    /// The fraction of one core that reading smaps may take, at most 1024; 0 is no limit.
    pub cpu_budget: f64,
}

/// What one series stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupBy {
    /// One mapped path of one command.
    #[default]
    Path,
    /// One kind of mapping (file, anonymous, heap, ...) of one command.
    Kind,
    /// All mappings of one command.
    Process,
}

/// A command line that makes no sense; one line that quotes the argument and says what is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError {
    text: String,
}

/// One option that takes a value, or a flag, whose `value` is empty.
struct Spec {
    name: &'static str,
    value: &'static str,
    /// Parsed like an argument when the option is not given; empty is no default.
    default: &'static str,
    help: &'static str,
    expected: &'static str,
    set: fn(&mut Options, &OsStr) -> Option<()>,
}

const fn flag(name: &'static str, help: &'static str, set: fn(&mut Options, &OsStr) -> Option<()>) -> Spec {
    Spec { name, value: "", default: "", help, expected: "", set }
}

const SPECS: [Spec; 16] = [
    Spec {
        name: "addr",
        value: "ADDR",
        default: ":8080",
        help: "listen on :PORT (every interface), HOST:PORT or [IPv6]:PORT",
        expected: "\":PORT\", \"HOST:PORT\" or \"[IPv6]:PORT\"",
        set: |options, value| addr(value).map(|addr| options.addr = addr),
    },
    Spec {
        name: "proc-path",
        value: "DIR",
        default: "/proc",
        help: "where the node's proc is mounted",
        expected: "a directory",
        set: |options, value| path(value).map(|path| options.proc_path = path),
    },
    Spec {
        name: "scrape-interval",
        value: "TIME",
        default: "1s",
        help: "time between scrape starts: 500ms, 1.5s, 1m30s",
        expected: "a positive duration such as \"500ms\", \"1s\" or \"1m30s\"",
        set: |options, value| {
            duration::parse(value.to_str()?).map(|interval| options.scrape_interval = interval)
        },
    },
    Spec {
        name: "log-level",
        value: "LEVEL",
        default: "info",
        help: "debug, info, warn, error or none",
        expected: "\"debug\", \"info\", \"warn\", \"error\" or \"none\"",
        set: |options, value| log_level(value).map(|level| options.log_level = level),
    },
    Spec {
        name: "containerd-sock",
        value: "PATH",
        default: "/run/containerd/containerd.sock",
        help: "containerd's socket",
        expected: "the path of a socket",
        set: |options, value| path(value).map(|path| options.containerd_sock = path),
    },
    Spec {
        name: "containerd-namespace",
        value: "NAME",
        default: "k8s.io",
        help: "containerd namespace to list: moby, default, ...; repeatable",
        expected: "a containerd namespace such as \"k8s.io\", \"moby\" or \"default\"",
        set: |options, value| containerd_namespace(options, value),
    },
    Spec {
        name: "filter",
        value: "PATTERN",
        default: "default/*/*/*",
        help: "NAMESPACE/POD/CONTAINER/COMMAND, * is any; repeatable",
        expected: filter::EXPECTED,
        set: |options, value| Filter::parse(value.to_str()?).ok().map(|filter| options.filters.push(filter)),
    },
    Spec {
        name: "fixture",
        value: "DIR",
        default: "",
        help: "read a recorded node instead of containerd and the live proc",
        expected: "a directory",
        set: |options, value| path(value).map(|path| options.fixture = Some(path)),
    },
    Spec {
        name: "record",
        value: "DIR",
        default: "",
        help: "record what the filter matches into the new directory DIR, exit",
        expected: "a directory that does not exist",
        set: |options, value| path(value).map(|path| options.record = Some(path)),
    },
    flag("once", "scrape once, print the exposition, exit", |options, _| {
        options.once = true;
        Some(())
    }),
    Spec {
        name: "fields",
        value: "LIST",
        default: "all",
        help: "the fields to export: rss,pss,private_dirty,...",
        // The names follow, from the field table.
        expected: "\"all\" or a comma-separated list, each name once, of ",
        set: |options, value| field_mask(value.to_str()?).map(|mask| options.fields = mask),
    },
    Spec {
        name: "group-by",
        value: "WHAT",
        default: "path",
        help: "path, kind or process: what one series of a command stands for",
        expected: "\"path\", \"kind\" or \"process\"",
        set: |options, value| group_by(value).map(|group_by| options.group_by = group_by),
    },
    flag("pid", "one series a process: label pid", |options, _| {
        options.pid = true;
        Some(())
    }),
    flag("omit-zero", "leave out samples whose value is 0", |options, _| {
        options.omit_zero = true;
        Some(())
    }),
    Spec {
        name: "max-samples",
        value: "N",
        default: "100000",
        help: "over N samples the smallest paths fold into one; 0: no limit",
        expected: "a whole number of samples, 0 for no limit",
        set: |options, value| value.to_str()?.parse().ok().map(|n| options.max_samples = n),
    },
    Spec {
        name: "cpu-budget",
        value: "F",
        default: "0.25",
        help: "read smaps for at most this fraction of a core; 0: no limit",
        expected: "a fraction of one core from 0 to 1024, 0 for no limit",
        set: |options, value| cpu_budget(value).map(|fraction| options.cpu_budget = fraction),
    },
];

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

/// What `--help` prints.
pub fn help() -> String {
    let mut text = format!(
        "{}.\n\nusage: {} [OPTION]...; -addr VALUE and -addr=VALUE are taken like --addr VALUE\n\n",
        "Exports where the memory of containerized processes is, from /proc/<pid>/smaps, to Prometheus",
        env!("CARGO_PKG_NAME"),
    );
    for spec in &SPECS {
        let name = format!("--{} {}", spec.name, spec.value);
        let default = if spec.default.is_empty() { String::new() } else { format!(" [{}]", spec.default) };
        writeln!(text, "  {name:<28}{}{default}", spec.help).expect("writing to a string cannot fail");
    }
    text.push_str("  -h, --help                  print this; defaults stand in brackets\n");
    text.push_str("  -V, --version               print version, revision and target\n");
    text
}

/// What `--version` prints.
pub fn version() -> String {
    let (name, target) = (env!("CARGO_PKG_NAME"), build_info::target());
    format!("{name} {} (revision {}, {target})\n", build_info::VERSION, build_info::REVISION)
}

impl Options {
    fn unset() -> Options {
        Options {
            addr: String::new(),
            proc_path: PathBuf::new(),
            scrape_interval: Duration::ZERO,
            log_level: LevelFilter::Off,
            containerd_sock: PathBuf::new(),
            containerd_namespaces: Vec::new(),
            filters: Vec::new(),
            fixture: None,
            record: None,
            once: false,
            fields: 0,
            group_by: GroupBy::Path,
            pid: false,
            omit_zero: false,
            max_samples: 0,
            cpu_budget: 0.0,
        }
    }
}

impl Spec {
    fn set(&self, options: &mut Options, value: &OsStr) -> Result<(), UsageError> {
        (self.set)(options, value).ok_or_else(|| {
            UsageError::new(format!(
                "invalid value {value:?} for --{}: expected {}",
                self.name,
                self.expected()
            ))
        })
    }

    fn expected(&self) -> String {
        let names = if self.name == "fields" {
            FIELDS.each_ref().map(|field| field.name).join(",")
        } else {
            String::new()
        };
        format!("{}{names}", self.expected)
    }
}

impl UsageError {
    fn new(text: String) -> UsageError {
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

fn addr(value: &OsStr) -> Option<String> {
    let value = value.to_str()?;
    let (host, port) = value.rsplit_once(':')?;
    let host_is_a_name = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let port_is_a_number = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    (port_is_a_number && host_is_a_name || value.parse::<SocketAddr>().is_ok()).then(|| value.into())
}

fn path(value: &OsStr) -> Option<PathBuf> {
    (!value.is_empty()).then(|| value.into())
}

fn log_level(value: &OsStr) -> Option<LevelFilter> {
    // Any case, as the Go original takes it.
    Some(match value.to_str()?.to_ascii_lowercase().as_str() {
        "debug" => LevelFilter::Debug,
        "info" => LevelFilter::Info,
        "warn" | "warning" => LevelFilter::Warn,
        "error" => LevelFilter::Error,
        "none" => LevelFilter::Off,
        _ => return None,
    })
}

/// The letters that containerd allows; the name becomes a gRPC header. A namespace given twice is listed once.
fn containerd_namespace(options: &mut Options, value: &OsStr) -> Option<()> {
    let name = value.to_str()?;
    let is_valid =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if is_valid && !options.containerd_namespaces.iter().any(|known| known == name) {
        options.containerd_namespaces.push(name.into());
    }
    is_valid.then_some(())
}

fn field_mask(list: &str) -> Option<FieldMask> {
    if list == "all" {
        return Some(ALL_FIELDS);
    }
    list.split(',').try_fold(0, |mask, name| {
        let bit = 1 << fields::by_name(name)?;
        (mask & bit == 0).then_some(mask | bit)
    })
}

fn group_by(value: &OsStr) -> Option<GroupBy> {
    Some(match value.to_str()? {
        "path" => GroupBy::Path,
        "kind" => GroupBy::Kind,
        "process" => GroupBy::Process,
        _ => return None,
    })
}

fn cpu_budget(value: &OsStr) -> Option<f64> {
    let fraction: f64 = value.to_str()?.parse().ok()?;
    // NaN is in no range; abs() makes -0 plain.
    (0.0..=1024.0).contains(&fraction).then_some(fraction.abs())
}

#[cfg(test)]
mod tests {
    use super::*;
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
        assert!(version().starts_with("smaps-container-exporter 0.1.0 (revision "), "{}", version());
        assert!(version().ends_with(&format!(", {})\n", build_info::target())), "{}", version());
    }

    #[test]
    fn help_fits_one_screen() {
        let help = help();
        assert!(help.lines().count() <= 24 && help.lines().all(|line| line.len() <= 100), "{help}");
        for spec in &SPECS {
            let line =
                help.lines().find(|line| line.starts_with(&format!("  --{} ", spec.name))).expect(spec.name);
            assert!(line.contains(spec.help), "{line}");
            assert_eq!(line.ends_with(&format!(" [{}]", spec.default)), !spec.default.is_empty(), "{line}");
        }
    }

    #[test]
    fn addresses() {
        let taken = [
            ":8080",
            ":0",
            ":65535",
            "localhost:80",
            "127.0.0.1:80",
            "[::1]:80",
            "[::]:80",
            "a-b.c_d.svc:80",
        ];
        for text in taken {
            assert_eq!(addr(text.as_ref()).as_deref(), Some(text), "{text}");
        }
        let refused = [
            "",
            ":",
            "8080",
            "localhost",
            ":65536",
            ":-1",
            ":+1",
            ":http",
            "::1:80",
            "[::1]",
            "[::1:80",
            "::1]:80",
            "[x]:80",
            "a b:80",
            "http://a:80",
            "a/b:80",
            ":80 ",
            "[127.0.0.1]:80",
            "a:b:80",
        ];
        for text in refused {
            assert_eq!(addr(text.as_ref()), None, "{text}");
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
