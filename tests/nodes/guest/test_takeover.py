"""Tests that Landlock and seccomp confine an exporter that an attacker has taken over.

The exporter has CAP_PERFMON instead of CAP_SYS_PTRACE, as recommended for new kernels.
"""

import re
from pathlib import Path

import pytest

import kernel
from in_pod import OWN, InPod
from kernel import COMMAND
from node import PROGRAMS, SYSTEMD, settled
from sandbox import AT_FDCWD, EACCES, EPERM, KERNEL, NUMBERS, O_RDONLY, calls, injector

pytestmark = pytest.mark.skipif(
    not SYSTEMD or KERNEL < (6, 15),
    reason="CAP_PERFMON reads smaps from Linux 6.15 on; without systemd the exporter has no image",
)


def test_taken_over_exporter_with_perfmon_is_confined(node, tmp_path):
    file = tmp_path / "file"
    file.write_text("text")
    [victim] = kernel.processes(node)["default", "web-1", "sidecar", "sleep"]
    inject = injector(PROGRAMS / "inject")
    refused = calls(victim, file)
    # The sandbox allows this call here, because the exporter needs the call to connect to containerd.
    del refused["socket(AF_UNIX), with a recording"]
    roots = ("1", str(victim))
    unreadable = [f"/host/proc/{pid}/root/etc/{name}" for pid in roots for name in ("shadow", "passwd")] + [
        "/host/proc/1/mem"
    ]
    with InPod(node, capabilities=["PERFMON"]) as exporter:

        def reads_all():
            settled(
                lambda: exporter.metrics().by("process_smaps_processes", *COMMAND),
                lambda: kernel.counts(node),
            )

        reads_all()
        [own] = kernel.processes(node)[OWN]
        threads = {
            (task / "comm").read_text().strip(): int(task.name)
            for task in Path(f"/proc/{own}/task").iterdir()
        }
        assert {"scrape", "http"} < set(threads)
        for name, thread in threads.items():
            for path in unreadable:
                assert inject(thread, NUMBERS["openat"], AT_FDCWD, path, O_RDONLY) == EACCES, (
                    f"{path} in {name}"
                )
            assert inject(thread, NUMBERS["openat"], AT_FDCWD, "/host/proc/1/stat", O_RDONLY) >= 0, (
                "injected calls do run"
            )
        # The forbidden system calls are injected into only one thread here, because an injection is slow in a
        # virtual machine. tests/e2e/test_sandbox.py runs on the host and injects them into each thread.
        for call, (number, *arguments) in refused.items():
            assert inject(threads["scrape"], number, *arguments) == EPERM, call
        exporter.after(2)
        reads_all()
        status = exporter.status()
        assert int(re.match("[0-9a-f]+", status["CapPrm"])[0], 16) == 1 << 38 and status["Seccomp"] == "2"
        assert "not permitted" not in exporter.log()
    assert file.read_text() == "text"
    assert Path(f"/proc/{victim}/stat").read_text().split()[2] == "S", "the victim was stopped or killed"
