"""Tests that only the values of a process are lost if its mmap_lock is held for good.

These tests must not read smaps, maps, cmdline or environ of a stuck process. As long as there is a stuck
process, every ps and pgrep on the machine blocks. So a guardian (programs/stuck.c) frees each stuck process
within a minute, even if the test fails.
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

INTERVAL = 0.2
OFTEN = ("--scrape-interval", f"{INTERVAL}s", *BY_PID)
MAX_AGE = 2 * INTERVAL + 3
# How many seconds the tests observe the exporter. This is longer than MAX_AGE, so a test notices values that
# stop changing.
WATCHED = 5


class Stuck:
    """A process that holds its mmap_lock, so that reads of its smaps block (see programs/stuck.c)."""

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
        line = self.process.stdout.readline()
        assert line, "programs/stuck.c made no stuck process"
        self.pid = int(line.split()[0])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(timeout=10)
        self.process.stdout.close()

    def free(self):
        """Frees the process by aborting its FUSE connection."""
        self.process.stdin.write("x")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "freed\n"


def n_stuck(exposition) -> float:
    return exposition.value("smaps_exporter_stuck_processes")


def observe(exporter, growth: Growth, seconds: float, check=lambda exposition: None):
    """Asserts for some time that each response takes less than a second.

    Also asserts that the values of processes that are not stuck stay fresh.
    """
    slowest = 0.0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        sent_at = time.monotonic()
        exposition = exporter.metrics()
        slowest = max(slowest, time.monotonic() - sent_at)
        assert exporter.get("/healthz")[0] == 200
        growth.observe(exposition)
        check(exposition)
        time.sleep(0.1)
    print(
        f"for {seconds:.0f} s: responses within {slowest:.3f} s, "
        f"values of healthy processes at most {growth.oldest:.1f} s old"
    )
    assert slowest < 1
    assert growth.oldest < MAX_AGE


@pytest.fixture
def growth(any_node, programs):
    return Growth(any_node, programs, 20)


def test_stuck_program_blocks_readers(any_node, programs, tmp_path):
    """Reading the smaps of a stuck process must block. Otherwise, the other tests would prove nothing."""
    with Stuck(any_node, programs, tmp_path / "fs") as stuck:
        reader = subprocess.Popen(["cat", f"/proc/{stuck.pid}/smaps"], stdout=subprocess.DEVNULL)
        with pytest.raises(subprocess.TimeoutExpired):
            reader.wait(timeout=1)
        stuck.free()
        assert reader.wait(timeout=10) == 0


def test_process_that_gets_stuck_does_not_affect_others(any_node, programs, growth, tmp_path):
    with any_node.exporter(*OFTEN) as exporter:
        growth.start(exporter.after(2))
        assert n_stuck(exporter.metrics()) == 0 and errors(exporter.metrics())["stuck"] == 0
        with Stuck(any_node, programs, tmp_path / "fs") as stuck:
            observe(exporter, growth, WATCHED)  # the exporter notices the stuck process during this time
            assert n_stuck(exporter.metrics()) == 1

            def is_absent(exposition):
                assert n_stuck(exposition) == 1
                assert "victim" not in comms(exposition), "values of a stuck process would be stale"

            observe(exporter, growth, WATCHED, is_absent)
            assert errors(exporter.metrics())["stuck"] >= 1
            warnings = [line for line in exporter.log().splitlines() if "WARN" in line]
            assert len(warnings) == 1, f"expected one warning: {warnings}"
            for word in (str(stuck.pid), "victim", "workload"):
                assert word in warnings[0]
            stuck.free()
            until(lambda: comms(exporter.metrics()).get("victim") == 1, 10, "the process is read again")
            assert n_stuck(exporter.metrics()) == 0
            observe(exporter, growth, 3)
        with Stuck(any_node, programs, tmp_path / "again"):
            until(lambda: n_stuck(exporter.metrics()) == 1, 10, "the second stuck process is noticed")
            assert_exits_within_a_second(exporter)


def test_process_stuck_before_the_start_does_not_affect_others(any_node, programs, growth, tmp_path):
    with Stuck(any_node, programs, tmp_path / "fs") as stuck:
        with any_node.exporter(*OFTEN) as exporter:
            until(lambda: n_stuck(exporter.metrics()) == 1, 10, "the stuck process is noticed")
            growth.start(exporter.after(2))
            observe(exporter, growth, WATCHED)
            assert n_stuck(exporter.metrics()) == 1 and errors(exporter.metrics())["stuck"] >= 1
            stuck.free()
            until(lambda: comms(exporter.metrics()).get("victim") == 1, 10, "the process is read again")
            assert n_stuck(exporter.metrics()) == 0
        with Stuck(any_node, programs, tmp_path / "again"), any_node.exporter(*OFTEN) as exporter:
            assert_exits_within_a_second(exporter)


def test_exec_beside_a_stuck_process_does_not_affect_others(any_node, programs, growth, tmp_path):
    """A second process shares memory with a stuck process, as after vfork, and calls exec.

    On Linux 6.18.44, reading the `stat` of the second process or opening its `smaps` then blocks.
    """
    with any_node.exporter(*OFTEN) as exporter:
        growth.start(exporter.after(2))
        with Stuck(any_node, programs, tmp_path / "fs", 50, "exec") as stuck:
            observe(exporter, growth, WATCHED)
            assert n_stuck(exporter.metrics()) == 2

            def are_absent(exposition):
                comm_labels = comms(exposition).keys()
                assert comm_labels.isdisjoint({"victim", "execs"}), "values of stuck processes would be stale"

            observe(exporter, growth, WATCHED, are_absent)
            stuck.free()
            until(lambda: comms(exporter.metrics()).get("victim") == 1, 10, "the stuck process is read again")
            until(
                lambda: comms(exporter.metrics()).get("sleep") == 2,
                10,
                "the other process has executed its program and is read",
            )
            assert n_stuck(exporter.metrics()) == 0
        with Stuck(any_node, programs, tmp_path / "again", 50, "exec"):
            until(lambda: n_stuck(exporter.metrics()) == 2, 15, "both stuck processes are noticed")
            assert_exits_within_a_second(exporter)


@pytest.mark.parametrize("n_processes", [20, 70], ids=["a thread each", "more than threads"])
def test_many_stuck_processes_do_not_affect_others(any_node, programs, growth, tmp_path, n_processes):
    """Each read of a stuck process blocks a thread. Above 64 threads, stuck processes are skipped."""
    with any_node.exporter(*OFTEN) as exporter, ExitStack() as stack:
        growth.start(exporter.after(2))
        before = resident(exporter.process.pid)
        all_stuck = [
            stack.enter_context(Stuck(any_node, programs, tmp_path / f"fs{i}", 58))
            for i in range(n_processes)
        ]
        sizes, n_threads = [], []

        def measure(exposition):
            sizes.append(resident(exporter.process.pid))
            n_threads.append(len(os.listdir(f"/proc/{exporter.process.pid}/task")))

        observe(exporter, growth, 12, measure)
        warm = max(sizes[len(sizes) // 4 : len(sizes) // 2])
        most = max(sizes[len(sizes) // 2 :])
        print(
            f"RSS {before >> 10} KiB before, {warm >> 10} KiB after the warm-up, "
            f"at most {most >> 10} KiB later; at most {max(n_threads)} threads"
        )
        assert most < warm + MIB
        assert min(n_processes, 64) < max(n_threads) < 64 + 16
        assert n_stuck(exporter.metrics()) == n_processes and "victim" not in comms(exporter.metrics())
        for stuck in all_stuck[:10]:
            stuck.free()
        until(lambda: comms(exporter.metrics()).get("victim") == 10, 20, "the freed processes are read again")
        assert_exits_within_a_second(exporter)
