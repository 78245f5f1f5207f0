"""Whoever takes the exporter over gains little: what its threads are refused, whatever code they run."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from exporter import BINARY, EVERYTHING, Exporter
from lab import until
from test_door import command

PROGRAMS = Path(__file__).parent / "programs"
KERNEL = tuple(int(number) for number in os.uname().release.split("-")[0].split(".")[:2])
EPERM, EACCES = -1, -13
AT_FDCWD, O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_TRUNC = -100, 0, 1, 2, 0o100, 0o1000
# The numbers of calls: x86-64's, arm64's.
# fmt: off
NUMBERS = {
    "bpf": (321, 280), "chmod": (90, None), "clone": (56, 220), "creat": (85, None), "execve": (59, 221), "fchmodat": (268, 53),
    "fork": (57, None), "getpid": (39, 172), "init_module": (175, 105), "io_uring_setup": (425, 425), "kill": (62, 129),
    "memfd_create": (319, 279), "mmap": (9, 222), "mount": (165, 40), "open": (2, None), "openat": (257, 56),
    "openat2": (437, 437), "pidfd_getfd": (438, 438), "pidfd_open": (434, 434), "prctl": (157, 167),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "ptrace": (101, 117), "rename": (82, None),
    "renameat2": (316, 276), "seccomp": (317, 277), "setns": (308, 268), "socket": (41, 198), "tgkill": (234, 131),
    "truncate": (76, 45), "unlink": (87, None), "unlinkat": (263, 35),
}
# fmt: on
NUMBERS = {name: numbers[os.uname().machine == "aarch64"] for name, numbers in NUMBERS.items()}
PERFMON = ("setpriv", "--inh-caps=-all,+perfmon", "--bounding-set=-all,+perfmon")
PTRACE = ("setpriv", "--inh-caps=-all,+sys_ptrace", "--bounding-set=-all,+sys_ptrace")


@pytest.fixture(scope="module")
def inject(tmp_path_factory):
    """Makes a thread do a system call; what it returned."""
    program = tmp_path_factory.mktemp("programs") / "inject"
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-o", program, PROGRAMS / "inject.c"], check=True)
    return injector(program)


def injector(program: Path):
    """The function, with the program that does it."""

    def inject(thread: int, number: int, *arguments: int | str) -> int:
        texts = [f":{value}" if isinstance(value, str) else str(value) for value in arguments]

        def attempt():
            done = subprocess.run([program, str(thread), str(number), *texts], capture_output=True, text=True)
            # it may just be working, where no call can be made
            return done.stdout if done.returncode == 0 else None

        return int(until(attempt, 20, "the thread waits in a system call"))

    return inject


@pytest.fixture
def victim():
    process = subprocess.Popen(["sleep", "1000000"])
    yield process.pid
    process.kill()
    process.wait()


@pytest.fixture
def live(tmp_path, victim):
    """A node of one container, with the victim in it, read from the live proc."""
    (tmp_path / "node").mkdir()
    (tmp_path / "node/containers.tsv").write_text(f"id\tinit_pid\tnamespace\tpod\tcontainer\nc0ffee\t{victim}\tlive\tpod\tvictim\n")
    (tmp_path / "node/proc").symlink_to("/proc")
    return tmp_path / "node"


def is_read(exporter) -> bool:
    """Whether a scrape that begins from now on reads the victim."""
    exposition = exporter.after()
    return ("sleep",) in exposition.by("process_smaps_processes", "comm") and "process_smaps_pss_bytes" in exposition


def threads(exporter) -> dict[str, int]:
    tasks = Path(f"/proc/{exporter.process.pid}/task")
    return {(task / "comm").read_text().strip(): int(task.name) for task in tasks.iterdir()}


def calls(victim: int, file: Path) -> dict[str, tuple]:
    """What somebody inside would like to do on this architecture, by name."""
    made = {
        "execve": ("/bin/true", 0, 0),
        "openat(/proc/1/mem, O_RDWR)": (AT_FDCWD, "/proc/1/mem", O_RDWR),
        "openat(/proc/<victim>/mem, O_WRONLY)": (AT_FDCWD, f"/proc/{victim}/mem", O_WRONLY),
        "openat(/proc/1/root/tmp/x, O_WRONLY|O_CREAT)": (AT_FDCWD, "/proc/1/root/tmp/x", O_WRONLY | O_CREAT, 0o600),
        "openat(/proc/<victim>/root/..., O_WRONLY|O_CREAT)": (AT_FDCWD, f"/proc/{victim}/root{file}.root", O_WRONLY | O_CREAT, 0o600),
        "openat(O_TRUNC)": (AT_FDCWD, str(file), O_RDONLY | O_TRUNC),
        "open(O_RDWR)": (str(file), O_RDWR),
        "creat": (f"{file}.new", 0o600),
        "openat2": (AT_FDCWD, str(file), 0, 24),
        "ptrace(PTRACE_ATTACH)": (16, victim, 0, 0),
        "process_vm_writev": (victim, 0, 0, 0, 0, 0),
        "process_vm_readv": (victim, 0, 0, 0, 0, 0),
        "pidfd_open": (victim, 0),
        "pidfd_getfd": (0, 0, 0),
        "unlink": (str(file),),
        "renameat2": (AT_FDCWD, str(file), AT_FDCWD, f"{file}.moved", 0),
        "fchmodat": (AT_FDCWD, str(file), 0o777),
        "unlinkat": (AT_FDCWD, str(file), 0),
        "rename": (str(file), f"{file}.moved"),
        "chmod": (str(file), 0o777),
        "truncate": (str(file), 0),
        "kill": (victim, 9),
        "tgkill": (victim, victim, 9),
        "fork": (),
        "clone, not of a thread": (17, 0, 0, 0, 0),
        "mount": ("none", "/mnt", "tmpfs", 0, 0),
        "setns": (0, 0),
        "bpf": (0, 0, 0),
        "init_module": (0, 0, 0),
        "io_uring_setup": (1, 0),
        "memfd_create": ("x", 0),
        "mmap(PROT_EXEC)": (0, 4096, 7, 0x22, -1, 0),
        "socket(AF_INET)": (2, 1, 0),
        "socket(AF_UNIX), with a recording": (1, 1, 0),
        "prctl(PR_SET_DUMPABLE)": (4, 1, 0, 0, 0),
        "seccomp": (0, 0, 0),
    }
    numbers = {call: NUMBERS.get(re.match(r"\w+", call)[0]) for call in made}
    return {call: (numbers[call], *arguments) for call, arguments in made.items() if numbers[call]}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="on arm64: tests/nodes/guest/test_filter.py")
def test_the_filter_refuses_in_every_thread(live, victim, inject, tmp_path):
    file = tmp_path / "file"
    file.write_text("text")
    with Exporter("--fixture", live, *EVERYTHING) as exporter:
        assert {"scrape", "http"} < set(threads(exporter)) and len(threads(exporter)) >= 3
        for name, thread in threads(exporter).items():
            for call, (number, *arguments) in calls(victim, file).items():
                assert inject(thread, number, *arguments) == EPERM, f"{call} in {name}"
            assert inject(thread, NUMBERS["getpid"]) == exporter.process.pid, "getpid is allowed: calls do get through"
        assert is_read(exporter), "it goes on scraping and answering"
        # while a thread is stopped for a call it may look as if a process could not be read: that is all it may say
        assert "not permitted" not in exporter.log() and "cannot" not in exporter.log()
    assert file.read_text() == "text" and [path.name for path in tmp_path.iterdir() if path.is_file()] == ["file"]
    assert Path(f"/proc/{victim}/stat").read_text().split()[2] == "S", "nobody stopped or killed it"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="on arm64: tests/nodes/guest/test_filter.py")
def test_without_the_sandbox_the_same_calls_do_harm(live, victim, inject, tmp_path):
    """Proof that the test above can fail."""
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


@pytest.mark.skipif(KERNEL < (6, 15) or os.uname().machine != "x86_64", reason="CAP_PERFMON reads smaps from Linux 6.15 on")
def test_with_perfmon_nothing_else_is_read(live, inject, tmp_path):
    """The kernel refuses what lies below root/, Landlock everything outside a few directories."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with Exporter("--fixture", live, *EVERYTHING, "--log-level", "debug", prefix=PERFMON) as exporter:
        status = Path(f"/proc/{exporter.process.pid}/status").read_text()
        assert int(re.search(r"CapPrm:\s*(\w+)", status)[1], 16) == 1 << 38
        assert is_read(exporter)
        for name, thread in threads(exporter).items():
            for path in ("/proc/1/root/etc/shadow", "/etc/hostname", str(secret), "/proc/1/mem"):
                assert inject(thread, NUMBERS["openat"], AT_FDCWD, path, O_RDONLY) == EACCES, f"{path} in {name}"
            assert inject(thread, NUMBERS["openat"], AT_FDCWD, "/proc/1/stat", O_RDONLY) >= 0, name
        assert is_read(exporter)
        assert "sandbox: reading only below" in exporter.log()


