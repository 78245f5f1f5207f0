"""Measures CPU, memory and exposition size of an exporter on a large node, with a scrape every 15 seconds.

usage: load.py recorded|live [SECONDS]   (by default both, five minutes each with two sets of options)

recorded: a generated recording of 110 pods, 250 containers, 1,500 processes and 400,000 mappings. live: the
same number of real processes in cgroups, but only as many as fit into half of the free memory; needs root.
Each is measured with the options of the DaemonSet, and with a series for each path.
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
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

from exporter import EVERYTHING, REPOSITORY, Exporter  # noqa: E402
from lab import cpu_seconds, mounts, read_proc, until  # noqa: E402

N_PODS, N_CONTAINERS = 110, 250
# The numbers of mappings of the six processes of each container. Their sum is 1,600, so the whole node has
# 400,000 mappings.
N_MAPPINGS = (40, 80, 120, 200, 360, 800)
INTERVAL_SECONDS = 15
# The bytes of memory that each process and each mapping of `Live` needs. A mapping needs one page, and the
# memory in which the kernel describes the mapping.
PROCESS_BYTES, MAPPING_BYTES = 200_000, 4096 + 300


def container_id(i: int) -> str:
    return f"{i:064x}"


def container_cgroup(i: int) -> str:
    """Returns the path of a container's cgroup, as the kubelet names it."""
    return f"kubepods/pod{i % N_PODS:032x}/{container_id(i)}"


def shipped_options() -> list[str]:
    """Returns the DaemonSet's options that decide what is read and exported."""
    manifest = (REPOSITORY / "src/kubernetes/daemonset.yaml").read_text()
    return re.findall(r"- (--(?:filter|group-by|fields)=\S+)", manifest)


def containers_tsv(directory: Path, inits: list[int]):
    rows = [
        f"{container_id(i)}\t{init}\tload-{i % N_PODS % 20}\tpod-{i % N_PODS}\tapp-{i // N_PODS}\n"
        for i, init in enumerate(inits)
    ]
    (directory / "containers.tsv").write_text("id\tinit_pid\tnamespace\tpod\tcontainer\n" + "".join(rows))


def ascending(mappings: Iterable[str]) -> str:
    """Returns the smaps text of these mappings, each at an address above the last one.

    The exporter rejects mappings that overlap.
    """
    text, begin = "", 1 << 32
    for mapping in mappings:
        head, rest = mapping.split(" ", 1)
        low, high = (int(address, 16) for address in head.split("-"))
        end = begin + high - low
        text += f"{begin:x}-{end:x} {rest}"
        begin = end + 4096
    return text


class Recorded:
    """A recording with the mappings of fixtures/node.

    All processes have these mappings in the same order, but the first mapping differs between processes.
    """

    options: list[str] = []

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
                text = ascending(itertools.islice(itertools.cycle(blocks), start, start + n_mappings))
                (process / "smaps").write_text(text, errors="surrogateescape")
                (process / "comm").write_text(f"worker-{n % 3}\n")
                (process / "cgroup").write_text(f"0::/{container_cgroup(i)}\n")
                pid += 1
        containers_tsv(directory, inits)

    def close(self):
        shutil.rmtree(self.directory)


class Live:
    """Real processes, with cgroups for pods and containers, and a recording with a link to /proc."""

    options = ["--cgroup-path=/sys/fs/cgroup"]

    def __init__(self, directory: Path, n_mappings: tuple[int, ...] = N_MAPPINGS, is_busy: bool = False):
        self.directory = directory
        program = directory / "mappings"
        subprocess.run(
            ["gcc", "-O1", "-static", "-o", program, REPOSITORY / "tests/nodes/programs/mappings.c"],
            check=True,
        )
        self.processes: list[subprocess.Popen] = []
        self.cgroups: list[Path] = []
        available = int(re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())[1]) << 10
        container_bytes = sum(PROCESS_BYTES + n * MAPPING_BYTES for n in n_mappings)
        n_containers = min(N_CONTAINERS, available // 2 // container_bytes)
        roots = [
            Path(root)
            for _, root, kind, options, *_ in mounts()
            if kind == "cgroup2" or kind == "cgroup" and has_containers(options)
        ]
        # The processes map copies of the libraries. Otherwise, the PSS of their mappings would change when
        # another program that uses a library starts or ends.
        libraries = sorted(Path("/usr/lib").glob("*/lib*.so.*"))[:30]
        files = [shutil.copy(library, directory) for library in libraries]
        os.sync()  # otherwise, the kernel would write the new files after 30 s, and so change the mappings
        try:
            inits = []
            for i in range(n_containers):
                here = [self.make_cgroup(root, container_cgroup(i)) for root in roots]
                for n in n_mappings:
                    process = subprocess.Popen(
                        [program, str(n), *files],
                        env={"BUSY": "1"} if is_busy else {},
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
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

    def make_cgroup(self, root: Path, path: str) -> Path:
        """Makes a cgroup and the cgroups above it. With version 2, enables the memory controller in them."""
        cgroup = root
        for name in path.split("/"):
            control = cgroup / "cgroup.subtree_control"
            if control.exists() and "memory" in (cgroup / "cgroup.controllers").read_text():
                control.write_text("+memory")
            cgroup /= name
            if not cgroup.exists():
                cgroup.mkdir()
                self.cgroups.append(cgroup)
        return cgroup

    def close(self):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        for cgroup in reversed(self.cgroups):
            until(lambda: rmdir(cgroup) or has_children(cgroup), 10, f"{cgroup} is removed, unless shared")
        shutil.rmtree(self.directory)


def has_containers(options: str) -> bool:
    return bool({"memory", "name=systemd"} & set(options.split(",")))


def has_children(cgroup: Path) -> bool:
    return any(path.is_dir() for path in cgroup.iterdir())


def rmdir(cgroup: Path) -> bool:
    try:
        cgroup.rmdir()
    except OSError:
        return False
    return True

def rss_bytes(pid: int, key: str = "VmRSS") -> int:
    return int(re.search(rf"{key}:\s+(\d+) kB".encode(), read_proc(pid, "status"))[1]) << 10


def observe(exporter: Exporter, seconds: float) -> dict[str, str]:
    """Scrapes every 15 seconds, like Prometheus.

    Returns the figures to print, by name, such as the CPU time, the memory use and the response times.
    """
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
            for name, options in (("as shipped", shipped_options()), ("by path", EVERYTHING)):
                with Exporter("--fixture", load.directory, *load.options, *options) as exporter:
                    figures = observe(exporter, seconds)
                print(f"\n{kind}, {name}, scraped every {INTERVAL_SECONDS} s")
                lines = [f"  {what:<36}{figure}" for what, figure in figures.items()]
                print("\n".join(lines), flush=True)
        finally:
            load.close()


if __name__ == "__main__":
    kinds = [argument for argument in sys.argv[1:] if argument in ("recorded", "live")]
    numbers = [float(argument) for argument in sys.argv[1:] if argument not in kinds]
    main(kinds or ["recorded", "live"], numbers[0] if numbers else 300)
