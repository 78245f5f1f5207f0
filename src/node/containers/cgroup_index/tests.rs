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

/// Returns the cgroups of a process that is in the version 2 cgroup at `path`.
fn at(path: &str) -> Cgroups {
    Cgroups::from(format!("0::{path}\n").as_str())
}

fn id_of_cgroups<'a>(index: &'a CgroupIndex, cgroups: &Cgroups) -> Option<&'a str> {
    index.container_of(cgroups).map(|place| place.container.listed.id.as_str())
}

fn id_at<'a>(index: &'a CgroupIndex, path: &str) -> Option<&'a str> {
    let id = index.container_at(path.as_bytes()).map(|place| place.container.listed.id.as_str());
    if path.starts_with('/') {
        assert_eq!(id_of_cgroups(index, &at(path)), id, "{path:?}");
    }
    id
}

/// A cgroup inside the cgroup of container "a" is named after container "b".
#[test]
fn id_below_another_container_counts_only_where_the_runtime_placed_it() {
    let (real, fake) = ("/kubepods/pod2/b", "/kubepods/pod1/a/b");
    for (what, includes_ended, init, seen, container_of_fake) in [
        ("init is elsewhere", false, Some(real), &[real, fake][..], "a"),
        ("init is there: docker run --cgroup-parent", false, Some(fake), &[fake], "b"),
        ("a process is outside other containers", false, None, &[fake, real], "a"),
        ("no process is outside: one node inside another", false, None, &[fake], "b"),
        ("no process is outside, and the container may have ended", true, None, &[fake], "a"),
    ] {
        let mut index = CgroupIndex::new(includes_ended);
        index.insert(&container("a"), None, None);
        index.insert(&container("b"), None, init.map(at).as_ref());
        let seen: Vec<_> = seen.iter().map(|path| at(path)).collect();
        index.observe(seen.iter());
        assert_eq!(id_at(&index, fake), Some(container_of_fake), "{what}");
        assert_eq!(id_at(&index, &format!("{fake}/x")), Some(container_of_fake), "{what}");
        assert_eq!(id_at(&index, real), Some("b"), "{what}");
        let fake = at(fake);
        let expected = if container_of_fake == "a" { "/kubepods/pod1/a" } else { "/kubepods/pod1/a/b" };
        assert_eq!(index.container_of(&fake).unwrap().cgroup, expected.as_bytes(), "{what}");
    }
}

#[test]
fn placed_id_is_remembered_while_it_is_listed() {
    let mut index = CgroupIndex::default();
    let claim = |index: &mut CgroupIndex, ids: &[&str]| {
        index.clear();
        ids.iter().for_each(|id| _ = index.insert(&container(id), None, None));
        index.forget_unlisted();
    };
    claim(&mut index, &["a", "b"]);
    assert!(index.observe([&at("/b"), &at("/a/b")].into_iter()), "attribution may change");
    assert!(!index.observe([&at("/a/b")].into_iter()));
    claim(&mut index, &["a", "b"]);
    assert_eq!(id_at(&index, "/a/b"), Some("a"));
    claim(&mut index, &["a"]);
    claim(&mut index, &["a", "b"]);
    assert_eq!(id_at(&index, "/a/b"), Some("b"));
}

/// Containers of different pods may share a cgroup, such as the runtime's own.
#[test]
fn cgroup_of_different_pods_belongs_to_no_container() {
    let path = at("/system.slice/containerd.service");
    let [a, b] = [in_pod("a", "web-0"), in_pod("b", "web-0")];
    let (pod, other) = (in_pod("", "web-0"), in_pod("c", "web-1"));
    for (pod, expected, is_shared) in [(None, None, true), (Some(&pod), Some(""), false)] {
        let mut index = CgroupIndex::default();
        assert!(!index.insert(&a, pod, Some(&path)));
        assert_eq!(index.insert(&b, pod, Some(&path)), is_shared);
        assert_eq!(id_of_cgroups(&index, &path), expected);
        assert_eq!(id_at(&index, "/x/a"), Some(if pod.is_some() { "" } else { "a" }), "by its id");
        assert!(index.insert(&other, None, Some(&path)));
        assert_eq!(id_of_cgroups(&index, &path), None);
    }
}

