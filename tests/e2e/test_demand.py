"""Nothing is scraped for nobody, and whoever asks gets young data: with a real Prometheus, and with clients that come as they like."""

import http.client
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from exporter import EVERYTHING, Exporter
from exposition import Exposition
from lab import Container, until
from prometheus import Prometheus

SCRAPES = "smaps_exporter_scrapes_total"
OLDEST_DATA = "smaps_exporter_oldest_data_seconds"  # its value is that of the moment it is served at
ENDED = "smaps_exporter_last_scrape_timestamp_seconds"
INTERVAL = 5


def cpu_seconds(pid: int) -> float:
    """The CPU time of all its threads, to the nanosecond."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


@pytest.fixture(scope="module")
def stored(node, tmp_path_factory):
    """What one server, and two at another exporter, have stored in a minute: for each the samples of both families, by the time at
    which it asked."""
    directory = tmp_path_factory.mktemp("prometheus")
    with ExitStack() as stack:
        servers = []
        for n_servers in [1, 2]:
            exporter = stack.enter_context(Exporter("--containerd-sock", node.socket, *EVERYTHING))
            for i in range(n_servers):
                place = directory / f"{n_servers}-{i}"
                place.mkdir()
                servers.append(stack.enter_context(Prometheus(place, exporter.address, f"{INTERVAL}s")))
        until(lambda: all(server.query("up") for server in servers), 30, "each has scraped")
        time.sleep(60)
        one, *two = [{family: samples(server, family) for family in (SCRAPES, ENDED)} for server in servers]
        return {1: [one], 2: two}


def samples(server: Prometheus, family: str) -> list[tuple[float, float]]:
    [series] = server.query(f"{family}[5m]")
    return [(at, float(value)) for at, value in series["values"]]


@pytest.mark.parametrize("n_servers", [1, 2])
def test_each_prometheus_gets_a_scrape_each_time(stored, n_servers):
    for server in stored[n_servers]:
        check(server, n_servers)


def check(stored, n_servers: int):
    scrapes, ended = stored[SCRAPES], stored[ENDED]
    assert len(scrapes) >= 12, f"{len(scrapes)} scrapes are stored"
    n_asked = len(scrapes) - 1
    n_made = scrapes[-1][1] - scrapes[0][1]
    ages = [at - value for at, value in ended]
    # A sample bears the time at which Prometheus asked: an answer that it waited for is of later.
    print(f"{n_made:.0f} scrapes for {n_asked} of each of {n_servers}; ages {[f'{age * 1000:.0f} ms' for age in ages]}")
    assert n_made <= n_servers * (n_asked + 1) + 2
    assert max(ages) < 1
    assert sorted(ages)[len(ages) // 2] < 0.2, "it is expected"


@pytest.mark.parametrize(("cgroup_metrics", "most"), [("none", 0.005), ("memory", 0.3)])
def test_nobody_asks(node, cgroup_metrics, most):
    """Nothing is scraped. With the containers' accounts it is looked each interval whether one is close to its limit."""
    with Exporter("--containerd-sock", node.socket, *EVERYTHING, "--cgroup-metrics", cgroup_metrics) as exporter:
        exporter.metrics()
        time.sleep(1)
        before = cpu_seconds(exporter.process.pid)
        time.sleep(30)
        spent = cpu_seconds(exporter.process.pid) - before
        assert exporter.get("/healthz")[0] == 200
        assert exporter.get("/readyz")[0] == 200
        print(f"{spent * 1e3:.2f} ms of CPU in 30 s")
        assert spent < most
        first, second = exporter.metrics(), exporter.metrics()
        assert first.value(SCRAPES) == 2, "the first was made at the start, and none since"
        assert time.time() - first.value(ENDED) < 2
        assert second.value(SCRAPES) == 2, "it is still young"


def test_64_clients_share_a_scrape(node):
    """All of them ask at once, for data that is old."""
    with Exporter("--containerd-sock", node.socket, *EVERYTHING) as exporter:
        before = exporter.metrics().value(SCRAPES)
        for _ in range(5):
            time.sleep(1.5)
            connections = []
            for _ in range(64):
                connection = http.client.HTTPConnection(exporter.address, timeout=10)
                connection.connect()
                connections.append(connection)
            answers = []

            def ask(connection):
                connection.request("GET", "/metrics")
                response = connection.getresponse()
                answers.append((response.status, response.read().decode()))
                connection.close()

            threads = [threading.Thread(target=ask, args=[connection]) for connection in connections]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert [status for status, _ in answers] == [200] * 64
            assert len({text.partition(f"{OLDEST_DATA} ")[0] for _, text in answers}) == 1, "whole, and of one scrape"
            after = Exposition(answers[0][1]).value(SCRAPES)
            assert after == before + 1
            before = after


def test_a_container_that_came_while_nobody_asked(node):
    """The first scrape after a pause knows the containers that came meanwhile, though nobody has listed them since."""
    with Exporter("--containerd-sock", node.socket, *EVERYTHING) as exporter:
        time.sleep(3)
        before = exporter.metrics()
        pod = node.run_pod("default", "late-0", [Container("app", ["sleep", "1000"])])
        try:
            time.sleep(3)
            exposition = exporter.metrics()
            assert exposition.value(SCRAPES) == before.value(SCRAPES) + 1
            assert ("late-0",) in exposition.by("process_smaps_processes", "pod")
        finally:
            node.remove_pod(pod)
