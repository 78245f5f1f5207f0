//! Lists the cgroups above containers, and reads their memory use. The files stay open between scrapes.
//!
//! For 110 pods, a scrape reads the open files in 1.0 ms. Opening four files of each pod would take 2.8 ms.
//! Each open file takes 5 KB of kernel memory: 2 MB for the files of all pods.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{Access, AtFlags, FileType, Stat, accessat, fstat};
use rustix::io::Errno;

use super::fields::{self, File, Values, Version};
use crate::procfs::files::{open_directory, open_file, open_listable, read_file};

/// The size of the buffer for one file. The longest file is `memory.stat`, with less than 3 KiB.
const MAX_BYTES: usize = 16 << 10;
/// The fields to parse in a pod's `memory.stat`.
const STAT_OF_PODS: [usize; 6] =
    [fields::LIMIT, fields::ANON, fields::FILE, fields::SHMEM, fields::KERNEL, fields::INACTIVE_FILE];
/// The name of the version 1 hierarchy that counts memory.
const V1_NAME: &str = "memory";
/// On version 1, only the root of a hierarchy has this file.
const ONLY_IN_ROOT: &str = "cgroup.sane_behavior";

/// The cgroup hierarchy that counts memory. On version 2, this is the only hierarchy.
#[derive(Debug)]
pub struct MemoryFs {
    version: Version,
    root: OwnedFd,
    /// The files to read in each cgroup.
    files: Vec<File>,
    text: Vec<u8>,
}

/// The choice of the files to read in each cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// The files of pods: the total memory use, the memory use by kind, the limit, and the events.
    Pods,
    /// The files of top-level cgroups: the total memory use, and the memory use by kind. For the root cgroup,
    /// the kernel does not print the total.
    Tops,
    /// Only the file with the total memory use.
    Use,
}

/// The open directory of a cgroup, which is used to list the cgroups in it.
#[derive(Debug)]
pub struct Directory {
    directory: OwnedFd,
    /// The attributes of the directory when it was opened. The link count is the number of cgroups in the
    /// directory plus 2. On a file system that does not count links this way, the link count is always 1.
    opened: Stat,
}

impl Directory {
    /// Whether the number of cgroups in the directory has changed since the directory was opened.
    pub fn has_changed(&self) -> bool {
        fstat(&self.directory).map_or(true, |now| now.st_nlink != self.opened.st_nlink)
    }

    /// Returns the paths of the cgroups in the directory, sorted. `path` is the path of the directory itself.
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

/// The open memory files of one cgroup, in the order of `files` in [`MemoryFs`]. A file that does not exist
/// is `None`.
#[derive(Debug)]
pub struct MemoryFiles(Vec<Option<OwnedFd>>);

impl MemoryFs {
    /// Creates a reader for cgroups below `root`. `reads` selects the files.
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

    /// Whether the mounted root is the node's root cgroup. In a cgroup namespace, another cgroup is the root.
    pub fn is_of_node(&self) -> bool {
        let exists = |name| accessat(&self.root, name, Access::EXISTS, AtFlags::empty()).is_ok();
        match self.version {
            Version::V1 => exists(ONLY_IN_ROOT),
            Version::V2 => exists("memory.stat") && !exists("memory.current"),
        }
    }

    /// Opens the directory of the cgroup at `path`. An empty path means the root.
    pub fn directory(&self, path: &[u8]) -> Option<Directory> {
        let directory = open_listable(self.root.as_fd(), below_root(path)).ok()?;
        let opened = fstat(&directory).ok()?;
        Some(Directory { directory, opened })
    }

    /// Opens the files of the cgroup at `path`. An empty path means the root of the cgroup hierarchy. Returns
    /// `None` if the cgroup does not exist.
    pub fn open(&self, path: &[u8]) -> Option<MemoryFiles> {
        let directory = open_directory(self.root.as_fd(), below_root(path)).ok()?;
        let open = |file: &File| open_file(directory.as_fd(), file.name).ok();
        Some(MemoryFiles(self.files.iter().map(open).collect()))
    }

    /// Reads the files of a cgroup. `limit_above` is the smallest limit of the cgroups above it. Returns
    /// `None` if the cgroup is gone.
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

    /// Returns the smallest of the limits of the cgroup at `path` and of the cgroups above it. Returns `None`
    /// on version 1, because there the kernel itself prints this smallest limit for each cgroup.
    pub fn limit(&mut self, path: &[u8]) -> Option<u64> {
        if self.version == Version::V1 {
            return None;
        }
        let mut smallest = None;
        for above in Path::new(OsStr::from_bytes(path)).ancestors() {
            let above = below_root(above.as_os_str().as_bytes());
            let Ok(directory) = open_directory(self.root.as_fd(), above) else { continue };
            let text = read_file(directory.as_fd(), "memory.max", &mut self.text);
            smallest = smallest.into_iter().chain(text.ok().and_then(fields::limit)).min();
        }
        smallest
    }

    /// Marks the root of a recording as the node's root cgroup. The mark on version 1 is the file
    /// `cgroup.sane_behavior`. Version 2 needs no mark, because only the root cgroup has no file
    /// `memory.current`.
    ///
    /// The caller's function `each` writes the file. The arguments of `each` are the path of the file in the
    /// recording, and the text of the file. Fails if `each` fails.
    pub fn record_root(
        &self,
        mut each: impl FnMut(&Path, &[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        match self.version {
            Version::V1 => each(&Path::new(V1_NAME).join(ONLY_IN_ROOT), b"0\n"),
            Version::V2 => Ok(()),
        }
    }

    /// Calls `each` with every file that a scrape reads from the cgroup at `path`. The arguments of `each`
    /// are the path of the file in the recording, and the text of the file.
    ///
    /// Fails if `each` fails.
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

/// Converts the path of a cgroup into a path below the directory of the root cgroup. The root itself is `.`.
fn below_root(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(if path.is_empty() { b"." } else { path }))
}
