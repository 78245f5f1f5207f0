//! Opens what the program needs, as the options say: the source of containers, proc, and the cgroups. Also
//! restricts the program's own system calls and file access.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use log::{Level, log};

use crate::cgroupfs::fields::MEMORY;
use crate::cgroupfs::files::CgroupFs;
use crate::cli::build_info;
use crate::cli::options::Options;
use crate::cli::parameters;
use crate::errors::plain;
use crate::exposition::self_metrics::SelfMetrics;
use crate::http;
use crate::node::cgroups::usage::CgroupUsage;
use crate::node::containers::discovery::Discovery;
use crate::node::reads::budget::Budget;
use crate::node::reads::scheduler::Reads;
use crate::procfs::{Proc, permissions};
use crate::sandbox::{self, Needs};
use crate::scrape::views::{Query, Views};
use crate::scrape::{Parts, Scraper};
use crate::sources::Source;
use crate::sources::client::{Client, Lister};
use crate::sources::container_logs::ContainerLogs;
use crate::sources::containerd::Containerd;
use crate::sources::cri::Cri;
use crate::sources::recording::Recording;
use crate::totals::other::max_bytes;
use crate::totals::shape::Shape;
use crate::totals::snapshot::Snapshot;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Api {
    Containerd,
    Cri,
}

/// The usual sockets of container runtimes. If the options name no source of containers, the first existing
/// socket is used.
const SOCKETS: [(&str, Api); 3] = [
    ("/run/containerd/containerd.sock", Api::Containerd),
    ("/run/crio/crio.sock", Api::Cri),
    ("/run/cri-dockerd.sock", Api::Cri),
];

/// Makes the scraper: opens proc and the source of containers that the options name. Sends no request to a
/// container runtime yet.
///
/// Fails if proc cannot be opened, has no smaps, or hides other processes from this program. Also fails if
/// there is no socket, or if the recording or the directory of `--container-logs` cannot be read. The error
/// is a one-line message.
pub fn scraper(options: &Options) -> Result<Scraper, String> {
    let source = source(options)?;
    let proc_path = match &options.fixture {
        Some(directory) => directory.join("proc"),
        None => options.proc_path.clone(),
    };
    let proc =
        Proc::open(&proc_path).map_err(|error| format!("cannot open {proc_path:?}: {}", plain(&error)))?;
    if !proc.has_smaps() {
        let directory = proc_path.join("self");
        return Err(format!("no smaps in {directory:?}: expected a kernel with CONFIG_PROC_PAGE_MONITOR"));
    }
    permissions::ensure_visible(&proc_path)?;
    let mut discovery = Discovery::new(source, &options.filters);
    if options.fixture.is_some() {
        discovery.list_first(Instant::now())?;
    }
    Ok(Scraper::new(Parts {
        proc,
        discovery,
        reads: Reads::new(options.scrape_interval),
        cgroups: cgroups(options),
        budget: Budget::new(options.cpu_budget),
        snapshot: Snapshot::new(max_bytes(options.max_samples), options.max_label_bytes),
        views: Views::new(shape(options)),
        self_metrics: SelfMetrics::new(
            [build_info::VERSION, build_info::REVISION, &build_info::target()],
            options.filters.iter().map(ToString::to_string),
            options.node.as_deref(),
            options.cpu_budget,
            SystemTime::now(),
        ),
        check_interval: has_checks(options).then_some(options.scrape_interval),
        is_recording: options.record.is_some(),
    }))
}

/// Returns which samples these options export, and what each series stands for.
pub fn shape(options: &Options) -> Shape {
    let &Options { group_by, anon_parts, pid: by_pid, fields, omit_zero, max_samples, .. } = options;
    Shape { group_by, anon_parts, by_pid, fields, omit_zero, max_samples }
}

/// Returns the queue of requests to `/metrics` with parameters, which replace options of the command line. A
/// request is not queued if its parameters change nothing. Such a request gets the exposition that each
/// scrape renders.
pub fn views(options: &Options) -> http::views::Views {
    let max_samples = options.max_samples;
    let options = options.clone();
    let main = shape(&options);
    let parse = move |parameters: &[u8]| {
        let options = parameters::parse(parameters, &options).map_err(|error| error.to_string())?;
        let (shape, filters) = (shape(&options), options.filters);
        let needs_paths = main.is_rollup() && !shape.is_rollup();
        let is_main = shape == main && filters.is_empty();
        Ok((!is_main).then_some(Query { shape, filters, needs_paths }))
    };
    http::views::Views::new(Box::new(parse), max_samples)
}

