//! Attribution: which container a process is in, by its cgroups and never by its PID namespace.
//!
//! A container has what lies at or below the component that is its id, wherever its init process is now: init may have
//! moved into a child cgroup, as systemd and Docker do inside a container. A container whose id is in no path has what
//! lies at or below the first cgroup that its init process was seen in. The root belongs to no container, because the
//! whole node would be in it. But seen from inside a cgroup namespace `/` is where the exporter itself is, and the root
//! is all `..`.
//!
//! A workload may name a cgroup of its own after another container. So below a container's cgroup an id counts only
//! where the runtime has put that container: where its init process was first, or if that is unknown, where no
//! cgroup outside other containers has that id.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::procfs::cgroup::Cgroups;
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

/// The index from cgroup paths to containers.
#[derive(Debug, Default)]
pub struct Owners {
    by_id: HashMap<Box<[u8]>, Listed>,
    /// The first cgroups of init processes without an id in their paths; `None` where containers of different pods
    /// have the same one.
    by_path: HashMap<Box<[u8]>, Option<Arc<Container>>>,
    /// The ids that were seen outside the cgroups of other containers.
    placed: HashSet<Box<[u8]>>,
    /// Whether processes are seen from inside a cgroup namespace.
    is_inside: bool,
    /// Whether containers may be listed that have ended, whose ids are then free for others to use.
    lists_what_is_gone: bool,
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

impl Owners {
    /// An empty index. With `lists_what_is_gone` containers may be listed that have ended.
    pub fn new(lists_what_is_gone: bool) -> Self {
        Self { lists_what_is_gone, ..Self::default() }
    }

    /// Learns from the cgroups of all processes whether they are seen from inside a cgroup namespace, and which ids
    /// are outside the cgroups of other containers. Returns whether that may change any attribution.
    pub fn learn<'a>(&mut self, processes: impl Iterator<Item = &'a Cgroups>) -> bool {
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

    /// Forgets which ids were seen outside other containers, of containers that are no longer listed.
    pub fn forget_unlisted(&mut self) {
        let Self { by_id, placed, .. } = self;
        placed.retain(|id| by_id.contains_key(id));
    }

    /// Adds a container: what bears its id, and if its id is in no path of `first`, the first cgroups of its init
    /// process, what lies at or below the one that decides.
    ///
    /// The first of two containers of a pod keeps a cgroup that both have; of different pods neither has it. Returns
    /// whether the latter was found.
    pub fn claim(&mut self, container: &Arc<Container>, first: Option<&Cgroups>) -> bool {
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

    /// The container that a process with these cgroups is in: a path that holds a listed id decides, whichever
    /// hierarchy prints it; without one the main path does.
    pub fn owner_of<'a, 'p>(&'a self, cgroups: &'p Cgroups) -> Option<Place<'a, 'p>> {
        let by_id = cgroups.paths().find_map(|path| match self.find(path) {
            (place, true) => Some(place),
            _ => None,
        });
        by_id.unwrap_or_else(|| self.find(cgroups.main()?).0)
    }

    /// The container that has the cgroup at `path`.
    pub fn owner_of_path<'a, 'p>(&'a self, path: &'p [u8]) -> Option<Place<'a, 'p>> {
        self.find(path).0
    }

    /// Follows `path` from the root inwards: returns the innermost container that counts, and whether the path holds
    /// a listed id.
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
            has_id = true;
            let is_same = |place: &Place| Arc::ptr_eq(place.container, &listed.container);
            if place.is_none() || (self.is_placed_at(listed, above) && !place.as_ref().is_some_and(is_same)) {
                place = Some(Place { container: &listed.container, cgroup: key(above) });
            }
        }
        (place, has_id)
    }

    /// Whether the runtime has put the container at this path, which is below the cgroup of another container.
    fn is_placed_at(&self, listed: &Listed, path: &[u8]) -> bool {
        let id = listed.container.listed.id.as_bytes();
        match &listed.first {
            Some(first) => first.paths().any(|first| named_cgroup(id, first) == Some(path)),
            None if listed.container.listed.init_pid.is_some() => false,
            None => !self.lists_what_is_gone && !self.placed.contains(id),
        }
    }
}

impl Container {
    fn is_in_pod_of(&self, other: &Self) -> bool {
        let (one, other) = (&self.listed, &other.listed);
        !one.pod.is_empty() && (&one.namespace, &one.pod) == (&other.namespace, &other.pod)
    }
}

/// The components of a path, each with the path that ends in it.
fn components(path: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut end = 0;
    path.split(|&b| b == b'/').map(move |component| {
        let above = &path[..end + component.len()];
        end = above.len() + 1;
        (component, above)
    })
}

/// The key in `by_path` of a path that [`components`] gives: the root is `/`.
fn key(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"/" } else { path }
}

/// The outermost listed id in `path`, unless a container without an id is further out.
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

/// The cgroup of the container with this id, from the path of a process in it: down to the outermost component that is
/// its id. Its limits are there, whatever cgroups it has made below. `None` if no component is its id.
fn named_cgroup<'a>(id: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    let found = components(path).find(|(component, _)| !id.is_empty() && id_of(component) == id);
    found.map(|(_, above)| above)
}

