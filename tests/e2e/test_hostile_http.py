"""Clients that mean harm: whatever they do, the exporter goes on answering the others, in bounded time and memory.

The node is a generated recording of 10 MB of exposition, so none of this needs containerd.
"""

import gzip
import http.client
import multiprocessing
import os
import random
import re
import selectors
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from exporter import EVERYTHING, Exporter
from lab import until

KEYS = """Size KernelPageSize MMUPageSize Rss Pss Pss_Dirty Shared_Clean Shared_Dirty Private_Clean Private_Dirty Referenced
Anonymous KSM LazyFree AnonHugePages ShmemPmdMapped FilePmdMapped Shared_Hugetlb Private_Hugetlb Swap SwapPss Locked""".split()
MIB = 1 << 20
GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


def record(directory: Path, n_containers: int, n_mappings: int) -> Path:
    """A recorded node with one process a container; a mapping makes 4 kB of exposition."""
    chance = random.Random(7)
    rows = ["id\tinit_pid\tnamespace\tpod\tcontainer"]
    for i in range(n_containers):
        pid = 100 + i
        rows.append(f"{i:064x}\t{pid}\tnamespace-{i % 5}\tserver-7d4b9c6f5d-{i:05}\tserver")
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


@pytest.fixture(scope="module")
def big_node(tmp_path_factory):
    return record(tmp_path_factory.mktemp("big"), n_containers=40, n_mappings=65)


class Target(Exporter):
    """An exporter that may have 1024 file descriptors open, and what it takes of the machine."""

    def __init__(self, recording: Path, *arguments: str, addr: str = "127.0.0.1:0"):
        limits = ("prlimit", "--nofile=1024:1024")
        super().__init__("--fixture", recording, *EVERYTHING, *arguments, prefix=limits, addr=addr)
        self.proc = Path("/proc", str(self.process.pid))
        host, port = self.address.split(":")
        self.peer = host, int(port)

    def connect(self, sends: bytes = b"") -> socket.socket:
        client = socket.create_connection(self.peer, timeout=10)
        client.sendall(sends)
        return client

    def scrape(self) -> tuple[float, bytes]:
        """A well-behaved scrape on a connection of its own: the seconds it took, and its body."""
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
            until(lambda: scraped_at(self.scrape()[1]) != seen, 10, "another scrape")

    def n_open(self) -> tuple[int, int]:
        """How many threads it has, and how many file descriptors are open."""
        return len(os.listdir(self.proc / "task")), len(os.listdir(self.proc / "fd"))

    def memory(self, name: str) -> int:
        """VmRSS, or VmHWM, the most since `forget_peak`."""
        return int(re.search(rf"{name}:\s*(\d+) kB", (self.proc / "status").read_text())[1]) << 10

    def forget_peak(self):
        (self.proc / "clear_refs").write_text("5")


def scraped_at(body: bytes) -> bytes:
    """What says which scrape a body is of."""
    (timestamp,) = re.findall(rb"^smaps_exporter_last_scrape_timestamp_seconds (\S+)$", body, re.M)
    return timestamp


# The six things that stop tiny_http's own server. Each leaves its connections open, and gives them back.


