"""A container owns from the cgroup that names it down, wherever its processes, its init among them, have been moved to."""

import os

import pytest

import kernel
from exporter import EVERYTHING, once
from exposition import Exposition
from kernel import COMMAND
from lab import Container, until
from pods import FOREVER

SLEEP, TAIL = ("nested", "nested-0", "nested", "sleep"), ("nested", "nested-0", "nested", "tail")
INIT = ("nested", "nested-0", "nested", "sh")
# Another container's scope, of a runtime that this node's containerd knows nothing of, such as kind's.
INNER = f"kubelet.slice/kubepods-pod1.slice/cri-containerd-{'f' * 64}.scope"

# where the processes go, below the container's cgroup; the root is above all
LAYOUTS = {
    "a process below": {SLEEP: "below.scope"},
    "init moved aside": {INIT: "init", SLEEP: "app"},
    "init moved aside and all others with it": {INIT: "init", SLEEP: "app", TAIL: "app/deeper"},
    "a node in a container": {INIT: "init.scope", SLEEP: INNER, TAIL: "kubelet.slice"},
    "init in the root": {INIT: "/"},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_moved_processes_stay_their_containers(node, layout):
    command = ["sh", "-c", f"sleep {FOREVER} & tail -f /dev/null & wait"]
    pod = node.run_pod("nested", "nested-0", [Container("nested", command)])
    moved = {}
    try:
        ours = {INIT: 1, SLEEP: 1, TAIL: 1}
        processes = until(lambda: ours.keys() <= kernel.counts(node).keys() and kernel.processes(node), 30, "its processes run")
        own = node.cgroups_of(processes[INIT][0])
        for command, below in layout.items():
            for cgroup in own:
                root = next(parent for parent in cgroup.parents if os.path.ismount(parent))
                to = root if below == "/" else cgroup / below
                to.mkdir(parents=True, exist_ok=True)
                moved.setdefault(processes[command][0], []).append(cgroup)
                (to / "cgroup.procs").write_text(str(processes[command][0]))
        expected = kernel.counts(node)
        if layout.get(INIT) == "/":
            del expected[INIT]  # it is in nobody's cgroup
        seen = Exposition(once("--once", "--containerd-sock", node.socket, *EVERYTHING)).by("process_smaps_processes", *COMMAND)
        assert seen == expected
    finally:
        for pid, cgroups in moved.items():  # systemd removes what is below a scope, and what is in the root it would not
            for cgroup in cgroups:
                (cgroup / "cgroup.procs").write_text(str(pid))
        node.remove_pod(pod)
