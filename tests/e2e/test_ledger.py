"""Tests memory outside containers: what an ended container left in its pod, and the parts of the node."""

import re
import shutil
import tempfile
from pathlib import Path

import pytest

from cgroups import IS_V2, MIB, pod
from conftest import FOREVER
from exporter import EVERYTHING, Exporter, once
from exposition import Exposition
from lab import Container, cri, until
from ooms import LIMIT, leak, pids_of, records

# The maximum fraction of MemTotal that no counter of the kernel explains.
MAX_REMAINDER = 0.006


def parts_of_node(exposition: Exposition) -> dict[str, float]:
    return {part: value for (part,), value in exposition.by("cgroup_node_memory_bytes", "part").items()}


@pytest.fixture
def mounts(programs):
    """Mounts for a container: the leaking program at /programs, and a tmpfs at /cache.

    The tmpfs stays after the container has ended.
    """
    cache = tempfile.mkdtemp(prefix="smaps-lab-", dir="/dev/shm")
    program = cri.Mount(host_path=str(programs), container_path="/programs", readonly=True)
    yield [program, cri.Mount(host_path=cache, container_path="/cache")]
    shutil.rmtree(cache)


def test_what_an_ended_container_left_fills_its_pod(node, mounts):
    """A container has ended, but 90 MiB of its tmpfs remain in the pod, whose limit is 100 MiB.

    Then another container of the pod leaks.
    """
    fills = Container("fills", ["dd", "if=/dev/zero", "of=/cache/x", "bs=1M", "count=90"], mounts=mounts)
    with pod(node, "full-0", Container("idle", ["sleep", FOREVER]), fills) as made:
        node.limit_pod(made, LIMIT)
        file = Path(mounts[1].host_path) / "x"
        is_written = lambda: file.exists() and file.stat().st_size == 90 * MIB and not pids_of(node, fills)
        until(is_written, 20, "the file is written")
        with Exporter("--containerd-sock", node.socket, *EVERYTHING) as exporter:
            exposition = exporter.after()
            current = exposition.by("cgroup_pod_memory_current_bytes", "pod")["full-0",]
            limit = exposition.by("cgroup_pod_memory_limit_bytes", "pod")["full-0",]
            outside = exposition.by("cgroup_pod_memory_outside_containers_bytes", "pod", "part")
            outside = {part: value for (name, part), value in outside.items() if name == "full-0"}
            of_containers = exposition.by("cgroup_memory_current_bytes", "pod")["full-0",]
            assert limit == LIMIT and 90 * MIB <= current <= LIMIT and of_containers <= 5 * MIB
            assert 89 * MIB <= outside["shmem"] <= 91 * MIB, outside
            assert sum(outside.values()) == current - of_containers
            infos = exposition.by("smaps_exporter_pod_info", "pod", "uid")
            [uid] = [uid for name, uid in infos if name == "full-0"]
            cgroup = made.config.linux.cgroup_parent.replace("_", "-").removesuffix(".slice")
            assert cgroup.endswith(f"pod{uid}")
            node.start_container(made, leak(mounts, 1, 5))
            [record] = until(lambda: records(exporter), 30, "the kill is recorded")
            assert 89 * MIB <= record["outside_containers_bytes"] <= 93 * MIB
            assert record["limit_bytes"] == LIMIT and (record["limit"] == "pod" or not IS_V2)


def test_the_parts_of_the_node_are_all_memory(node):
    text = once("--once", "--containerd-sock", node.socket, *EVERYTHING)
    total = int(re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())[1]) << 10
    parts = parts_of_node(Exposition(text))
    assert sum(parts.values()) == total
    assert {"free", "pods", "ended_pods", "root_cgroup", "kernel", "remainder"} <= parts.keys()
    assert abs(parts["remainder"]) <= MAX_REMAINDER * total, parts


def test_groups_of_pods_and_of_the_node(node):
    families = ("cgroup_memory_current_bytes", "cgroup_pod_memory_current_bytes", "cgroup_node_memory_bytes")
    for groups, expected in (
        ("memory", [True, False, False]),
        ("pod", [False, True, False]),
        ("memory,node", [True, False, True]),
        ("none", [False, False, False]),
    ):
        text = once("--once", "--containerd-sock", node.socket, *EVERYTHING, "--cgroup-metrics", groups)
        assert [f"\n{family}{{" in text for family in families] == expected, groups
