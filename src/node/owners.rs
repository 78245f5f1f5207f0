//! Which container owns a cgroup: by path, never by PID namespace.
//!
//! A container owns from the component that names it, its id, down, wherever its init process is now: init may have moved into a
//! child cgroup, as systemd and Docker do inside a container. Where no component names it, it owns from the first cgroup that its init
//! process was seen in. The root is nobody's: whoever claimed it would own every process of the node. But seen from inside a cgroup
//! namespace, which version 2 gives every container, `/` is where the exporter itself is, and the root is all `..`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sources;
use crate::totals::labels;
use crate::totals::table::ContainerKey;

/// A container that processes are attributed to.
#[derive(Debug)]
pub struct Container {
    /// What its source says of it.
    pub listed: sources::Container,
    /// What its sums are found by.
    pub key: ContainerKey,
    /// Its label text, see [`labels::container`].
    pub labels: String,
    /// Whether a filter can select a process of it.
    pub is_selected: bool,
}

impl Container {
    /// A container that its source has listed.
    pub fn new(listed: sources::Container, is_selected: bool) -> Self {
        static N_CONTAINERS: AtomicU32 = AtomicU32::new(0);
        let key = ContainerKey(N_CONTAINERS.fetch_add(1, Ordering::Relaxed));
        let labels = labels::container(&listed.namespace, &listed.pod, &listed.name);
        Self { key, listed, labels, is_selected }
    }
}

/// The cgroups of the containers, by the id in their path and by the whole path.
#[derive(Debug, Default)]
pub struct Owners {
    by_id: HashMap<Box<[u8]>, Arc<Container>>,
    by_path: HashMap<Box<[u8]>, Arc<Container>>,
    is_inside: bool,
}

impl Owners {
    /// Learns from the processes' paths whether they are seen from inside a cgroup namespace; says whether that is news.
    pub fn look_around<'a>(&mut self, mut paths: impl Iterator<Item = &'a [u8]>) -> bool {
        let is_inside = paths.any(|path| path == b"/.." || path.starts_with(b"/../"));
        std::mem::replace(&mut self.is_inside, is_inside) != is_inside
    }

    /// Forgets every claim.
    pub fn clear(&mut self) {
        self.by_id.clear();
        self.by_path.clear();
    }

    /// Gives the container what bears its id, and what lies at or below `first_cgroup`, the first that its init process was seen in, if
    /// no component of that is its id. Of two that claim one cgroup the first keeps it.
    pub fn claim(&mut self, container: &Arc<Container>, first_cgroup: Option<&[u8]>) {
        let id = container.listed.id.as_bytes();
        if !id.is_empty() {
            self.by_id.entry(id.into()).or_insert_with(|| container.clone());
        }
        let Some(path) = first_cgroup else { return };
        let mut components = path.split(|&b| b == b'/');
        let is_root = components.clone().all(|component| [&b""[..], b".."].contains(&component));
        let is_root = is_root && !(self.is_inside && path == b"/");
        let is_named = !id.is_empty() && components.any(|component| id_of(component) == id);
        if !is_root && !is_named {
            self.by_path.entry(path.into()).or_insert_with(|| container.clone());
        }
    }

    /// The container that owns the cgroup at `path`: the innermost one that claims a component of it.
    ///
    /// Claims go by whole components. `..` is nobody's child: seen from inside a cgroup namespace, `/../x` does not lie below `/`.
    pub fn owner_of(&self, path: &[u8]) -> Option<&Arc<Container>> {
        let mut path = path;
        loop {
            let Some(slash) = path.iter().rposition(|&b| b == b'/') else {
                return self.by_path.get(&b"/"[..]);
            };
            let component = &path[slash + 1..];
            if let Some(owner) = self.by_path.get(path).or_else(|| self.by_id.get(id_of(component))) {
                return Some(owner);
            }
            if component == b".." {
                return None;
            }
            path = &path[..slash];
        }
    }
}

/// The cgroup of the container with this id, from the path of a process in it: down to the outermost component that is its id. Whatever
/// it has made below, its limits are there. None where no component names it.
pub fn named_cgroup<'a>(id: &str, path: &'a [u8]) -> Option<&'a [u8]> {
    let mut end = 0;
    for component in path.split(|&b| b == b'/') {
        end += component.len();
        if !id.is_empty() && id_of(component) == id.as_bytes() {
            return Some(&path[..end]);
        }
        end += 1;
    }
    None
}