def test_with_sys_ptrace_landlock_stays_away(live):
    with Exporter("--fixture", live, *EVERYTHING, prefix=PTRACE) as exporter:
        status = Path(f"/proc/{exporter.process.pid}/status").read_text()
        assert int(re.search(r"CapPrm:\s*(\w+)", status)[1], 16) == 1 << 19
        assert is_read(exporter)


@pytest.mark.parametrize("sandbox", ["on", "off"])
def test_capabilities(live, sandbox):
    """Root by hand has all; what reading does not need is given up."""
    with Exporter("--fixture", live, *EVERYTHING, "--sandbox", sandbox) as exporter:
        for task in Path(f"/proc/{exporter.process.pid}/task").iterdir():
            status = (task / "status").read_text()
            sets = {name: int(value, 16) for name, value in re.findall(r"^Cap(\w+):\s*(\w+)", status, re.M)}
            filters = re.search(r"^Seccomp:\s*(\d)", status, re.M)[1]
            if sandbox == "off":
                assert filters == "0" and sets["Eff"] & 1 << 21
                continue
            # SYS_PTRACE, PERFMON, and DAC_READ_SEARCH for somebody's recording
            allowed = 1 << 19 | 1 << 38 | 1 << 2
            assert {name: value & ~allowed for name, value in sets.items()} == dict.fromkeys(sets, 0)
            assert sets["Inh"] == sets["Amb"] == 0 and filters == "2"


