"""Tests that HTTP clients that attack the exporter cannot delay other clients or use up its memory.

The node is a generated recording with an exposition of 10 MB, so these tests need no containerd.
"""

import contextlib
import gzip
import http.client
import multiprocessing
import random
import selectors
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from exporter import assert_exits_within_a_second
from lab import WATCH_SECONDS, until
from target import MIB, Target, record, scraped_at, without_age

GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def big_node(tmp_path_factory):
    return record(tmp_path_factory.mktemp("big"), n_containers=40, n_mappings=65)


# The six functions below attack the exporter. Each function returns the connections that it keeps open. Each
# of these attacks stops the server of the library tiny_http, so the exporter has an HTTP server of its own.


def declare_terabytes(target):
    return [target.connect(b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999\r\n\r\n")]


def declare_and_withhold_a_body(target):
    return [
        target.connect(b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n")
        for _ in range(10)
    ]


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
    """Three clients send without end.

    One client sends a request with endless headers. The second client sends single bytes slowly. The third
    client sends requests but does not read the responses.
    """
    clients = [target.connect(b"GET / HTTP/1.1\r\n"), target.connect(), target.connect()]

    def send(client, piece, pause):
        try:
            while True:
                client.sendall(piece)
                time.sleep(pause)
        except OSError:
            pass  # the exporter or the test has closed the connection

    for client, piece, pause in zip(clients, [b"X: " + b"a" * 5000 + b"\r\n", b"a", GET * 100], [0, 0.1, 0]):
        threading.Thread(target=send, args=(client, piece, pause), daemon=True).start()
    return clients


@pytest.mark.parametrize(
    "attack", [declare_terabytes, declare_and_withhold_a_body, stop_reading, idle, reset, send_without_end]
)
def test_one_client_harms_no_other(big_node, attack):
    with Target(big_node) as target:
        target.scrape()
        before = [target.n_open() for _ in range(100)]
        n_threads, n_fds = min(before)[0], min(fds for _, fds in before)
        clients = attack(target)
        seconds, body = target.scrape()
        assert seconds < 1
        assert len(body) > 10 * 10**6
        # The exporter waits up to 30 s for a client that does not read its response. These clients disconnect
        # here, so that the test need not wait.
        if attack in (stop_reading, send_without_end):
            for client in clients:
                client.close()
        until(
            lambda: all(n <= m for n, m in zip(target.n_open(), (n_threads, n_fds))),
            10,
            "threads and descriptors are released",
        )
        assert target.process.poll() is None
        for client in clients:
            client.close()


def swarm(peer, stop):
    """Connects 651 clients that never complete a request or never read the response.

    500 clients stop after the request line, and 100 clients stop in the middle of a header. 50 clients do not
    read the response. One client sends headers without end. When the exporter closes the connection of a
    client, this client connects again within a second.
    """
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
                    pass  # if the connection is closed already, the code below notices it
                clients[i].setblocking(False)
                # Clients that send the complete request GET never read the response, so the selector does not
                # watch them.
                events = {GET: 0, None: selectors.EVENT_WRITE}.get(kind, selectors.EVENT_READ)
                if events:
                    selector.register(clients[i], events, i)
        next_round = time.monotonic() + 1
        while time.monotonic() < next_round:
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
            # The selector does not watch clients that send the complete request GET. The first byte of
            # TCP_INFO is 1 (TCP_ESTABLISHED) only while their connection is open.
            if kind == GET and clients[i].getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) != b"\x01":
                clients[i].close()
                clients[i] = None


def test_700_hostile_clients_do_not_delay_scrapes(big_node):
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
            until(lambda: target.n_open()[1] > n_fds + 50, 10, "the swarm is connected")
            started_at = time.monotonic()
            slowest = 0
            while (now := time.monotonic()) < started_at + WATCH_SECONDS:
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
        print(
            f"slowest scrape {slowest:.3f} s; "
            f"RSS {steady / MIB:.1f} MiB, with the swarm at most {peak / MIB:.1f} MiB"
        )
        assert peak - steady <= 16 * MIB
        until(lambda: target.n_open()[1] <= n_fds, 10, "the swarm's connections are closed")
        # Clients that did not read kept an outdated exposition in memory. The next scrape frees this memory.
        # The exporter scrapes only on request, so the test requests scrapes until the memory is free.
        until(lambda: target.scrape() and target.memory("VmRSS") <= steady + 4 * MIB, 10, "memory is freed")


@pytest.mark.parametrize("keep_alive", [True, False], ids=["on_kept_connections", "on_new_connections"])
def test_ten_thousand_responses_are_complete_and_consistent(tmp_path, keep_alive):
    n_clients, n_requests = 4, 10_000
    recording = record(tmp_path / "node", n_containers=2, n_mappings=5)

    def get_repeatedly(target, n):
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
        answers = list(pool.map(lambda _: get_repeatedly(target, n_requests // n_clients), range(n_clients)))
    assert sum(n for n, _ in answers) == n_requests
    scrapes = {}
    for _, bodies in answers:
        for scrape, body in bodies.items():
            assert scrapes.setdefault(scrape, body) == body, "two clients got different bodies of one scrape"
    assert len(scrapes) > 10
    n_lines = {body.count(b"process_smaps_rss_bytes{") for body in scrapes.values()}
    assert n_lines == {10}


MIX = [
    GET,
    GET.replace(b"\r\n\r\n", b"\r\nAccept-Encoding: gzip\r\n\r\n"),
    GET[:30],
    GET.replace(b"/metrics", b"/healthz") * 50 + GET,
    b"GET / HTTP/1.1\r\nX: " + b"a" * 9000,
    b"\x16\x03\x01",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n0123456789" + GET,
]


def send_mix(peer, stop, seed: int):
    """Sends complete, half, pipelined, long and malformed requests, and reads the responses slowly.

    When more than 25 connections are open, closes or resets a random one.
    """
    chance, clients = random.Random(seed), []
    while not stop.wait(0.01):
        with contextlib.suppress(OSError):
            clients.append(socket.create_connection(peer, timeout=5))
            clients[-1].setblocking(False)
            clients[-1].send(chance.choice(MIX))
        for client in clients:
            with contextlib.suppress(OSError):
                client.recv(chance.choice((10, 5000, 60_000)))
        if len(clients) > 25:
            client = clients.pop(chance.randrange(len(clients)))
            if chance.random() < 0.5:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()


def test_mixed_requests_break_no_response_and_delay_no_shutdown(big_node):
    with Target(big_node) as target, ThreadPoolExecutor(4) as pool:
        stop = threading.Event()
        attackers = [pool.submit(send_mix, target.peer, stop, seed) for seed in range(4)]
        try:
            for _ in range(10):
                for path, headers in (("/healthz", {}), ("/metrics", {"Accept-Encoding": "gzip"})):
                    source = ("127.0.0.2", 0)
                    connection = http.client.HTTPConnection(*target.peer, timeout=10, source_address=source)
                    connection.request("GET", path, headers=headers)
                    response = connection.getresponse()
                    body = response.read()
                    assert response.status == 200
                    assert len(gzip.decompress(body)) > 10**7 if headers else body == b"ok\n"
                    connection.close()
                time.sleep(0.3)
            assert not any(attacker.done() for attacker in attackers)
            assert_exits_within_a_second(target)
        finally:
            stop.set()
