//! Checks which container each process is attributed to, and from which cgroup the memory values of each
//! container come. On most nodes, the cgroups of containers have version 2 and are below `kubepods.slice`.
//! The recordings here are of nodes with other cgroups. The expected values were worked out by hand.

use std::fmt::Write as _;

use crate::support::{Directory, describe, exporter, fixture, once, stdout_of};

const KIB: u64 = 1024;
const HYBRID: &[&str] = &[
    "db-0/redis redis 200000",
    "db-0/redis sh 9",
    "db-0/redis uses 210000000 of 536870912",
    "web-0/nginx nginx 1000",
    "web-0/nginx sh 7",
    "web-0/nginx uses 2000000 of 268435456",
];
const MEMORY_OFF: &[&str] =
    &["db-0/redis has 2 pids", "db-0/redis redis 2000", "web-0/nginx has 1 pids", "web-0/nginx nginx 1000"];
const ECS_EXEC: &[&str] = &[
    "db-0/redis redis 20",
    "db-0/redis sub 5",
    "db-0/redis uses 2000000 of 20000000",
    "web-0/nginx nginx 10",
    "web-0/nginx uses 1000000 of 10000000",
];
const KIND: &[&str] = &[
    "agent-0/agent agent 40",
    "agent-0/agent uses 50000 of none",
    "db-0/redis redis 2000",
    "db-0/redis uses 3000000 of none",
    "web-0/nginx nginx 1000",
    "web-0/nginx uses 2000000 of 4000000",
];
const NESTED: &[&str] = &[
    "db-0/redis redis 2000",
    "db-0/redis uses 3000000 of 4000000",
    "web-0/nginx attacker 300000",
    "web-0/nginx nginx 1000",
    "web-0/nginx uses 400000000 of 536870912",
];
const DOCKER_IN_DOCKER: &[&str] = &[
    "/nginx nginx 1000",
    "/nginx uses 9000000 of none",
    "/redis redis 2000",
    "/redis sh 7",
    "/redis uses 3000000 of 4000000",
];

/// The names of recordings in `fixtures/attribution`, with the expected RSS of each command in KiB and the
/// expected use and limit of each container's cgroup. In recordings with names that end with `-by-id`, the
/// runtime lists no pids.
const RECORDINGS: &[(&str, &[&str])] = &[
    // The node has cgroups of both versions. Only the paths of version 1 contain the ids of containers. In
    // version 2, containers are in the cgroup of containerd's service, but shells of kubectl exec are not.
    ("hybrid-by-pid", HYBRID),
    ("hybrid-by-id", HYBRID),
    // The kubelet uses the systemd driver, but containerd does not. So a name like
    // `<slice>:cri-containerd:<id>`, which is meant for systemd, becomes the name of a cgroup below
    // containerd.service.
    (
        "colon",
        &[
            "db-0/redis redis 2000",
            "db-0/redis uses 3000000 of 800000000",
            "web-0/nginx nginx 1000",
            "web-0/nginx uses 2000000 of 4000000",
        ],
    ),
    // The names of the containers' cgroups are like `<slice>:cri-containerd:<id>`, and the cgroups have
    // version 1. In the hierarchies that systemd does not use, these cgroups are directly below the root.
    (
        "colon-version-1",
        &[
            "db-0/redis redis 2000",
            "db-0/redis uses 3000000 of none",
            "web-0/nginx nginx 1000",
            "web-0/nginx uses 2000000 of 4000000",
        ],
    ),
    // In the cgroup file of every container, the path of version 2 (the 0:: line) is `/docker`.
    (
        "openrc",
        &[
            "/nginx nginx 1000",
            "/nginx uses 2000000 of 4000000",
            "/redis redis 2000",
            "/redis uses 3000000 of none",
        ],
    ),
    // The kernel was started with cgroup_disable=memory, so only the cgroup paths of other controllers
    // contain the ids of containers.
    ("memory-off-by-pid", MEMORY_OFF),
    ("memory-off-by-id", MEMORY_OFF),
    // The paths of the memory cgroups contain no container ids. Two containers, redis and sidecar, are in one
    // memory cgroup, so the memory use of this cgroup is exported for neither of them.
    (
        "ecs",
        &[
            "/nginx has 1 pids",
            "/nginx nginx 1000",
            "/nginx uses 2000000 of 4000000",
            "/redis has 2 pids",
            "/redis redis 2000",
            "/sidecar sidecar 4000",
        ],
    ),
    // One process of the redis container is in a memory cgroup below the container's memory cgroup. The
    // exporter comes to this process first, because it has the lowest pid. The exported memory use must still
    // be that of the container's cgroup.
    ("ecs-exec-by-pid", ECS_EXEC),
    ("ecs-exec-by-id", ECS_EXEC),
    // A workload gives one of its own cgroups the id of another container.
    ("nested-by-pid", NESTED),
    ("nested-by-id", NESTED),
    ("nested-version-1", NESTED),
    // The runtime has created the cgroup of one container below the cgroup of another.
    ("docker-in-docker-by-pid", DOCKER_IN_DOCKER),
    ("docker-in-docker-by-id", DOCKER_IN_DOCKER),
    // The Kubernetes node is itself a container, made by kind (Kubernetes in Docker). The exporter runs in a
    // cgroup namespace inside this node.
    ("kind", KIND),
    // The containers of two pods, and containerd itself, are in one cgroup. The path of this cgroup contains
    // no container id. So it is unknown which container a process is in, and no process is exported.
    ("shared", &[]),
];

