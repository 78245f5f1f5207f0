"""Tests that the machine has the kernel features of its definition.

Without these features, the results of the other tests would be misleading.
"""

import os
import re
from pathlib import Path

import kernel
from lab import read_proc
from node import DRIVER, SYSTEMD
from pods import PROCESSES

CGROUP = os.environ["NODES_CGROUP"]


def test_machine_matches_its_definition(node, record_property):
    assert Path("/sys/fs/cgroup/cgroup.controllers").exists() == (CGROUP == "2")
    assert Path("/sys/fs/cgroup/unified/cgroup.controllers").exists() == (CGROUP == "hybrid")
    processes = kernel.processes(node)
    for (namespace, pod, *_), members in processes.items():
        cgroup = read_proc(members[0], "cgroup").decode()
        assert ("/cri-containerd-" in cgroup) == (DRIVER == "systemd"), cgroup
        if CGROUP == "hybrid":  # the runc of this machine does not use version 2
            assert any(line.startswith("0::/system.slice/") for line in cgroup.splitlines()), cgroup
        confined = SYSTEMD and pod != "agent-0"
        assert read_proc(members[0], "attr/current").startswith(b"cri-containerd.apparmor.d") == confined, (
            namespace,
            pod,
        )
    assert SYSTEMD == (os.uname().machine == "x86_64")
    assert kernel.counts(node) == PROCESSES
    record_property("kernel", os.uname().release)
    record_property("cgroup", CGROUP if CGROUP == "hybrid" else f"version {CGROUP}")
    record_property("driver", DRIVER)
    record_property("containerd", re.match(r"v?([\d.]+)", node.version)[1])


def test_vsyscall_page_is_mapped_if_requested(node):
    [pid, _] = kernel.processes(node)["memory", "memory-0", "memory", "memory"]
    if "vsyscall=xonly" in Path("/proc/cmdline").read_text():
        assert b"[vsyscall]\n" in read_proc(pid, "maps")
