//! The options: their values, and the table that gives the parser, the defaults and `--help`.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use super::args::UsageError;
use super::values;
use crate::node::filter::{self, Filter};
use crate::smaps::fields::{FIELDS, FieldMask};
use crate::totals::grouping::GroupBy;
use crate::totals::snapshot::Shape;

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
    /// The host names, besides its own, that requests from this machine may use; lowercase.
    pub allowed_hosts: Vec<String>,
    /// Give up what is not needed once everything is open: capabilities, system calls.
    pub sandbox: bool,
}

/// One option that takes a value, or a flag, whose `value` is empty.
pub(crate) struct Spec {
    pub name: &'static str,
    pub value: &'static str,
    /// Parsed like an argument when the option is not given; empty is no default.
    pub default: &'static str,
    pub help: &'static str,
    expected: &'static str,
    set: fn(&mut Options, &OsStr) -> Option<()>,
}

const fn flag(name: &'static str, help: &'static str, set: fn(&mut Options, &OsStr) -> Option<()>) -> Spec {
    Spec { name, value: "", default: "", help, expected: "", set }
}

pub(crate) const SPECS: [Spec; 18] = [
    Spec {
        name: "addr",
        value: "ADDR",
        default: ":8080",
        help: "listen on :PORT (every interface), HOST:PORT or [IPv6]:PORT",
        expected: "\":PORT\", \"HOST:PORT\" or \"[IPv6]:PORT\"",
        set: |options, value| values::addr(value).map(|addr| options.addr = addr),
    },
    Spec {
        name: "proc-path",
        value: "DIR",
        default: "/proc",
        help: "where the node's proc is mounted",
        expected: "a directory",
        set: |options, value| values::path(value).map(|path| options.proc_path = path),
    },
    Spec {
        name: "scrape-interval",
        value: "TIME",
        default: "1s",
        help: "time between scrape starts: 500ms, 1.5s, 1m30s",
        expected: "a positive duration such as \"500ms\", \"1s\" or \"1m30s\"",
        set: |options, value| {
            super::duration::parse(value.to_str()?).map(|interval| options.scrape_interval = interval)
        },
    },
    Spec {
        name: "log-level",
        value: "LEVEL",
        default: "info",
        help: "debug, info, warn, error or none",
        expected: "\"debug\", \"info\", \"warn\", \"error\" or \"none\"",
        set: |options, value| values::log_level(value).map(|level| options.log_level = level),
    },
    Spec {
        name: "containerd-sock",
        value: "PATH",
        default: "/run/containerd/containerd.sock",
        help: "containerd's socket",
        expected: "the path of a socket",
        set: |options, value| values::path(value).map(|path| options.containerd_sock = path),
    },
    Spec {
        name: "containerd-namespace",
        value: "NAME",
        default: "k8s.io",
        help: "containerd namespace to list: moby, default, ...; repeatable",
        expected: "a containerd namespace such as \"k8s.io\", \"moby\" or \"default\"",
        set: |options, value| values::containerd_namespace(options, value),
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
        set: |options, value| values::path(value).map(|path| options.fixture = Some(path)),
    },
    Spec {
        name: "record",
        value: "DIR",
        default: "",
        help: "record what the filter matches into the new directory DIR, exit",
        expected: "a directory that does not exist",
        set: |options, value| values::path(value).map(|path| options.record = Some(path)),
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
        set: |options, value| values::field_mask(value.to_str()?).map(|mask| options.fields = mask),
    },
    Spec {
        name: "group-by",
        value: "WHAT",
        default: "path",
        help: "path, kind or process: what one series of a command stands for",
        expected: "\"path\", \"kind\" or \"process\"",
        set: |options, value| values::group_by(value).map(|group_by| options.group_by = group_by),
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
        set: |options, value| values::cpu_budget(value).map(|fraction| options.cpu_budget = fraction),
    },
    Spec {
        name: "allowed-host",
        value: "NAME",
        default: "",
        help: "a host name that a proxy on this machine may use; repeatable",
        expected: "a host name without a port",
        set: |options, value| values::host_name(value).map(|name| options.allowed_hosts.push(name)),
    },
    Spec {
        name: "sandbox",
        value: "on|off",
        default: "on",
        help: "give up the rights and system calls that are not needed",
        expected: "\"on\" or \"off\"",
        set: |options, value| values::switch(value).map(|is_on| options.sandbox = is_on),
    },
];

impl Options {
    /// What [`SPECS`] fills in.
    pub(super) fn unset() -> Options {
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
            allowed_hosts: Vec::new(),
            sandbox: false,
        }
    }
}

impl Spec {
    /// Fails when the value is not what is expected.
    pub(super) fn set(&self, options: &mut Options, value: &OsStr) -> Result<(), UsageError> {
        (self.set)(options, value).ok_or_else(|| {
            UsageError::new(format!(
                "invalid value {value:?} for --{}: expected {}",
                self.name,
                self.expected()
            ))
        })
    }

    /// What values it takes.
    pub(super) fn expected(&self) -> String {
        let names = if self.name == "fields" {
            FIELDS.each_ref().map(|field| field.name).join(",")
        } else {
            String::new()
        };
        format!("{}{names}", self.expected)
    }
}

impl From<&Options> for Shape {
    fn from(options: &Options) -> Self {
        let &Options { group_by, pid, fields, omit_zero, max_samples, .. } = options;
        Self { group_by, by_pid: pid, fields, omit_zero, max_samples }
    }
}
