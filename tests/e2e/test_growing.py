"""Tests that a mapping that grows during a read is counted once, and that an exec drops earlier values.

The kernel prints a few mappings per read(2). The next read(2) continues at the end address of the last
printed mapping. If this mapping has grown between the two calls, the address now lies inside the mapping, and
the kernel prints the whole mapping again.
"""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from exporter import EVERYTHING, once
from exposition import Exposition
from growth import BY_PID, rss
from lab import HERE, until
from live_node import MIB

N_READS = 300
# One read(2) of smaps returns about five mappings. In layout N, the process has N additional mappings before
# its heap. Each additional mapping moves the heap one place on in the result of a read(2). So in one of the
# five layouts, the heap is in the last place.
N_LAYOUTS = 5


class Growing:
    """A process that uses more memory all the time, while the number of its mappings stays the same."""

    def __init__(self, node, program: Path, mode: str, layout: int):
        self.process = node.cgroup.run_ready(program, mode, str(layout))
        self.pid = self.process.pid
        self.n_mappings = len(self._starts())

    def _starts(self) -> set[str]:
        """Returns the start addresses of the mappings.

        They are a set, because maps may print a growing mapping twice.
        """
        return {line.partition("-")[0] for line in Path(f"/proc/{self.pid}/maps").read_text().splitlines()}

    def resident(self) -> int:
        """Returns the resident memory of the process, from smaps_rollup.

        The kernel counts no page twice there, even if a mapping grows during the read (fs/proc/task_mmu.c,
        show_smaps_rollup).
        """
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("smaps_rollup has no Rss line")

    def close(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="session")
def dynamic(tmp_path_factory):
    """programs/grows.c, linked dynamically like most programs.

    Its libraries are mapped between its heap and its stack.
    """
    program = tmp_path_factory.mktemp("dynamic") / "dynamic"
    subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-o", program, HERE / "programs/grows.c"], check=True)
    return program


@pytest.mark.parametrize("kind", ["static-brk", "static-mprotect", "dynamic-brk", "dynamic-mprotect"])
def test_growing_mapping_counts_once(any_node, programs, dynamic, kind):
    """The sum of each read must be between two sums of the kernel, computed before and after the read."""
    linked, mode = kind.split("-")
    program = programs / "grows" if linked == "static" else dynamic
    n_values, wrong = 0, []
    for layout in range(N_LAYOUTS):
        growing = Growing(any_node, program, mode, layout)
        for _ in range(N_READS // N_LAYOUTS):
            before = growing.resident()
            text = once("--once", "--fixture", any_node.directory, *EVERYTHING, "--pid", "--fields", "rss")
            after = growing.resident()
            assert before < after, "the process did not grow during the read"
            exposition = Exposition(text)
            exported = rss(exposition).get(str(growing.pid))
            if exported is None:
                continue
            n_values += 1
            n_mappings = exposition.by("process_smaps_mappings", "pid")[str(growing.pid),]
            if n_mappings != growing.n_mappings or not before <= exported <= after:
                sums = [f"{n_bytes / MIB:.1f}" for n_bytes in (before, exported, after)]
                n = growing.n_mappings
                wrong.append(f"layout {layout}: {n_mappings} mappings instead of {n}, {' '.join(sums)} MiB")
        growing.close()
    print(f"{n_values} of {N_READS} reads gave values, of which {len(wrong)} were wrong")
    assert not wrong, "the kernel's sum before, the exported sum, the kernel's sum after"
    assert n_values >= N_READS - 10


class Replaceable:
    """A process that executes another program or changes its name when a test orders this.

    A read of the process takes long, because it has 1 GiB in pages of 4 KiB. So the exporter reuses each
    reading for several seconds.
    """

    def __init__(self, node, programs: Path):
        self.process = node.cgroup.run_ready(programs / "replaced", "1024", stdin=subprocess.PIPE)
        self.pid = str(self.process.pid)

    def order(self, line: str, answer: str):
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()
        assert self.process.stdout.readline() == f"{answer}\n".encode()

    def values(self, exporter) -> dict[str, float]:
        """Returns {name: resident bytes} of the process, from a scrape that begins after this call."""
        values = exporter.after().by("process_smaps_rss_bytes", "pid", "comm")
        return {comm: value for (pid, comm), value in values.items() if pid == self.pid}


@pytest.fixture
def kept(any_node, programs):
    """A process that has just been read, and an exporter that still uses the values of that read."""
    process = Replaceable(any_node, programs)
    with any_node.exporter("--scrape-interval", "100ms", *BY_PID) as exporter:
        until(lambda: process.values(exporter), 30, "the process is read")
        yield process, exporter


@pytest.mark.parametrize("name", ["another", "replaced"])
def test_exec_drops_kept_values(kept, tmp_path, programs, name):
    """The new program may have the same name as the old one.

    The exporter then recognizes the exec by the memory addresses in /proc/<pid>/stat.
    """
    process, exporter = kept
    assert sum(process.values(exporter).values()) > 1000 * MIB
    shutil.copy(programs / "replaced", tmp_path / name)
    process.order(f"exec {tmp_path / name}", "ready")
    shown = process.values(exporter)
    assert set(shown) <= {name} and sum(shown.values()) < 100 * MIB, (
        f"{shown} belongs to the previous program"
    )
    until(lambda: 0 < sum(process.values(exporter).values()) < 100 * MIB, 5, "the new program is read")


def test_renaming_a_process_keeps_its_values(kept):
    process, exporter = kept
    process.order("name other", "done")
    assert sum(process.values(exporter).values()) > 1000 * MIB, "the process still runs the same program"