#[test]
fn container_has_every_cgroup_from_its_id_down() {
    // The cases cover both cgroup drivers, cgroup versions 1 and 2, a node that is itself a container (as
    // with kind), and paths that begin with `/..`, as a process in a cgroup namespace sees them.
    assert_containers(&[
        (
            "abc",
            Some("/kubepods/burstable/pod1/abc"),
            &["/kubepods/burstable/pod1/abc", "/kubepods/burstable/pod1/abc/", "/kubepods/pod1/abc/app/x"],
            &["/kubepods/burstable/pod1", "/kubepods/burstable/pod1/abcd", "/kubepods/xabc", "/"],
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
        ("abc", None, &["/system.slice/docker-abc.scope"], &["/x/abc.scope", "/a/abc:x"]),
        ("abc", None, &["/a/pod.slice:crio:abc/x"], &["/a/x:cri-containerd-abc", "/a/crio-conmon-abc"]),
        ("abc", None, &["/x/abc", "/a/crio-abc.scope"], &["/a/crio-abc-1", "/a/xcrio-abc"]),
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
    ]);
}

#[test]
fn first_cgroup_of_init_decides_without_an_id_in_the_path() {
    assert_containers(&[
        ("abc", Some("/machine/x"), &["/machine/x", "/machine/x/y"], &["/machine", "/machine/xy"]),
        // The root belongs to no container.
        ("abc", Some("/"), &["/abc/x"], &["/", "/x", "/init.scope", "/.."]),
        ("abc", Some("/../.."), &["/../../abc"], &["/../..", "/..", "/../../x"]),
        ("", Some("/x"), &["/x"], &["/", "//", ""]),
    ]);
}

/// A container id, the first cgroup of the init process, paths in the container, and paths outside it.
type Expected<'a> = (&'a str, Option<&'a str>, &'a [&'a str], &'a [&'a str]);

fn assert_containers(cases: &[Expected<'_>]) {
    for &(id, first, own, others) in cases {
        let mut index = CgroupIndex::default();
        index.insert(&container(id), None, first.map(at).as_ref());
        let expected = own.iter().map(|path| (path, Some(id))).chain(others.iter().map(|path| (path, None)));
        for (path, expected) in expected {
            assert_eq!(id_at(&index, path), expected, "{path:?} with init in {first:?}");
        }
    }
}

/// In a cgroup namespace, the exporter's own cgroup is `/`. Paths of cgroups outside it begin with `/..`.
#[test]
fn root_is_the_exporters_container_inside_a_cgroup_namespace() {
    let mut index = CgroupIndex::default();
    let beside = "/../../pod2/cri-containerd-def.scope";
    assert!(index.observe([&at("/"), &at(beside), &at("/../../..")].into_iter()));
    assert!(!index.observe([&at("/..")].into_iter()), "no news");
    index.insert(&container("abc"), None, Some(&at("/")));
    index.insert(&container("def"), None, Some(&at(beside)));
    index.insert(&container("escaped"), None, Some(&at("/../../..")));
    for (path, expected) in [
        ("/", Some("abc")),
        ("/below/x", Some("abc")),
        (beside, Some("def")),
        ("/..", None),
        ("/../x", None),
        ("/../../../system.slice", None),
    ] {
        assert_eq!(id_at(&index, path), expected, "{path:?}");
    }
}

#[test]
fn innermost_container_has_the_process() {
    let mut index = CgroupIndex::default();
    index.insert(&container("outer"), None, Some(&at("/docker/outer")));
    index.insert(&container("inner"), None, Some(&at("/docker/outer/kubelet/inner")));
    index.insert(&in_pod("below", "pod"), None, Some(&at("/docker/outer/x")));
    for (path, expected) in [
        ("/docker/outer", Some("outer")),
        ("/docker/outer/kubelet", Some("outer")),
        ("/docker/outer/kubelet/inner/init", Some("inner")),
        ("/docker/outer/x/y", Some("below")),
        ("/docker", None),
    ] {
        assert_eq!(id_at(&index, path), expected, "{path:?}");
    }
    index.clear();
    assert_eq!(id_at(&index, "/docker/outer"), None);
}
