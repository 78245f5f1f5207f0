"""Measures CPU, memory and exposition size of an exporter on a large node, with a scrape every 15 seconds.

usage: load.py recorded|live [SECONDS]   (by default both, ten minutes each)

recorded: a generated recording of 250 containers, 1,500 processes and 400,000 mappings.

live: the same number of real processes. Each container has a cgroup, which needs root. There are only as many
containers as fit into half of the free memory.
"""

import gzip
import itertools
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

from exporter import EVERYTHING, REPOSITORY, Exporter  # noqa: E402
from lab import mounts, read_proc, until  # noqa: E402

N_CONTAINERS = 250
# The numbers of mappings of the six processes of each container. The sum is 1,600, so the node has 400,000.
N_MAPPINGS = (40, 80, 120, 200, 360, 800)
INTERVAL_SECONDS = 15
TICKS = os.sysconf("SC_CLK_TCK")
# The bytes that the live load needs for each process, and for each mapping. A mapping needs one page, and
# what the kernel stores about it.
PROCESS_BYTES, MAPPING_BYTES = 200_000, 4096 + 300


def container_id(i: int) -> str:
    return f"{i:064x}"


def containers_tsv(directory: Path, inits: list[int]):
    rows = [f"{container_id(i)}\t{init}\tload-{i % 20}\tpod-{i}\tapp\n" for i, init in enumerate(inits)]
    (directory / "containers.tsv").write_text("id\tinit_pid\tnamespace\tpod\tcontainer\n" + "".join(rows))


