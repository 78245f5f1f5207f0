//! Attribution: which container a process is in, by its cgroups and never by its PID namespace.
//!
//! A container has what lies at or below the component that is its id, wherever its init process is now: init may have
//! moved into a child cgroup, as systemd and Docker do inside a container. A container whose id is in no path has what
//! lies at or below the first cgroup that its init process was seen in. The root belongs to no container, because the
//! whole node would be in it. But seen from inside a cgroup namespace `/` is where the exporter itself is, and the root
//! is all `..`.
//!
//! A workload may name a cgroup of its own after another container. So an id counts only where the runtime has put
//! that container: where its init process was first. If that is unknown, it counts below another container's cgroup
//! only if no cgroup outside other containers has that id.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::cgroup_path::{components, id_of, key, named_cgroup};
use super::table::Container;
use crate::procfs::cgroup::Cgroups;

/// The index from cgroup paths to containers.
#[derive(Debug, Default)]
pub struct CgroupIndex {
    by_id: HashMap<Box<[u8]>, Listed>,
    /// The first cgroups of init processes without an id in their paths; `None` where containers of different pods
    /// have the same one.
    by_path: HashMap<Box<[u8]>, Option<Arc<Container>>>,
    /// The ids that were seen outside the cgroups of other containers.
    placed: HashSet<Box<[u8]>>,
    /// Whether processes are seen from inside a cgroup namespace.
    is_inside: bool,
    /// Whether containers may be listed that have ended, whose ids are then free for others to use.
    includes_ended: bool,
}

/// A container that is listed, and the first cgroups of its init process, if that was seen.
#[derive(Debug)]
struct Listed {
    container: Arc<Container>,
    first: Option<Cgroups>,
}

/// Where a container is: its cgroup is `cgroup`, as proc prints its path.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a, 'p> {
    /// The container.
    pub container: &'a Arc<Container>,
    /// The path down to the container's own cgroup, which has its limits.
    pub cgroup: &'p [u8],
}

impl CgroupIndex {
    /// Creates an empty index. With `includes_ended` containers may be listed that have ended.
    pub fn new(includes_ended: bool) -> Self {
        Self { includes_ended, ..Self::default() }
    }

    /// Learns from the cgroups of all processes whether they are seen from inside a cgroup namespace, and which ids
    /// are outside the cgroups of other containers. Returns whether that may change any attribution.
    pub fn observe<'a>(&mut self, processes: impl Iterator<Item = &'a Cgroups>) -> bool {
        let Self { by_id, by_path, placed, .. } = self;
        let needs_placing = by_id.values().any(|listed| listed.first.is_none());
        let (mut is_inside, mut is_new) = (false, false);
        for path in processes.flat_map(Cgroups::paths) {
            is_inside |= path == b"/.." || path.starts_with(b"/../");
            if needs_placing
                && let Some(id) = outermost_id(by_id, by_path, path)
                && !placed.contains(id)
            {
                is_new = true;
                placed.insert(id.into());
            }
        }
        is_new | (std::mem::replace(&mut self.is_inside, is_inside) != is_inside)
    }

    /// Removes every container.
    pub fn clear(&mut self) {
        self.by_id.clear();
        self.by_path.clear();
    }

    /// Forgets the ids that were seen outside other containers and are no longer listed.
    pub fn forget_unlisted(&mut self) {
        let Self { by_id, placed, .. } = self;
        placed.retain(|id| by_id.contains_key(id));
    }

    /// Adds a container: the cgroups that hold its id, or if no path of `first`, the first cgroups of its init process,
    /// holds it, the one of them that decides.
    ///
    /// If two containers of a pod have one cgroup, the first keeps it; of two in different pods neither has it. Returns
    /// whether the latter happened.
    pub fn insert(&mut self, container: &Arc<Container>, first: Option<&Cgroups>) -> bool {
        let id = container.listed.id.as_bytes();
        if !id.is_empty() {
            let listed = || Listed { container: container.clone(), first: first.cloned() };
            self.by_id.entry(id.into()).or_insert_with(listed);
        }
        let Some(first) = first.filter(|first| first.paths().all(|path| named_cgroup(id, path).is_none()))
        else {
            return false;
        };
        let Some(path) = first.main() else { return false };
        let is_root = path.split(|&b| b == b'/').all(|component| [&b""[..], b".."].contains(&component));
        if is_root && !(self.is_inside && path == b"/") {
            return false;
        }
        match self.by_path.entry(path.into()) {
            Entry::Vacant(vacant) => {
                vacant.insert(Some(container.clone()));
                false
            }
            Entry::Occupied(mut known) => {
                let is_shared = !known.get().as_ref().is_some_and(|known| known.is_in_pod_of(container));
                if is_shared {
                    known.insert(None);
                }
                is_shared
            }
        }
    }

    /// Returns the container that a process with these cgroups is in. A path that holds a listed id decides, whichever
    /// hierarchy prints it; without one the main path does.
    pub fn container_of<'a, 'p>(&'a self, cgroups: &'p Cgroups) -> Option<Place<'a, 'p>> {
        let by_id = cgroups.paths().find_map(|path| match self.find(path) {
            (place, true) => Some(place),
            _ => None,
        });
        by_id.unwrap_or_else(|| self.find(cgroups.main()?).0)
    }

    /// Returns the container that has the cgroup at `path`.
    pub fn container_at<'a, 'p>(&'a self, path: &'p [u8]) -> Option<Place<'a, 'p>> {
        self.find(path).0
    }

    /// Follows `path` from the root inwards: returns the innermost container that counts, and whether an id in the path
    /// says so.
    ///
    /// Components count whole. `..` is below nothing: from inside a cgroup namespace, `/../x` is not below `/`.
    fn find<'a, 'p>(&'a self, path: &'p [u8]) -> (Option<Place<'a, 'p>>, bool) {
        let (mut place, mut has_id) = (None::<Place<'a, 'p>>, false);
        for (component, above) in components(path) {
            if component == b".." {
                place = None;
                continue;
            }
            if let Some(Some(container)) = self.by_path.get(key(above)) {
                place = Some(Place { container, cgroup: key(above) });
            }
            let Some(listed) = self.by_id.get(id_of(component)) else { continue };
            let is_same = place.as_ref().is_some_and(|place| place.container.id == listed.container.id);
            if !is_same && self.is_placed_at(listed, above, place.is_some()) {
                place = Some(Place { container: &listed.container, cgroup: key(above) });
                has_id = true;
            }
        }
        (place, has_id)
    }

    /// Whether the container may be at this path, which ends in its id. If its init process shows where the runtime has
    /// put it, it is only there. Without that it may be anywhere but below the cgroup of another container, unless it was
    /// seen nowhere else.
    fn is_placed_at(&self, listed: &Listed, path: &[u8], is_below_another: bool) -> bool {
        let id = listed.container.listed.id.as_bytes();
        let mut places = listed.first.iter().flat_map(Cgroups::paths).filter_map(|first| named_cgroup(id, first));
        if let Some(place) = places.next() {
            return place == path || places.any(|place| place == path);
        }
        let has_init = listed.first.is_some() || listed.container.listed.init_pid.is_some();
        !is_below_another || !has_init && !self.includes_ended && !self.placed.contains(id)
    }
}

