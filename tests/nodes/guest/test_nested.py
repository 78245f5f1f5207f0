"""Tests that all processes in or below the cgroup with a container's id are attributed to this container."""

import os

import pytest

import kernel
from cgroups import IS_V2
from exporter import EVERYTHING, once
from exposition import Exposition
from kernel import COMMAND
from lab import Container, until
from pods import FOREVER

PLACE = ("nested", "nested-0", "nested")
INIT, SLEEP, TAIL = (*PLACE, "sh"), (*PLACE, "sleep"), (*PLACE, "tail")
# The cgroup of a container inside the tested container. With kind, for example, a container is a Kubernetes
# node and runs other containers.
INNER = f"kubelet.slice/kubepods-pod1.slice/cri-containerd-{'f' * 64}.scope"

# The cgroups into which processes are moved. The paths are relative to the container's cgroup, except "/",
# which is the root of the cgroup hierarchy.
LAYOUTS = {
    "a process below": {SLEEP: "below.scope"},
    "init moved aside": {INIT: "init", SLEEP: "app"},
    "init moved aside and all others with it": {INIT: "init", SLEEP: "app", TAIL: "app/deeper"},
    "a node in a container": {INIT: "init.scope", SLEEP: INNER, TAIL: "kubelet.slice"},
    "init in the root": {INIT: "/"},
}


@pytest.fixture(scope="module")
def pod(node):
    """The pids of the three processes of a container, by command."""
    pod = node.run_pod(
        *PLACE[:2], [Container(PLACE[2], ["sh", "-c", f"sleep {FOREVER} & tail -f /dev/null & wait"])]
    )
    commands = {INIT, SLEEP, TAIL}
    try:
        until(lambda: commands <= kernel.counts(node).keys(), 30, "the container's processes run")
        yield {command: pids[0] for command, pids in kernel.processes(node).items() if command in commands}
    finally:
        node.remove_pod(pod)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_moved_processes_stay_attributed_to_their_container(node, pod, layout):
    own = node.cgroups_of(pod[TAIL])
    try:
        for command, below in layout.items():
            for cgroup in own:
                root = next(parent for parent in cgroup.parents if os.path.ismount(parent))
                move(pod[command], root if below == "/" else cgroup / below)
        expected = kernel.counts(node)
        if layout.get(INIT) == "/" and IS_V2:
            del expected[INIT]  # on version 1, the other hierarchies still show the container
        seen = Exposition(once("--once", "--containerd-sock", node.socket, *EVERYTHING)).by(
            "process_smaps_processes", *COMMAND
        )
        assert seen == expected
    finally:
        for cgroup in own:
            for pid in pod.values():
                move(pid, cgroup)


def move(pid: int, cgroup):
    cgroup.mkdir(parents=True, exist_ok=True)
    (cgroup / "cgroup.procs").write_text(str(pid))
