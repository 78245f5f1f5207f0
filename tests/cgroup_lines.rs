//! Tests that a process can be attributed by any line of its cgroup file. The lines are taken from the
//! hierarchies that runtimes and distributions create.

use std::sync::Arc;

use smaps_container_exporter::node::containers::cgroup_index::CgroupIndex;
use smaps_container_exporter::node::containers::table::{Container, ContainerId};
use smaps_container_exporter::procfs::cgroup::Cgroups;
use smaps_container_exporter::sources;

fn container(number: u32, id: &str) -> Arc<Container> {
    let (namespace, pod) = (String::new(), String::new());
    let listed = sources::Container { id: id.into(), init_pid: None, namespace, pod, name: id.into() };
    Arc::new(Container::new(ContainerId(number), listed, true))
}

fn cgroups_of(file: &str) -> Cgroups {
    let mut cgroups = Cgroups::default();
    assert!(cgroups.parse(file.as_bytes()));
    cgroups
}

/// The runtime lists two containers, a and b. Each row has the /proc/PID/cgroup file of a process, the
/// container to which the process must be attributed, and the path of this container's cgroup in the file. In
/// some rows, the runtime also lists the init process of container a. Such a row also has the cgroup file of
/// the init process.
#[test]
fn every_line_of_a_cgroup_file_is_used() {
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
            "11:perf_event:/pod1.slice:cri-containerd:a\n\
             4:memory:/containerd.service/pod1.slice:cri-containerd:a\n"
                .into(),
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
        let mut index = CgroupIndex::default();
        index.insert(&container(0, "a"), None, init.as_deref().map(cgroups_of).as_ref());
        index.insert(&container(1, "b"), None, None);
        let cgroups = cgroups_of(&file);
        let place = index.container_of(&cgroups);
        let found = place.map(|place| (place.container.listed.id.as_str(), place.cgroup));
        assert_eq!(found, expected.map(|(id, path)| (id, path.as_bytes())), "{source}");
    }
}