/// Recordings in which the runtime lists a wrong init pid for a container. The cgroup of the process with
/// this pid does not have the container's id, but cgroups of other processes do.
const FOREIGN_INITS: &[(&str, &[&str])] = &[
    // The Kubernetes node is itself a container, made by kind (Kubernetes in Docker). Its runtime lists pids
    // of the pid namespace inside this node. The exporter runs outside, on the host. There, pid 101 is sshd,
    // pid 102 is the node's kubelet, and pid 103 does not exist.
    ("kind-from-outside", KIND),
    // The init process has ended, and sshd now has its pid.
    (
        "stale-init",
        &[
            "db-0/redis redis 2000",
            "db-0/redis uses 3000000 of 4000000",
            "web-0/nginx nginx 1000",
            "web-0/nginx uses 2000000 of 4000000",
        ],
    ),
];

/// Recordings of pods that run in sandboxes. With gVisor, the runtime lists all containers of a pod with the
/// pid of one process, which is in the pod's cgroup. With Kata, the processes are in a cgroup of the sandbox.
/// Memory that several containers of a pod share is attributed to the pod.
const SANDBOXES: &[(&str, &[&str])] = &[
    (
        "gvisor",
        &[
            "db-0/redis redis 2000",
            "db-0/redis uses 3000000 of 4000000",
            "web-0/ exe 50000",
            "web-0/ runsc-gofer 300",
            "web-0/ uses 60000000 of 80000000",
        ],
    ),
    (
        "kata",
        &[
            "db-0/redis qemu 90000",
            "db-0/redis uses 100000000 of none",
            "web-0/ qemu 50000",
            "web-0/ uses 60000000 of 80000000",
            "web-0/ virtiofsd 300",
        ],
    ),
    // The runtime lists two containers of one pod with the same pid. The memory of this process counts for
    // the pod and for no container, although the process's cgroup has the id of the first container.
    ("shared-pid", &["web-0/ exe 50000", "web-0/ uses 60000000 of 80000000"]),
];

/// Returns the processes and the cgroup values in an exposition, written like the expected values in
/// [`RECORDINGS`].
fn shown(exposition: &str) -> Vec<String> {
    let label = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!(",{name}=\"")).unwrap_or_default();
        rest.split('"').next().unwrap_or_default().to_owned()
    };
    let samples = |metric: &str| -> Vec<(String, String, String)> {
        let prefix = format!("{metric}{{");
        let lines = exposition.lines().filter(|line| line.starts_with(&prefix));
        let sample = |line: &str| {
            let container = format!("{}/{}", label(line, "pod"), label(line, "container"));
            let (_, value) = line.rsplit_once(' ').unwrap();
            (container, label(line, "comm"), value.to_owned())
        };
        lines.map(sample).collect()
    };
    let limits = samples("cgroup_memory_limit_bytes");
    let limit_of = |container: &str| {
        let limit = limits.iter().find(|(other, ..)| other == container);
        limit.map_or("none".to_owned(), |(.., limit)| limit.clone())
    };
    let rss = samples("process_smaps_rss_bytes").into_iter().map(|(container, comm, bytes)| {
        format!("{container} {comm} {}", bytes.parse::<u64>().unwrap() / KIB)
    });
    let use_ = samples("cgroup_memory_current_bytes")
        .into_iter()
        .map(|(container, _, bytes)| format!("{container} uses {bytes} of {}", limit_of(&container)));
    let pids = samples("cgroup_pids_current")
        .into_iter()
        .map(|(container, _, n_pids)| format!("{container} has {n_pids} pids"));
    let mut shown: Vec<String> = rss.chain(use_).chain(pids).collect();
    shown.sort();
    shown
}

#[test]
fn processes_and_accounts_are_attributed_to_the_right_container() {
    assert_shown(RECORDINGS);
    let recordings = std::fs::read_dir(fixture("attribution")).unwrap();
    assert_eq!(
        recordings.count(),
        RECORDINGS.len() + FOREIGN_INITS.len() + SANDBOXES.len(),
        "every recording is checked"
    );
}

#[test]
fn memory_shared_by_containers_of_a_pod_counts_for_the_pod() {
    assert_shown(SANDBOXES);
    let of_container = once_filtered("gvisor", "shop/web-0/nginx/*");
    assert_eq!(shown(&of_container), [""; 0], "a filter for one of the containers does not match the pod");
    assert_eq!(shown(&once_filtered("gvisor", "shop/web-0//*")).len(), 3);
}

