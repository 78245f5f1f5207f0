"""Mappings that grow while smaps is read count once, and values go with the program that they belong to.

The kernel prints a few mappings per read(2) and continues at the end of the last one: if that has grown, it prints it again, whole.
"""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from exporter import EVERYTHING, once
from exposition import Exposition
from growth import rss
from lab import until
from test_hostile_processes import MIB, PROGRAMS, any_node, programs  # noqa: F401 (fixtures)

N_READS = 300
ARGUMENTS = (*EVERYTHING, "--pid", "--fields", "rss")
SIZE_MIB = 1536
# A reader that has walked a mapping for over 4 ms lets the process in that waits to map more (RWSEM_WAIT_TIMEOUT): so it grows in between.
BEGIN_MIB = 600


class Growing:
    """A process that has all its mappings, and grows from `begin` on."""

    def __init__(self, node, program: Path, mode: str, n_more: int):
        self.process = node.cgroup.run_ready(program, mode, str(SIZE_MIB), str(n_more), stdin=subprocess.PIPE)
        self.pid = self.process.pid
        self.n_mappings = len(Path(f"/proc/{self.pid}/maps").read_text().splitlines())

    def begin(self):
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def resident(self) -> int:
        """The kernel's own sum, made with the memory map locked."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("smaps_rollup says no Rss")

    def close(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture(scope="session")
def dynamic(tmp_path_factory):
    """The program linked dynamically, as most are: libraries stand between its heap and its stack."""
    program = tmp_path_factory.mktemp("dynamic") / "dynamic"
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-o", program, PROGRAMS / "grows.c"], check=True)
    return program


@pytest.mark.parametrize("kind", ["static-brk", "static-mprotect", "dynamic-brk", "dynamic-mprotect"])
def test_a_growing_mapping_counts_once(any_node, programs, dynamic, kind):  # noqa: F811
    linked, mode = kind.split("-")
    program = programs / "grows" if linked == "static" else dynamic
    n_values = n_grown = n_processes = 0
    growing = None
    for _ in range(N_READS):
        # It must still grow during its last read.
        if growing and growing.resident() > (SIZE_MIB - 256) * MIB:
            growing.close()
            growing = None
        if not growing:
            growing = Growing(any_node, program, mode, n_processes % 5)
            n_processes += 1
            growing.begin()
            until(lambda: growing.resident() > BEGIN_MIB * MIB, 30, "it is large")
        before = growing.resident()
        exposition = Exposition(once("--once", "--fixture", any_node.directory, *ARGUMENTS))
        after = growing.resident()
        pid = str(growing.pid)
        exported = rss(exposition).get(pid)
        if exported is None:
            continue
        n_values += 1
        n_grown += before < after
        n_mappings = exposition.by("process_smaps_mappings", "pid")[pid,]
        assert n_mappings == growing.n_mappings, f"{n_mappings} mappings, the process has {growing.n_mappings}"
        assert before <= exported <= after, f"{exported / MIB:.1f} MiB, the kernel's sums are {before / MIB:.1f} and {after / MIB:.1f}"
    growing.close()
    print(f"{n_values} of {N_READS} reads of {n_processes} processes gave values, during {n_grown} the process grew")
    assert n_grown > N_READS / 2, "it grows while it is read"
    assert n_values >= N_READS - 10


class Replaced:
    """A process whose smaps takes long to read, so that it rests for seconds once it has been read."""

    def __init__(self, node, programs: Path):
        self.process = node.cgroup.run_ready(programs / "replaced", "1024", stdin=subprocess.PIPE)
        self.pid = str(self.process.pid)

    def say(self, line: str, answer: str):
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()
        assert self.process.stdout.readline() == f"{answer}\n".encode()

    def values(self, exporter) -> dict[str, float]:
        """Its resident bytes by name, in the second scrape that ends from now on."""
        values = exporter.after().by("process_smaps_rss_bytes", "pid", "comm")
        return {comm: value for (pid, comm), value in values.items() if pid == self.pid}


@pytest.fixture
def resting(any_node, programs):  # noqa: F811
    """A process that has just been read, rests, and has its values; and the exporter. A scrape each 100 ms: its reads take longer than 1%."""
    replaced = Replaced(any_node, programs)
    with any_node.exporter("--scrape-interval", "100ms", "--pid", "--fields", "rss", "--cpu-budget", "0") as exporter:
        until(lambda: replaced.values(exporter), 30, "it is read")
        yield replaced, exporter


@pytest.mark.parametrize("name", ["another", "replaced"])
def test_values_of_a_resting_process_go_when_it_executes_another_program(resting, tmp_path, programs, name):  # noqa: F811
    """Under another name, and under the same: then only the addresses in `stat` differ."""
    replaced, exporter = resting
    assert sum(replaced.values(exporter).values()) > 1000 * MIB
    shutil.copy(programs / "replaced", tmp_path / name)
    replaced.say(f"exec {tmp_path / name}", "ready")
    shown = replaced.values(exporter)
    assert set(shown) <= {name} and sum(shown.values()) < 100 * MIB, f"{shown} are of the program before"
    until(lambda: 0 < sum(replaced.values(exporter).values()) < 100 * MIB, 5, "the new program is read, and does not rest for the old one")


def test_a_resting_process_does_not_hide_behind_another_name(resting):
    replaced, exporter = resting
    replaced.say("name other", "done")
    assert sum(replaced.values(exporter).values()) > 1000 * MIB, "it runs the same program"