/// Returns the outermost listed id in `path`, unless a container without an id is further out.
fn outermost_id<'p>(
    by_id: &HashMap<Box<[u8]>, Listed>,
    by_path: &HashMap<Box<[u8]>, Option<Arc<Container>>>,
    path: &'p [u8],
) -> Option<&'p [u8]> {
    let mut found = None;
    for (component, above) in components(path) {
        if component == b".." {
            found = None;
        } else if found.is_none() {
            let has_owner = matches!(by_path.get(key(above)), Some(Some(_)));
            let id = Some(id_of(component)).filter(|id| by_id.contains_key(*id));
            found = if has_owner { Some(None) } else { id.map(Some) };
        }
    }
    found.flatten()
}

#[cfg(test)]
mod tests {
    use super::super::table::{ContainerId, tests::listed};
    use super::*;
    use crate::sources;

    fn container(id: &str) -> Arc<Container> {
        in_pod(id, "")
    }

    fn in_pod(id: &str, pod: &str) -> Arc<Container> {
        let number = ContainerId(id.bytes().fold(0, |sum: u32, byte| sum.wrapping_mul(31) ^ u32::from(byte)));
        let listed = sources::Container { pod: pod.into(), ..listed(id, None) };
        Arc::new(Container::new(number, listed, true))
    }

    /// The cgroups of a process on version 2.
    fn at(path: &str) -> Cgroups {
        Cgroups::from(format!("0::{path}\n").as_str())
    }