/// Drops the rights that a program with these options does not need. They are dropped in this thread and in
/// all threads that it starts later. With `--sandbox off`, drops nothing. Open proc and the listening socket
/// before this call, because opening them needs rights that are dropped.
pub fn enter_sandbox(options: &Options) {
    if options.sandbox {
        sandbox::enter(&needs(options));
    }
}

fn needs(options: &Options) -> Needs {
    let mut reads = vec![PathBuf::from("/proc"), PathBuf::from("/sys/fs/cgroup")];
    reads.push(options.fixture.clone().unwrap_or_else(|| options.proc_path.clone()));
    reads.extend(options.container_logs.clone());
    if options.cgroup_metrics != 0 {
        reads.push(cgroup_path(options));
    }
    Needs {
        proc_path: options.proc_path.clone(),
        reads,
        sockets: sockets(options),
        writes: options.record.clone(),
        serves: options.record.is_none() && !options.once,
    }
}

/// Opens the source of containers that the options name. If they name no source, opens the first existing
/// socket in [`SOCKETS`].
fn source(options: &Options) -> Result<Box<dyn Source>, String> {
    if let Some(directory) = &options.fixture {
        check_recording(directory)?;
        return Ok(Box::new(Recording::new(directory)));
    }
    if let Some(directory) = &options.container_logs {
        fs::read_dir(directory).map_err(|error| format!("cannot list {directory:?}: {}", plain(&error)))?;
        return Ok(Box::new(ContainerLogs::new(directory)));
    }
    let (socket, api) = match (&options.containerd_sock, &options.cri_sock) {
        (Some(socket), _) => (socket.as_path(), Api::Containerd),
        (None, Some(socket)) => (socket.as_path(), Api::Cri),
        (None, None) => first_socket(&options.containerd_namespaces, Path::exists)?,
    };
    check_socket(socket)?;
    let lister = match api {
        Api::Containerd => Lister::Containerd(Containerd::new(socket, &options.containerd_namespaces)),
        Api::Cri => Lister::Cri(Cri::new(socket)),
    };
    let client = Client::new(lister).map_err(|error| {
        format!(
            "cannot list containers at {socket:?}: \
                                                              {}",
            plain(&error)
        )
    })?;
    Ok(Box::new(client))
}

/// Opens the cgroup file system that the options name, for the metrics of cgroups. If it cannot be opened,
/// logs this and returns `None`. Nothing is logged if a recording has no cgroup file system.
fn cgroups(options: &Options) -> Option<CgroupUsage> {
    if options.cgroup_metrics == 0 {
        return None;
    }
    let path = cgroup_path(options);
    let is_recorded = options.cgroup_path.is_none() && options.fixture.is_some();
    if is_recorded && !path.exists() {
        return None;
    }
    let level = if options.cgroup_path.is_some() { Level::Warn } else { Level::Info };
    let opened = CgroupFs::open(&path, options.cgroup_metrics);
    let usage = opened.and_then(|fs| {
        CgroupUsage::new(fs, level)
            .map_err(|error| format!("cannot make a pair of sockets: {}", plain(&error)))
    });
    match usage {
        Ok(usage) => Some(usage),
        Err(error) => {
            log!(level, "no cgroup_* metrics: {error}");
            None
        }
    }
}

/// Returns whether there are checks of memory use between scrapes. They need a live node, the memory fields
/// of cgroups, and a program that does not end after one scrape.
pub fn has_checks(options: &Options) -> bool {
    let has_memory = options.cgroup_metrics & MEMORY != 0;
    has_memory && options.fixture.is_none() && !options.once && options.record.is_none()
}

/// Returns the path of the cgroup file system. This is the path in the options, or else the path inside the
/// recording, or else the usual mount point.
fn cgroup_path(options: &Options) -> PathBuf {
    let recorded = options.fixture.as_ref().map(|directory| directory.join("cgroup"));
    options.cgroup_path.clone().or(recorded).unwrap_or_else(|| "/sys/fs/cgroup".into())
}