def test_nothing_that_it_does_is_refused(live, tmp_path):
    """Under strace: scrapes, responses, a client that breaks off, the end. A call that fails with EPERM is missing in the list."""

    def strace(name: str) -> tuple[str, ...]:
        return (*command("strace", "-f", "-q", "-o", tmp_path / f"{name}.trace", "-e", "status=failed"),)

    with Exporter("--fixture", live, *EVERYTHING, "--scrape-interval", "100ms", prefix=strace("serve")) as exporter:
        exporter.after(5)
        for path in ("/", "/healthz", "/nothing"):
            exporter.get(path)
        tracer = exporter.process.pid
        (pid,) = Path(f"/proc/{tracer}/task/{tracer}/children").read_text().split()
        os.kill(int(pid), 15)
        assert exporter.process.wait(20) == 0
    for name, options in [("once", ["--once"]), ("record", ["--record", tmp_path / "recording"])]:
        done = subprocess.run([*strace(name), BINARY, "--fixture", live, *EVERYTHING, *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "recording/containers.tsv").exists()
    for name in ("serve", "once", "record"):
        lines = (tmp_path / f"{name}.trace").read_text().splitlines()
        assert [line for line in lines if "EPERM" in line] == []
        assert any("exited with 0" in line for line in lines), "it was traced to its end"
