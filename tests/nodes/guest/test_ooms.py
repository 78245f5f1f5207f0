"""Tests that the exporter counts OOM kills for the same cgroups as the kernel.

Also tests that OOM records name the limit that was hit.
"""

import os
import subprocess
from pathlib import Path

import pytest

from cgroups import IS_V2, MIB
from lab import mounts, until
from node import IS_SHORT, PROGRAMS
from ooms import FOREVER, Instance, kills, limit_cgroup, pods_of, records, wait_for, wait_until_listed
from sandbox import KERNEL

pytestmark = pytest.mark.skipif(not IS_V2, reason="version 1 reports no events")
# The number of seconds from the end of a container to its removal.
AT_ONCE, LIKE_A_RUNTIME = 0, 0.02
# How many times five containers are killed and removed at the same time.
N_TIMES = 4 if IS_SHORT else 20
SLEEP = f"exec sleep {FOREVER}"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes pods, and an exporter that selects only containers with names that begin with `s-`."""
    with pods_of(tmp_path_factory.mktemp("ooms") / "links", PROGRAMS) as pods, pods.exporter() as exporter:
        yield pods, exporter


def record_of(exporter, pod: str, container: str) -> dict:
    found = [
        record for record in records(exporter) if (record["pod"], record["container"]) == (pod, container)
    ]
    return found[0]


def nest(instance: Instance):
    """Makes a cgroup `work` in a container, and a second cgroup for the first process of the container."""
    [init] = instance.processes
    (instance.directory / "init").mkdir()
    (instance.directory / "init/cgroup.procs").write_text(f"{init.pid}\n")
    (instance.directory / "cgroup.subtree_control").write_text("+memory\n")
    (instance.directory / "work").mkdir()


@pytest.mark.parametrize("delay", [LIKE_A_RUNTIME, AT_ONCE])
def test_a_kill_is_not_counted_for_another_container(made, delay):
    """There are three pods with two containers each.

    In the first pod, the kernel kills both containers. In the second pod, the kernel kills one container, and
    the other container ends by itself. The third pod is like the second pod, but the exporter's filters do
    not select the killed container.
    """
    pods, exporter = made
    names = [f"{name}-{delay}" for name in ("both", "one", "other")]
    both, one, other = (pods.pod(name) for name in names)
    leaks = pods.leak(16)
    started = [
        (pods.start(both, "s-a", leaks, 8 * MIB), pods.start(both, "s-b", leaks, 8 * MIB)),
        (pods.start(one, "s-a", leaks, 8 * MIB), pods.start(one, "s-b", "read line", 8 * MIB)),
        (pods.start(other, "u-a", leaks, 8 * MIB), pods.start(other, "s-b", "read line", 8 * MIB)),
    ]
    listed = [f"{names[0]}/s-a", f"{names[0]}/s-b", f"{names[1]}/s-a", f"{names[1]}/s-b", f"{names[2]}/s-b"]
    wait_until_listed(exporter, *listed, *(f"{name}/" for name in names))
    for instances in started:
        for instance in instances:
            instance.signal()
        for instance in instances:
            instance.processes[0].wait(60)
        for instance in instances:
            instance.remove(delay)
    if delay == LIKE_A_RUNTIME:
        wait_for(exporter, dict(zip(listed, [1, 1, 1, 0, 0])) | {f"{name}/": 0 for name in names})
        assert record_of(exporter, names[0], "s-a")["limit"] == "container"
        return

    # Returns the number of kills in these containers of the pod. The name "" stands for the pod itself. If a
    # container is removed before the exporter has read its counter, the kill is counted for the pod.
    def n_kills(pod: str, *containers: str) -> int:
        counts = kills(exporter)
        return sum(counts.get(f"{pod}/{container}", 0) for container in containers)

    until(lambda: n_kills(names[0], "", "s-a", "s-b") == 2, 60, "two kills")
    until(lambda: n_kills(names[1], "", "s-a") == 1, 60, "one kill")
    exporter.after()
    counts = kills(exporter)
    assert counts.get(f"{names[1]}/s-b", 0) == counts.get(f"{names[2]}/s-b", 0) == 0
    for record in records(exporter):
        if record["pod"] in names and not record["container"]:
            assert record["has_unselected"] == (record["pod"] == names[2]), record
            assert set(record["candidates"]) <= {"s-a", "s-b"}, record


def test_containers_killed_between_two_checks_are_counted(made):
    """A container is started and killed five times.

    If the exporter does not check the container in time, the kill is counted for the pod.
    """
    pods, exporter = made
    loop = pods.pod("loop")
    pods.start(loop, "s-sidecar", SLEEP)
    wait_until_listed(exporter, "loop/s-sidecar", "loop/")
    for _ in range(5):
        instance = pods.start(loop, "s-app", pods.leak(16), 8 * MIB)
        instance.go()
        instance.remove(LIKE_A_RUNTIME)

    def n_kills():
        counts = kills(exporter)
        return counts.get("loop/", 0) + counts.get("loop/s-app", 0)

    until(lambda: n_kills() == 5, 60, "five kills are counted")
    exporter.after()
    assert n_kills() == 5 and kills(exporter)["loop/s-sidecar"] == 0


def test_kills_in_containers_removed_at_once_are_counted(made):
    """A hundred containers are killed. With NODES_SHORT, only twenty are killed."""
    pods, exporter = made
    many = pods.pod("many")
    pods.start(many, "s-sidecar", SLEEP)
    wait_until_listed(exporter, "many/s-sidecar", "many/")
    for _ in range(N_TIMES):
        instances = [pods.start(many, "s-app", pods.leak(8), 4 * MIB, is_listed=False) for _ in range(5)]
        for instance in instances:
            instance.go()
            instance.remove(AT_ONCE)
    wait_for(exporter, {"many/s-sidecar": 0, "many/": 5 * N_TIMES})
    assert sum(record["kills"] for record in records(exporter) if record["pod"] == "many") <= 5 * N_TIMES
    lines = [line for line in exporter.unusual_log_lines() if 'pod="many"' in line]
    start = 'OOM kill: namespace="ooms" pod="many" container="" '
    assert lines and all(line.partition("] ")[2].startswith(start) for line in lines)


def test_a_kill_in_a_container_without_a_pod_is_counted(made):
    """The cgroup of a Docker container, for example, is not inside the cgroup of a pod."""
    pods, exporter = made
    pod = pods.parent.name  # the link needs the name of a pod, but the cgroup is not a pod's
    app = pods.start(pods.parent, "s-app", f"read line; exec {PROGRAMS}/leak heap 12 200 30", 20 * MIB)
    wait_until_listed(exporter, f"{pod}/s-app")
    app.go()
    app.remove(LIKE_A_RUNTIME)
    wait_for(exporter, {f"{pod}/s-app": 1})
    assert record_of(exporter, pod, "s-app")["limit"] == "container"


def test_the_limit_that_was_hit_is_named(made):
    """The OOM record names the limit at which the kernel killed a process.

    The first kill happens at the limit of a pod, in which an ended container has left shared memory.
    The second kill happens at the limit of the cgroup that contains all pods.
    """
    pods, exporter = made
    full = pods.pod("full", 24 * MIB)
    shared = Path(f"/dev/shm/smaps-{os.getpid()}")
    try:
        ended = pods.start(
            full, "s-first", f"dd if=/dev/zero of={shared} bs=1M count=16 2> /dev/null", 24 * MIB
        )
        ended.go()
        ended.remove()
        app = pods.start(full, "s-app", pods.leak(20), 24 * MIB)
        above = pods.pod("above")
        other = pods.start(above, "s-app", pods.leak(20))
        wait_until_listed(exporter, "full/s-app", "above/s-app")
        app.go()
        app.remove(LIKE_A_RUNTIME)
        wait_for(exporter, {"full/s-app": 1, "full/": 0})
        assert record_of(exporter, "full", "s-app")["limit"] == "pod"
    finally:
        shared.unlink(missing_ok=True)
    limit_cgroup(pods.parent, int((pods.parent / "memory.current").read_text()) + 8 * MIB)
    try:
        other.go()
    finally:
        (pods.parent / "memory.max").write_text("max\n")
    other.remove(LIKE_A_RUNTIME)
    wait_for(exporter, {"above/s-app": 1, "above/": 0})
    assert record_of(exporter, "above", "s-app")["limit"] == "kubepods"


def test_nested_cgroups_group_kills_and_a_full_node_are_counted(made):
    """The exporter counts the same kills as the kernel."""
    pods, exporter = made
    pod = pods.pod("kinds")
    nested, group, node = (pods.start(pod, f"s-{name}", SLEEP) for name in ("nested", "group", "node"))
    for instance in (nested, group, node):
        nest(instance)
    wait_until_listed(exporter, "kinds/s-nested", "kinds/s-group", "kinds/s-node")
    limit_cgroup(nested.directory / "work", 8 * MIB)
    limit_cgroup(group.directory, 12 * MIB)
    (group.directory / "work/memory.oom.group").write_text("1\n")
    for instance, n_processes in ((nested, 1), (group, 3)):
        script = pods.leak(16 // n_processes)
        for process in [instance.run(script, instance.directory / "work") for _ in range(n_processes)]:
            process.stdin.write(b"\n")
            process.stdin.flush()
    adjusted = f"echo 1000 > /proc/self/oom_score_adj; {pods.leak(8)}"
    victim = node.run(adjusted, node.directory / "work")
    victim.stdin.write(b"\n")
    victim.stdin.flush()
    until(lambda: b"leak" in Path(f"/proc/{victim.pid}/comm").read_bytes(), 60, "the victim runs")
    for process in [*nested.processes[1:], *group.processes[1:]]:
        assert process.wait(60) == -9
    # the kernel now kills a process as if the node had no memory left
    Path("/proc/sysrq-trigger").write_text("f")
    assert victim.wait(60) == -9
    counted = dict(line.split() for line in (group.directory / "memory.events").read_text().splitlines())
    wait_for(
        exporter,
        {"kinds/s-nested": 1, "kinds/s-group": int(counted["oom_kill"]), "kinds/s-node": 1, "kinds/": 0},
    )
    limits = [record_of(exporter, "kinds", f"s-{name}")["limit"] for name in ("nested", "group", "node")]
    assert limits == ["container", "container", "node"]
    # only Linux 5.17 and newer count kills of groups
    assert counted.get("oom_group_kill") == ("1" if KERNEL >= (5, 17) else None)


def test_kills_at_an_outer_limit_are_counted_for_the_victims_containers(made):
    """Each kill is counted for the container of the killed process.

    The first pod reaches its limit, and the kernel kills all processes in the pod. In the second pod, a
    container reaches its limit, because of a process in a cgroup inside the container's cgroup.
    """
    pods, exporter = made
    pod = pods.pod("group", 24 * MIB)
    (pod / "memory.oom.group").write_text("1\n")
    idle, leaking = pods.start(pod, "s-idle", SLEEP), pods.start(pod, "s-leak", pods.leak(32))
    nested = pods.start(pods.pod("below"), "s-app", SLEEP, 12 * MIB)
    nest(nested)
    wait_until_listed(exporter, "group/s-idle", "group/s-leak", "group/", "below/s-app", "below/")
    leaking.signal()
    victim = nested.run(pods.leak(32), nested.directory / "work")
    victim.communicate(b"\n")
    assert [process.wait(60) for process in (victim, *idle.processes, *leaking.processes)] == [-9] * 3
    expected = {
        "group/s-idle": 1,
        "group/s-leak": leaking.n_kills(),
        "group/": 0,
        "below/s-app": 1,
        "below/": 0,
    }
    wait_for(exporter, expected)
    limits = [record_of(exporter, *name.split("/"))["limit"] for name, count in expected.items() if count]
    assert limits == ["pod", "pod", "container"]


def test_local_events_are_counted_for_containers(made):
    """With the mount option `memory_localevents`, a pod's counter lacks the kills in its containers."""
    pods, exporter = made
    pod = pods.pod("local")
    app, other = pods.start(pod, "s-app", pods.leak(16), 8 * MIB), pods.start(pod, "s-other", "read line")
    wait_until_listed(exporter, "local/s-app", "local/s-other", "local/")
    [options] = [options for _, root, _, options, *_ in mounts() if root == "/sys/fs/cgroup"]
    subprocess.run(["mount", "-o", f"remount,{options},memory_localevents", "/sys/fs/cgroup"], check=True)
    try:
        app.go()
        other.go()
        wait_for(exporter, {"local/s-app": 1, "local/s-other": 0, "local/": 0})
        assert record_of(exporter, "local", "s-app")["limit"] == "container"
    finally:
        subprocess.run(["mount", "-o", f"remount,{options}", "/sys/fs/cgroup"], check=True)
