"""Tests the queries that the page copies.

A Prometheus scrapes two nodes with the same pods. Its answers must be the numbers on the page.
"""

import json
import subprocess
import threading
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from charges import MIB, charges_of, families, ledger_families, ledger_of, without_cgroups
from conftest import copied, free_port, get, until
from exposition import Exposition
from recording import LIBRARIES, Container, Mapping, Process, busy_node, write

ODD = [Mapping(b"/tmp/ blanks ", 300), Mapping(b"/tmp/a|b.*", 400), Mapping(b"/tmp/tab\there", 500)]
CHARGED = "?field=charged_memory"
NODE = "?field=node_memory"
KAFKA = "#/data/kafka-0/kafka"


class Charging:
    """A proxy for an exporter. It adds cgroup metrics for the containers to the exposition."""

    def __init__(self, exporter):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                headers = {"Accept": self.headers["Accept"] or "*/*"}
                forwarded = urllib.request.Request(exporter.url[:-1] + self.path, headers=headers)
                with urllib.request.urlopen(forwarded) as answer:
                    body, headers = answer.read(), answer.headers
                if self.path.startswith("/metrics"):
                    text = without_cgroups(body.decode())
                    charges = charges_of(Exposition(text))
                    ledger = ledger_of(charges, unlisted=70 * MIB)
                    body = (text + families(charges) + ledger_families(ledger)).encode()
                self.send_response(200)
                for name in ("Content-Type", "Content-Security-Policy"):
                    if headers[name]:
                        self.send_header(name, headers[name])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:  # the browser has closed the connection
                    pass

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.address}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory, serve):
    """Two nodes with the same pods, and a Prometheus that scrapes them. The second node has one more pod."""
    odd = Container("odd", " pod ", "c", [Process(b"new\nline", ODD), Process(b"other", ODD)])
    more = Container("odd", "more", "c", [Process(b"new\nline", ODD)])
    directory = tmp_path_factory.mktemp("fleet")
    nodes = {}
    for name, containers in (("a", [*busy_node(), odd]), ("b", [*busy_node(grown=64), odd, more])):
        arguments = ("--filter", "*/*/*/*", "--node", name, "--max-samples", "0")
        nodes[name] = Charging(serve(write(directory / name, containers), *arguments))
    jobs = [{"targets": [node.address], "labels": {"node": name}} for name, node in nodes.items()]
    config = {
        "global": {"scrape_interval": "5s", "scrape_timeout": "5s"},
        "scrape_configs": [{"job_name": "smaps", "honor_labels": True, "static_configs": jobs}],
    }
    (directory / "prometheus.yml").write_text(json.dumps(config))
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address={url[7:]}",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def query(text):
        return json.loads(get(f"{url}/api/v1/query?" + urllib.parse.urlencode({"query": text})))["data"][
            "result"
        ]

    def has_scraped():
        try:
            return (
                len(query("cgroup_memory_current_bytes")) > 100 and len(query("smaps_exporter_samples")) == 2
            )
        except OSError:
            return False

    try:
        until("Prometheus has scraped both", has_scraped, 60)
        yield nodes, query
    finally:
        process.terminate()
        process.wait(20)
        for node in nodes.values():
            node.server.shutdown()


ADDRESSES = [
    "#/",
    "#/?field=uss",
    "#/?rows=containers",
    "#/?rows=containers&q=kafka-1",
    "#/?rows=containers&q=data/kafka",
    "#/data",
    "#/data?q=a/kafka",
    "#/?by=path",
    "#/" + urllib.parse.quote(LIBRARIES[1].decode(), safe="") + "?by=path",
    "#/" + urllib.parse.quote(LIBRARIES[1].decode(), safe="") + "?by=path&q=redis",
    "#/?by=path&q=lib",
    "#/?q=redis",
    "#/?q=worker&field=rss",
    "#/?q=kafka&field=uss",
    "#/?q=shop/check",
    "#/?q=zero+",
    "#/?q=+blanks",
    "#/?q=%E2%90%A0",
    "#/?q=new%E2%90%8A",
    "#/?q=%7Cb.",
    "#/?q=tab",
    KAFKA,
    KAFKA + "/java",
    KAFKA + "/java/%5Banon%5D",
    KAFKA + "/java/%5Banon%5D?field=uss",
    "#/" + CHARGED,
    "#/" + CHARGED + "&rows=containers",
    "#/" + CHARGED + "&rows=containers&q=kafka",
    "#/data" + CHARGED,
    "#/data" + CHARGED + "&q=redis-node",
    KAFKA + CHARGED,
    KAFKA + "/java" + CHARGED,
    KAFKA + "/cgroup_memory_slab" + CHARGED,
    KAFKA + "/cgroup_memory_unmapped_page_cache" + CHARGED,
    KAFKA + "/cgroup_memory_difference" + CHARGED,
    "#/" + NODE,
    "#/" + NODE + "&rows=containers",
    "#/data" + NODE,
    "#/data/kafka-1" + NODE,
    KAFKA + NODE,
    KAFKA + "/java" + NODE,
    "#/cgroup_memory_node_free" + NODE,
    "#/cgroup_memory_node_%2Fsystem.slice" + NODE,
    "#/cgroup_memory_node_other_pods" + NODE,
    "#/data/kafka-1/cgroup_memory_outside_shmem" + NODE,
]


def test_copied_queries_return_the_pages_numbers(fleet, page):
    nodes, query = fleet
    page.tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.open(nodes["a"])
    wrong = []
    for address in ADDRESSES:
        page.go("#/nowhere")
        page.go(address)
        until(address, lambda: page.hash() == address and page.state() == "")
        asked = page.tab.evaluate("hasQuery() ? promql() : ''")
        assert asked and page.tab.is_enabled("#copy"), address
        assert asked == copied(page) and 'node="a"' in asked, address
        rows = page.tab.evaluate("(place.kids.length ? rows : [place]).map(n => at(field, n))")
        shown = sorted(value for value in rows if value > 0)
        answers = sorted(
            value for value in (float(series["value"][1]) for series in query(asked)) if value != 0
        )
        assert shown, address
        if shown != answers:
            rows, samples = f"{len(shown)} rows of {sum(shown)}", f"{len(answers)} samples of {sum(answers)}"
            wrong.append(f"{address}: {rows}, {samples} for {asked[:600]}")
    assert not wrong, "\n".join(wrong)


def test_the_copy_button_is_disabled_where_there_is_no_query(fleet, page):
    nodes, _ = fleet
    page.open(nodes["a"])
    for address in (
        "#/?by=path&field=charged_memory",
        "#/?by=path&field=node_memory",
        "#/" + CHARGED + "&q=slab",
        "#/cgroup_memory_slab?by=path&field=charged_memory",
        "#/?q=found+nowhere",
    ):
        page.go(address)
        until(address, lambda: page.hash() == address and page.text("#copy") == "No PromQL for this")
        assert page.tab.is_disabled("#copy")
    page.go("#/")
    until("a query", lambda: page.text("#copy") == "Copy as PromQL" and page.tab.is_enabled("#copy"))
