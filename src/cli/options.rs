//! The parsed values of the options.

use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use crate::cgroupfs::fields::GroupMask;
use crate::node::containers::filter::Filter;
use crate::smaps::fields::FieldMask;
use crate::totals::grouping::GroupBy;

/// The value of each option: the given value, or else the default.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The address to listen on: `:PORT`, `HOST:PORT` or `[IPv6]:PORT`. Only its syntax has been checked, so
    /// the host may not exist.
    pub addr: String,
    /// The directory where the node's proc file system is mounted.
    pub proc_path: PathBuf,
    /// The directory where the node's cgroup file system is mounted; `None` if the option is not given.
    pub cgroup_path: Option<PathBuf>,
    /// The groups of cgroup fields that are read and exported.
    pub cgroup_metrics: GroupMask,
    /// The shortest time between the starts of two scrapes, at least 10 ms.
    pub scrape_interval: Duration,
    /// The least severe level that is logged.
    pub log_level: LevelFilter,
    /// The node's name, which is shown in the log, on the page and as a label of the info metric.
    pub node: Option<String>,
    /// containerd's socket. At most one of `containerd_sock`, `cri_sock` and `container_logs` is set. If none
    /// of them is set, the program uses the first existing socket of the known runtimes.
    pub containerd_sock: Option<PathBuf>,
    /// The socket of a runtime that supports CRI.
    pub cri_sock: Option<PathBuf>,
    /// The directory with the kubelet's links to log files. The names of the links name the containers.
    pub container_logs: Option<PathBuf>,
    /// The namespaces of containerd in which containers are listed. There is at least one, and no duplicate.
    pub containerd_namespaces: Vec<String>,
    /// The filters. A process is selected if at least one filter matches it. There is at least one filter,
    /// and no duplicate.
    pub filters: Vec<Filter>,
    /// A recorded node to read instead of containerd and the live proc.
    pub fixture: Option<PathBuf>,
    /// The directory to which the program writes a recording before it exits. If it is set, `once` is false.
    pub record: Option<PathBuf>,
    /// Whether to print one exposition and exit.
    pub once: bool,
    /// The smaps fields to export, at least one.
    pub fields: FieldMask,
    /// Whether the memory of a command is split into series by path, by kind of mapping, or not at all.
    pub group_by: GroupBy,
    /// Whether each process has its own series, with the label `pid`.
    pub pid: bool,
    /// Whether samples of value 0 are omitted.
    pub omit_zero: bool,
    /// Whether anonymous memory is split into stacks, heaps and other kinds, which are guessed from the
    /// layout of the mappings.
    pub anon_parts: bool,
    /// The maximum number of `process_smaps_*` samples; 0 means no limit.
    pub max_samples: usize,
    /// The maximum length of an exported path in bytes. Longer paths are shortened; 0 means no limit.
    pub max_label_bytes: usize,
    /// The CPU time that scrapes may use, in cores. For example, 0.25 means a quarter of one core. The
    /// maximum is 1024; 0 means no limit.
    pub cpu_budget: f64,
    /// Host names, in lower case. Requests from this machine may have one of them in their `Host` header, in
    /// addition to the machine's own name, `localhost` and IP addresses.
    pub allowed_hosts: Vec<String>,
    /// Whether the program drops unneeded capabilities and system calls once all files and sockets are open.
    pub sandbox: bool,
    /// The text of the file that `--print` prints, for example a Kubernetes manifest. In this text, the name
    /// of the exporter's container image is not yet replaced by `image`.
    pub print: Option<String>,
    /// The name that the exporter's container image gets in the text that `--print` prints.
    pub image: String,
}

impl Options {
    /// Returns options that are not set yet. The parser then sets each of them by
    /// [`OPTIONS`](super::table::OPTIONS).
    pub(super) fn unset() -> Options {
        Options {
            addr: String::new(),
            proc_path: PathBuf::new(),
            cgroup_path: None,
            cgroup_metrics: 0,
            scrape_interval: Duration::ZERO,
            log_level: LevelFilter::Off,
            node: None,
            containerd_sock: None,
            cri_sock: None,
            container_logs: None,
            containerd_namespaces: Vec::new(),
            filters: Vec::new(),
            fixture: None,
            record: None,
            once: false,
            fields: 0,
            group_by: GroupBy::Path,
            pid: false,
            omit_zero: false,
            anon_parts: false,
            max_samples: 0,
            max_label_bytes: 0,
            cpu_budget: 0.0,
            allowed_hosts: Vec::new(),
            sandbox: false,
            print: None,
            image: String::new(),
        }
    }
}
