"""Tests the exporter's filter of system calls on each kernel.

The filter must refuse the calls that an attacker inside the exporter would make (`calls` in sandbox.py). It
must not refuse any call that the exporter itself makes. In these tests, the exporter runs outside of pods.
"""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

import kernel
from exporter import EVERYTHING, Exporter, once
from kernel import COMMAND
from lab import until
from node import PROGRAMS, settled
from sandbox import AT_FDCWD, EPERM, NUMBERS, O_RDONLY, calls, injector

TRACING = Path("/sys/kernel/tracing")


class Refusals:
    """Traces the system calls of this process and its children that return EPERM."""

    def __enter__(self):
        if not os.path.ismount(TRACING):
            subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACING], check=True)
        self._set("trace", "")
        self._set("options/event-fork", 1)
        self._set("set_event_pid", os.getpid())
        self._set("events/raw_syscalls/sys_exit/filter", f"ret == {EPERM}")
        self._set("events/raw_syscalls/sys_exit/enable", 1)
        return self

    def __exit__(self, *_):
        self._set("events/raw_syscalls/sys_exit/enable", 0)
        self._set("set_event_pid", "")

    def _set(self, name: str, value):
        (TRACING / name).write_text(f"{value}\n" if value != "" else "")

    def all(self) -> list[tuple[int, str]]:
        """Returns (thread, call) for each refused call, except calls of this test process."""
        found = re.findall(
            r"^.*-(\d+) +\[\d+\].* sys_exit: (NR .*)$", (TRACING / "trace").read_text(), re.MULTILINE
        )
        own = os.listdir("/proc/self/task")
        return [(int(thread), call) for thread, call in found if thread not in own]


def threads(exporter: Exporter) -> dict[int, dict[str, str]]:
    """Returns the fields of /proc/<pid>/task/<tid>/status for each thread."""
    found = {}
    for task in Path(f"/proc/{exporter.process.pid}/task").iterdir():
        found[int(task.name)] = dict(
            line.split(":\t", 1) for line in (task / "status").read_text().splitlines()
        )
    return found


def thread_of(exporter: Exporter, name: str) -> int:
    return next(thread for thread, state in threads(exporter).items() if state["Name"] == name)


def test_sandbox_refuses_no_call_of_the_exporter(node):
    seen = set()
    with (
        Refusals() as refusals,
        Exporter("--containerd-sock", node.socket, *EVERYTHING, "--scrape-interval", "1s") as exporter,
    ):

        def shows_all():
            settled(
                lambda: exporter.metrics().by("process_smaps_processes", *COMMAND),
                lambda: kernel.counts(node),
            )
            states = threads(exporter)
            seen.update(states)
            assert {"scrape", "http"} < {state["Name"] for state in states.values()}
            assert {(state["Seccomp"], state["NoNewPrivs"]) for state in states.values()} == {("2", "1")}

        shows_all()
        scrape = thread_of(exporter, "scrape")
        assert injector(PROGRAMS / "inject")(scrape, NUMBERS["openat2"], 0, 0, 0, 0) == EPERM, (
            "the trace must show this call"
        )
        for path in ("/", "/healthz", "/nothing"):
            exporter.get(path)
        node.stop()
        until(
            lambda: exporter.metrics().value("smaps_exporter_containerd_up") == 0,
            60,
            "the exporter notices that containerd is gone",
        )
        node.start()
        until(
            lambda: exporter.metrics().value("smaps_exporter_containerd_up") == 1,
            60,
            "the exporter is connected again",
        )
        exporter.after(2)
        shows_all()
        exporter.process.send_signal(signal.SIGTERM)
        assert exporter.process.wait(20) == 0
        assert "not permitted" not in exporter.log() and "sandbox" not in exporter.log()
        # The trace also has refused calls of containerd. Only the calls of the exporter's threads count.
        refused = [call for thread, call in refusals.all() if thread in seen]
        assert refused == [f"NR {NUMBERS['openat2']} = {EPERM}"], "only the injected call is refused"


def test_sandbox_refuses_no_call_of_a_recording(node, tmp_path):
    with Refusals() as refusals:
        once("--record", tmp_path / "recording", "--containerd-sock", node.socket, *EVERYTHING)
        once("--once", "--fixture", tmp_path / "recording", *EVERYTHING)
        assert refusals.all() == []


@pytest.fixture
def victim(node) -> int:
    [pid] = kernel.processes(node)["default", "web-1", "sidecar", "sleep"]
    return pid


def test_sandbox_refuses_other_calls(node, exporter, victim, tmp_path):
    file = tmp_path / "file"
    file.write_text("text")
    inject, scrape = injector(PROGRAMS / "inject"), thread_of(exporter, "scrape")
    refused = calls(victim, file)
    # The sandbox allows this call here, because the exporter needs the call to connect to containerd.
    del refused["socket(AF_UNIX), with a recording"]
    assert {call: inject(scrape, *arguments) for call, arguments in refused.items()} == dict.fromkeys(
        refused, EPERM
    )
    assert inject(scrape, NUMBERS["getpid"]) == exporter.process.pid, "injected calls do run"
    assert inject(scrape, NUMBERS["openat"], AT_FDCWD, str(file), O_RDONLY) >= 0
    exporter.after(2)
    settled(lambda: exporter.metrics().by("process_smaps_processes", *COMMAND), lambda: kernel.counts(node))
    assert file.read_text() == "text"
    assert Path(f"/proc/{victim}/stat").read_text().split()[2] == "S", "the victim was stopped or killed"


def test_the_same_calls_succeed_without_the_sandbox(node, victim, tmp_path):
    """Shows that only the sandbox refuses harmful system calls such as unlinkat: without it, they succeed."""
    file = tmp_path / "file"
    file.write_text("text")
    inject, harmful = injector(PROGRAMS / "inject"), calls(victim, file)
    with Exporter("--containerd-sock", node.socket, *EVERYTHING, "--sandbox", "off") as exporter:
        assert {state["Seccomp"] for state in threads(exporter).values()} == {"0"}
        for call in (
            "openat(/proc/<victim>/mem, O_WRONLY)",
            "socket(AF_INET)",
            "mmap(PROT_EXEC)",
            "openat(O_TRUNC)",
            "unlinkat",
        ):
            assert inject(thread_of(exporter, "scrape"), *harmful[call]) >= 0, call
    assert not file.exists()
