"""Tests that slow reads hold a process's mmap_lock at most 1% of the time and delay no other reads."""

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
    """Returns the shortest duration of five reads of the process's smaps."""
    best = float("inf")
    for _ in range(5):
        started_at = time.monotonic()
        Path(f"/proc/{pid}/smaps").read_bytes()
        best = min(best, time.monotonic() - started_at)
    return best


def test_large_process_is_read_at_most_1_percent_of_the_time(any_node, programs):
    large = Growth(any_node, programs, 1, LARGE // 4096)
    small = Growth(any_node, programs, 20)
    pid = large.processes[0].pid
    each = seconds_to_read(pid)
    with any_node.exporter("--scrape-interval", "100ms", *BY_PID) as exporter:
        until(lambda: str(pid) in rss(exporter.metrics()), 30, "the large process is read")
        exposition = exporter.after()
        large.start(exposition)
        small.start(exposition)
        started_at, oldest = time.monotonic(), 0.0
        for exposition in exporter.scrapes():
            oldest = max(oldest, exposition.value("smaps_exporter_oldest_data_seconds"))
            large.observe(exposition)
            small.observe(exposition)
            if time.monotonic() > started_at + 3 * WATCH_SECONDS:
                break
        seconds = time.monotonic() - started_at
        share = large.n_changes * each / seconds
        longest = exposition.value("smaps_exporter_longest_read_seconds")
        print(
            f"{large.n_changes} reads of {each * 1000:.1f} ms or more in {seconds:.0f} s: {share:.2%}; "
            f"the exporter's longest read {longest * 1000:.1f} ms; "
            f"{small.n_scrapes} scrapes, values of small processes at most {small.oldest:.2f} s old"
        )
        assert large.n_changes >= 2, "the large process is read again"
        assert share <= 0.012
        assert longest >= 0.5 * each
        assert oldest > 50 * each, "the age of the large process's values is reported"
        # The 20 small processes grow all the time, so nearly every scrape must show a new value of each.
        assert small.n_changes > 0.8 * 20 * small.n_scrapes and small.oldest < 3


@pytest.fixture
def long_path(tmp_path):
    home = os.fsencode(tmp_path)
    while len(home) < 3800:
        home += b"/" + b"d" * min(240, 3850 - len(home))
    os.makedirs(home)
    path = home + b"/" + b"f" * (4000 - len(home))
    Path(os.fsdecode(path)).write_bytes(b"x" * 4096)
    return path


def test_60000_mappings_of_long_paths_delay_no_others(any_node, programs, long_path):
    growth = Growth(any_node, programs, 20)
    any_node.cgroup.run_ready(programs / "slow", "paths", "60000", long_path)
    with any_node.exporter(*BY_PID) as exporter:
        until(lambda: comms(exporter.metrics()).get("pages") == 20, 10, "the other processes are read")
        growth.start(exporter.metrics())
        deadline = time.monotonic() + WATCH_SECONDS
        slowest = 0.0
        while time.monotonic() < deadline:
            sent_at = time.monotonic()
            growth.observe(exporter.metrics())
            slowest = max(slowest, time.monotonic() - sent_at)
            assert exporter.get("/healthz")[0] == 200
            time.sleep(0.1)
        print(
            f"values of other processes at most {growth.oldest:.2f} s old, responses within {slowest:.3f} s, "
            f"processes: {comms(exporter.metrics())}"
        )
        assert growth.oldest < 3
        assert slowest < 1
        assert_exits_within_a_second(exporter)
