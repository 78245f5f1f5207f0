//! From a path that proc prints to one below the mounted file system.
//!
//! Proc prints paths as seen from the reader's cgroup namespace: in a container of version 2 its own cgroup is `/`, and the node's others
//! are behind `..`. What is mounted is the node's whole tree. So it takes the place of the namespace's root in that tree.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// In every container that has one, this is where its own cgroup is mounted; on the node itself, the root of all.
const OWN: &str = "/sys/fs/cgroup";

/// Where the root of this process's cgroup namespace is below `root`: empty if it is the same, or not there.
///
/// A cgroup has the same inode number wherever it is mounted.
pub(super) fn find_own(root: &Path) -> Vec<u8> {
    let (Ok(own), Ok(top)) = (fs::metadata(OWN), fs::metadata(root)) else { return Vec::new() };
    if own.dev() != top.dev() || own.ino() == top.ino() {
        return Vec::new();
    }
    find(root, own.ino()).map(|path| path.as_os_str().as_bytes().into()).unwrap_or_default()
}

/// The directory with this inode number below `root`, the nearest first.
fn find(root: &Path, inode: u64) -> Option<PathBuf> {
    let mut directories = VecDeque::from([PathBuf::new()]);
    while let Some(directory) = directories.pop_front() {
        for entry in fs::read_dir(root.join(&directory)).into_iter().flatten().flatten() {
            let path = directory.join(entry.file_name());
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && entry.ino() == inode => return Some(path),
                Ok(kind) if kind.is_dir() => directories.push_back(path),
                _ => {}
            }
        }
    }
    None
}

/// Makes `resolved` the place of `path` below the mounted root, and says how many directories are above it there; none if it is outside, or
/// the root, which is no container's. `own` is where the namespace's root is.
pub(super) fn resolve(own: &[u8], path: &[u8], resolved: &mut Vec<u8>) -> Option<usize> {
    resolved.clear();
    for component in own.split(|&b| b == b'/').chain(path.split(|&b| b == b'/')) {
        match component {
            b"" | b"." => {}
            b".." if resolved.is_empty() => return None,
            b".." => resolved.truncate(resolved.iter().rposition(|&b| b == b'/').unwrap_or(0)),
            name => {
                if !resolved.is_empty() {
                    resolved.push(b'/');
                }
                resolved.extend_from_slice(name);
            }
        }
    }
    (!resolved.is_empty()).then(|| 1 + resolved.iter().filter(|&&b| b == b'/').count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (own, path, expected) in [
            ("", "/kubepods/pod1/abc", Some((3, "kubepods/pod1/abc"))),
            ("", "/a//b/", Some((2, "a/b"))),
            ("", "/", None),
            ("", "", None),
            ("", "/..", None),
            ("", "/../x", None),
            ("kubepods/pod2/own", "/", Some((3, "kubepods/pod2/own"))),
            ("kubepods/pod2/own", "/../beside", Some((3, "kubepods/pod2/beside"))),
            ("kubepods/pod2/own", "/../../pod1/abc", Some((3, "kubepods/pod1/abc"))),
            ("kubepods/pod2/own", "/../../../system.slice", Some((1, "system.slice"))),
            ("kubepods/pod2/own", "/../../..", None),
            ("kubepods/pod2/own", "/../../../../x", None),
        ] {
            let mut resolved = b"left over".to_vec();
            let n_above = resolve(own.as_bytes(), path.as_bytes(), &mut resolved);
            let found = n_above.map(|n_above| (n_above, std::str::from_utf8(&resolved).unwrap()));
            assert_eq!(found, expected, "{path:?} from {own:?}");
        }
    }

    #[test]
    fn a_directory_is_found_by_its_inode_number() {
        let root = std::env::temp_dir().join(format!("smaps-namespace-{}", std::process::id()));
        let own = root.join("kubepods/pod1/own");
        fs::create_dir_all(&own).unwrap();
        fs::create_dir_all(root.join("kubepods/pod2/other")).unwrap();
        let inode = fs::metadata(&own).unwrap().ino();
        assert_eq!(find(&root, inode), Some("kubepods/pod1/own".into()));
        assert_eq!(find(&root, u64::MAX), None);
        fs::remove_dir_all(&root).unwrap();
    }
}
