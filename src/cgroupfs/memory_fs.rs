//! The memory of the cgroups above containers, in files that stay open, and the list of these cgroups.
//!
//! For 110 pods a scrape reads the open files in 1.0 ms; opening four files of each pod would take 2.8 ms. An
//! open file holds 5 KB of kernel memory, which makes 2 MB.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{Access, AtFlags, FileType, Stat, accessat, fstat};
use rustix::io::Errno;

use super::fields::{self, File, Values, Version};
use crate::procfs::files::{open_directory, open_file, open_listable, read_file};

/// More bytes than any of the files has: `memory.stat` is the longest, with less than 3 KiB.
const MAX_BYTES: usize = 16 << 10;
/// The fields that are parsed of a pod's `memory.stat`, 20 fewer than of a container's.
const STAT_OF_PODS: [usize; 6] =
    [fields::LIMIT, fields::ANON, fields::FILE, fields::SHMEM, fields::KERNEL, fields::INACTIVE_FILE];
/// The name of version 1's hierarchy.
const V1_NAME: &str = "memory";
/// A file that only the root of a hierarchy of version 1 has.
const ONLY_IN_ROOT: &str = "cgroup.sane_behavior";

/// The hierarchy of a cgroup file system in which memory is counted.
#[derive(Debug)]
pub struct MemoryFs {
    version: Version,
    root: OwnedFd,
    /// The files that are read of a cgroup.
    files: Vec<File>,
    text: Vec<u8>,
}

/// The sets of files that are read of cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// The use, limit, events and kinds of memory of pods.
    Pods,
    /// The use and kinds of memory of top-level cgroups, and the kinds of memory of the root.
    Tops,
    /// Only the use.
    Use,
}

/// A directory of cgroups.
#[derive(Debug)]
pub struct Directory {
    directory: OwnedFd,
    /// The directory's attributes when it was opened. The number of links is that of the cgroups in it plus
    /// 2; on file systems that do not count links so, it is always 1.
    opened: Stat,
}

impl Directory {
    /// Whether the number of cgroups in it has changed.
    pub fn has_changed(&self) -> bool {
        fstat(&self.directory).map_or(true, |now| now.st_nlink != self.opened.st_nlink)
    }

    /// Returns the paths of the cgroups in it, given its own path, in the order of their names.
    pub fn children(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let mut paths = Vec::new();
        let entries = rustix::fs::Dir::read_from(&self.directory).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type() == FileType::Directory) {
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                paths.push(if path.is_empty() { name.into() } else { [path, b"/", name].concat() });
            }
        }
        paths.sort_unstable();
        paths
    }
}

/// The memory files of one cgroup, which are open, in the order of the file system's list. The kernel may
/// lack some of them.
#[derive(Debug)]
pub struct MemoryFiles(Vec<Option<OwnedFd>>);

impl MemoryFs {
    /// Reads files of `reads` below `root`.
    pub(super) fn new(version: Version, root: OwnedFd, reads: Reads) -> Self {
        let names: &[&str] = match (version, reads) {
            (Version::V1, Reads::Pods | Reads::Tops) => {
                &["memory.usage_in_bytes", "memory.kmem.usage_in_bytes", "memory.stat"]
            }
            (Version::V1, Reads::Use) => &["memory.usage_in_bytes"],
            (Version::V2, Reads::Pods) => &["memory.current", "memory.max", "memory.stat", "memory.events"],
            (Version::V2, Reads::Tops) => &["memory.current", "memory.stat"],
            (Version::V2, Reads::Use) => &["memory.current"],
        };
        let files = fields::files(version, fields::MEMORY).into_iter();
        let mut files: Vec<File> = files.filter(|file| names.contains(&file.name)).collect();
        if reads == Reads::Pods {
            let stat = files.iter_mut().filter(|file| file.name == "memory.stat");
            stat.for_each(|stat| stat.retain(|field| STAT_OF_PODS.contains(&field)));
        }
        Self { version, root, files, text: vec![0; MAX_BYTES] }
    }

    /// Whether the root is that of the node. Inside a cgroup namespace it is another cgroup.
    pub fn is_of_node(&self) -> bool {
        let exists = |name| accessat(&self.root, name, Access::EXISTS, AtFlags::empty()).is_ok();
        match self.version {
            Version::V1 => exists(ONLY_IN_ROOT),
            Version::V2 => exists("memory.stat") && !exists("memory.current"),
        }
    }

    /// Returns the directory of the cgroup at `path`, which is empty for the root.
    pub fn directory(&self, path: &[u8]) -> Option<Directory> {
        let directory = open_listable(self.root.as_fd(), below_root(path)).ok()?;
        let opened = fstat(&directory).ok()?;
        Some(Directory { directory, opened })
    }

    /// Opens the files of the cgroup at `path`, which is empty for the root; `None` if it does not exist.
    pub fn open(&self, path: &[u8]) -> Option<MemoryFiles> {
        let directory = open_directory(self.root.as_fd(), below_root(path)).ok()?;
        let open = |file: &File| open_file(directory.as_fd(), file.name).ok();
        Some(MemoryFiles(self.files.iter().map(open).collect()))
    }

    /// Reads the files of a cgroup. `limit_above` is the smallest limit above it. Returns `None` if the
    /// cgroup is gone.
    pub fn read(&mut self, files: &MemoryFiles, limit_above: Option<u64>) -> Option<Values> {
        let mut values = Values::default();
        for (file, open) in self.files.iter().zip(&files.0) {
            let Some(open) = open else { continue };
            match rustix::io::pread(open, &mut self.text[..], 0) {
                Ok(n_bytes) => file.parse(&self.text[..n_bytes], &mut values),
                Err(Errno::NODEV) => return None,
                Err(_) => {}
            }
        }
        values.derive(limit_above);
        Some(values)
    }

    /// Returns the smallest limit of the cgroup at `path` and those above it. Version 1 prints that for each
    /// cgroup, so there it is `None`.
    pub fn limit(&mut self, path: &[u8]) -> Option<u64> {
        if self.version == Version::V1 {
            return None;
        }
        let mut smallest = None;
        for above in Path::new(OsStr::from_bytes(path)).ancestors() {
            let text = read_file(self.root.as_fd(), above.join("memory.max"), &mut self.text);
            smallest = smallest.into_iter().chain(text.ok().and_then(fields::limit)).min();
        }
        smallest
    }

    /// Calls `each` with a file that shows that the root is that of the node, if version 1 needs one.
    ///
    /// Fails when `each` does.
    pub fn record_root(
        &self,
        mut each: impl FnMut(&Path, &[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        match self.version {
            Version::V1 => each(&Path::new(V1_NAME).join(ONLY_IN_ROOT), b"0\n"),
            Version::V2 => Ok(()),
        }
    }

    /// Calls `each` with the place in a recording and the text of every file that is read of the cgroup at
    /// `path`.
    ///
    /// Fails when `each` does.
    pub fn record(
        &mut self,
        path: &[u8],
        mut each: impl FnMut(&Path, &[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let hierarchy = Path::new(if self.version == Version::V1 { V1_NAME } else { "" });
        let Ok(directory) = open_directory(self.root.as_fd(), below_root(path)) else { return Ok(()) };
        let path = Path::new(OsStr::from_bytes(path));
        for file in &self.files {
            if let Ok(text) = read_file(directory.as_fd(), file.name, &mut self.text) {
                each(&hierarchy.join(path).join(file.name), text)?;
            }
        }
        Ok(())
    }
}

/// Returns the path in the form that opens it below the root: `.` for the root itself.
fn below_root(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(if path.is_empty() { b"." } else { path }))
}
