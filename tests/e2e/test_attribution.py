"""Tests that every process is reported under its own namespace, pod and container."""

import kernel
from conftest import FOREVER, NODE_PROCESSES, WEB
from exporter import EVERYTHING, once
from exposition import Exposition
from kernel import COMMAND
from lab import Container, cmdline, pids, read_proc, until


def test_each_process_is_reported_under_its_container_only(node, exporter):
    exposition = exporter.after()
    assert kernel.counts(node) == NODE_PROCESSES, "a process of the node has ended"
    assert exposition.by("process_smaps_processes", *COMMAND) == NODE_PROCESSES
    assert exposition.by("process_smaps_rss_bytes", *COMMAND).keys() == NODE_PROCESSES.keys()
    assert exposition.value("smaps_exporter_containers") == len({command[:3] for command in NODE_PROCESSES})
    assert exposition.value("smaps_exporter_processes") == sum(NODE_PROCESSES.values())


def test_sandboxes_and_shims_are_absent(node, exporter):
    running = [cmdline(pid) for pid in pids()]
    assert any("containerd-shim-runc-v2" in line and str(node.socket) in line for line in running), (
        "no shim runs"
    )
    assert any(line.endswith("/pause") for line in running), "no sandbox runs"
    commands = {comm for (comm,) in exporter.after().by("process_smaps_processes", "comm")}
    assert not [comm for comm in commands if comm.startswith(("containerd", "runc", "pause"))]


def test_filters_match_the_labels(node):
    text = once(
        "--once", "--containerd-sock", node.socket, "--filter", "*/web-*/app/sl*", "--filter", "kube-*/*/*/sh"
    )
    assert Exposition(text).by("process_smaps_processes", *COMMAND) == {
        ("default", WEB, "app", "sleep"): 2,
        ("batch", WEB, "app", "sleep"): 1,
        ("kube-system", "node-agent-4tq9z", "agent", "sh"): 1,
    }


def test_default_filter_selects_the_default_namespace(node):
    commands = Exposition(once("--once", "--containerd-sock", node.socket)).by(
        "process_smaps_processes", *COMMAND
    )
    assert commands == {
        command: count for command, count in NODE_PROCESSES.items() if command[0] == "default"
    }


def test_processes_in_nested_cgroups_belong_to_the_container(node):
    """systemd and nested container runtimes make cgroups inside the cgroup of a container."""
    pod = node.run_pod("nested", "systemd-0", [Container("init", ["sh", "-c", f"sleep {FOREVER} & wait"])])
    try:
        [pid] = until(
            lambda: kernel.processes(node).get(("nested", "systemd-0", "init", "sleep")),
            10,
            "the container's process runs",
        )
        for cgroup in [directory / "below.scope" for directory in node.cgroups_of(pid)]:
            cgroup.mkdir()
            (cgroup / "cgroup.procs").write_text(str(pid))
        assert b"/below.scope\n" in read_proc(pid, "cgroup")
        commands = Exposition(once("--once", "--containerd-sock", node.socket, *EVERYTHING)).by(
            "process_smaps_processes", *COMMAND
        )
        assert commands == {
            **NODE_PROCESSES,
            ("nested", "systemd-0", "init", "sh"): 1,
            ("nested", "systemd-0", "init", "sleep"): 1,
        }
    finally:
        node.remove_pod(pod)


def test_new_pods_appear_and_removed_pods_disappear_within_two_intervals(node, exporter):
    pod = node.run_pod("batch", "job-0", [Container("worker", ["sleep", FOREVER])])
    try:
        assert ("batch", "job-0", "worker", "sleep") in exporter.after(2).by(
            "process_smaps_processes", *COMMAND
        )
    finally:
        node.remove_pod(pod)
    for family in exporter.after(2).values():
        assert not [labels for labels in family.samples if ("pod", "job-0") in labels]
