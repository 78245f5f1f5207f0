//! Where a process is in the cgroup hierarchies, from the text of `/proc/<pid>/cgroup` (man 7 cgroups): lines
//! `hierarchy:controllers:path`, version 1, version 2 or both.

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
            // Of two that count the same the first.
            ("4:memory:/a\n5:memory:/b\n", Some("/a")),
            ("5:cpu:/cpu\n", None),
            ("", None),
            ("garbage\n0:\n::\n0::no-slash\n", None),
        ];
        for (text, path) in cases {
            assert_eq!(path_of(text.as_bytes()), path.map(str::as_bytes), "{text:?}");
        }
    }

    #[test]
    fn version_1_says_of_a_process_that_has_ended_that_it_is_in_the_root() {
        for (text, expected) in [
            ("4:memory:/\n1:name=systemd:/\n0::/\n", true),
            ("4:memory:/\n", true),
            ("0::/\n1:name=systemd:/", true),
            ("0::/\n", false),
            ("0::/", false),
            ("4:memory:/a\n0::/\n", false),
            ("0::/a\n4:memory:/\n", false),
            ("5:cpu:/\n", false),
            ("", false),
        ] {
            assert_eq!(may_hide(text.as_bytes()), expected, "{text:?}");
        }
    }
}