/// Fails if there is no socket at `path`. Without this check, the program would try forever to connect, for
/// example if `path` is a directory. The error is a one-line message.
fn check_socket(path: &Path) -> Result<(), String> {
    let fail = |cause: &str| format!("no socket at {path:?}: {cause}");
    let kind = fs::metadata(path).map_err(|error| fail(&plain(&error)))?.file_type();
    match () {
        () if kind.is_socket() => Ok(()),
        () if kind.is_dir() => Err(fail("it is a directory")),
        () if kind.is_file() => Err(fail("it is a file")),
        () => Err(fail("it is a device, a pipe or the like")),
    }
}

/// Fails if `directory` lacks a part that each recording must have. The error is a one-line message that
/// names the part.
fn check_recording(directory: &Path) -> Result<(), String> {
    let fail = |cause: &str| format!("no recording at {directory:?}: {cause}");
    let kind = fs::metadata(directory).map_err(|error| fail(&plain(&error)))?;
    if !kind.is_dir() {
        return Err(fail("it is not a directory"));
    }
    match ["containers.tsv", "proc"].into_iter().find(|name| fs::metadata(directory.join(name)).is_err()) {
        Some(missing) => Err(fail(&format!("it has no {missing:?}, as --record makes"))),
        None => Ok(()),
    }
}

/// Returns the first existing socket of a container runtime. CRI lists only the containerd namespace
/// `k8s.io`, so a socket of CRI is used only if the options have no other namespace. If no such socket
/// exists, the error is a one-line message.
fn first_socket(
    namespaces: &[String],
    exists: impl Fn(&Path) -> bool,
) -> Result<(&'static Path, Api), String> {
    let is_cri_enough = namespaces == ["k8s.io"];
    let mut sockets = SOCKETS.into_iter().filter(|(_, api)| *api == Api::Containerd || is_cri_enough);
    let found = sockets.clone().find(|(path, _)| exists(Path::new(path)));
    found.map(|(path, api)| (Path::new(path), api)).ok_or_else(|| {
        let paths: Vec<_> = sockets.by_ref().map(|(path, _)| format!("{path:?}")).collect();
        format!(
            "no container runtime's socket at {}: expected --containerd-sock, --cri-sock, --container-logs \
             or --fixture",
            paths.join(", ")
        )
    })
}

/// Returns the sockets that [`source`] may connect to. The list is empty if no container runtime is used.
fn sockets(options: &Options) -> Vec<PathBuf> {
    if options.fixture.is_some() || options.container_logs.is_some() {
        return Vec::new();
    }
    match options.containerd_sock.as_ref().or(options.cri_sock.as_ref()) {
        Some(socket) => vec![socket.clone()],
        None => SOCKETS.map(|(path, _)| path.into()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_existing_socket_is_used() {
        let [containerd, crio, dockerd] = SOCKETS.map(|(path, _)| path);
        let kubernetes = &["k8s.io".to_owned()][..];
        let docker = &["moby".to_owned(), "k8s.io".to_owned()][..];
        let none = "no container runtime's socket at \"/run/containerd/containerd.sock\", \
                    \"/run/crio/crio.sock\", \"/run/cri-dockerd.sock\": expected --containerd-sock, \
                    --cri-sock, --container-logs or --fixture";
        let no_containerd = "no container runtime's socket at \"/run/containerd/containerd.sock\": expected \
                             --containerd-sock, --cri-sock, --container-logs or --fixture";
        type Found = Result<(&'static str, Api), &'static str>;
        let cases: [(&[&str], &[String], Found); 6] = [
            (&[containerd, crio, dockerd], kubernetes, Ok((containerd, Api::Containerd))),
            (&[dockerd, crio], kubernetes, Ok((crio, Api::Cri))),
            (&[dockerd], kubernetes, Ok((dockerd, Api::Cri))),
            (&[dockerd, containerd], docker, Ok((containerd, Api::Containerd))),
            (&[], kubernetes, Err(none)),
            (&[dockerd, crio], docker, Err(no_containerd)),
        ];
        for (existing, namespaces, expected) in cases {
            let exists = |path: &Path| existing.iter().any(|socket| path == Path::new(socket));
            let expected = expected.map(|(path, api)| (Path::new(path), api)).map_err(str::to_owned);
            assert_eq!(first_socket(namespaces, exists), expected, "{existing:?} {namespaces:?}");
        }
    }

    #[test]
    fn help_names_the_sockets_in_their_order() {
        let help = crate::cli::help::help();
        let at: Vec<_> = SOCKETS.iter().map(|(path, _)| help.rfind(path).expect(path)).collect();
        assert!(at.is_sorted(), "{help}");
    }
}
