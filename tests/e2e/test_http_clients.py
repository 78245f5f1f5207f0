"""Tests HTTP with real clients and proxies: accepted Host headers, complete responses, bounded work.

The clients are ab, wrk, nginx and haproxy from Debian's packages, on loopback. The node is a small recording.
"""

import collections
import contextlib
import http.client
import os
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clients import command, free_port, running
from target import ONCE, Target, record, without_age

# The number of requests. With 100,000, as in `make night`, the tests take four minutes in all.
N_REQUESTS = int(os.environ.get("N_REQUESTS", 10_000))


@pytest.fixture(scope="module")
def small_node(tmp_path_factory):
    return record(tmp_path_factory.mktemp("small"), n_containers=2, n_mappings=5)


@pytest.fixture
def target(small_node):
    with Target(small_node, *ONCE) as target:
        yield target


@contextlib.contextmanager
def nginx(directory: Path, target, settings=""):
    port = free_port()
    (directory / "nginx.conf").write_text(
        f"""daemon off; pid {directory}/nginx.pid; error_log stderr; worker_processes 1;
        events {{ worker_connections 1024; }}
        http {{ access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
          fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
          server {{
            listen 127.0.0.1:{port};
            location /smaps/ {{ proxy_pass http://{target.address}/; {settings} }}
          }} }}"""
    )
    with running(
        command("nginx", "-c", directory / "nginx.conf", "-p", directory, "-e", "stderr"), ("127.0.0.1", port)
    ):
        yield f"127.0.0.1:{port}/smaps"


