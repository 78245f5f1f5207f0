//! Reads the files of cgroups. The directory of each cgroup stays open.
//!
//! An open directory always belongs to the same cgroup. Once that cgroup is removed, the directory has no
//! files any more, even if a new cgroup has the same path.
//!
//! The files in a directory are opened for each read. Opening takes 4 of the 7 microseconds per file, but a
//! file that stays open takes 4 KiB of kernel memory, charged to the exporter: 10 MB for 250 containers.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Access, AtFlags, Mode, OFlags, accessat};

use super::events::EventFiles;
use super::fields::{self, CURRENT, File, GroupMask, MEMORY, NODE, OOM_KILLS, POD, Values, Version};
use super::memory_fs::{MemoryFs, Reads};
use super::namespace;
use super::pod::uid_of;
use super::use_files::{self, UseFiles};
use crate::errors::plain;
use crate::procfs::files::{open_directory, open_file, read_file};

/// A file that only version 2 has, in the root and in each cgroup below it.
const CONTROLLERS: &str = "cgroup.controllers";
/// Only recordings have this file. It contains the path of the root of the exporter's cgroup namespace.
const OWN: &str = "own";
const LIMIT: &str = "memory.max";
/// A file that can change only when `memory.events` also changes.
const LOCAL_EVENTS: &str = "memory.events.local";
/// Every tenth read of a cgroup includes the [slow files](File::is_slow), which rarely change or are of
/// little use. Skipping these files in the other reads saves 9 ms per scrape with 250 containers.
const SLOW: u32 = 10;

/// A mounted cgroup file system, or a recording of one.
#[derive(Debug)]
pub struct CgroupFs {
    path: PathBuf,
    version: Version,
    /// The groups of fields that are exported.
    groups: GroupMask,
    /// The name and the directory of each hierarchy that is read. Version 2 has one hierarchy, and its name
    /// is empty.
    roots: Vec<(&'static str, OwnedFd)>,
    /// The files to read in each cgroup, and for each file the position of its hierarchy in `roots`.
    files: Vec<(usize, File)>,
    /// The files that show how close a cgroup is to its limit.
    use_files: Arc<[File]>,
    has_memory: bool,
    /// The path of the root of this process's cgroup namespace; empty if that is the node's root.
    namespace_root: Vec<u8>,
    text: Vec<u8>,
    resolved: Vec<u8>,
    name: String,
}

/// The paths of a container's cgroup, as proc prints them. An unknown path is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// The path in the hierarchy that counts memory.
    pub memory: Vec<u8>,
    /// The path in the version 1 hierarchies of other controllers, such as cpu.
    pub others: Vec<u8>,
}

impl Paths {
    /// Returns the path in the hierarchy with this name. The name of the version 2 hierarchy is empty.
    fn in_hierarchy(&self, name: &str) -> &[u8] {
        if matches!(name, "" | "memory") { &self.memory } else { &self.others }
    }
}

/// The cgroups that count the memory of a container, as paths below the mounted file system.
#[derive(Debug)]
pub struct Place {
    /// The container's cgroup.
    pub path: Vec<u8>,
    /// The pod's cgroup, if there is one.
    pub pod: Option<Vec<u8>>,
    /// The cgroup above the container's cgroup. The limit of this cgroup applies to the container.
    pub parent: Option<Vec<u8>>,
}

impl Place {
    /// Returns the paths of the cgroups above the pod's cgroup, from the outermost to the innermost. The
    /// iterator is empty if there is no pod.
    pub fn above_pod(&self) -> impl Iterator<Item = &[u8]> {
        let pod = self.pod.as_deref().unwrap_or_default();
        let ends = pod.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(end, _)| end);
        ends.map(move |end| &pod[..end])
    }
}

/// What is kept about one cgroup between reads: its open directory in each hierarchy, and its values.
#[derive(Debug, Default)]
pub struct Cgroup {
    directories: Vec<Option<OwnedFd>>,
    n_above: usize,
    /// The number of reads that skip the [slow files](File::is_slow) before a read includes them again.
    n_until_slow: u32,
    /// The values of the last read.
    last: Values,
}

