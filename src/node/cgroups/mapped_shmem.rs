//! Finds out how much tmpfs and shared memory the processes of a container map.
//!
//! The mount namespace of a process decides which paths lie on tmpfs. In most containers, all processes have
//! the same mount namespace. In this case, the memory of all processes is summed by path first, and each path
//! is looked up once. Otherwise the paths of each process are looked up in the namespace of that process.

use std::time::{Duration, Instant};

use crate::node::processes::process::Process;
use crate::procfs::mounts::{FirstMount, Mounts};
use crate::procfs::{Buffers, Entry, Proc};
use crate::totals::grouping::kind;
use crate::totals::mapped_files::{mapped_files, mapped_files_of};
use crate::totals::snapshot::Snapshot;
use crate::totals::table::ContainerKey;

/// Mounts and namespaces are read again after this time.
const MAX_AGE: Duration = Duration::from_secs(60);
/// The maximum number of mount namespaces that are kept for one container, because a workload may create any
/// number of them. If there are more, the mapped tmpfs of the container is unknown.
const MAX_NAMESPACES: usize = 8;

/// The tmpfs and shared memory that the processes of a container map.
#[derive(Debug, Default)]
pub struct MappedShmem {
    /// Whether any tmpfs or shared memory is charged to the container.
    is_charged: bool,
    /// The number of mapped bytes, measured as PSS; `None` if the number is unknown.
    bytes: Option<u64>,
    /// The processes, sorted by pid, each with its mount namespace.
    members: Vec<Member>,
    namespaces: Vec<Namespace>,
    known_at: Option<Instant>,
    path: String, // scratch
}

/// A process and its mount namespace.
#[derive(Debug)]
struct Member {
    process: Entry,
    /// The position of the process's namespace in the list of namespaces.
    namespace: usize,
    /// Whether the current scrape has seen the process.
    is_seen: bool,
}

#[derive(Debug)]
struct Namespace {
    first: FirstMount,
    mounts: Mounts,
}

impl MappedShmem {
    /// Returns how many bytes of tmpfs and shared memory the processes map, measured as PSS; `None` if the
    /// number is unknown.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// Begins a scrape. `is_charged` says whether any tmpfs or shared memory is charged to the container.
    pub fn begin(&mut self, is_charged: bool, now: Instant) {
        (self.is_charged, self.bytes) = (is_charged, Some(0));
        if !is_charged || self.known_at.is_none_or(|known_at| now > known_at + MAX_AGE) {
            self.members.clear();
            self.namespaces.clear();
            self.known_at = Some(now);
        }
        self.members.iter_mut().for_each(|member| member.is_seen = false);
    }

    /// Notes that the container has this process, and finds the mount namespace of the process.
    pub fn see(&mut self, process: &Process, proc: &Proc, buffers: &mut Buffers) {
        if !self.is_charged || !process.is_selected() {
            return;
        }
        if !process.last().is_known() {
            self.bytes = None;
        }
        let entry = process.identity().entry();
        let found = self.members.binary_search_by_key(&entry.pid, |member| member.process.pid);
        if let Ok(i) = found
            && self.members[i].process == entry
        {
            self.members[i].is_seen = true;
        } else if process.last().has_values()
            && let Some(namespace) = self.namespace_of(entry.pid, proc, buffers)
        {
            let member = Member { process: entry, namespace, is_seen: true };
            match found {
                Ok(i) => self.members[i] = member,
                Err(i) => self.members.insert(i, member),
            }
        }
    }

    /// Returns the position of a process's mount namespace in the list of namespaces. Returns `None` if the
    /// process has ended, or if there are too many namespaces.
    fn namespace_of(&mut self, pid: u32, proc: &Proc, buffers: &mut Buffers) -> Option<usize> {
        let first = proc.first_mount(pid, buffers).ok()?;
        if let Some(known) = self.namespaces.iter().position(|namespace| namespace.first == first) {
            return Some(known);
        }
        if self.namespaces.len() >= MAX_NAMESPACES {
            self.bytes = None;
            return None;
        }
        // A recording may have no mount files. In that case shared memory is recognized by its usual paths.
        let mounts = proc.mounts(pid, buffers).unwrap_or_default();
        self.namespaces.push(Namespace { first, mounts });
        Some(self.namespaces.len() - 1)
    }

    /// Computes how much tmpfs and shared memory the container's processes map. The computation uses the
    /// bytes that `snapshot` has for each path in the container. Before this call, [`MappedShmem::see`] must
    /// be called for all processes of the container.
    ///
    /// Returns true if the processes are in several mount namespaces, unless the number of bytes is unknown.
    /// One path may then be on tmpfs in only some of the namespaces. So this call counts no bytes, and the
    /// caller must call [`MappedShmem::add`] for each process.
    pub fn sum(&mut self, snapshot: &Snapshot, container: ContainerKey) -> bool {
        self.members.retain(|member| member.is_seen);
        self.members.shrink_to(2 * self.members.len());
        let has_many = self.namespaces.len() > 1;
        let mounts = self.namespaces.first().filter(|_| !has_many).map(|namespace| &namespace.mounts);
        let is_shmem = |path: &str| !has_many && is_shmem(path, mounts);
        let is_cut = self.namespaces.iter().any(|namespace| namespace.mounts.is_cut());
        self.bytes = match self.bytes {
            _ if !self.is_charged => Some(0),
            Some(_) if !is_cut => mapped_files(snapshot.table(), container, is_shmem),
            _ => None,
        };
        has_many && self.bytes.is_some()
    }

    /// Adds the tmpfs and shared memory that a process maps. Does nothing if all processes of the container
    /// have the same mount namespace, because [`MappedShmem::sum`] has already counted their memory.
    pub fn add(&mut self, process: &Process, snapshot: &Snapshot) {
        let Self { bytes: Some(bytes), members, namespaces, path, .. } = self else { return };
        let Some(reading) = process.last().reading().filter(|_| process.is_selected()) else { return };
        if namespaces.len() < 2 {
            return;
        }
        let member = members.binary_search_by_key(&process.pid(), |member| member.process.pid);
        // If a process ended after it was read, its mount namespace is unknown. The process was most likely
        // in the mount namespace of the init process, which is the first one in the list.
        let namespace = &namespaces[member.map_or(0, |i| members[i].namespace)];
        *bytes += mapped_files_of(snapshot, reading, |path| is_shmem(path, Some(&namespace.mounts)), path);
    }
}

/// Whether a path belongs to tmpfs or to shared memory.
fn is_shmem(path: &str, mounts: Option<&Mounts>) -> bool {
    match kind(path.as_bytes()) {
        "shm" => true,
        "file" => mounts.is_some_and(|mounts| mounts.is_tmpfs(path)),
        _ => false,
    }
}
