"""A process whose memory-map lock is held for good costs its node the values of that one process, and nothing else.

Nothing here may read smaps, maps, cmdline or environ of a stuck process. Each is freed by its own guardian (programs/stuck.c) whatever
happens to the test, and after less than a minute in any case: ps and pgrep of everybody on the machine wait as long.
"""

import os
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from exporter import assert_exits_within_a_second
from exposition import comms, errors
from growth import BY_PID, Growth
from lab import until
from live_node import MIB, resident

INTERVAL = 1.0
YOUNG = 2 * INTERVAL + 3


class Stuck:
    """A stuck process in the node's container."""

    def __init__(self, node, programs: Path, directory: Path, seconds: int = 50, *how: str):
        directory.mkdir()
        self.process = node.cgroup.run(
            programs / "stuck",
            directory,
            str(seconds),
            *how,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = self.process.stdout.readline()
        assert said, "no process was made to be stuck"
        self.pid = int(said.split()[0])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(timeout=10)
        self.process.stdout.close()

    def free(self):
        """Abort the connection: the process is healthy from now on."""
        self.process.stdin.write("x")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "freed\n"


def n_stuck(exposition) -> float:
    return exposition.value("smaps_exporter_stuck_processes")


def watch(exporter, growth: Growth, seconds: float, look=lambda exposition: None):
    """For so long: answers come within a second, the exporter is healthy, and the healthy processes' values are young."""
    slowest = 0.0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        asked = time.monotonic()
        exposition = exporter.metrics()
        slowest = max(slowest, time.monotonic() - asked)
        assert exporter.get("/healthz")[0] == 200
        growth.look(exposition)
        look(exposition)
        time.sleep(0.1)
    print(
        f"for {seconds:.0f} s: answers within {slowest:.3f} s, values of the healthy no older than {growth.oldest:.1f} s"
    )
    assert slowest < 1
    assert growth.oldest < YOUNG


@pytest.fixture
def growth(any_node, programs):
    return Growth(any_node, programs, 20)


def test_the_program_does_what_it_is_for(any_node, programs, tmp_path):
    """Else the other tests would prove nothing: smaps of a stuck process is read for as long as it is stuck."""
    with Stuck(any_node, programs, tmp_path / "fs") as stuck:
        reader = subprocess.Popen(["cat", f"/proc/{stuck.pid}/smaps"], stdout=subprocess.DEVNULL)
        with pytest.raises(subprocess.TimeoutExpired):
            reader.wait(timeout=1)
        stuck.free()
        assert reader.wait(timeout=10) == 0


def test_a_process_gets_stuck_among_healthy_ones(any_node, programs, growth, tmp_path):
    with any_node.exporter(*BY_PID) as exporter:
        growth.begin(exporter.after(2))
        assert n_stuck(exporter.metrics()) == 0 and errors(exporter.metrics())["stuck"] == 0
        with Stuck(any_node, programs, tmp_path / "fs") as stuck:
            watch(exporter, growth, 8)  # it is noticed somewhere in between
            assert n_stuck(exporter.metrics()) == 1

            def is_absent(exposition):
                assert n_stuck(exposition) == 1
                assert "victim" not in comms(exposition), "its values would be stale"

            watch(exporter, growth, 8, is_absent)
            assert errors(exporter.metrics())["stuck"] >= 1
            warnings = [line for line in exporter.log().splitlines() if "WARN" in line]
            assert len(warnings) == 1, f"it is said once: {warnings}"
            for word in (str(stuck.pid), "victim", "workload"):
                assert word in warnings[0]
            stuck.free()
            until(lambda: comms(exporter.metrics()).get("victim") == 1, 10, "it is read again")
            assert n_stuck(exporter.metrics()) == 0
            watch(exporter, growth, 3)
        with Stuck(any_node, programs, tmp_path / "again"):
            until(lambda: n_stuck(exporter.metrics()) == 1, 10, "the second one is noticed")
            assert_exits_within_a_second(exporter)


def test_a_process_was_stuck_before_the_exporter_started(any_node, programs, growth, tmp_path):
    with Stuck(any_node, programs, tmp_path / "fs") as stuck:
        with any_node.exporter(*BY_PID) as exporter:
            until(lambda: n_stuck(exporter.metrics()) == 1, 10, "it is noticed")
            growth.begin(exporter.after(2))
            watch(exporter, growth, 8)
            assert n_stuck(exporter.metrics()) == 1 and errors(exporter.metrics())["stuck"] >= 1
            stuck.free()
            until(lambda: comms(exporter.metrics()).get("victim") == 1, 10, "it is read again")
            assert n_stuck(exporter.metrics()) == 0
        with Stuck(any_node, programs, tmp_path / "again"), any_node.exporter(*BY_PID) as exporter:
            assert_exits_within_a_second(exporter)


def test_a_process_executes_beside_a_stuck_one(any_node, programs, growth, tmp_path):
    """Of one that shares memory with a stuck process, as after vfork, not even stat can be read (Linux 6.18.44), nor smaps opened."""
    with any_node.exporter(*BY_PID) as exporter:
        growth.begin(exporter.after(2))
        with Stuck(any_node, programs, tmp_path / "fs", 50, "exec") as stuck:
            watch(exporter, growth, 8)
            assert n_stuck(exporter.metrics()) == 2

            def are_absent(exposition):
                assert comms(exposition).keys().isdisjoint({"victim", "execs"}), "their values would be stale"

            watch(exporter, growth, 8, are_absent)
            stuck.free()
            until(lambda: comms(exporter.metrics()).get("victim") == 1, 10, "the stuck one is read again")
            until(
                lambda: comms(exporter.metrics()).get("sleep") == 2,
                10,
                "the other one has executed its program and is read",
            )
            assert n_stuck(exporter.metrics()) == 0
        with Stuck(any_node, programs, tmp_path / "again", 50, "exec"):
            until(lambda: n_stuck(exporter.metrics()) == 2, 15, "both are noticed")
            assert_exits_within_a_second(exporter)


@pytest.mark.parametrize("n_processes", [20, 70], ids=["a thread each", "more than threads"])
def test_many_stuck_processes_at_once(any_node, programs, growth, tmp_path, n_processes):
    """Up to 64 reads are detached, each on its own thread. Beyond that, stuck processes are skipped."""
    with any_node.exporter(*BY_PID) as exporter, ExitStack() as stack:
        growth.begin(exporter.after(2))
        before = resident(exporter.process.pid)
        all_stuck = [
            stack.enter_context(Stuck(any_node, programs, tmp_path / f"fs{i}", 58))
            for i in range(n_processes)
        ]
        sizes, n_threads = [], []

        def look(exposition):
            sizes.append(resident(exporter.process.pid))
            n_threads.append(len(os.listdir(f"/proc/{exporter.process.pid}/task")))

        watch(exporter, growth, 20, look)
        warm = max(sizes[len(sizes) // 4 : len(sizes) // 2])
        most = max(sizes[len(sizes) // 2 :])
        print(
            f"RSS {before >> 10} KiB before, {warm >> 10} KiB, then at most {most >> 10} KiB; at most {max(n_threads)} threads"
        )
        assert most < warm + MIB
        assert min(n_processes, 64) < max(n_threads) < 64 + 16
        assert n_stuck(exporter.metrics()) == n_processes and "victim" not in comms(exporter.metrics())
        for stuck in all_stuck[:10]:
            stuck.free()
        until(lambda: comms(exporter.metrics()).get("victim") == 10, 20, "the freed ones are read again")
        assert_exits_within_a_second(exporter)
