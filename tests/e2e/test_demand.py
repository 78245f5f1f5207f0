"""Tests that the exporter scrapes only on request, and that each request gets fresh data."""

import http.client
import threading
import time
from contextlib import ExitStack

import pytest

from exporter import EVERYTHING, Exporter
from exposition import Exposition
from lab import WATCH_SECONDS, Container, cpu_seconds, until
from prometheus import Prometheus

SCRAPES = "smaps_exporter_scrapes_total"
OLDEST_DATA = "smaps_exporter_oldest_data_seconds"  # computed for each response
ENDED = "smaps_exporter_last_scrape_timestamp_seconds"
# Prometheus's scrape interval in seconds. The exporter reuses an exposition for at most one second, so two
# requests of one Prometheus server never get the same exposition.
INTERVAL = 2
N_SCRAPES = 12


@pytest.fixture(scope="module")
def stored(node, tmp_path_factory):
    """The samples that Prometheus stored in a dozen scrapes.

    One server scrapes the first exporter. Two servers scrape the second exporter. For each server, there are
    the samples of each family, and the times of the requests.
    """
    directory = tmp_path_factory.mktemp("prometheus")
    with ExitStack() as stack:
        servers = []
        for n_servers in [1, 2]:
            exporter = stack.enter_context(Exporter("--containerd-sock", node.socket, *EVERYTHING))
            for i in range(n_servers):
                place = directory / f"{n_servers}-{i}"
                place.mkdir()
                servers.append(stack.enter_context(Prometheus(place, exporter.address, f"{INTERVAL}s")))
        until(lambda: all(server.query("up") for server in servers), 30, "each server has scraped")
        until(
            lambda: all(len(samples(server, ENDED)) >= N_SCRAPES for server in servers),
            120,
            "each server has stored a dozen scrapes",
        )
        one, *two = [{family: samples(server, family) for family in (SCRAPES, ENDED)} for server in servers]
        return {1: [one], 2: two}


def samples(server: Prometheus, family: str) -> list[tuple[float, float]]:
    [series] = server.query(f"{family}[5m]")
    return [(at, float(value)) for at, value in series["values"]]


@pytest.mark.parametrize("n_servers", [1, 2])
def test_each_request_of_prometheus_gets_fresh_data(stored, n_servers):
    for server in stored[n_servers]:
        assert_fresh(server, n_servers)


def assert_fresh(stored, n_servers: int):
    scrapes, ended = stored[SCRAPES], stored[ENDED]
    assert len(scrapes) >= N_SCRAPES, f"{len(scrapes)} scrapes are stored"
    n_requests = len(scrapes) - 1
    n_made = scrapes[-1][1] - scrapes[0][1]
    ages = [at - value for at, value in ended]
    # The time of a sample (`at`) is the time of the request. The scrape that answers the request usually ends
    # after that time. So the ages are usually negative.
    print(
        f"{n_made:.0f} scrapes for {n_requests} requests of each of {n_servers} servers; "
        f"ages {[f'{age * 1000:.0f} ms' for age in ages]}"
    )
    # The scrapes are counted between the first and the last request of one Prometheus server. A second server
    # may send one request more than the first server in this time.
    assert n_made <= n_servers * n_requests + (n_servers - 1), "a scrape is made only for a request"
    assert max(ages) < 1, "a result is fresh for one second"


# The fraction of a core that an exporter may use without requests, for each value of --cgroup-metrics.
MAX_IDLE = {"none": 0.0002, "memory": 0.01}


@pytest.fixture(scope="module")
def idle(node):
    """Exporters that get no request for WATCH_SECONDS. They run at the same time.

    Each exporter comes with the number of its scrapes before that time, and with the CPU seconds that it used
    in that time.
    """
    with ExitStack() as stack:
        exporters = {
            groups: stack.enter_context(
                Exporter("--containerd-sock", node.socket, *EVERYTHING, "--cgroup-metrics", groups)
            )
            for groups in MAX_IDLE
        }
        scrapes = {groups: exporter.metrics().value(SCRAPES) for groups, exporter in exporters.items()}
        time.sleep(1)
        before = {groups: cpu_seconds(exporter.process.pid) for groups, exporter in exporters.items()}
        time.sleep(WATCH_SECONDS)
        yield {
            groups: (exporter, scrapes[groups], cpu_seconds(exporter.process.pid) - before[groups])
            for groups, exporter in exporters.items()
        }


@pytest.mark.parametrize("groups", MAX_IDLE)
def test_no_scrapes_without_requests(idle, groups):
    """Without requests, the exporter makes only checks, and only if cgroup metrics are enabled."""
    exporter, n_scrapes, spent = idle[groups]
    assert exporter.get("/healthz")[0] == 200
    assert exporter.get("/readyz")[0] == 200
    print(f"{spent * 1e3:.2f} ms of CPU in {WATCH_SECONDS} s")
    assert spent < MAX_IDLE[groups] * WATCH_SECONDS
    first, second = exporter.metrics(), exporter.metrics()
    assert first.value(SCRAPES) == n_scrapes + 1, "one scrape for this request"
    assert time.time() - first.value(ENDED) < 2
    assert second.value(SCRAPES) == n_scrapes + 1, "the last result is still fresh"


def test_regular_requests_cause_no_scrape_ahead_of_time(node):
    """Each request causes one scrape, and no scrape follows the last request."""
    with Exporter("--containerd-sock", node.socket, *EVERYTHING) as exporter:
        time.sleep(2)
        first = exporter.metrics().value(SCRAPES)
        for i in range(1, 6):
            time.sleep(2)
            assert exporter.metrics().value(SCRAPES) == first + i
        time.sleep(7)
        assert exporter.metrics().value(SCRAPES) == first + 6


def test_64_clients_share_a_scrape(node):
    """64 requests arrive at the same time when the last exposition is stale.

    All of them wait for one scrape.
    """
    with Exporter("--containerd-sock", node.socket, *EVERYTHING) as exporter:
        before = exporter.metrics().value(SCRAPES)
        for _ in range(3):
            time.sleep(1.5)
            connections = []
            for _ in range(64):
                connection = http.client.HTTPConnection(exporter.address, timeout=10)
                connection.connect()
                connections.append(connection)
            answers = []

            def get(connection):
                connection.request("GET", "/metrics")
                response = connection.getresponse()
                answers.append((response.status, response.read().decode()))
                connection.close()

            threads = [threading.Thread(target=get, args=[connection]) for connection in connections]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert [status for status, _ in answers] == [200] * 64
            assert len({text.partition(f"{OLDEST_DATA} ")[0] for _, text in answers}) == 1, (
                "whole expositions of one scrape"
            )
            after = Exposition(answers[0][1]).value(SCRAPES)
            assert after == before + 1
            before = after


def test_container_started_between_scrapes_is_in_the_next_scrape(node):
    """The first scrape after a pause includes the containers that started during the pause."""
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
