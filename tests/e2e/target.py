"""An exporter that reads a generated recording, for tests in which clients attack the exporter."""

import http.client
import os
import random
import re
import socket
import time
from pathlib import Path

from exporter import EVERYTHING, Exporter
from lab import until

MIB = 1 << 20
# With this interval, the exporter scrapes only once in a test, so all responses have the same body.
ONCE = ("--scrape-interval", "1h")
KEYS = """Size KernelPageSize MMUPageSize Rss Pss Pss_Dirty Shared_Clean Shared_Dirty Private_Clean
Private_Dirty Referenced Anonymous KSM LazyFree AnonHugePages ShmemPmdMapped FilePmdMapped Shared_Hugetlb
Private_Hugetlb Swap SwapPss Locked""".split()


def record(directory: Path, n_containers: int, n_mappings: int, suffix: str = "") -> Path:
    """Generates a recording with one process in each container.

    The name of each pod ends with `suffix`. Each mapping adds 4 kB to the exposition if `suffix` is empty.
    Each character of `suffix` adds 22 bytes per mapping.
    """
    chance = random.Random(7)
    rows = ["id\tinit_pid\tnamespace\tpod\tcontainer"]
    for i in range(n_containers):
        pid = 100 + i
        rows.append(f"{i:064x}\t{pid}\tnamespace-{i % 5}\tserver-7d4b9c6f5d-{i:05}{suffix}\tserver")
        process = directory / "proc" / str(pid)
        process.mkdir(parents=True)
        (process / "comm").write_text("server\n")
        (process / "cgroup").write_text(f"0::/kubepods/pod{i}/{i:064x}\n")
        with (process / "smaps").open("w") as smaps:
            for j in range(n_mappings):
                start = 0x7F0000000000 + j * MIB
                smaps.write(f"{start:x}-{start + MIB:x} r-xp 00000000 08:01 {j + 1}")
                smaps.write(f"                   /usr/lib/x86_64-linux-gnu/liblibrary-{j:03}.so.1.2.3\n")
                for key in KEYS:
                    smaps.write(f"{key + ':':16}{4 * chance.randrange(256):8} kB\n")
                smaps.write("VmFlags: rd ex mr mw me \n")
    (directory / "containers.tsv").write_text("\n".join(rows) + "\n")
    return directory


class Target(Exporter):
    """An exporter that may have 1024 file descriptors open, with methods that measure its resources."""

    def __init__(
        self, recording: Path, *arguments: str, addr: str = "127.0.0.1:0", prefix: tuple[str, ...] = ()
    ):
        limits = (*prefix, "prlimit", "--nofile=1024:1024")
        super().__init__("--fixture", recording, *EVERYTHING, *arguments, prefix=limits, addr=addr)
        self.proc = Path("/proc", str(self.process.pid))
        host, port = self.address.split(":")
        self.peer = host, int(port)

    def connect(self, sends: bytes = b"") -> socket.socket:
        client = socket.create_connection(self.peer, timeout=10)
        client.sendall(sends)
        return client

    def scrape(self) -> tuple[float, bytes]:
        """Requests /metrics on a new connection. Returns how many seconds the request took, and the body."""
        begin = time.monotonic()
        connection = http.client.HTTPConnection(*self.peer, timeout=10)
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        body = response.read()
        connection.close()
        assert response.status == 200, body[:200]
        assert len(body) == int(response.headers["Content-Length"])
        return time.monotonic() - begin, body

    def wait_for_scrapes(self, n: int):
        for _ in range(n):
            seen = scraped_at(self.scrape()[1])
            until(lambda: scraped_at(self.scrape()[1]) != seen, 10, "another scrape has ended")

    def n_open(self) -> tuple[int, int]:
        """Returns the number of threads and the number of open file descriptors."""
        return len(os.listdir(self.proc / "task")), len(os.listdir(self.proc / "fd"))

    def memory(self, name: str) -> int:
        """Returns VmRSS, or VmHWM, which is the peak of VmRSS since `forget_peak`."""
        return int(re.search(rf"{name}:\s*(\d+) kB", (self.proc / "status").read_text())[1]) << 10

    def forget_peak(self):
        (self.proc / "clear_refs").write_text("5")


def scraped_at(body: bytes) -> bytes:
    """Returns the time of the scrape that made a response body. The time identifies the scrape."""
    (timestamp,) = re.findall(rb"^smaps_exporter_last_scrape_timestamp_seconds (\S+)$", body, re.M)
    return timestamp


def without_age(body: bytes) -> bytes:
    """Removes the last sample from a response body.

    The value of this sample depends on when the response is sent.
    """
    text, last, age = body.rpartition(b"\nsmaps_exporter_oldest_data_seconds ")
    assert last and 0 <= float(age) < 1000
    return text
