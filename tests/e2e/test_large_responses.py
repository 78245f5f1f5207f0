"""Tests large responses to slow clients: memory, connection slots and probes."""

import contextlib
import gzip
import http.client
import re
import socket
import statistics
import subprocess
import time

import pytest

from clients import command
from slow_readers import ALL, GET, GET_GZIP, connect_slowly, hold_many_expositions, node
from target import MIB, ONCE, Target


@pytest.fixture(scope="module")
def node_16(tmp_path_factory):
    return node(tmp_path_factory.mktemp("node"), 16)


def sample(address: str, n_seconds: float, source: str = "127.0.0.2") -> list[float]:
    """Probes /healthz and /readyz for some time. Returns the durations of the probes in seconds, sorted."""
    host, port = address.split(":")
    took, deadline = [], time.monotonic() + n_seconds
    while time.monotonic() < deadline:
        started_at = time.monotonic()
        connection = http.client.HTTPConnection(host, int(port), timeout=10, source_address=(source, 0))
        connection.request("GET", "/healthz" if len(took) % 2 else "/readyz")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"ok\n")
        connection.close()
        took.append(time.monotonic() - started_at)
        time.sleep(0.01)
    return sorted(took)


def test_slow_readers_of_many_expositions_stay_within_the_bound(tmp_path):
    hold_many_expositions(tmp_path, 80, 6, 256 * MIB)


def test_kernel_buffers_less_than_128_kib_per_connection(node_16):
    with Target(node_16, *ALL, *ONCE) as target:
        readers = [target.connect(GET) for _ in range(10)]
        assert all(reader.recv(1000) for reader in readers)
        time.sleep(0.5)
        list_sockets = ["ss", "-tmnH", "sport", "=", str(target.peer[1])]
        listed = subprocess.run(list_sockets, capture_output=True, text=True, check=True).stdout
        # In the output of ss, the number after w is the size of the send queue in bytes. The size includes
        # the kernel's packet structures.
        queued = [int(number) for number in re.findall(r"skmem:\([^)]*\bw(\d+)", listed)]
        print(f"send queues of {len(queued)} connections: at most {max(queued) / 1024:.0f} KiB")
        assert len(queued) >= 10 and max(queued) < 128 << 10


def test_slow_readers_do_not_block_probes_and_other_addresses(node_16):
    with Target(node_16, *ALL, *ONCE) as target:
        readers = [target.connect(GET) for _ in range(66)]
        for attempt in range(36):
            for reader in readers:
                with contextlib.suppress(OSError):
                    reader.recv(1 << 15, socket.MSG_DONTWAIT)
            for source in ("127.0.0.1", "127.0.0.2"):
                assert sample(target.address, 0, source) == [] and sample(target.address, 0.001, source)
        connection = http.client.HTTPConnection(*target.peer, timeout=10, source_address=("127.0.0.2", 0))
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        assert response.status == 200 and len(response.read()) == int(response.headers["Content-Length"])
        for reader in readers:
            reader.close()


@pytest.mark.parametrize("n_megabytes, n_clients", [(60, 2), (16, 8)])
def test_probes_do_not_wait_for_compression(tmp_path, n_megabytes, n_clients):
    with Target(node(tmp_path, n_megabytes), *ALL) as target:
        target.scrape()
        load = [f"-t{min(2, n_clients)}", f"-c{n_clients}", "-d6s", "--timeout", "60s"]
        arguments = [*load, "-H", "Accept-Encoding: gzip", f"http://{target.address}/metrics"]
        clients = subprocess.Popen(command("wrk", *arguments), stdout=subprocess.PIPE, text=True)
        took = sample(target.address, 5)
        output = clients.communicate()[0]
        p99 = took[len(took) * 99 // 100]
        times = ", ".join(f"{seconds * 1000:.1f} ms" for seconds in (statistics.median(took), p99, took[-1]))
        print(f"{len(took)} probes: median, p99 and maximum {times}\n{output}")
        assert p99 < 0.05
        assert "Non-2xx" not in output and "requests in" in output


def test_gzipped_responses_outlive_their_exposition(node_16):
    """A slow client gets a complete response, even if there are new expositions while it reads."""
    with Target(node_16, *ALL) as target:
        target.scrape()
        readers, received = [connect_slowly(target, GET_GZIP) for _ in range(8)], [b""] * 8
        for _ in range(8):
            target.scrape()
            time.sleep(0.5)
            for i, reader in enumerate(readers):
                received[i] += reader.recv(20_000)
        for i, reader in enumerate(readers):
            head, _, body = received[i].partition(b"\r\n\r\n")
            n_bytes = int(head.partition(b"Content-Length: ")[2].split()[0])
            assert len(body) < n_bytes, "the response was too short to be read slowly"
            while len(body) < n_bytes:
                assert (more := reader.recv(1 << 20)), f"reader {i} got {len(body)} of {n_bytes} bytes"
                body += more
            assert len(gzip.decompress(body)) > 15 * 10**6
            reader.close()