def declare_terabytes(target):
    return [target.connect(b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999\r\n\r\n")]


def declare_and_withhold_a_body(target):
    return [target.connect(b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n") for _ in range(10)]


def stop_reading(target):
    clients = [target.connect(GET) for _ in range(10)]
    for client in clients:
        assert client.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
    return clients


def idle(target):
    return [target.connect() for _ in range(540)]


def reset(target):
    for _ in range(3000):
        client = target.connect(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    return []


def send_without_end(target):
    """A head that does not end, one that comes byte by byte, and requests without ever reading an answer."""
    clients = [target.connect(b"GET / HTTP/1.1\r\n"), target.connect(), target.connect()]

    def send(client, piece, pause):
        try:
            while True:
                client.sendall(piece)
                time.sleep(pause)
        except OSError:
            pass  # the exporter has closed it, or the test has

    for client, piece, pause in zip(clients, [b"X: " + b"a" * 5000 + b"\r\n", b"a", GET * 100], [0, 0.1, 0]):
        threading.Thread(target=send, args=(client, piece, pause), daemon=True).start()
    return clients


@pytest.mark.parametrize("harm", [declare_terabytes, declare_and_withhold_a_body, stop_reading, idle, reset, send_without_end])
def test_one_client_harms_no_other(big_node, harm):
    with Target(big_node) as target:
        target.scrape()
        before = [target.n_open() for _ in range(100)]
        n_threads, n_fds = min(before)[0], min(fds for _, fds in before)
        clients = harm(target)
        seconds, body = target.scrape()
        assert seconds < 1
        assert len(body) > 10 * 10**6
        if harm in (stop_reading, send_without_end):  # an answer may take 30 s
            for client in clients:
                client.close()
        until(lambda: all(n <= m for n, m in zip(target.n_open(), (n_threads, n_fds))), 10, "threads and descriptors are back")
        assert target.process.poll() is None
        for client in clients:
            client.close()


def swarm(peer, stop):
    """500 idle clients, 100 with half a head, 50 that stop reading, one endless head; once a second, whoever was closed comes back."""
    kinds = [b""] * 500 + [b"GET /metrics HTTP/1.1\r\nHost:"] * 100 + [GET] * 50 + [None]
    random.Random(7).shuffle(kinds)
    clients = [None] * len(kinds)
    selector = selectors.DefaultSelector()

    def drop(i):
        selector.unregister(clients[i])
        clients[i].close()
        clients[i] = None

    while True:
        for i, kind in enumerate(kinds):
            if clients[i] is None:
                clients[i] = socket.socket()
                clients[i].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                clients[i].settimeout(5)
                try:
                    clients[i].connect(peer)
                    clients[i].sendall(kind or b"GET / HTTP/1.1\r\n")
                except OSError:
                    pass  # closed already: found out below
                clients[i].setblocking(False)
                # A stopped reader's answer is never read, so only what closes says so.
                events = {GET: 0, None: selectors.EVENT_WRITE}.get(kind, selectors.EVENT_READ)
                if events:
                    selector.register(clients[i], events, i)
        again = time.monotonic() + 1
        while time.monotonic() < again:
            if stop.is_set():
                return
            for key, _ in selector.select(0.05):
                try:
                    if kinds[key.data] is None:
                        key.fileobj.send(b"X: " + b"a" * 500 + b"\r\n")
                    elif not key.fileobj.recv(1000):
                        drop(key.data)
                except BlockingIOError:
                    pass
                except OSError:
                    drop(key.data)
        for i, kind in enumerate(kinds):
            # The answer's first part lies unread in front of the end, so the end shows in the state of the socket alone.
            if kind == GET and clients[i].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) != b"\x01":
                clients[i].close()
                clients[i] = None


def test_a_swarm(big_node):
    with Target(big_node) as target:
        target.wait_for_scrapes(5)
        n_fds = target.n_open()[1]
        steady = target.memory("VmRSS")
        target.forget_peak()
        fork = multiprocessing.get_context("fork")
        stop = fork.Event()
        attackers = fork.Process(target=swarm, args=(target.peer, stop))
        attackers.start()
        try:
            until(lambda: target.n_open()[1] > n_fds + 50, 10, "the swarm is there")
            begin = time.monotonic()
            slowest = 0
            while (now := time.monotonic()) < begin + 20:
                seconds, body = target.scrape()
                slowest = max(slowest, seconds)
                assert seconds < 2
                assert len(body) > 10 * 10**6 and scraped_at(body) and body.endswith(b"\n")
                assert attackers.is_alive()
                time.sleep(max(0, now + 1 - time.monotonic()))
        finally:
            stop.set()
            attackers.join()
        peak = target.memory("VmHWM")
        print(f"slowest scrape {slowest:.3f} s; resident {steady / MIB:.1f} MiB, with the swarm {peak / MIB:.1f} MiB")
        assert peak - steady <= 16 * MIB
        until(lambda: target.n_open()[1] <= n_fds, 10, "its connections are gone")
        until(lambda: target.memory("VmRSS") <= steady + 4 * MIB, 10, "its memory is back")


def without_age(body: bytes) -> bytes:
    """An exposition without its last sample, whose value is that of the moment it is served at."""
    text, last, age = body.rpartition(b"\nsmaps_exporter_oldest_data_seconds ")
    assert last and 0 <= float(age) < 1000
    return text


@pytest.mark.parametrize("keep_alive", [True, False], ids=["on_kept_connections", "on_new_connections"])
def test_ten_thousand_requests(tmp_path, keep_alive):
    n_clients, n_requests = 4, 10_000
    recording = record(tmp_path / "node", n_containers=2, n_mappings=5)

    def ask(target, n):
        bodies = {}
        connection = None
        for i in range(n):
            connection = connection or http.client.HTTPConnection(*target.peer, timeout=10)
            is_gzip = i % 4 == 0
            connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"} if is_gzip else {})
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200
            assert len(body) == int(response.headers["Content-Length"])
            assert (response.headers["Content-Encoding"] == "gzip") == is_gzip
            body = without_age(gzip.decompress(body) if is_gzip else body)
            assert bodies.setdefault(scraped_at(body), body) == body, "two bodies of one scrape differ"
            if not keep_alive:
                connection.close()
                connection = None
        return n, bodies

    with Target(recording, "--scrape-interval", "50ms") as target, ThreadPoolExecutor(n_clients) as pool:
        answers = list(pool.map(lambda _: ask(target, n_requests // n_clients), range(n_clients)))
    assert sum(n for n, _ in answers) == n_requests
    scrapes = {}
    for _, bodies in answers:
        for scrape, body in bodies.items():
            assert scrapes.setdefault(scrape, body) == body, "two clients saw one scrape differently"
    assert len(scrapes) > 10
    n_lines = {body.count(b"process_smaps_rss_bytes{") for body in scrapes.values()}
    assert n_lines == {10}