fn once_filtered(name: &str, filter: &str) -> String {
    let recording = fixture(&format!("attribution/{name}"));
    let args = ["--once", "--filter", filter, "--fixture", recording.to_str().unwrap()];
    String::from_utf8(stdout_of(&args)).unwrap()
}

#[test]
fn init_pid_of_another_process_is_ignored() {
    assert_shown(FOREIGN_INITS);
}

#[track_caller]
fn assert_shown(recordings: &[(&str, &[&str])]) {
    for (name, expected) in recordings {
        let recording = fixture(&format!("attribution/{name}"));
        let text = once(&recording, &["--cgroup-metrics", "memory,pids"]);
        assert_eq!(shown(&text), *expected, "{name}");
    }
}

#[test]
fn cgroup_shared_by_different_pods_is_logged_once() {
    let recording = fixture("attribution/shared");
    let mut command = exporter(&["--once", "--filter", "*/*/*/*", "--fixture", recording.to_str().unwrap()]);
    let output = command.output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    let n_lines =
        log.lines().filter(|line| line.contains(r#"have the cgroup "/system.slice/containerd.service""#));
    assert_eq!(n_lines.count(), 1, "{}", describe(&command, &output));
}

/// Returns a container id of 64 characters that begins with these digits.
fn id(digits: &str, rest: char) -> String {
    digits.to_owned() + &rest.to_string().repeat(64 - digits.len())
}

/// Returns the name of the kubelet's link to a container's log. The name has 255 bytes, the maximum for file
/// names, so only the first `n_digits` digits of the container's id fit.
fn cut_link(container: &str, id: &str, n_digits: usize) -> String {
    let names = format!("_shop_{container}-");
    let pod = "p".repeat(255 - names.len() - n_digits - ".log".len());
    format!("{pod}{names}{}.log", &id[..n_digits])
}

#[test]
fn cut_link_names_are_matched_by_their_remaining_digits() {
    let node = Directory::new();
    let ids: Vec<String> =
        ["aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"].map(|digits| id(digits, '0')).into();
    // `twin` is the id of a further container. It begins with the same 12 digits as the last id in `ids`. The
    // link with the container name `twin` has only these digits, so it is assigned to neither container.
    let twin = id("cccccccccccc", '1');
    // The link `cut` has the first 12 digits of the second container's id, and must be assigned to the second
    // container. The cgroup `fake` has a name with the same 12 digits. It is not a container, because it lies
    // inside the cgroup of the first container.
    let fake = format!("/pod1/{}/{}", ids[0], id("bbbbbbbbbbbb", '9'));
    let paths = [
        format!("/pod1/{}", ids[0]),
        format!("/pod2.slice/cri-containerd-{}.scope", ids[1]),
        fake,
        format!("/pod3/{}", ids[2]),
        format!("/pod4/{twin}"),
    ];
    for (i, path) in paths.iter().enumerate() {
        let smaps = format!("1000-2000 rw-p 00000000 00:00 0\nRss: {} kB\n", i + 1);
        node.process(10 + i as u32, "sh", smaps);
        node.write(&format!("proc/{}/cgroup", 10 + i), format!("0::{path}\n"));
    }
    let links = [
        format!("web-0_shop_whole-{}.log", ids[0]),
        cut_link("cut", &ids[1], 12),
        cut_link("twin", &ids[2], 12),
        cut_link("short", &ids[1], 11),
        "README".to_owned(),
    ];
    for link in &links {
        node.write(&format!("links/{link}"), "");
    }
    let path = |name: &str| node.path().join(name).to_str().unwrap().to_owned();
    let args = ["--once", "--filter", "*/*/*/*", "--fields", "rss", "--cgroup-metrics", "none"];
    let mut command = exporter(&args);
    command.args(["--container-logs", &path("links"), "--proc-path", &path("proc")]);
    let output = command.output().unwrap();
    let what = describe(&command, &output);
    let text = String::from_utf8_lossy(&output.stdout);
    let mut found = String::new();
    for line in text.lines().filter(|line| line.starts_with("process_smaps_rss_bytes{")) {
        let container = line.split("container=\"").nth(1).unwrap().split('"').next().unwrap();
        let (_, bytes) = line.rsplit_once(' ').unwrap();
        write!(found, "{container} {}; ", bytes.parse::<u64>().unwrap() / KIB).unwrap();
    }
    // Series are sorted by their label texts.
    assert_eq!(found, "cut 2; whole 4; ", "{what}");
    let log = String::from_utf8_lossy(&output.stderr);
    for expected in ["2 names in", "1 containers are not exported: the kubelet cut the names of their links"]
    {
        assert_eq!(log.lines().filter(|line| line.contains(expected)).count(), 1, "{expected}: {what}");
    }
}
