//! The memory use and the limit of one cgroup, read from files that stay open.
//!
//! The files stay open, because the memory use is read once a second, and ten times a second if the cgroup
//! may soon be close to its limit. Opening a file takes 4 microseconds, and reading an open file takes 2
//! microseconds.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::fields::{self, CURRENT, File, INACTIVE_FILE, MAX, Values, Version};
use crate::procfs::files::{open_file, read_file};

/// Returns the files to read when a cgroup has reached its limit or is close to it. They have its memory use,
/// its limit, its highest memory use, and the parts of the use.
pub fn files(version: Version) -> Arc<[File]> {
    let all = fields::files(version, 1).into_iter();
    let names: &[&str] = match version {
        Version::V1 => &[
            "memory.usage_in_bytes",
            "memory.limit_in_bytes",
            "memory.max_usage_in_bytes",
            "memory.kmem.usage_in_bytes",
        ],
        Version::V2 => &["memory.current", "memory.max", "memory.peak"],
    };
    all.filter(|file| file.name == "memory.stat" || names.contains(&file.name)).collect()
}

/// The files of one cgroup that show how close it is to its limit.
#[derive(Debug)]
pub struct UseFiles {
    directory: OwnedFd,
    current: OwnedFd,
    max: OwnedFd,
    files: Arc<[File]>,
}

impl UseFiles {
    /// Opens the files in `directory`, which is the directory of a cgroup. Returns `None` if the file with
    /// the memory use or the file with the limit is missing.
    pub fn open(directory: OwnedFd, files: &Arc<[File]>) -> Option<Self> {
        let open = |field| {
            let file = files.iter().find(|file| file.has(field))?;
            open_file(directory.as_fd(), file.name).ok()
        };
        let (current, max) = (open(CURRENT)?, open(MAX)?);
        Some(Self { directory, current, max, files: files.clone() })
    }

    /// Returns the bytes that are charged to the cgroup; `None` if the cgroup is gone.
    pub fn current(&self) -> Option<u64> {
        fields::number(read(&self.current, &mut [0; 32])?)
    }

    /// Returns the cgroup's own limit. Returns `None` if the cgroup has no limit, or is gone.
    pub fn limit(&self) -> Option<u64> {
        self.read_limit().flatten()
    }

    /// Reads the cgroup's own limit. Returns `Some(None)` if the cgroup has no limit, and `None` if the
    /// cgroup is gone.
    pub fn read_limit(&self) -> Option<Option<u64>> {
        let mut text = [0; 32];
        let limit = fields::number(read(&self.max, &mut text)?);
        Some(limit.filter(|&bytes| bytes < fields::UNLIMITED))
    }

    /// Returns the open file that contains the limit.
    pub fn limit_file(&self) -> BorrowedFd<'_> {
        self.max.as_fd()
    }

    /// Returns the directory of the cgroup.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Returns the bytes of page cache that the kernel can reclaim at once; `None` if the kernel does not
    /// print them.
    pub fn inactive_file(&self, text: &mut Vec<u8>) -> Option<u64> {
        let mut values = Values::default();
        let file = self.files.iter().find(|file| file.has(INACTIVE_FILE))?;
        file.parse(read_file(self.directory.as_fd(), file.name, text).ok()?, &mut values);
        values.get(INACTIVE_FILE)
    }

    /// Reads all of the [`files`], and returns the values in them.
    pub fn values(&self, text: &mut Vec<u8>) -> Values {
        let mut values = Values::default();
        for file in self.files.iter() {
            if let Ok(text) = read_file(self.directory.as_fd(), file.name, text) {
                file.parse(text, &mut values);
            }
        }
        values.derive(None);
        values
    }

    /// Returns whether an OOM kill in the cgroup kills all its processes; `None` if the kernel has no such
    /// setting.
    pub fn kills_group(&self, text: &mut Vec<u8>) -> Option<bool> {
        let text = read_file(self.directory.as_fd(), "memory.oom.group", text).ok()?;
        fields::number(text.trim_ascii_end()).map(|number| number == 1)
    }
}

fn read<'a>(file: &OwnedFd, text: &'a mut [u8; 32]) -> Option<&'a [u8]> {
    let n_bytes = rustix::io::pread(file, &mut text[..], 0).ok()?;
    Some(text[..n_bytes].trim_ascii_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::files::open_directory;
    use std::fs;
    use std::path::{Path, PathBuf};

    fn open(directory: &Path, version: Version, texts: &[(&str, &str)]) -> UseFiles {
        fs::create_dir_all(directory).unwrap();
        for (name, text) in texts {
            fs::write(directory.join(name), text).unwrap();
        }
        let held = open_directory(rustix::fs::CWD, directory).unwrap();
        UseFiles::open(held, &files(version)).unwrap()
    }

    #[test]
    fn both_versions_show_use_and_limit() {
        let directory: PathBuf = std::env::temp_dir().join(format!("smaps-use-{}", std::process::id()));
        let mut text = Vec::new();
        let stat = "anon 7\nfile 8\ninactive_file 5\n";
        let v2 = [("memory.current", "20\n"), ("memory.max", "30\n"), ("memory.stat", stat)];
        let files = open(&directory, Version::V2, &v2);
        assert_eq!(
            (files.current(), files.limit(), files.inactive_file(&mut text)),
            (Some(20), Some(30), Some(5))
        );
        assert_eq!(files.kills_group(&mut text), None, "the kernel has no such file");
        fs::write(directory.join("memory.max"), "max\n").unwrap();
        fs::write(directory.join("memory.oom.group"), "1\n").unwrap();
        assert_eq!((files.limit(), files.kills_group(&mut text)), (None, Some(true)));
        assert_eq!(files.values(&mut text).get(CURRENT), Some(20));
        fs::remove_dir_all(&directory).unwrap();
        let v1 = [
            ("memory.usage_in_bytes", "20\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.stat", "inactive_file 1\ntotal_inactive_file 5\n"),
        ];
        let files = open(&directory, Version::V1, &v1);
        assert_eq!(
            (files.current(), files.limit(), files.inactive_file(&mut text)),
            (Some(20), None, Some(5))
        );
        fs::remove_dir_all(&directory).unwrap();
    }
}
