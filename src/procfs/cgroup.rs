//! Which container owns a process: by cgroup path, never by PID namespace.
//!
//! Pure functions over the text of `/proc/<pid>/cgroup` (man 7 cgroups): lines `hierarchy:controllers:path`.

use std::collections::HashMap;

/// The cgroup path of a process, from the text of its `cgroup` file: the `0::` line's unless that is `/`, else the
/// memory controller's, else `name=systemd`'s. `/` when none of them says more; `None` when none is there.
pub fn path_of(text: &[u8]) -> Option<&[u8]> {
    // The best line so far: a path, and how far down the list of preferences it stands.
    let mut best: Option<(u32, &[u8])> = None;
    for line in text.split(|&b| b == b'\n') {
        let mut parts = line.splitn(3, |&b| b == b':');
        let (Some(hierarchy), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let rank = match (hierarchy, controllers) {
            (b"0", b"") if path == b"/" => 3,
            (b"0", b"") => 0,
            (_, b"name=systemd") => 2,
            _ if controllers.split(|&b| b == b',').any(|name| name == b"memory") => 1,
            _ => continue,
        };
        if path.starts_with(b"/") && best.is_none_or(|(other, _)| rank < other) {
            best = Some((rank, path));
        }
    }
    best.map(|(_, path)| path)
}

/// Whether this text may hide where a process is: its path is `/`, and a version 1 hierarchy says so, which it says of every
/// process that has ended, too. Version 2 keeps to the truth.
pub fn may_hide(text: &[u8]) -> bool {
    path_of(text) == Some(b"/")
        && text.split(|&b| b == b'\n').any(|line| !line.is_empty() && !line.starts_with(b"0::"))
}

/// The cgroup paths of the containers' init processes, each with its container.
#[derive(Debug, Default)]
pub struct Owners(HashMap<Box<[u8]>, u32>);

impl Owners {
    /// Forgets every path.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Gives `path` to `container`; the first to claim a path keeps it.
    pub fn claim(&mut self, path: &[u8], container: u32) {
        self.0.entry(path.into()).or_insert(container);
    }

    /// The container that owns a process at `path`: the one at that path, or at its longest ancestor.
    ///
    /// Ancestors go by whole components. `..` is nobody's child: seen from inside a cgroup namespace, `/../x` does not lie below `/`.
    pub fn owner_of(&self, path: &[u8]) -> Option<u32> {
        if self.0.is_empty() {
            return None;
        }
        let mut path = path;
        loop {
            if let Some(&container) = self.0.get(path) {
                return Some(container);
            }
            let slash = path.iter().rposition(|&b| b == b'/')?;
            if path.len() <= 1 || &path[slash + 1..] == b".." {
                return None;
            }
            path = if slash == 0 { b"/" } else { &path[..slash] };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_process() {
        let cases: &[(&str, Option<&str>)] = &[
            ("0::/kubepods/pod1/c1\n", Some("/kubepods/pod1/c1")),
            ("0::/kubepods/pod1/c1", Some("/kubepods/pod1/c1")),
            // Hybrid: the v2 hierarchy is there but unused.
            ("4:memory:/kubepods/c1\n1:name=systemd:/other\n0::/\n", Some("/kubepods/c1")),
            ("0::/\n1:name=systemd:/sys\n4:memory:/mem\n", Some("/mem")),
            ("5:cpu,cpuacct:/cpu\n4:hugetlb,memory:/mem\n0::/v2\n", Some("/v2")),
            ("5:cpu,cpuacct:/cpu\n1:name=systemd:/sys\n", Some("/sys")),
            // systemd's driver; a path that holds colons.
            ("0::/system.slice/cri-containerd-abc.scope", Some("/system.slice/cri-containerd-abc.scope")),
            ("0::/pod:1/cri-containerd:abc", Some("/pod:1/cri-containerd:abc")),
            ("0::/\n", Some("/")),
            ("4:memory:/\n0::/\n", Some("/")),
            // From inside a cgroup namespace.
            ("0::/../pod2/c2\n", Some("/../pod2/c2")),
            ("5:cpu:/cpu\n", None),
            ("", None),
            ("garbage\n0:\n::\n0::no-slash\n", None),
        ];
        for (text, path) in cases {
            assert_eq!(path_of(text.as_bytes()), path.map(str::as_bytes), "{text:?}");
        }
    }

    #[test]
    fn the_owner_of_a_path() {
        let mut owners = Owners::default();
        for (container, path) in
            ["/k/p1/c1", "/k/p1/c1/nested/c2", "/k/p1/c1x", "/../p/c3", "/.."].iter().enumerate()
        {
            owners.claim(path.as_bytes(), container as u32);
        }
        owners.claim(b"/k/p1/c1", 9);
        let cases = [
            ("/k/p1/c1", Some(0)),
            ("/k/p1/c1/", Some(0)),
            ("/k/p1/c1/sub/sub", Some(0)),
            ("/k/p1/c1/nested/c2", Some(1)),
            ("/k/p1/c1/nested/c2/x", Some(1)),
            ("/k/p1/c1/nested/c", Some(0)),
            ("/k/p1/c1x", Some(2)),
            ("/k/p1/c10", None),
            ("/k/p1", None),
            ("/", None),
            ("/../p/c3/x", Some(3)),
            ("/../p/c4", Some(4)),
            ("/../../p/c3", None),
            ("", None),
        ];
        for (path, container) in cases {
            assert_eq!(owners.owner_of(path.as_bytes()), container, "{path:?}");
        }
    }

    #[test]
    fn a_container_at_the_root_owns_named_children_only() {
        let mut owners = Owners::default();
        owners.claim(b"/", 7);
        for (path, container) in [
            ("/", Some(7)),
            ("/a", Some(7)),
            ("/a/b", Some(7)),
            ("/..", None),
            ("/../a", None),
            ("/../../a/b", None),
        ] {
            assert_eq!(owners.owner_of(path.as_bytes()), container, "{path:?}");
        }
    }
}
