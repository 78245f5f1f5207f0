"""Tests QUERIES.md: Prometheus must answer each query, and the exporter must answer each request."""

import re
from urllib.parse import urlsplit

import pytest

import readme
from cgroups import MIB
from exporter import EVERYTHING, Exporter
from lab import Container, cri, until
from prometheus import Prometheus

PROGRAMS = "/programs"
URLS = re.findall(r"curl -s[^\n]*(?:\n    )?'?(localhost:8080[^' \n`]*)", readme.QUERIES_PAGE.read_text())


@pytest.fixture(scope="module")
def growing(node, programs):
    """A container with 5 MiB in /dev/shm and a leak that does not reach the limit during the test."""
    script = f"dd if=/dev/zero of=/dev/shm/x bs=1M count=5; exec {PROGRAMS}/leak heap 5 1 1000"
    mount = cri.Mount(host_path=str(programs), container_path=PROGRAMS, readonly=True)
    app = Container("app", ["sh", "-c", script], memory_limit_bytes=1000 * MIB, mounts=[mount])
    made = node.run_pod("accounts", "growing-0", [app])
    yield
    node.remove_pod(made)


@pytest.mark.parametrize("group_by", ["path", "kind"])
def test_each_query_has_an_answer(node, growing, tmp_path, group_by):
    queries = readme.queries()
    assert len(queries) >= 25
    arguments = ("--containerd-sock", node.socket, *EVERYTHING, "--group-by", group_by)
    with Exporter(*arguments) as exporter, Prometheus(tmp_path, exporter.address) as prometheus:
        for may_be_empty, query in queries:
            query = readme.without_thresholds(query)
            # Queries that may have no result are sent, too, because Prometheus reports an invalid query.
            until(lambda: prometheus.query(query) or may_be_empty, 30, f"Prometheus answers {query}")


def test_each_request_is_answered(node):
    assert len(URLS) >= 3
    with Exporter("--containerd-sock", node.socket, *EVERYTHING) as exporter:
        exporter.after()
        for url in URLS:
            parts = urlsplit(f"//{url}")
            assert exporter.get(f"{parts.path}?{parts.query}" if parts.query else parts.path)[0] == 200, url