/// The container id that a component of a cgroup path holds, if it holds one: `<id>`, `cri-containerd-<id>.scope`, or as CRI-O's cgroupfs
/// driver has it, `crio-<id>`.
///
/// Never a part of anything else: CRI-O's `crio-conmon-<id>.scope` is the cgroup of the container's monitor.
fn id_of(component: &[u8]) -> &[u8] {
    const RUNTIMES: [&[u8]; 5] = [b"cri-containerd-", b"crio-", b"docker-", b"nerdctl-", b"libpod-"];
    let name = component.strip_suffix(b".scope").unwrap_or(component);
    RUNTIMES.iter().find_map(|runtime| name.strip_prefix(*runtime)).unwrap_or(component)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str) -> Arc<Container> {
        let listed = sources::Container {
            id: id.into(),
            init_pid: None,
            namespace: String::new(),
            pod: String::new(),
            name: id.into(),
        };
        Arc::new(Container::new(listed, true))
    }

    fn owner<'a>(owners: &'a Owners, path: &str) -> Option<&'a str> {
        owners.owner_of(path.as_bytes()).map(|owner| owner.listed.id.as_str())
    }

    #[test]
    fn a_container_owns_from_its_id_down_wherever_its_init_process_is() {
        // Both drivers, version 1 and 2, one node inside another (kind), seen from inside a cgroup namespace.
        for (id, first, own, others) in [
            (
                "abc",
                Some("/kubepods/burstable/pod1/abc"),
                &[
                    "/kubepods/burstable/pod1/abc",
                    "/kubepods/burstable/pod1/abc/",
                    "/kubepods/pod1/abc/app/x",
                ][..],
                &["/kubepods/burstable/pod1", "/kubepods/burstable/pod1/abcd", "/kubepods/xabc", "/"][..],
            ),
            (
                "abc",
                Some("/kubepods.slice/pod1.slice/cri-containerd-abc.scope/init"),
                &[
                    "/kubepods.slice/pod1.slice/cri-containerd-abc.scope",
                    "/kubepods.slice/pod1.slice/cri-containerd-abc.scope/app",
                    "/kubepods.slice/pod1.slice/cri-containerd-abc.scope/init/x",
                ],
                &[
                    "/kubepods.slice/pod1.slice/crio-conmon-abc.scope",
                    "/kubepods.slice/cri-containerd-xabc.scope",
                ],
            ),
            (
                "abc",
                None,
                &["/system.slice/docker-abc.scope", "/a/crio-abc.scope", "/a/crio-abc/x", "/x/abc"],
                &["/x/abc.scope", "/a/crio-conmon-abc", "/a/crio-abc-1", "/a/xcrio-abc"],
            ),
            (
                "inner",
                Some("/docker/outer/kubelet/pod1/inner"),
                &["/docker/outer/kubelet/pod1/inner/y"],
                &["/docker/outer", "/docker/outer/kubelet"],
            ),
            (
                "abc",
                Some("/../../pod1/cri-containerd-abc.scope/init"),
                &["/../../pod1/cri-containerd-abc.scope", "/../cri-containerd-abc.scope/app"],
                &["/../../pod1", "/.."],
            ),
            // No component names it: from where its init process was seen first.
            ("abc", Some("/machine/x"), &["/machine/x", "/machine/x/y"], &["/machine", "/machine/xy"]),
            // The root is nobody's.
            ("abc", Some("/"), &["/abc/x"], &["/", "/x", "/init.scope", "/.."]),
            ("abc", Some("/../.."), &["/../../abc"], &["/../..", "/..", "/../../x"]),
            ("", Some("/x"), &["/x"], &["/", "//", ""]),
        ] {
            let mut owners = Owners::default();
            owners.claim(&container(id), first.map(str::as_bytes));
            for path in own {
                assert_eq!(owner(&owners, path), Some(id), "{path:?} with init in {first:?}");
            }
            for path in others {
                assert_eq!(owner(&owners, path), None, "{path:?} with init in {first:?}");
            }
        }
    }

    /// As an exporter in a container sees it on version 2: itself in `/`, what is beside and above it behind `..`.
    #[test]
    fn inside_a_cgroup_namespace_the_exporters_own_container_is_in_the_root() {
        let mut owners = Owners::default();
        let beside = "/../../pod2/cri-containerd-def.scope";
        assert!(owners.look_around([&b"/"[..], beside.as_bytes(), b"/../../.."].into_iter()));
        assert!(!owners.look_around([&b"/.."[..]].into_iter()), "no news");
        owners.claim(&container("abc"), Some(b"/"));
        owners.claim(&container("def"), Some(beside.as_bytes()));
        owners.claim(&container("escaped"), Some(b"/../../.."));
        for (path, expected) in [
            ("/", Some("abc")),
            ("/below/x", Some("abc")),
            (beside, Some("def")),
            ("/..", None),
            ("/../x", None),
            ("/../../../system.slice", None),
        ] {
            assert_eq!(owner(&owners, path), expected, "{path:?}");
        }
    }

    #[test]
    fn a_containers_cgroup_ends_with_its_id() {
        for (path, expected) in [
            ("/kubepods/pod1/abc", Some("/kubepods/pod1/abc")),
            ("/kubepods/pod1/abc/", Some("/kubepods/pod1/abc")),
            (
                "/kubepods.slice/cri-containerd-abc.scope/app/abc",
                Some("/kubepods.slice/cri-containerd-abc.scope"),
            ),
            ("/../../pod1/crio-abc.scope/container", Some("/../../pod1/crio-abc.scope")),
            ("/kubepods/pod1/abcd", None),
            ("/", None),
        ] {
            assert_eq!(named_cgroup("abc", path.as_bytes()), expected.map(str::as_bytes), "{path:?}");
        }
        assert_eq!(named_cgroup("", b"/a"), None);
    }

    #[test]
    fn the_innermost_claim_wins_and_the_first_of_two_equal_ones() {
        let mut owners = Owners::default();
        owners.claim(&container("outer"), Some(b"/docker/outer"));
        owners.claim(&container("inner"), Some(b"/docker/outer/kubelet/inner"));
        owners.claim(&container("below"), Some(b"/docker/outer/x"));
        owners.claim(&container("late"), Some(b"/docker/outer/x"));
        for (path, expected) in [
            ("/docker/outer", Some("outer")),
            ("/docker/outer/kubelet", Some("outer")),
            ("/docker/outer/kubelet/inner/init", Some("inner")),
            ("/docker/outer/x/y", Some("below")),
            ("/docker", None),
        ] {
            assert_eq!(owner(&owners, path), expected, "{path:?}");
        }
        owners.clear();
        assert_eq!(owner(&owners, "/docker/outer"), None);
    }
}
