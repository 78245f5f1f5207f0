//! Finds where a process is in the cgroup hierarchies. The file `/proc/<pid>/cgroup` (man 7 cgroups) has a
//! line of the form `hierarchy:controllers:path` for each hierarchy. A node has hierarchies of version 1, of
//! version 2, or of both versions.

/// The paths in the lines of a `cgroup` file.
///
/// On version 1, the file has a dozen lines, and most lines have the same path. Keeping that path only once
/// saves 1 KiB per process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cgroups {
    /// The entries, in the order of precedence. Each entry is a [`Kind`] byte, a path and a newline. The
    /// kernel allows no newline in the name of a cgroup.
    lines: Vec<u8>,
}

/// The kind of the hierarchy that a path belongs to, as a byte.
type Kind = u8;
const MEMORY: Kind = b'm';
const SYSTEMD: Kind = b's';
/// The kind of all version 1 hierarchies except those of the `memory` controller and of `name=systemd`.
const OTHER: Kind = b'o';
const UNIFIED: Kind = b'u';

impl Cgroups {
    /// Replaces the paths with the paths in the text of a `cgroup` file. Returns whether the text has at
    /// least one path.
    pub fn parse(&mut self, text: &[u8]) -> bool {
        let Self { lines } = self;
        lines.clear();
        let (mut memory, mut systemd, mut unified) = (None, None, None);
        for (kind, path) in parse_lines(text) {
            match kind {
                MEMORY => memory = memory.or(Some(path)),
                SYSTEMD => systemd = systemd.or(Some(path)),
                UNIFIED => unified = unified.or(Some(path)),
                _ => {}
            }
        }
        memory.into_iter().for_each(|path| push(lines, MEMORY, path));
        systemd.into_iter().for_each(|path| push(lines, SYSTEMD, path));
        for (kind, path) in parse_lines(text) {
            if kind == OTHER && split(lines).all(|(_, known)| known != path) {
                push(lines, OTHER, path);
            }
        }
        unified.into_iter().for_each(|path| push(lines, UNIFIED, path));
        !lines.is_empty()
    }

    /// Whether there are no paths.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Removes every path.
    pub fn clear(&mut self) {
        self.lines.clear();
    }

    /// Returns the paths in the order of precedence. The path of the `memory` controller is the first one.
    /// The path of `name=systemd` comes next, and then the paths of the other version 1 hierarchies. The path
    /// in the `0::` line is the last one.
    pub fn paths(&self) -> impl Iterator<Item = &[u8]> {
        split(&self.lines).map(|(_, path)| path)
    }

    /// Returns the path in the line of the `memory` controller. The kernel prints that line only if version 1
    /// accounts memory.
    pub fn memory(&self) -> Option<&[u8]> {
        self.first(MEMORY)
    }

    /// Returns the first path other than `/` in the lines of `memory`, `name=systemd` and `0::`, in this
    /// order. If each of these paths is `/`, the result is `/`. This path locates a process if no path
    /// contains a container's id. The `0::` line is ignored if version 1 accounts memory, because it may then
    /// show the cgroup of the container runtime instead.
    ///
    /// The path in `memory` can be `/` for a process in a service, because systemd may be configured not to
    /// account the memory of the service. The path of `name=systemd` still shows the service.
    pub fn main(&self) -> Option<&[u8]> {
        let unified = self.first(UNIFIED).filter(|_| self.memory().is_none());
        let paths = || [self.memory(), self.first(SYSTEMD), unified].into_iter().flatten();
        paths().find(|path| *path != b"/").or_else(|| paths().next())
    }

    /// Whether the version 1 paths may be wrong, because all of them are `/`. In the `cgroup` file of a
    /// thread that has exited, the kernel prints `/` in every version 1 line, whatever the cgroup of the
    /// process is. The `cgroup` file of a process is the file of its first thread, which can exit before
    /// other threads. The `0::` line of version 2 stays correct.
    pub fn may_hide(&self) -> bool {
        let mut version_1 = split(&self.lines).filter(|(kind, _)| *kind != UNIFIED);
        let has_main = [MEMORY, SYSTEMD].into_iter().any(|kind| self.first(kind).is_some());
        has_main && version_1.all(|(_, path)| path == b"/")
    }

    fn first(&self, kind: Kind) -> Option<&[u8]> {
        split(&self.lines).find(|(found, _)| *found == kind).map(|(_, path)| path)
    }
}

/// Parses the text of a `cgroup` file.
#[cfg(test)]
impl From<&str> for Cgroups {
    fn from(text: &str) -> Self {
        let mut cgroups = Self::default();
        cgroups.parse(text.as_bytes());
        cgroups
    }
}

fn push(lines: &mut Vec<u8>, kind: Kind, path: &[u8]) {
    lines.push(kind);
    lines.extend_from_slice(path);
    lines.push(b'\n');
}

/// Splits the entries of [`Cgroups`] into kinds and paths.
fn split(lines: &[u8]) -> impl Iterator<Item = (Kind, &[u8])> {
    lines.split(|&b| b == b'\n').filter_map(|line| line.split_first()).map(|(kind, path)| (*kind, path))
}

