//! Converts the cgroup paths that proc prints into paths below the mounted file system.
//!
//! Proc prints a path relative to the root of the reader's cgroup namespace. In a container on version 2,
//! that root is the container's own cgroup. So proc prints that cgroup as `/`, and the paths of the node's
//! other cgroups begin with `/..`. The mounted file system, however, shows the whole tree of the node. For
//! the conversion, the exporter has to know where in that tree the root of its namespace is.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Finds the cgroup that is the root of this process's cgroup namespace. `root` is the mount point of cgroup
/// version 2, and the result is a path relative to `root`.
///
/// Suppose that `/proc/self/cgroup` shows `/a`, and that this process is listed in `kubepods/pod1/a` below
/// `root`. The result is then `kubepods/pod1`. The result is empty if this process has no cgroup namespace of
/// its own, or if it is not found below `root`.
pub(super) fn find_root(root: &Path) -> Vec<u8> {
    let text = fs::read("/proc/self/cgroup").unwrap_or_default();
    let seen = text.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"0::/"));
    seen.map(|seen| find(root, seen, &std::process::id().to_string())).unwrap_or_default()
}

/// Finds the root of the cgroup namespace in which the process `pid` is, and returns its path relative to the
/// mount point `root`. `seen` is the cgroup path that proc prints for the process. The cgroup of the process
/// lists `pid`, and its path below `root` ends in `seen`. The result is the part of this path before `seen`.
/// If several cgroups meet both conditions, the one nearest to `root` is used.
fn find(root: &Path, seen: &[u8], pid: &str) -> Vec<u8> {
    let seen = Path::new(std::ffi::OsStr::from_bytes(seen));
    let is_in = |directory: &Path| {
        let pids = fs::read_to_string(root.join(directory).join("cgroup.procs")).unwrap_or_default();
        pids.lines().any(|line| line == pid)
    };
    // The path `seen` itself is tried first. Outside a cgroup namespace, this is the path of the process's
    // cgroup, so the search ends there. Otherwise all directories are searched, beginning with the root.
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

/// Converts `path`, a cgroup path as proc prints it, into a path relative to the mounted root, and stores the
/// result in `resolved`. `namespace_root` is the root of the exporter's cgroup namespace, also as a path
/// relative to the mounted root. Returns the number of components of `resolved`.
///
/// Returns `None` if the cgroup is outside the mounted tree. Also returns `None` for the mounted root itself,
/// because it is never a container's cgroup.
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
    (!resolved.is_empty()).then(|| 1 + resolved.iter().filter(|&&b| b == b'/').count())
}

/// Returns the path of a pod's cgroup, given the path of the cgroup of a container in the pod. Usually, the
/// pod's cgroup is the directory above. Returns `None` if that directory is the root.
///
/// Also returns `None` for a name like `<slice>:cri-containerd:<id>`, because the directory above is then not
/// the pod's cgroup. Such a name appears when the kubelet uses the systemd cgroup driver, but containerd uses
/// the cgroupfs driver. runc then takes the whole text for the name of a directory, and creates this
/// directory in containerd's own cgroup.
pub(super) fn pod_of(resolved: &[u8]) -> Option<&[u8]> {
    let slash = resolved.iter().rposition(|&b| b == b'/')?;
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
