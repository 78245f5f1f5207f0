"""Tests that the sandbox refuses harmful system calls in every thread, so that an attacker gains little."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from clients import command
from exporter import BINARY, EVERYTHING, Exporter
from sandbox import AT_FDCWD, EACCES, EPERM, KERNEL, NUMBERS, O_RDONLY, calls, injector

PERFMON = ("setpriv", "--inh-caps=-all,+perfmon", "--bounding-set=-all,+perfmon")
PTRACE = ("setpriv", "--inh-caps=-all,+sys_ptrace", "--bounding-set=-all,+sys_ptrace")


@pytest.fixture(scope="module")
def inject(tmp_path_factory):
    """A function that injects a system call into a thread. The function returns the result of the call."""
    program = tmp_path_factory.mktemp("programs") / "inject"
    subprocess.run(
        ["gcc", "-O1", "-Wall", "-Werror", "-o", program, Path(__file__).parent / "programs/inject.c"],
        check=True,
    )
    return injector(program)


@pytest.fixture
def victim():
    process = subprocess.Popen(["sleep", "1000000"])
    yield process.pid
    process.kill()
    process.wait()


@pytest.fixture
def live(tmp_path, victim):
    """A directory like a recording, with a link to the live /proc.

    The only container has one process, the sleep process of the fixture `victim`.
    """
    (tmp_path / "node").mkdir()
    (tmp_path / "node/containers.tsv").write_text(
        f"id\tinit_pid\tnamespace\tpod\tcontainer\nc0ffee\t{victim}\tlive\tpod\tvictim\n"
    )
    (tmp_path / "node/proc").symlink_to("/proc")
    return tmp_path / "node"


def is_read(exporter) -> bool:
    """Waits for a scrape that begins after this call. Returns whether the scrape reads the sleep process."""
    exposition = exporter.after()
    return ("sleep",) in exposition.by(
        "process_smaps_processes", "comm"
    ) and "process_smaps_pss_bytes" in exposition


def threads(exporter) -> dict[str, int]:
    tasks = Path(f"/proc/{exporter.process.pid}/task")
    return {(task / "comm").read_text().strip(): int(task.name) for task in tasks.iterdir()}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="on arm64: tests/nodes/guest/test_filter.py")
def test_seccomp_filter_applies_to_each_thread(live, victim, inject, tmp_path):
    file = tmp_path / "file"
    file.write_text("text")
    with Exporter("--fixture", live, *EVERYTHING) as exporter:
        assert {"scrape", "http"} < set(threads(exporter)) and len(threads(exporter)) >= 3
        for name, thread in threads(exporter).items():
            for call, (number, *arguments) in calls(victim, file).items():
                assert inject(thread, number, *arguments) == EPERM, f"{call} in {name}"
            assert inject(thread, NUMBERS["getpid"]) == exporter.process.pid, (
                "getpid is allowed, so injected calls do run"
            )
        assert is_read(exporter), "the exporter no longer scrapes"
        # `inject` uses ptrace, which stops a thread of the exporter for a moment. A read by a stopped thread
        # may look stuck, and the exporter logs stuck reads.
        log = [line for line in exporter.log().splitlines() if "memory-map lock" not in line]
        assert [line for line in log if "not permitted" in line or "cannot" in line] == []
    assert file.read_text() == "text" and [path.name for path in tmp_path.iterdir() if path.is_file()] == [
        "file"
    ]
    assert Path(f"/proc/{victim}/stat").read_text().split()[2] == "S", "the victim was stopped or killed"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="on arm64: tests/nodes/guest/test_filter.py")
def test_the_same_calls_succeed_without_the_sandbox(live, victim, inject, tmp_path):
    """Shows that nothing but the sandbox refuses harmful system calls."""
    file = tmp_path / "file"
    file.write_text("text")
    harmful = calls(victim, file)
    with Exporter("--fixture", live, *EVERYTHING, "--sandbox", "off") as exporter:
        thread = threads(exporter)["scrape"]
        for call in (
            "openat(/proc/<victim>/mem, O_WRONLY)",
            "openat(/proc/<victim>/root/..., O_WRONLY|O_CREAT)",
            "open(O_RDWR)",
            "socket(AF_INET)",
            "mmap(PROT_EXEC)",
            "process_vm_writev",
            "unlink",
        ):
            assert inject(thread, *harmful[call]) >= 0, call
    assert not file.exists() and Path(f"{file}.root").exists()


@pytest.mark.skipif(
    KERNEL < (6, 15) or os.uname().machine != "x86_64", reason="CAP_PERFMON reads smaps from Linux 6.15 on"
)
def test_landlock_allows_only_proc_with_cap_perfmon(live, inject, tmp_path):
    """With CAP_PERFMON, the exporter can read smaps, but two checks refuse access to other files.

    The kernel's ptrace check refuses access to files below /proc/<pid>/root and to /proc/<pid>/mem, because
    CAP_PERFMON does not allow tracing. Landlock refuses access to all files outside a few directories.
    """
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with Exporter("--fixture", live, *EVERYTHING, "--log-level", "debug", prefix=PERFMON) as exporter:
        status = Path(f"/proc/{exporter.process.pid}/status").read_text()
        assert int(re.search(r"CapPrm:\s*(\w+)", status)[1], 16) == 1 << 38
        assert is_read(exporter)
        for name, thread in threads(exporter).items():
            for path in ("/proc/1/root/etc/shadow", "/etc/hostname", str(secret), "/proc/1/mem"):
                assert inject(thread, NUMBERS["openat"], AT_FDCWD, path, O_RDONLY) == EACCES, (
                    f"{path} in {name}"
                )
            assert inject(thread, NUMBERS["openat"], AT_FDCWD, "/proc/1/stat", O_RDONLY) >= 0, name
        assert is_read(exporter)
        assert "sandbox: reading only below" in exporter.log()


def test_landlock_is_off_with_cap_sys_ptrace(live):
    with Exporter("--fixture", live, *EVERYTHING, prefix=PTRACE) as exporter:
        status = Path(f"/proc/{exporter.process.pid}/status").read_text()
        assert int(re.search(r"CapPrm:\s*(\w+)", status)[1], 16) == 1 << 19
        assert is_read(exporter)


@pytest.mark.parametrize("sandbox", ["on", "off"])
def test_unneeded_capabilities_are_dropped(live, sandbox):
    """Root starts the exporter with all capabilities.

    With the sandbox, the exporter keeps only the capabilities that reading needs. Without it, the exporter
    drops no capabilities.
    """
    with Exporter("--fixture", live, *EVERYTHING, "--sandbox", sandbox) as exporter:
        for task in Path(f"/proc/{exporter.process.pid}/task").iterdir():
            status = (task / "status").read_text()
            sets = {name: int(value, 16) for name, value in re.findall(r"^Cap(\w+):\s*(\w+)", status, re.M)}
            filters = re.search(r"^Seccomp:\s*(\d)", status, re.M)[1]
            if sandbox == "off":
                assert filters == "0" and sets["Eff"] & 1 << 21
                continue
            # The bits of SYS_PTRACE, PERFMON and DAC_READ_SEARCH. DAC_READ_SEARCH is needed to read
            # recordings of other users.
            allowed = 1 << 19 | 1 << 38 | 1 << 2
            assert {name: value & ~allowed for name, value in sets.items()} == dict.fromkeys(sets, 0)
            assert sets["Inh"] == sets["Amb"] == 0 and filters == "2"


def test_sandbox_refuses_no_call_of_the_exporter(live, tmp_path):
    """Runs scrapes, responses and the shutdown under strace.

    A call that returns EPERM is missing in the sandbox's list of allowed calls.
    """

    def strace(name: str) -> tuple[str, ...]:
        return (*command("strace", "-f", "-q", "-o", tmp_path / f"{name}.trace", "-e", "status=failed"),)

    with Exporter(
        "--fixture", live, *EVERYTHING, "--scrape-interval", "100ms", prefix=strace("serve")
    ) as exporter:
        exporter.after(5)
        for path in ("/", "/healthz", "/nothing"):
            exporter.get(path)
        tracer = exporter.process.pid
        (pid,) = Path(f"/proc/{tracer}/task/{tracer}/children").read_text().split()
        os.kill(int(pid), 15)
        assert exporter.process.wait(20) == 0
    for name, options in [("once", ["--once"]), ("record", ["--record", tmp_path / "recording"])]:
        done = subprocess.run(
            [*strace(name), BINARY, "--fixture", live, *EVERYTHING, *options], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "recording/containers.tsv").exists()
    for name in ("serve", "once", "record"):
        lines = (tmp_path / f"{name}.trace").read_text().splitlines()
        assert [line for line in lines if "EPERM" in line] == []
        assert any("exited with 0" in line for line in lines), "the trace is incomplete"