impl CgroupFs {
    /// Opens the file system at `path` to read the fields of these groups.
    ///
    /// Fails with a one-line message if there is no cgroup file system.
    pub fn open(path: &Path, groups: GroupMask) -> Result<Self, String> {
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
        };
        let root = open(path).map_err(|errno| format!("cannot open {path:?}: {}", plain(&errno.into())))?;
        let version = match fs::metadata(path.join(CONTROLLERS)) {
            Ok(_) => Version::V2,
            Err(_) => Version::V1,
        };
        let mut roots = Vec::new();
        let mut files = Vec::new();
        // If pods or the node are exported, the memory files of containers are in the list `files`, too. The
        // memory of containers is subtracted from the memory of their pods. In addition, `CgroupFs::memory`
        // uses one of these files to find the hierarchy that counts the memory of pods and of the node.
        let is_pod = groups & (POD | NODE) != 0;
        for file in fields::files(version, if is_pod { groups | MEMORY } else { groups }) {
            let hierarchy = if version == Version::V2 { "" } else { file.hierarchy() };
            let known = roots.iter().position(|(name, _)| *name == hierarchy);
            let at = known.or_else(|| {
                let directory = open(&path.join(hierarchy)).ok()?;
                roots.push((hierarchy, directory));
                Some(roots.len() - 1)
            });
            files.extend(at.map(|at| (at, file)));
        }
        if files.is_empty() {
            return Err(format!(
                "{path:?} is not a cgroup file system: expected {CONTROLLERS:?}, or a hierarchy of version 1"
            ));
        }
        let mut text = Vec::new();
        let namespace_root = match read_file(root.as_fd(), OWN, &mut text) {
            Ok(recorded) => recorded.trim_ascii().into(),
            Err(_) if version == Version::V2 => namespace::find_root(path),
            Err(_) => Vec::new(),
        };
        let has_memory = files.iter().any(|(_, file)| file.name == LIMIT);
        let (resolved, name) = (Vec::new(), String::new());
        let use_files = use_files::files(version);
        Ok(Self {
            path: path.into(),
            version,
            groups,
            roots,
            files,
            use_files,
            has_memory,
            namespace_root,
            text,
            resolved,
            name,
        })
    }

    /// Returns the groups of fields that are exported.
    pub fn groups(&self) -> GroupMask {
        self.groups
    }

    /// Returns a reader for the hierarchy that counts memory, to read the cgroups above containers.
    pub fn memory(&self, reads: Reads) -> Option<MemoryFs> {
        let (at, _) = self.files.iter().find(|(_, file)| file.has(CURRENT))?;
        Some(MemoryFs::new(self.version, self.roots[*at].1.try_clone().ok()?, reads))
    }

    /// Returns the path of the file system.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the reason why no container's cgroup was found, for the log.
    pub fn explain_absence(&self) -> String {
        let namespace = fs::read_link("/proc/self/ns/cgroup").unwrap_or_default();
        explain_absence(&self.path, self.version, &namespace)
    }

    /// Reads the cgroup at `paths` into `values`. Returns whether the cgroup exists.
    pub fn read(&mut self, paths: &Paths, cgroup: &mut Cgroup, values: &mut Values) -> bool {
        // If reading fails, the cgroup may have been removed, and a new cgroup may have the same path. So the
        // directories are opened once more.
        for _ in 0..2 {
            *values = Values::default();
            if self.open_missing(paths, cgroup) && self.try_read(cgroup, values) {
                return true;
            }
            *cgroup = Cgroup::default();
        }
        *values = Values::default();
        false
    }

    /// Opens the directories of the cgroup that are not open yet, one in each hierarchy. If a directory is
    /// missing, the next call tries again. Returns whether any directory is open.
    fn open_missing(&mut self, paths: &Paths, cgroup: &mut Cgroup) -> bool {
        let is_whole = cgroup.directories.len() == self.roots.len();
        if is_whole && cgroup.directories.iter().all(Option::is_some) {
            return true;
        }
        cgroup.directories.resize_with(self.roots.len(), || None);
        for (directory, (hierarchy, root)) in cgroup.directories.iter_mut().zip(&self.roots) {
            let path = paths.in_hierarchy(hierarchy);
            if directory.is_none()
                && let Some(n_above) = namespace::resolve(&self.namespace_root, path, &mut self.resolved)
            {
                cgroup.n_above = n_above;
                *directory = open_directory(root.as_fd(), &self.resolved[..]).ok();
            }
        }
        cgroup.directories.iter().any(Option::is_some)
    }

    fn try_read(&mut self, cgroup: &mut Cgroup, values: &mut Values) -> bool {
        let mut first = None;
        // The slow files are read with the first read of a cgroup, and with every tenth read after that. The
        // second read of the slow files comes sooner (`turn`) for some cgroups than for others. As a result,
        // each scrape reads the slow files of only about a tenth of the cgroups.
        let reads_slow = cgroup.n_until_slow == 0;
        if reads_slow {
            let directory = cgroup.directories.iter().flatten().next();
            let turn = directory.map_or(0, |directory| directory.as_raw_fd().unsigned_abs() % SLOW);
            cgroup.n_until_slow = if cgroup.last == Values::default() { turn + 1 } else { SLOW };
        }
        cgroup.n_until_slow -= 1;
        let mut has_events = true;
        for (at, file) in &self.files {
            let Some(directory) = &cgroup.directories[*at] else { continue };
            // `memory.events.local` need not be read if `memory.events` has not changed. Each local event is
            // also counted in `memory.events`, which comes first in `files`.
            if !reads_slow && (file.is_slow() || file.name == LOCAL_EVENTS && !has_events) {
                values.keep(file, &cgroup.last);
                continue;
            }
            if let Ok(text) = read_file(directory.as_fd(), file.name, &mut self.text) {
                file.parse(text, values);
                first = first.or(Some((directory, file.name)));
                if file.has(OOM_KILLS) {
                    has_events = !values.is_equal(file, &cgroup.last);
                }
            }
        }
        let mut limit_above = None;
        if self.version == Version::V2
            && self.has_memory
            && let Some(directory) = cgroup.directories.iter().flatten().next()
        {
            for up in 1..=cgroup.n_above {
                let limit = self.limit_above(directory.as_fd(), up);
                limit_above = limit_above.into_iter().chain(limit).min();
            }
        }
        values.derive(limit_above);
        cgroup.last = *values;
        // Files may have been missing because the cgroup was removed during the read. The values are valid
        // only if the first file that was read still exists.
        first.is_some_and(|(directory, name)| {
            accessat(directory, name, Access::EXISTS, AtFlags::empty()).is_ok()
        })
    }

    /// Returns the limit of the cgroup `up` levels above `directory`; `None` if that cgroup has no limit.
    fn limit_above(&mut self, directory: BorrowedFd<'_>, up: usize) -> Option<u64> {
        self.name.clear();
        (0..up).for_each(|_| self.name.push_str("../"));
        self.name.push_str(LIMIT);
        read_file(directory, &self.name, &mut self.text).ok().and_then(fields::limit)
    }

    /// Returns the memory cgroups of a container and of its pod. `path` is the container's cgroup path. On
    /// version 1 the pod is `None`, because there the cgroup of a pod does not count OOM kills. The pod is
    /// also `None` if the cgroup above `path` is the root or a top-level cgroup, which is never a pod's.
    pub fn place(&mut self, path: &[u8]) -> Option<Place> {
        let n_above = namespace::resolve(&self.namespace_root, path, &mut self.resolved)?;
        let has_pod = self.version == Version::V2 && n_above >= 3;
        let parent: Option<Vec<u8>> = namespace::pod_of(&self.resolved).map(Into::into);
        Some(Place { path: self.resolved.clone(), pod: parent.clone().filter(|_| has_pod), parent })
    }

    /// Returns the path of the memory cgroup of a pod. `path` is the cgroup path of a container in the pod.
    ///
    /// Returns `None` if the parent of `path` is the root or a top-level cgroup, because neither is the
    /// cgroup of a pod. Also returns `None` if `path` itself is the cgroup of the pod, as with Kata
    /// Containers.
    pub fn pod_of(&mut self, path: &[u8]) -> Option<&[u8]> {
        let n_above = namespace::resolve(&self.namespace_root, path, &mut self.resolved)?;
        let is_pod = uid_of(&self.resolved).is_some();
        namespace::pod_of(&self.resolved).filter(|_| n_above >= 3 && !is_pod)
    }

    /// Whether the kernel reports memory events to the exporter. On version 1 it reports them only to a
    /// process with write access.
    pub fn has_events(&self) -> bool {
        self.version == Version::V2
    }

    /// Opens the files with the memory event counters of the cgroup at `place`.
    pub fn open_events(&self, place: &[u8]) -> Option<EventFiles> {
        let (at, file) = self.files.iter().find(|(_, file)| file.has(OOM_KILLS))?;
        let directory =
            open_directory(self.roots[*at].1.as_fd(), Path::new(OsStr::from_bytes(place))).ok()?;
        let all = open_file(directory.as_fd(), file.name).ok()?;
        let own = open_file(directory.as_fd(), "memory.events.local").ok();
        Some(EventFiles::new(all, own))
    }

    /// Opens the files that show how close the cgroup at `place` is to its limit.
    pub fn open_use(&self, place: &[u8]) -> Option<UseFiles> {
        let (at, _) = self.files.iter().find(|(_, file)| file.has(CURRENT))?;
        let place = Path::new(OsStr::from_bytes(place));
        UseFiles::open(open_directory(self.roots[*at].1.as_fd(), place).ok()?, &self.use_files)
    }

    /// Calls `each` with every file that a recording of the cgroup at `paths` needs. Among them are the
    /// limits (`memory.max`) of the cgroups above. The arguments of `each` are the path of a file in the
    /// recording, and its text.
    ///
    /// Fails if `each` fails.
    pub fn record(
        &mut self,
        paths: &Paths,
        mut each: impl FnMut(&Path, &[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let Self { version, roots, files, has_memory, namespace_root, resolved, text, .. } = self;
        for (at, file) in files {
            let (hierarchy, root) = &roots[*at];
            if namespace::resolve(namespace_root, paths.in_hierarchy(hierarchy), resolved).is_none() {
                continue;
            }
            let place = Path::new(OsStr::from_bytes(resolved));
            let Ok(directory) = open_directory(root.as_fd(), place) else { continue };
            if let Ok(text) = read_file(directory.as_fd(), file.name, text) {
                each(&Path::new(hierarchy).join(place).join(file.name), text)?;
            }
        }
        if *version == Version::V2
            && *has_memory
            && let Some(n_above) = namespace::resolve(namespace_root, &paths.memory, resolved)
        {
            let place = Path::new(OsStr::from_bytes(resolved));
            for above in place.ancestors().skip(1).take(n_above) {
                let name = above.join(LIMIT);
                if let Ok(text) = read_file(roots[0].1.as_fd(), &name, text) {
                    each(&name, text)?;
                }
            }
        }
        Ok(())
    }

    /// Calls `each` with the other files that a recording needs. On version 2, one file shows the version.
    /// Another has the root of the exporter's cgroup namespace, if that is not the mounted root.
    ///
    /// Fails if `each` fails.
    pub fn record_root(
        &mut self,
        mut each: impl FnMut(&Path, &[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        if self.version == Version::V2 {
            let text = read_file(self.roots[0].1.as_fd(), CONTROLLERS, &mut self.text).unwrap_or_default();
            each(Path::new(CONTROLLERS), text)?;
        }
        if !self.namespace_root.is_empty() {
            each(Path::new(OWN), &self.namespace_root)?;
        }
        Ok(())
    }
}

/// The inode number of the node's own cgroup namespace (include/linux/proc_ns.h, `PROC_CGROUP_INIT_INO`).
const NODE_NAMESPACE: &str = "cgroup:[4026531835]";

fn explain_absence(path: &Path, version: Version, namespace: &Path) -> String {
    // On version 1, containers are found only if the exporter runs in the node's own cgroup namespace.
    if version == Version::V1 && namespace != Path::new(NODE_NAMESPACE) && !namespace.as_os_str().is_empty() {
        return format!(
            "no container's cgroup is found below {path:?}: this process has a cgroup namespace of its own, \
             and with cgroup version 1 it needs the node's"
        );
    }
    format!("no container's cgroup is below {path:?}: expected the node's cgroups, by --cgroup-path")
}

/// Returns the path of the cgroup above the cgroup at `path`. The path of the root is empty.
pub fn above(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|&b| b == b'/').unwrap_or(0)]
}

#[cfg(test)]
mod tests;