/// Returns the kind and the path in each line of a `cgroup` file. Lines without a path are skipped.
fn parse_lines(text: &[u8]) -> impl Iterator<Item = (Kind, &[u8])> {
    text.split(|&b| b == b'\n').filter_map(|line| {
        let mut parts = line.splitn(3, |&b| b == b':');
        let (hierarchy, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let kind = match (hierarchy, controllers) {
            (b"0", b"") => UNIFIED,
            (_, b"name=systemd") => SYSTEMD,
            _ if controllers.split(|&b| b == b',').any(|name| name == b"memory") => MEMORY,
            _ => OTHER,
        };
        path.starts_with(b"/").then_some((kind, path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_order_is_memory_systemd_others_unified() {
        // Each case has the text of a `cgroup` file, the expected paths in order, and the expected result of
        // `main`.
        let cases: &[(&str, &[&str], Option<&str>)] = &[
            ("0::/kubepods/pod1/c1\n", &["/kubepods/pod1/c1"], Some("/kubepods/pod1/c1")),
            ("0::/kubepods/pod1/c1", &["/kubepods/pod1/c1"], Some("/kubepods/pod1/c1")),
            // A process of a container on a hybrid node. In version 2, the process is in the cgroup of
            // containerd. Version 1 accounts memory, so `main` ignores the path of version 2.
            (
                "4:memory:/c1\n3:pids:/c1\n1:name=systemd:/c1\n0::/system.slice/containerd.service\n",
                &["/c1", "/c1", "/system.slice/containerd.service"],
                Some("/c1"),
            ),
            // A host with OpenRC has no line of `name=systemd`. Docker uses one cgroup for all containers,
            // except in the `memory` hierarchy. So only the path of `memory` shows the container.
            (
                "0::/docker\n1:name=openrc:/docker\n2:memory:/docker/a\n",
                &["/docker/a", "/docker", "/docker"],
                Some("/docker/a"),
            ),
            // There is no line of `memory` or `name=systemd`, so the path of version 2 is used.
            ("1:net_cls:/\n0::/v2\n", &["/", "/v2"], Some("/v2")),
            // There is no line of `memory`, so the path of `name=systemd` comes first.
            ("5:cpu,cpuacct:/cpu\n1:name=systemd:/sys\n0::/v2\n", &["/sys", "/cpu", "/v2"], Some("/sys")),
            ("5:cpu,cpuacct:/cpu\n0::/v2\n", &["/cpu", "/v2"], Some("/v2")),
            // systemd does not account the memory of this service, so the service is in the root of `memory`.
            // Its path in `name=systemd` is used instead.
            ("4:memory:/\n1:name=systemd:/sys\n0::/v2\n", &["/", "/sys", "/v2"], Some("/sys")),
            ("4:memory:/\n0::/v2\n", &["/", "/v2"], Some("/")),
            (
                "5:cpu,cpuacct:/a\n4:hugetlb,memory:/m\n3:pids:/m\n2:rdma:/a\n0::/\n",
                &["/m", "/a", "/"],
                Some("/m"),
            ),
            // Paths that contain colons, and paths from inside a cgroup namespace.
            (
                "0::/pod.slice:cri-containerd:abc",
                &["/pod.slice:cri-containerd:abc"],
                Some("/pod.slice:cri-containerd:abc"),
            ),
            ("4:memory:/../pod2/c2\n0::/\n", &["/../pod2/c2", "/"], Some("/../pod2/c2")),
            ("0::/\n", &["/"], Some("/")),
            ("4:memory:/\n0::/\n", &["/", "/"], Some("/")),
            ("5:cpu:/cpu\n", &["/cpu"], None),
            ("1:name=memory:/x\n", &["/x"], None),
            ("", &[], None),
            ("garbage\n0:\n::\n0::no-slash\n", &[], None),
        ];
        for (text, paths, main) in cases {
            let cgroups = Cgroups::from(*text);
            let found: Vec<_> = cgroups.paths().map(|path| std::str::from_utf8(path).unwrap()).collect();
            assert_eq!(found, *paths, "{text:?}");
            assert_eq!(cgroups.main(), main.map(str::as_bytes), "{text:?}");
            assert_eq!(cgroups.is_empty(), paths.is_empty());
        }
    }

    #[test]
    fn version_1_prints_the_root_for_a_thread_that_has_exited() {
        for (text, expected) in [
            ("4:memory:/\n1:name=systemd:/\n0::/\n", true),
            ("4:memory:/\n", true),
            ("0::/\n1:name=systemd:/", true),
            ("4:memory:/\n1:name=systemd:/\n0::/system.slice/containerd.service\n", true),
            ("4:memory:/\n3:pids:/a\n0::/\n", false),
            ("1:net_cls:/\n0::/a\n", false),
            ("0::/\n", false),
            ("4:memory:/a\n0::/\n", false),
            ("", false),
        ] {
            assert_eq!(Cgroups::from(text).may_hide(), expected, "{text:?}");
        }
    }
}
