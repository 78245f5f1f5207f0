"""Measures how old exported values are, without using the exporter's own figure.

The processes grow all the time. So if a value has not changed since the last scrape, its process was not read
in this scrape.
"""

import time

from exposition import Exposition

# Options with which each process has its own series and is read by every scrape.
BY_PID = ("--pid", "--fields", "rss", "--cpu-budget", "0")


class Growth:
    """Runs growing processes, and finds out in which scrapes their exported values change.

    Run the exporter with the options BY_PID, and call `observe` for every scrape.
    """

    def __init__(self, node, programs, n: int, n_pages: int = 16):
        self.processes = [node.cgroup.run_ready(programs / "slow", "pages", str(n_pages)) for _ in range(n)]
        self._changes: dict[str, tuple[float, float]] = {
            str(process.pid): (0.0, 0.0) for process in self.processes
        }
        self.oldest = 0.0
        self.n_changes = 0
        self.n_scrapes = 0

    def start(self, exposition: Exposition):
        """Stores the values in this exposition, to which `observe` compares later values."""
        now = time.monotonic()
        values = rss(exposition)
        missing = self._changes.keys() - values.keys()
        assert not missing, f"{len(missing)} of {len(self._changes)} processes are missing"
        self._changes = {pid: (values[pid], now) for pid in self._changes}
        self.oldest, self.n_changes, self.n_scrapes = 0.0, 0, 0

    def observe(self, exposition: Exposition):
        now = time.monotonic()
        values = rss(exposition)
        self.n_scrapes += 1
        for pid, (before, since) in self._changes.items():
            assert pid in values, f"process {pid} is healthy but missing"
            if values[pid] != before:
                self._changes[pid] = (values[pid], now)
                self.n_changes += 1
            self.oldest = max(self.oldest, now - since)


def rss(exposition: Exposition) -> dict[str, float]:
    return {pid: value for (pid,), value in exposition.by("process_smaps_rss_bytes", "pid").items()}