class Recorded:
    """A recording with the mappings of fixtures/node.

    All processes have these mappings in the same order, but each process starts at another place in the list.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        blocks = []
        for smaps in sorted((REPOSITORY / "fixtures/node/proc").glob("*/smaps")):
            blocks += re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", smaps.read_text(errors="surrogateescape"))[
                1:
            ]
        pid, inits = 1000, []
        for i in range(N_CONTAINERS):
            inits.append(pid)
            for n, n_mappings in enumerate(N_MAPPINGS):
                process = directory / f"proc/{pid}"
                process.mkdir(parents=True)
                start = 7919 * pid % len(blocks)
                text = "".join(itertools.islice(itertools.cycle(blocks), start, start + n_mappings))
                (process / "smaps").write_text(text, errors="surrogateescape")
                (process / "comm").write_text(f"worker-{n % 3}\n")
                (process / "cgroup").write_text(f"0::/kubepods/pod{i}/{container_id(i)}\n")
                pid += 1
        containers_tsv(directory, inits)

    def close(self):
        shutil.rmtree(self.directory)


class Live:
    """Real processes, a cgroup for each container, and a recording with a link to /proc."""

    def __init__(self, directory: Path):
        self.directory = directory
        program = directory / "mappings"
        subprocess.run(
            ["gcc", "-O1", "-static", "-o", program, REPOSITORY / "tests/nodes/programs/mappings.c"],
            check=True,
        )
        self.processes: list[subprocess.Popen] = []
        self.cgroups: list[Path] = []
        available = int(re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())[1]) << 10
        container_bytes = sum(PROCESS_BYTES + n * MAPPING_BYTES for n in N_MAPPINGS)
        n_containers = min(N_CONTAINERS, available // 2 // container_bytes)
        roots = [
            Path(root)
            for _, root, kind, options, *_ in mounts()
            if kind == "cgroup2" or kind == "cgroup" and has_containers(options)
        ]
        files = sorted(Path("/usr/lib").glob("*/lib*.so.*"))[:30]
        try:
            inits = []
            for i in range(n_containers):
                here = [root / "smaps-load" / container_id(i) for root in roots]
                for cgroup in here:
                    cgroup.mkdir(parents=True)
                    self.cgroups.append(cgroup)
                for n_mappings in N_MAPPINGS:
                    process = subprocess.Popen(
                        [program, str(n_mappings), *files], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
                    )
                    self.processes.append(process)
                    for cgroup in here:
                        (cgroup / "cgroup.procs").write_text(str(process.pid))
                inits.append(self.processes[-1].pid)
            for process in self.processes:
                assert process.stdout.readline() == b"ready\n"
            containers_tsv(directory, inits)
            (directory / "proc").symlink_to("/proc")
        except BaseException:
            self.close()
            raise

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
        for cgroup in (*self.cgroups, *{cgroup.parent for cgroup in self.cgroups}):
            until(lambda: not cgroup.exists() or rmdir(cgroup), 10, f"{cgroup} is removed")
        shutil.rmtree(self.directory)


def has_containers(options: str) -> bool:
    return bool({"memory", "name=systemd"} & set(options.split(",")))


def rmdir(cgroup: Path) -> bool:
    try:
        cgroup.rmdir()
    except OSError:
        return False
    return True


def cpu_seconds(pid: int) -> float:
    fields = read_proc(pid, "stat").rpartition(b") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_bytes(pid: int, key: str = "VmRSS") -> int:
    return int(re.search(rf"{key}:\s+(\d+) kB".encode(), read_proc(pid, "status"))[1]) << 10


def observe(exporter: Exporter, seconds: float) -> dict[str, str]:
    """Scrapes every 15 seconds, like Prometheus. Returns what the exporter used, by name."""
    pid = exporter.process.pid
    request = urllib.request.Request(
        f"http://{exporter.address}/metrics",
        headers={
            "Accept-Encoding": "gzip",
            "X-Prometheus-Scrape-Timeout-Seconds": "10",
            "User-Agent": "Prometheus/2.42.0",
        },
    )
    started_at, cpu_before = time.monotonic(), cpu_seconds(pid)
    answers, waits, resident = [], [], []
    for n in itertools.count():
        time.sleep(max(0.0, started_at + n * INTERVAL_SECONDS - time.monotonic()))
        sent_at = time.monotonic()
        if sent_at - started_at > seconds:
            break
        with urllib.request.urlopen(request, timeout=10) as response:
            answers.append(response.read())
        waits.append(time.monotonic() - sent_at)
        resident.append(rss_bytes(pid))
    cpu, wall = cpu_seconds(pid) - cpu_before, time.monotonic() - started_at
    texts = [gzip.decompress(answer) for answer in (answers[0], answers[-1])]
    own = dict(re.findall(rb"^smaps_exporter_(\w+) (\S+)$", texts[-1], re.MULTILINE))
    half = len(resident) // 2
    first, second = (statistics.mean(part) / 1e6 for part in (resident[:half], resident[half:]))
    return {
        "containers, processes, mappings": ", ".join(
            own[name].decode() for name in (b"containers", b"processes", b"mappings")
        ),
        "scrapes by Prometheus": str(len(answers)),
        "CPU": f"{cpu / wall:.3f} of a core ({cpu:.1f} s in {wall:.0f} s)",
        "RSS, peak": f"{rss_bytes(pid, 'VmHWM') / 1e6:.1f} MB",
        "RSS, mean of first and second half": f"{first:.1f} MB, {second:.1f} MB",
        "exposition": f"{own[b'samples'].decode()} samples, {max(map(len, texts)) / 1e6:.1f} MB",
        "largest response, gzipped": f"{max(map(len, answers)) / 1e6:.2f} MB",
        "response time, median": f"{statistics.median(waits) * 1000:.0f} ms",
        "response time, maximum": f"{max(waits) * 1000:.0f} ms",
        "oldest data": f"{float(own[b'oldest_data_seconds']):.1f} s",
    }


def main(kinds: list[str], seconds: float):
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # with this, SIGTERM removes the load, too
    for kind in kinds:
        load = {"recorded": Recorded, "live": Live}[kind](Path(tempfile.mkdtemp(prefix="smaps-load-")))
        try:
            with Exporter("--fixture", load.directory, *EVERYTHING) as exporter:
                figures = observe(exporter, seconds)
        finally:
            load.close()
        print(f"\n{kind}, scraped every {INTERVAL_SECONDS} s")
        print("".join(f"  {name:<36}{figure}\n" for name, figure in figures.items()), end="", flush=True)


if __name__ == "__main__":
    kinds = [argument for argument in sys.argv[1:] if argument in ("recorded", "live")]
    numbers = [float(argument) for argument in sys.argv[1:] if argument not in kinds]
    main(kinds or ["recorded", "live"], numbers[0] if numbers else 600)
