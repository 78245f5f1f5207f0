"""Tests that cgroup metrics equal the kernel's files, for both cgroup versions and both drivers."""

import os
from pathlib import Path

import pytest

from cgroups import CONTAINER, IS_V2, MIB, WORK, assert_same, wait_until_asleep
from exporter import EVERYTHING, Exporter, once
from exposition import Exposition
from lab import Container, cri, kill, until
from node import MEMORY_IMAGE, PROGRAMS
from ooms import LIMIT, ROOT, assert_leaked, leak, pids_of, records
from sandbox import KERNEL

MOUNTS = [cri.Mount(host_path=str(PROGRAMS), container_path="/programs", readonly=True)]


def test_cgroup_metrics_equal_the_files(node, record_property):
    app = Container("app", ["sh", "-c", WORK], memory_limit_bytes=64 * MIB)
    pod = node.run_pod("accounts", "limit-0", [app])
    try:
        cgroup = wait_until_asleep(node, app)
        node.limit_pod(pod, 48 * MIB)
        with cgroup.frozen():
            values = assert_same(node, cgroup, "accounts", "limit-0", "app")
    finally:
        node.remove_pod(pod)
    record_property("fields of a cgroup compared", len(values))
    assert (values["memory_max_bytes"], values["memory_limit_bytes"]) == (64 * MIB, 48 * MIB)
    # Before Linux 5.13, memory.stat may lack up to 32 pages for each CPU.
    lag = 0 if KERNEL >= (5, 13) else 32 * os.cpu_count() * os.sysconf("SC_PAGE_SIZE")
    assert values["memory_stat_shmem_bytes"] >= 5 * MIB - lag and len(values) >= (30 if IS_V2 else 24), values


def test_parts_add_up_with_locked_swapped_and_freed_memory(node, record_property):
    """The parts of each pod's memory add up to the memory use of the pod's cgroup.

    The pod memory-0 has locked memory. The pod partly-0 has swapped memory, and it has huge pages. It has
    freed one half of each huge page.
    """
    pod = node.run_pod(
        "accounts", "partly-0", [Container("partly", ["/memory", "partly"], image=MEMORY_IMAGE)]
    )
    try:
        until(lambda: " ready\n" in node.log_of(pod, "partly"), 120, "the workload has allocated its memory")
        exposition = Exposition(once("--once", "--containerd-sock", node.socket, *EVERYTHING))
    finally:
        node.remove_pod(pod)
    current = exposition.by("cgroup_memory_current_bytes", "pod")
    accounts = {name: {} for (name,) in current}
    for (name, part), value in exposition.by("cgroup_memory_account_bytes", "pod", "part").items():
        accounts[name][part] = value
    assert {name: sum(parts.values()) for name, parts in accounts.items()} == {
        name: value for (name,), value in current.items()
    }
    locked, partly = accounts["memory-0"], accounts["partly-0"]
    record_property(
        "parts of partly-0", ", ".join(f"{part} {value / MIB:.1f}" for part, value in partly.items() if value)
    )
    has_swap_cache = IS_V2 and "swapcached" in (ROOT / "memory.stat").read_text()
    assert "anon_unmapped" not in locked, "the kernel does not list locked memory, so this part is unknown"
    assert ("anon_unmapped" in partly) == has_swap_cache
    if has_swap_cache and os.sysconf("SC_PAGE_SIZE") == 4096:
        assert 6 * MIB <= partly["anon_unmapped"] <= 9 * MIB


@pytest.mark.skipif(IS_V2, reason="test_ooms and test_oom_records cover version 2")
def test_kills_are_recorded_without_a_scrape(node, record_property):
    """One pod leaks slowly. Another pod leaks so fast that the exporter never sees it near its limit.

    The exporter must record the OOM kills in both pods. A third pod is near its limit when the test kills its
    process. The exporter must not record this kill, because it is not an OOM kill.
    """
    # On an emulated processor, the exporter checks memory use only every few seconds. The fast leak starts
    # after 20 seconds, so that the exporter checks the container at least once before its memory grows.
    slow, fast = leak(MOUNTS, 70, 2), leak(MOUNTS, 20, 200, delay=20)
    full = Container(
        "app", ["/programs/leak", "heap", "97", "1", "97"], memory_limit_bytes=LIMIT, mounts=MOUNTS
    )
    with Exporter("--containerd-sock", node.socket, *EVERYTHING) as exporter:
        pods = [
            node.run_pod("accounts", name, [app])
            for name, app in (("full-0", full), ("slow-0", slow), ("fast-0", fast))
        ]
        try:
            until(lambda: len(records(exporter)) >= 2, 180, "both OOM kills are recorded")
            for pid in pids_of(node, full):
                kill(pid, 9)
            exporter.after()
        finally:
            for pod in pods:
                node.remove_pod(pod)
        found = {record["pod"]: record for record in records(exporter)}
        assert found.keys() == {"slow-0", "fast-0"}
        assert_leaked(found["slow-0"], "slow-0", found["slow-0"]["time"], LIMIT, 60, 0.5)
        counts = exporter.after().by("smaps_exporter_oom_kills_total", *CONTAINER)
        assert {pod: counts["accounts", pod, "app"] for pod in found} == dict.fromkeys(found, 1)
    record_property("OOM kills recorded", len(found))
