//! The options' values, as the rest of the program gets them.

use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use crate::cgroupfs::fields::GroupMask;
use crate::node::containers::filter::Filter;
use crate::smaps::fields::FieldMask;
use crate::totals::grouping::GroupBy;

/// Every option's value, given or default.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Where to listen: `:PORT`, `HOST:PORT` or `[IPv6]:PORT`; the syntax is checked, the host is not looked up.
    pub addr: String,
    /// Where the node's proc is mounted.
    pub proc_path: PathBuf,
    /// Where the node's cgroup file system is mounted, if that is given.
    pub cgroup_path: Option<PathBuf>,
    /// The cgroup fields that are read and exported, by group.
    pub cgroup_metrics: GroupMask,
    /// Time between scrape starts, at least 10 ms.
    pub scrape_interval: Duration,
    /// What is logged.
    pub log_level: LevelFilter,
    /// The node's name, shown to people and by an info metric.
    pub node: Option<String>,
    /// containerd's socket. At most one of this, `cri_sock` and `container_logs` is given; without any the first socket that
    /// exists of the runtimes known is taken.
    pub containerd_sock: Option<PathBuf>,
    /// The socket of a runtime that speaks CRI.
    pub cri_sock: Option<PathBuf>,
    /// The directory of the kubelet's links, which name containers.
    pub container_logs: Option<PathBuf>,
    /// The containerd namespaces to list, at least one, each once.
    pub containerd_namespaces: Vec<String>,
    /// A process is selected when any of them matches; at least one, each once.
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
    /// Split anonymous memory by the layout of its mappings.
    pub anon_parts: bool,
    /// At most this many `process_smaps_*` samples; 0 is no limit.
    pub max_samples: usize,
    /// The length in bytes after which a path is cut.
    pub max_label_bytes: usize,
    /// The fraction of one core that reading smaps may take, at most 1024; 0 is no limit.
    pub cpu_budget: f64,
    /// The host names, besides its own, that requests from this machine may use; lowercase.
    pub allowed_hosts: Vec<String>,
    /// Give up what is not needed once everything is open: capabilities, system calls.
    pub sandbox: bool,
    /// The text of the file to print, which names the local image.
    pub print: Option<String>,
    /// The image that takes the place of the local one in that text.
    pub image: String,
}

impl Options {
    /// What [`OPTIONS`](super::table::OPTIONS) fills in.
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
