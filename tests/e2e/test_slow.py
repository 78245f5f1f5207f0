"""Processes whose smaps takes long to read: they are held up at most a hundredth of the time, and hold up nobody else."""

import os
import time
from pathlib import Path

import pytest

from exporter import assert_exits_within_a_second
from exposition import comms
from growth import BY_PID, Growth, rss
from lab import WATCH_SECONDS, until

LARGE = 768 << 20


def seconds_to_read(pid: int) -> float:
    """What one read of its smaps takes, at best."""
    best = float("inf")
    for _ in range(5):
        begun = time.monotonic()
        Path(f"/proc/{pid}/smaps").read_bytes()
        best = min(best, time.monotonic() - begun)
    return best


def test_a_large_process_is_read_a_hundredth_of_the_time(any_node, programs):
    large = Growth(any_node, programs, 1, LARGE // 4096)
    small = Growth(any_node, programs, 20)
    pid = large.processes[0].pid
    each = seconds_to_read(pid)
    with any_node.exporter("--scrape-interval", "100ms", *BY_PID) as exporter:
        until(lambda: str(pid) in rss(exporter.metrics()), 30, "it is read")
        exposition = exporter.after()
        large.begin(exposition)
        small.begin(exposition)
        begun, oldest = time.monotonic(), 0.0
        for exposition in exporter.scrapes():
            oldest = max(oldest, exposition.value("smaps_exporter_oldest_data_seconds"))
            large.look(exposition)
            small.look(exposition)
            if time.monotonic() > begun + 2 * WATCH_SECONDS:
                break
        seconds = time.monotonic() - begun
        share = large.n_changes * each / seconds
        longest = exposition.value("smaps_exporter_longest_read_seconds")
        print(
            f"{large.n_changes} reads of {each * 1000:.1f} ms or more in {seconds:.0f} s: {share:.2%}; the exporter's longest read "
            f"{longest * 1000:.1f} ms; {small.n_looks} scrapes, the others no older than {small.oldest:.2f} s"
        )
        assert large.n_changes >= 2, "it is read all the same"
        assert share <= 0.012
        assert longest >= 0.5 * each
        assert oldest > 50 * each, "the age of its values is told"
        # the others are read at every scrape
        assert small.n_changes > 0.8 * 20 * small.n_looks and small.oldest < 3


@pytest.fixture
def long_path(tmp_path):
    home = os.fsencode(tmp_path)
    while len(home) < 3800:
        home += b"/" + b"d" * min(240, 3850 - len(home))
    os.makedirs(home)
    path = home + b"/" + b"f" * (4000 - len(home))
    Path(os.fsdecode(path)).write_bytes(b"x" * 4096)
    return path


def test_60000_mappings_of_long_paths_delay_nobody(any_node, programs, long_path):
    growth = Growth(any_node, programs, 20)
    any_node.cgroup.run_ready(programs / "slow", "paths", "60000", long_path)
    with any_node.exporter(*BY_PID) as exporter:
        until(lambda: comms(exporter.metrics()).get("pages") == 20, 10, "the others are read")
        growth.begin(exporter.metrics())
        deadline = time.monotonic() + WATCH_SECONDS
        slowest = 0.0
        while time.monotonic() < deadline:
            asked = time.monotonic()
            growth.look(exporter.metrics())
            slowest = max(slowest, time.monotonic() - asked)
            assert exporter.get("/healthz")[0] == 200
            time.sleep(0.1)
        print(
            f"the others no older than {growth.oldest:.2f} s, answers within {slowest:.3f} s, shown: {comms(exporter.metrics())}"
        )
        assert growth.oldest < 3
        assert slowest < 1
        assert_exits_within_a_second(exporter)
