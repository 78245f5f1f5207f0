//! Converts the cgroup paths that proc prints into paths below the mounted file system, which shows the whole
//! node.
//!
//! Proc prints paths relative to the root of the reader's cgroup namespace. On version 2, a container sees
//! itself as `/`, and other paths begin with `/..`.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Returns the root of this process's cgroup namespace, relative to the mount point `root`; empty in the
/// node's own namespace.
pub(super) fn find_root(root: &Path) -> Vec<u8> {
    let text = fs::read("/proc/self/cgroup").unwrap_or_default();
    let seen = text.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"0::/"));
    seen.map(|seen| find(root, seen, &std::process::id().to_string())).unwrap_or_default()
}

/// Returns `kubepods/pod1` if proc prints the path `a` (`seen`) for a process in `kubepods/pod1/a`. The match
/// nearest to `root` is used.
fn find(root: &Path, seen: &[u8], pid: &str) -> Vec<u8> {
    let seen = Path::new(std::ffi::OsStr::from_bytes(seen));
    let is_in = |directory: &Path| {
        let pids = fs::read_to_string(root.join(directory).join("cgroup.procs")).unwrap_or_default();
        pids.lines().any(|line| line == pid)
    };
    // Outside a cgroup namespace, the path `seen` itself matches. Otherwise all directories are searched,
    // beginning with the root.
    let mut directories = VecDeque::from([seen.to_owned(), PathBuf::new()]);
    while let Some(directory) = directories.pop_front() {
        if directory.ends_with(seen) && is_in(&directory) {
            let n_above = directory.iter().count() - seen.iter().count();
            return directory.iter().take(n_above).collect::<PathBuf>().as_os_str().as_bytes().into();
        }
        for entry in fs::read_dir(root.join(&directory)).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push_back(directory.join(entry.file_name()));
            }
        }
    }
    Vec::new()
}

/// Stores in `resolved` the path below the mounted root for `path`, which proc printed. Returns the number of
/// components.
pub(super) fn resolve(namespace_root: &[u8], path: &[u8], resolved: &mut Vec<u8>) -> Option<usize> {
    resolved.clear();
    for component in namespace_root.split(|&b| b == b'/').chain(path.split(|&b| b == b'/')) {
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
    // The mounted root itself is never a container's cgroup.
    (!resolved.is_empty()).then(|| 1 + resolved.iter().filter(|&&b| b == b'/').count())
}

/// Returns the path of the pod's cgroup, given the path of a container's cgroup: the directory above, unless
/// that is the root.
pub(super) fn pod_of(resolved: &[u8]) -> Option<&[u8]> {
    let slash = resolved.iter().rposition(|&b| b == b'/')?;
    // If the kubelet uses the systemd driver, but containerd does not, runc creates
    // `<slice>:cri-containerd:<id>` in containerd's own cgroup, not in the pod's.
    (!resolved[slash..].contains(&b':')).then_some(&resolved[..slash])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_resolved_from_the_root_of_the_namespace() {
        for (namespace_root, path, expected) in [
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
            let n_above = resolve(namespace_root.as_bytes(), path.as_bytes(), &mut resolved);
            let found = n_above.map(|n_above| (n_above, std::str::from_utf8(&resolved).unwrap()));
            assert_eq!(found, expected, "{path:?} from {namespace_root:?}");
        }
    }

    #[test]
    fn a_pod_is_above_its_containers_unless_containerd_ignores_its_slice() {
        for (path, pod) in [
            ("kubepods/pod1/abc", Some("kubepods/pod1")),
            ("kubepods.slice/pod1.slice/cri-containerd-abc.scope", Some("kubepods.slice/pod1.slice")),
            ("system.slice/containerd.service/pod1.slice:cri-containerd:abc", None),
            ("a:b/abc", Some("a:b")),
            ("abc", None),
            ("", None),
        ] {
            assert_eq!(pod_of(path.as_bytes()), pod.map(str::as_bytes), "{path:?}");
        }
    }

    #[test]
    fn the_root_of_the_namespace_is_found() {
        let root = std::env::temp_dir().join(format!("smaps-namespace-{}", std::process::id()));
        for (directory, pids) in [
            ("kubepods/pod1/own", "7\n77\n"),
            ("kubepods/pod2/other", "1\n"),
            ("kubepods/pod2/other/init", "5\n"),
            ("init", "9\n"),
        ] {
            fs::create_dir_all(root.join(directory)).unwrap();
            fs::write(root.join(directory).join("cgroup.procs"), pids).unwrap();
        }
        for (seen, pid, expected) in [
            ("", "77", "kubepods/pod1/own"),
            ("own", "7", "kubepods/pod1"),
            ("kubepods/pod1/own", "7", ""),
            ("init", "5", "kubepods/pod2/other"),
            ("init", "9", ""),
            ("", "8", ""),
            ("elsewhere", "7", ""),
        ] {
            let found = find(&root, seen.as_bytes(), pid);
            assert_eq!(String::from_utf8(found).unwrap(), expected, "{pid} in {seen:?}");
        }
        fs::remove_dir_all(&root).unwrap();
    }
}