@contextlib.contextmanager
def haproxy(directory: Path, target):
    port = free_port()
    (directory / "haproxy.cfg").write_text(
        f"""global
          maxconn 1000
        defaults
          mode http
          timeout connect 10s
          timeout client 60s
          timeout server 60s
        listen exporter
          bind 127.0.0.1:{port}
          server exporter {target.address}
"""
    )
    with running(command("haproxy", "-db", "-q", "-f", directory / "haproxy.cfg"), ("127.0.0.1", port)):
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def busy_machine():
    """Runs two busy processes per core until the test ends."""
    programs = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * os.cpu_count())
    ]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def ab(address: str, *options: str) -> dict[str, str]:
    """Runs ab and returns its figures by their names, such as the number of failed requests."""
    url = f"http://{address}/metrics"
    done = subprocess.run(
        command("ab", "-q", "-c", 60, "-n", N_REQUESTS, "-s", 120, *options, url),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return {
        name: value.strip() for name, _, value in (line.partition(":") for line in done.stdout.splitlines())
    }


@pytest.mark.parametrize("through", ["nothing", "kept connections", "nginx", "haproxy"])
def test_no_response_is_lost_below_the_connection_limit(target, tmp_path, through):
    with contextlib.ExitStack() as stack:
        address = target.address
        if through in ("nginx", "haproxy"):
            address = stack.enter_context({"nginx": nginx, "haproxy": haproxy}[through](tmp_path, target))
        length = len(target.scrape()[1])
        stack.enter_context(busy_machine())
        results = ab(address, *["-k"] if through == "kept connections" else [])
    assert results["Complete requests"] == str(N_REQUESTS)
    assert results["Failed requests"] == "0", "a response was refused, empty or incomplete"
    assert "Non-2xx responses" not in results
    assert results["HTML transferred"] == f"{N_REQUESTS * length} bytes"


def test_wrk_gets_no_error(target):
    with busy_machine():
        done = subprocess.run(
            command("wrk", "-t2", "-c60", "-d5s", f"http://{target.address}/metrics"),
            capture_output=True,
            text=True,
        )
    print(done.stdout)
    assert done.returncode == 0
    assert "Socket errors" not in done.stdout and "Non-2xx" not in done.stdout
    assert int(re.search(r"(\d+) requests in", done.stdout)[1]) > 100


@pytest.mark.parametrize("proxy", [nginx, haproxy])
def test_clients_above_the_connection_limit_get_status_503(target, tmp_path, proxy):
    with proxy(tmp_path, target) as address, ThreadPoolExecutor(100) as pool:
        peer, _, prefix = address.partition("/")
        body = without_age(target.scrape()[1])

        def get(_):
            connection = http.client.HTTPConnection(peer, timeout=60)
            connection.request("GET", f"/{prefix}/metrics" if prefix else "/metrics")
            response = connection.getresponse()
            answer = response.read()
            connection.close()
            return response.status, without_age(answer) if response.status == 200 else answer

        answers = collections.Counter(pool.map(get, range(5000)))
    print({(status, len(body)): n for (status, body), n in answers.items()})
    assert answers[200, body] > 0
    assert set(answers) <= {(200, body), (503, b"too many connections\n")}


def http_cpu(target) -> float:
    """Returns the CPU time of the thread that answers requests, in seconds."""
    (thread,) = [task for task in (target.proc / "task").iterdir() if (task / "comm").read_text() == "http\n"]
    fields = (thread / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("kind", ["small", "large"])
def test_answering_requests_uses_a_tenth_of_a_core(small_node, tmp_path, kind):
    recording = small_node if kind == "small" else record(tmp_path / "large", n_containers=40, n_mappings=65)
    with Target(recording, *ONCE) as target:
        started_at, before = time.monotonic(), http_cpu(target)
        arguments = ["-t2", "-c32", "-d10s", "--timeout", "60s", f"http://{target.address}/metrics"]
        clients = subprocess.Popen(command("wrk", *arguments), stdout=subprocess.PIPE, text=True)
        waited = []
        while clients.poll() is None:
            # Every second, a client at another address sends a request. The exporter must answer this request
            # before those that wait on the 32 connections of wrk.
            connection = http.client.HTTPConnection(*target.peer, timeout=10, source_address=("127.0.0.2", 0))
            sent_at = time.monotonic()
            connection.request("GET", "/healthz")
            assert connection.getresponse().read() == b"ok\n"
            waited.append(time.monotonic() - sent_at)
            connection.close()
            time.sleep(1)
        cores = (http_cpu(target) - before) / (time.monotonic() - started_at)
        print(f"{cores:.3f} of a core; another client waited at most {max(waited):.3f} s")
        print(clients.stdout.read())
    assert cores < 0.13


def send(target, head: str) -> tuple[int, str]:
    with target.connect(head.replace("\n", "\r\n").encode() + b"\r\n\r\n") as client:
        response = http.client.HTTPResponse(client)
        response.begin()
        return response.status, response.read().decode()


def test_foreign_host_headers_are_refused_on_loopback(small_node):
    with Target(small_node, *ONCE, "--allowed-host", "metrics.example") as target:
        for host, expected in [
            ("localhost", 200),
            (target.address, 200),
            (f"{socket.gethostname()}:8080", 200),
            ("Metrics.Example:9090", 200),
            ("evil.example", 421),
            ("evil.example:8080", 421),
        ]:
            status, body = send(target, f"GET /metrics HTTP/1.1\nConnection: close\nHost: {host}")
            assert status == expected, host
            if status == 421:
                assert (
                    body.endswith(": the option --allowed-host evil.example allows it\n")
                    and body.count("\n") == 1
                )
        assert send(target, "GET /metrics HTTP/1.1")[0] == 400
        assert send(target, "GET /metrics HTTP/1.1\nHost: localhost\nHost: localhost")[0] == 400
        assert send(target, "GET /metrics HTTP/1.0")[0] == 200


def test_own_address_of_the_machine_counts_as_local(small_node):
    """A request from any address of the machine itself needs an allowed Host.

    A request from another machine, such as the machine of Prometheus, may have any Host. In this test, a
    network namespace stands for the other machine.
    """
    name, address = f"smaps{os.getpid()}", "198.51.100.1"
    for arguments in (
        f"netns add {name}",
        f"link add {name} type veth peer name eth0 netns {name}",
        f"address add {address}/24 dev {name}",
        f"link set {name} up",
        f"-n {name} address add 198.51.100.2/24 dev eth0",
        f"-n {name} link set eth0 up",
    ):
        subprocess.run(["ip", *arguments.split()], check=True)
    try:
        with Target(small_node, *ONCE, addr=f"{address}:0") as target:
            head = "GET /readyz HTTP/1.1\nConnection: close\nHost: evil.example"
            assert send(target, head)[0] == 421, "the client has the server's own address"
            assert send(target, head.replace("evil.example", target.address))[0] == 200
            url = f"http://{target.address}/readyz"
            curl = ["ip", "netns", "exec", name, "curl", "-s", "-H", "Host: prometheus.example", url]
            assert subprocess.run(curl, capture_output=True, text=True, timeout=10).stdout == "ok\n"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_redirect_works_behind_a_proxy_with_a_path_prefix(small_node, tmp_path):
    with Target(small_node, *ONCE) as target, nginx(tmp_path, target) as address:
        peer, _, prefix = address.partition("/")
        connection = http.client.HTTPConnection(peer, timeout=10)
        connection.request("GET", f"/{prefix}/")
        response = connection.getresponse()
        assert (response.status, response.read()) == (302, b"see /metrics\n")
        # The location is relative, so that a proxy need not rewrite it.
        assert response.headers["Location"] == "metrics"
        for name, value in [
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ]:
            assert response.headers[name] == value