/// The container id that a component of a cgroup path holds, if it holds one: `<id>`, `cri-containerd-<id>.scope`,
/// `crio-<id>` as CRI-O's cgroupfs driver names it, or `<slice>:cri-containerd:<id>` as runc does when the kubelet uses
/// systemd's driver and containerd does not.
///
/// Never a part of anything else: CRI-O's `crio-conmon-<id>.scope` is the cgroup of the container's monitor.
pub fn id_of(component: &[u8]) -> &[u8] {
    const RUNTIMES: [&[u8]; 5] = [b"cri-containerd-", b"crio-", b"docker-", b"nerdctl-", b"libpod-"];
    if let Some(colon) = component.iter().rposition(|&b| b == b':') {
        return &component[colon + 1..];
    }
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

    fn in_pod(id: &str, pod: &str) -> Arc<Container> {
        let listed = sources::Container { pod: pod.into(), ..container(id).listed.clone() };
        Arc::new(Container::new(listed, true))
    }

    /// The cgroups of a process on version 2.
    fn at(path: &str) -> Cgroups {
        Cgroups::from(format!("0::{path}\n").as_str())
    }

    fn owner_by<'a>(owners: &'a Owners, cgroups: &Cgroups) -> Option<&'a str> {
        owners.owner_of(cgroups).map(|place| place.container.listed.id.as_str())
    }

    fn owner<'a>(owners: &'a Owners, path: &str) -> Option<&'a str> {
        let owner = owners.owner_of_path(path.as_bytes()).map(|place| place.container.listed.id.as_str());
        if path.starts_with('/') {
            assert_eq!(owner_by(owners, &at(path)), owner, "{path:?}");
        }
        owner
    }

    /// Each row: the file of a process, the file of init if its pid is known, whose process it is, and where the
    /// account is. The listed containers are a and b.
    #[test]
    fn every_line_of_a_cgroup_file_is_looked_at() {
        const SERVICE: &str = "0::/system.slice/containerd.service\n";
        for (source, init, file, expected) in [
            (
                "hybrid: kubelet 1.2x with systemd.unified_cgroup_hierarchy=0, runc before 1.0 (issue 23)",
                None,
                format!("4:memory:/kubepods/pod1/a\n1:name=systemd:/kubepods/pod1/a\n{SERVICE}"),
                Some(("a", "/kubepods/pod1/a")),
            ),
            (
                "hybrid: containerd itself",
                Some(format!("4:memory:/kubepods/pod1/a\n{SERVICE}")),
                format!("4:memory:/system.slice/containerd.service\n{SERVICE}"),
                None,
            ),
            (
                "hybrid: kubectl exec, whose process runc moves in version 1 only",
                Some("4:memory:/kubepods/pod1/a\n0::/kubepods/pod1/a\n".into()),
                "4:memory:/kubepods/pod1/a\n0::/system.slice/other.service\n".into(),
                Some(("a", "/kubepods/pod1/a")),
            ),
            (
                "OpenRC: Docker on Alpine and Gentoo",
                None,
                "2:memory:/docker/a\n1:name=openrc:/docker\n0::/docker\n".into(),
                Some(("a", "/docker/a")),
            ),
            (
                "cgroup_disable=memory, as on a Raspberry Pi by default",
                None,
                "3:pids:/docker/a\n1:name=systemd:/system.slice\n0::/system.slice\n".into(),
                Some(("a", "/docker/a")),
            ),
            (
                "ECS: the memory line has no id",
                None,
                "4:memory:/ecs/task\n3:pids:/ecs/task/a\n0::/\n".into(),
                Some(("a", "/ecs/task/a")),
            ),
            (
                "version 1, kubelet with systemd's driver and containerd without (opentelemetry-java issue 4507)",
                None,
                "11:perf_event:/pod1.slice:cri-containerd:a\n4:memory:/containerd.service/pod1.slice:cri-containerd:a\n".into(),
                Some(("a", "/containerd.service/pod1.slice:cri-containerd:a")),
            ),
            (
                "some hierarchies of version 1 are not joined (moby issue 33352)",
                None,
                "13:pids:/\n6:memory:/docker/a\n1:name=systemd:/\n".into(),
                Some(("a", "/docker/a")),
            ),
            (
                "no id: what version 1 accounts is not in containerd.service",
                Some(format!("4:memory:/custom\n{SERVICE}")),
                format!("4:memory:/\n{SERVICE}"),
                None,
            ),
            (
                "no id: below the first memory cgroup of init",
                Some(format!("4:memory:/custom\n{SERVICE}")),
                format!("4:memory:/custom/x\n{SERVICE}"),
                Some(("a", "/custom")),
            ),
            (
                "no id and no memory controller: name=systemd before 0::",
                Some("1:name=systemd:/machine/x\n0::/system.slice\n".into()),
                "1:name=systemd:/other\n0::/machine/x\n".into(),
                None,
            ),
            (
                "a listed id decides, also in the last line",
                Some("4:memory:/custom\n0::/\n".into()),
                "4:memory:/custom\n0::/kubepods/b\n".into(),
                Some(("b", "/kubepods/b")),
            ),
            (
                "ids in two lines: version 1 first",
                None,
                "0::/docker/a\n3:pids:/docker/a/docker/b\n4:memory:/x\n".into(),
                Some(("b", "/docker/a/docker/b")),
            ),
            (
                "seen from inside a cgroup namespace",
                None,
                "4:memory:/../../pod1/cri-containerd-a.scope/init\n0::/\n".into(),
                Some(("a", "/../../pod1/cri-containerd-a.scope")),
            ),
        ] {
            let mut owners = Owners::default();
            owners.claim(&container("a"), init.as_deref().map(Cgroups::from).as_ref());
            owners.claim(&container("b"), None);
            let cgroups = Cgroups::from(file.as_str());
            let place = owners.owner_of(&cgroups);
            let found = place.map(|place| (place.container.listed.id.as_str(), place.cgroup));
            assert_eq!(found, expected.map(|(id, path)| (id, path.as_bytes())), "{source}");
        }
    }

    /// A workload names a cgroup of its own after another container.
    #[test]
    fn an_id_below_another_container_counts_only_where_the_runtime_put_it() {
        let (real, fake) = ("/kubepods/pod2/b", "/kubepods/pod1/a/b");
        for (what, lists_what_is_gone, init, seen, owner_of_fake) in [
            ("init is elsewhere", false, Some(real), &[real, fake][..], "a"),
            ("init is there: docker run --cgroup-parent", false, Some(fake), &[fake], "b"),
            ("a process is outside other containers", false, None, &[fake, real], "a"),
            ("no process is outside: one node inside another", false, None, &[fake], "b"),
            ("no process is outside, and the container may have ended", true, None, &[fake], "a"),
        ] {
            let mut owners = Owners::new(lists_what_is_gone);
            owners.claim(&container("a"), None);
            owners.claim(&container("b"), init.map(at).as_ref());
            let seen: Vec<_> = seen.iter().map(|path| at(path)).collect();
            owners.learn(seen.iter());
            assert_eq!(owner(&owners, fake), Some(owner_of_fake), "{what}");
            assert_eq!(owner(&owners, &format!("{fake}/x")), Some(owner_of_fake), "{what}");
            assert_eq!(owner(&owners, real), Some("b"), "{what}");
            let fake = at(fake);
            let expected = if owner_of_fake == "a" { "/kubepods/pod1/a" } else { "/kubepods/pod1/a/b" };
            assert_eq!(owners.owner_of(&fake).unwrap().cgroup, expected.as_bytes(), "{what}");
        }
    }

    #[test]
    fn an_id_that_was_seen_outside_stays_so_while_it_is_listed() {
        let mut owners = Owners::default();
        let claim = |owners: &mut Owners, ids: &[&str]| {
            owners.clear();
            ids.iter().for_each(|id| _ = owners.claim(&container(id), None));
            owners.forget_unlisted();
        };
        claim(&mut owners, &["a", "b"]);
        assert!(owners.learn([&at("/b"), &at("/a/b")].into_iter()), "attribution may change");
        assert!(!owners.learn([&at("/a/b")].into_iter()));
        claim(&mut owners, &["a", "b"]);
        assert_eq!(owner(&owners, "/a/b"), Some("a"));
        claim(&mut owners, &["a"]);
        claim(&mut owners, &["a", "b"]);
        assert_eq!(owner(&owners, "/a/b"), Some("b"));
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
            let mut owners = Owners::default();
            assert!(!owners.claim(&containers[0], Some(&path)));
            assert_eq!(owners.claim(&containers[1], Some(&path)), is_shared);
            assert_eq!(owner_by(&owners, &path), expected);
            owners.claim(&in_pod("c", "web-0"), Some(&path));
            assert_eq!(owner_by(&owners, &path), expected, "a third changes nothing");
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
            let mut owners = Owners::default();
            owners.claim(&container(id), first.map(at).as_ref());
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
        assert!(owners.learn([&at("/"), &at(beside), &at("/../../..")].into_iter()));
        assert!(!owners.learn([&at("/..")].into_iter()), "no news");
        owners.claim(&container("abc"), Some(&at("/")));
        owners.claim(&container("def"), Some(&at(beside)));
        owners.claim(&container("escaped"), Some(&at("/../../..")));
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
            assert_eq!(named_cgroup(b"abc", path.as_bytes()), expected.map(str::as_bytes), "{path:?}");
        }
        assert_eq!(named_cgroup(b"", b"/a"), None);
    }

    #[test]
    fn the_innermost_claim_wins_and_the_first_of_two_equal_ones() {
        let mut owners = Owners::default();
        owners.claim(&container("outer"), Some(&at("/docker/outer")));
        owners.claim(&container("inner"), Some(&at("/docker/outer/kubelet/inner")));
        owners.claim(&in_pod("below", "pod"), Some(&at("/docker/outer/x")));
        owners.claim(&in_pod("late", "pod"), Some(&at("/docker/outer/x")));
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
