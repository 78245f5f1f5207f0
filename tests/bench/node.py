"""Measures how many millicores the exporter uses on a node of 110 pods. Compares it with process-exporter.

usage: node.py [ROUNDS]

250 containers have two processes each, with 60 and with 150 mappings. This makes 500 processes and 52,500
mappings. The options are those of the DaemonSet, but the exporter reads a recording that links to the live
processes. So it makes no checks between scrapes. Both exporters run at the same time and read the same
processes. They are scraped every 15 s, and then every 30 s. This is done once while the processes are quiet,
and once while each process touches a new page every second. process-exporter runs with its default options,
and selects the same processes. It is left out if it is not installed.
"""

import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nodes"))

from exporter import Exporter  # noqa: E402
from lab import cpu_seconds, until  # noqa: E402
from load import N_CONTAINERS, Live, shipped_options  # noqa: E402

PROCESS_EXPORTER = shutil.which("prometheus-process-exporter") or shutil.which("process-exporter")
PROCESS_EXPORTER_ADDRESS = "127.0.0.1:9256"
N_MAPPINGS = (60, 150)
# The number of scrapes before the measurement. From its third scrape on, the exporter skips processes that
# have not changed.
N_WARM_UP = 4

def request(url: str) -> bytes:
    headers = {"Accept-Encoding": "gzip", "User-Agent": "Prometheus/3.0.0"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as response:
        return response.read()


def millicores(urls: dict[int, str], seconds: float, n_periods: int) -> list[float]:
    """Scrapes each exporter once per period. Returns how many thousandths of a core each exporter used."""
    started_at, before = time.monotonic(), [cpu_seconds(pid) for pid in urls]
    for n in range(1, n_periods + 1):
        time.sleep(max(0.0, started_at + n * seconds - time.monotonic()))
        for url in urls.values():
            request(url)
    elapsed = time.monotonic() - started_at
    return [1000 * (cpu_seconds(pid) - was) / elapsed for pid, was in zip(urls, before)]


def start_process_exporter(directory: Path) -> subprocess.Popen:
    config = directory / "process-exporter.yml"
    config.write_text("process_names:\n  - comm: [mappings]\n")
    arguments = ["-config.path", config, "-web.listen-address", PROCESS_EXPORTER_ADDRESS]
    return subprocess.Popen(
        [PROCESS_EXPORTER, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def answers(url: str) -> Callable[[], bool]:
    def check() -> bool:
        try:
            return bool(request(url))
        except OSError:
            return False

    return check


def measure(is_busy: bool, n_periods: int):
    load = Live(Path(tempfile.mkdtemp(prefix="smaps-node-")), N_MAPPINGS, is_busy)
    # When `Exporter` is closed, it prints the log of the program to stdout. Here, the log goes to stderr, so
    # that stdout has only the results.
    with redirect_stdout(sys.stderr), ExitStack() as stack:
        stack.callback(load.close)
        options = ("--fixture", load.directory, *load.options, *shipped_options())
        exporter = stack.enter_context(Exporter(*options))
        urls = {exporter.process.pid: f"http://{exporter.address}/metrics"}
        if PROCESS_EXPORTER:
            other = start_process_exporter(load.directory)
            stack.callback(other.wait)
            stack.callback(other.kill)
            urls[other.pid] = f"http://{PROCESS_EXPORTER_ADDRESS}/metrics"
            until(answers(urls[other.pid]), 60, "process-exporter answers")
            assert other.poll() is None, f"another program listens on {PROCESS_EXPORTER_ADDRESS}"
        millicores(urls, 2, N_WARM_UP)
        for seconds in (15, 30):
            own, *others = millicores(urls, seconds, n_periods)
            beside = f", process-exporter {others[0]:6.2f}" if others else ""
            what = f"{'busy' if is_busy else 'quiet'}, scraped every {seconds} s"
            line = f"  {what:<32}{own:6.2f} millicores{beside}"
            print(line, file=sys.__stdout__, flush=True)


def main(n_periods: int):
    n_processes = f"{len(N_MAPPINGS) * N_CONTAINERS} processes (fewer if memory is short)"
    what = f"a node of 110 pods, {n_processes}, as shipped, without checks"
    print(f"\n{what}, over {n_periods} periods", flush=True)
    if not PROCESS_EXPORTER:
        print("  process-exporter is not installed, so it is skipped")
    for is_busy in (False, True):
        measure(is_busy, n_periods)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
