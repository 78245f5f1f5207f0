"""Tests that one log line gives the reason if the exporter cannot see the memory of containers."""

import subprocess
from pathlib import Path

from exporter import BINARY
from lab import until
from live_node import Cgroup, roots


def test_hidepid_of_the_proc_mount_is_named_as_the_cause(tmp_path):
    proc, logs = tmp_path / "proc", tmp_path / "logs"
    proc.mkdir()
    logs.mkdir()
    setpriv = "setpriv --inh-caps=-all,+perfmon --bounding-set=-all,+perfmon"
    script = f'mount -t proc -o hidepid=4 proc "$0" && exec {setpriv} "$@"'
    program = [BINARY, "--once", "--proc-path", proc, "--container-logs", logs]
    command = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script, proc, *program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    cause = (
        f'cannot see processes: "{proc}" is mounted with hidepid=ptraceable (4), which needs CAP_SYS_PTRACE'
    )
    assert done.stderr == f"smaps-container-exporter: {cause}\n"
    assert done.returncode == 1 and done.stdout == ""


def test_cgroup_namespace_on_version_1_is_named_as_the_cause(any_node):
    own = Cgroup(sorted(roots().items())[0][1])
    is_version_1 = (Path(own.path) / "memory.limit_in_bytes").exists()
    enter = ("sh", "-c", f'echo $$ > {own.path}/cgroup.procs && exec unshare --cgroup "$@"', "sh")
    try:
        with any_node.exporter("--cgroup-path", "/sys/fs/cgroup", prefix=enter) as exporter:
            exporter.after()
            cause = "this process has a cgroup namespace of its own, "
            cause += "and with cgroup version 1 it needs the node's"
            if is_version_1:
                until(lambda: exporter.log().count(cause) == 1, 10, "the log names the cause")
            else:
                assert cause not in exporter.log()
    finally:
        own.close()