    fn owner_by<'a>(index: &'a CgroupIndex, cgroups: &Cgroups) -> Option<&'a str> {
        index.container_of(cgroups).map(|place| place.container.listed.id.as_str())
    }

    fn owner<'a>(index: &'a CgroupIndex, path: &str) -> Option<&'a str> {
        let owner = index.container_at(path.as_bytes()).map(|place| place.container.listed.id.as_str());
        if path.starts_with('/') {
            assert_eq!(owner_by(index, &at(path)), owner, "{path:?}");
        }
        owner
    }

    /// A workload names a cgroup of its own after another container.
    #[test]
    fn an_id_below_another_container_counts_only_where_the_runtime_put_it() {
        let (real, fake) = ("/kubepods/pod2/b", "/kubepods/pod1/a/b");
        for (what, includes_ended, init, seen, container_of_fake) in [
            ("init is elsewhere", false, Some(real), &[real, fake][..], "a"),
            ("init is there: docker run --cgroup-parent", false, Some(fake), &[fake], "b"),
            ("a process is outside other containers", false, None, &[fake, real], "a"),
            ("no process is outside: one node inside another", false, None, &[fake], "b"),
            ("no process is outside, and the container may have ended", true, None, &[fake], "a"),
        ] {
            let mut index = CgroupIndex::new(includes_ended);
            index.insert(&container("a"), None);
            index.insert(&container("b"), init.map(at).as_ref());
            let seen: Vec<_> = seen.iter().map(|path| at(path)).collect();
            index.observe(seen.iter());
            assert_eq!(owner(&index, fake), Some(container_of_fake), "{what}");
            assert_eq!(owner(&index, &format!("{fake}/x")), Some(container_of_fake), "{what}");
            assert_eq!(owner(&index, real), Some("b"), "{what}");
            let fake = at(fake);
            let expected = if container_of_fake == "a" { "/kubepods/pod1/a" } else { "/kubepods/pod1/a/b" };
            assert_eq!(index.container_of(&fake).unwrap().cgroup, expected.as_bytes(), "{what}");
        }
    }

    #[test]
    fn an_id_that_was_seen_outside_stays_so_while_it_is_listed() {
        let mut index = CgroupIndex::default();
        let claim = |index: &mut CgroupIndex, ids: &[&str]| {
            index.clear();
            ids.iter().for_each(|id| _ = index.insert(&container(id), None));
            index.forget_unlisted();
        };
        claim(&mut index, &["a", "b"]);
        assert!(index.observe([&at("/b"), &at("/a/b")].into_iter()), "attribution may change");
        assert!(!index.observe([&at("/a/b")].into_iter()));
        claim(&mut index, &["a", "b"]);
        assert_eq!(owner(&index, "/a/b"), Some("a"));
        claim(&mut index, &["a"]);
        claim(&mut index, &["a", "b"]);
        assert_eq!(owner(&index, "/a/b"), Some("b"));
    }

    /// Neither a cgroup of the runtime's own nor anything else belongs to containers of different pods.
    #[test]
    fn containers_of_different_pods_have_no_cgroup_in_common() {
        let path = at("/system.slice/containerd.service");
        for (containers, expected, is_shared) in [
            ([in_pod("a", "web-0"), in_pod("b", "web-0")], Some("a"), false),
            ([in_pod("a", "web-0"), in_pod("b", "web-1")], None, true),
            ([in_pod("a", ""), in_pod("b", "")], None, true),
        ] {
            let mut index = CgroupIndex::default();
            assert!(!index.insert(&containers[0], Some(&path)));
            assert_eq!(index.insert(&containers[1], Some(&path)), is_shared);
            assert_eq!(owner_by(&index, &path), expected);
            index.insert(&in_pod("c", "web-0"), Some(&path));
            assert_eq!(owner_by(&index, &path), expected, "a third changes nothing");
        }
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
                &["/system.slice/docker-abc.scope", "/a/crio-abc.scope", "/a/pod.slice:crio:abc/x", "/x/abc"],
                &[
                    "/x/abc.scope",
                    "/a/abc:x",
                    "/a/x:cri-containerd-abc",
                    "/a/crio-conmon-abc",
                    "/a/crio-abc-1",
                    "/a/xcrio-abc",
                ],
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
            let mut index = CgroupIndex::default();
            index.insert(&container(id), first.map(at).as_ref());
            for path in own {
                assert_eq!(owner(&index, path), Some(id), "{path:?} with init in {first:?}");
            }
            for path in others {
                assert_eq!(owner(&index, path), None, "{path:?} with init in {first:?}");
            }
        }
    }

    /// As an exporter in a container sees it on version 2: itself in `/`, what is beside and above it behind `..`.
    #[test]
    fn inside_a_cgroup_namespace_the_exporters_own_container_is_in_the_root() {
        let mut index = CgroupIndex::default();
        let beside = "/../../pod2/cri-containerd-def.scope";
        assert!(index.observe([&at("/"), &at(beside), &at("/../../..")].into_iter()));
        assert!(!index.observe([&at("/..")].into_iter()), "no news");
        index.insert(&container("abc"), Some(&at("/")));
        index.insert(&container("def"), Some(&at(beside)));
        index.insert(&container("escaped"), Some(&at("/../../..")));
        for (path, expected) in [
            ("/", Some("abc")),
            ("/below/x", Some("abc")),
            (beside, Some("def")),
            ("/..", None),
            ("/../x", None),
            ("/../../../system.slice", None),
        ] {
            assert_eq!(owner(&index, path), expected, "{path:?}");
        }
    }

    #[test]
    fn the_innermost_claim_wins_and_the_first_of_two_equal_ones() {
        let mut index = CgroupIndex::default();
        index.insert(&container("outer"), Some(&at("/docker/outer")));
        index.insert(&container("inner"), Some(&at("/docker/outer/kubelet/inner")));
        index.insert(&in_pod("below", "pod"), Some(&at("/docker/outer/x")));
        index.insert(&in_pod("late", "pod"), Some(&at("/docker/outer/x")));
        for (path, expected) in [
            ("/docker/outer", Some("outer")),
            ("/docker/outer/kubelet", Some("outer")),
            ("/docker/outer/kubelet/inner/init", Some("inner")),
            ("/docker/outer/x/y", Some("below")),
            ("/docker", None),
        ] {
            assert_eq!(owner(&index, path), expected, "{path:?}");
        }
        index.clear();
        assert_eq!(owner(&index, "/docker/outer"), None);
    }
}
