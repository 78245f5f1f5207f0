//! The values of the options, as the rest of the program uses them.

use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use crate::cgroupfs::fields::GroupMask;
use crate::node::containers::filter::Filter;
use crate::smaps::fields::FieldMask;
use crate::totals::grouping::GroupBy;

/// The value of each option, given or default.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The address to listen on: `:PORT`, `HOST:PORT` or `[IPv6]:PORT`. Only the syntax has been checked: the
    /// host may not exist.
    pub addr: String,
    /// Where the node's proc is mounted.
    pub proc_path: PathBuf,
    /// Where the node's cgroup file system is mounted, if given.
    pub cgroup_path: Option<PathBuf>,
    /// The cgroup fields that are read and exported, by group.
    pub cgroup_metrics: GroupMask,
    /// The shortest time between the starts of two scrapes, at least 10 ms.
    pub scrape_interval: Duration,
    /// The least severe level that is logged.
    pub log_level: LevelFilter,
    /// The node's name, for the log, the page and the info metric.
    pub node: Option<String>,
    /// containerd's socket. At most one of `containerd_sock`, `cri_sock` and `container_logs` is given. If
    /// none is, the first existing socket of the known runtimes is used.
    pub containerd_sock: Option<PathBuf>,
    /// The socket of a runtime that supports CRI.
    pub cri_sock: Option<PathBuf>,
    /// The directory with the kubelet's links to log files. The names of the links name the containers.
    pub container_logs: Option<PathBuf>,
    /// The containerd namespaces to list. The list has at least one, and none twice.
    pub containerd_namespaces: Vec<String>,
    /// The filters. A process is selected if at least one of them matches. The list has at least one filter,
    /// and none twice.
    pub filters: Vec<Filter>,
    /// A recorded node to read instead of containerd and the live proc.
    pub fixture: Option<PathBuf>,
    /// The directory to write a recording to before exiting; never together with `once`.
    pub record: Option<PathBuf>,
    /// Whether to print one exposition and exit.
    pub once: bool,
    /// The fields to export, at least one.
    pub fields: FieldMask,
    /// What one series of a command stands for.
    pub group_by: GroupBy,
    /// Whether each process has its own series, with the label `pid`.
    pub pid: bool,
    /// Whether samples of value 0 are omitted.
    pub omit_zero: bool,
    /// Whether anonymous memory is split into stacks, heaps and so on, judging by the layout of its mappings.
    pub anon_parts: bool,
    /// The maximum number of `process_smaps_*` samples; 0 means no limit.
    pub max_samples: usize,
    /// The maximum length of a path in bytes. Longer paths are cut.
    pub max_label_bytes: usize,
    /// The fraction of one core that scrapes may use, at most 1024; 0 means no limit.
    pub cpu_budget: f64,
    /// The host names that requests from this machine may use in addition to its own name; lowercase.
    pub allowed_hosts: Vec<String>,
    /// Whether to drop unneeded capabilities and system calls once all files and sockets are open.
    pub sandbox: bool,
    /// The file that `--print` prints. It names the local image.
    pub print: Option<String>,
    /// The image that replaces the local one in the printed file.
    pub image: String,
}

impl Options {
    /// Returns options without values, for the parser: [`OPTIONS`](super::table::OPTIONS) sets each of them.
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
