"""Tests the dashboard, queries and alerts with a Prometheus that scrapes several exporters.

Some of these exporters export the same series.
"""

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

import readme
from exporter import BINARY, EVERYTHING, REPOSITORY, Exporter, once
from exposition import Exposition
from lab import until
from prometheus import Prometheus

DASHBOARD = (REPOSITORY / "src/http/dashboard.json").read_text()


@pytest.fixture(scope="module", params=["path", "kind"])
def fleet(request, node, tmp_path_factory):
    """Five exporters on four nodes.

    Nodes a and b have the same pods. On node c, one exporter is replaced by another, so two exporters have
    the same series. The pod on node d has a limit.
    """
    live = ("--containerd-sock", node.socket, *EVERYTHING, "--group-by", request.param)
    recorded = ("--fixture", REPOSITORY / "fixtures/node", *EVERYTHING, "--group-by", request.param)
    limited = ("--fixture", REPOSITORY / "fixtures/cgroups/v2", *EVERYTHING, "--group-by", request.param)
    with ExitStack() as stack:
        a, b, old, new, d = (
            stack.enter_context(Exporter(*of)) for of in (live, live, recorded, recorded, limited)
        )
        targets = [
            ("a", a.address),
            ("b", b.address),
            ("c", old.address),
            ("c", new.address),
            ("d", d.address),
        ]
        prometheus = stack.enter_context(Prometheus(tmp_path_factory.mktemp("fleet"), targets))
        scraped = "process_cpu_seconds_total"
        until(
            lambda: len(prometheus.query(scraped)) == len(targets), 60, "Prometheus has scraped all of them"
        )
        yield prometheus, a


def panels() -> list[tuple[str, str]]:
    return [
        (panel["title"], target["expr"])
        for panel in json.loads(DASHBOARD)["panels"]
        for target in panel.get("targets", [])
    ]


def test_every_panel_has_an_answer(fleet):
    prometheus, _ = fleet
    for title, expression in panels():
        expanded = expression.replace("$__rate_interval", "1m")
        for values in [".*", None]:  # first all values are selected, then one of each
            selected = {"cluster": ".*", "node": "c", "namespace": "shop", "pod": "postgres-0"}
            if "containerd_up" in expression or "cgroup_node" in expression:
                selected["node"] = "a"  # on c and d, the exporters read recordings, so there is no containerd
            if "cgroup_pod" in expression:
                selected |= {"node": "d", "pod": "web-0"}
            if ".so" in expression:
                selected["pod"] = ".*"
            query = re.sub(r"\$(\w+)", lambda variable: values or selected[variable[1]], expanded)
            answer = until(lambda: prometheus.query(query), 60, f"{title} has an answer to {query}")
            assert all(series["value"][1] not in ("NaN", "+Inf", "-Inf") for series in answer), (
                f"{title}: {answer}"
            )


def test_every_variable_has_values(fleet):
    prometheus, _ = fleet
    variables = [
        variable for variable in json.loads(DASHBOARD)["templating"]["list"] if variable["type"] == "query"
    ]
    assert [variable["name"] for variable in variables] == ["cluster", "node", "namespace", "pod"]
    for variable in variables:
        selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
        found = prometheus.label_values(label, re.sub(r"\$\w+", variable["allValue"], selector))
        # Series of a single cluster have no label `cluster`.
        assert found or label == "cluster", variable
        if label == "node":
            assert found == ["a", "b", "c", "d"]


def test_a_composition_by_kind_is_the_same_however_it_is_grouped(fleet):
    prometheus, _ = fleet
    [composition] = [expression for title, expression in panels() if title == "Composition by kind"]
    query = re.sub(r"\$(\w+)", lambda variable: "c" if variable[1] == "node" else ".*", composition)
    kinds = until(
        lambda: {
            series["metric"].get("kind"): float(series["value"][1]) for series in prometheus.query(query)
        },
        60,
        "an answer",
    )
    recorded = (
        "--once",
        "--fixture",
        REPOSITORY / "fixtures/node",
        *EVERYTHING,
        "--group-by",
        "kind",
        "--fields",
        "pss",
    )
    expected = {
        kind: value
        for (kind,), value in Exposition(once(*recorded)).by("process_smaps_pss_bytes", "kind").items()
    }
    assert kinds == {kind: 2 * value for kind, value in expected.items()}, "both exporters of c"


def test_panels_of_paths_are_empty_and_say_why_when_grouped_by_process(tmp_path):
    arguments = ("--fixture", REPOSITORY / "fixtures/node", *EVERYTHING, "--group-by", "process")
    titles = ("Shared libraries", "Anonymous memory by use")
    panels = [panel for panel in json.loads(DASHBOARD)["panels"] if panel["title"].startswith(titles)]
    assert len(panels) == 3
    with Exporter(*arguments) as exporter, Prometheus(tmp_path, [("a", exporter.address)]) as prometheus:
        until(lambda: prometheus.query("process_smaps_pss_bytes"), 60, "Prometheus has scraped it")
        for panel in panels:
            assert prometheus.query(re.sub(r"\$\w+", ".*", panel["targets"][0]["expr"])) == []
            assert "grouped by process" in panel["fieldConfig"]["defaults"]["noValue"]


def test_queries_and_alerts_keep_the_node(fleet):
    prometheus, _ = fleet
    queries = [query for may_be_empty, query in readme.queries() if not may_be_empty]
    for query in queries:
        # A query with `> 0` would have no result if no process has grown yet.
        query = readme.without_thresholds(query).replace("> 0", ">= 0")
        answer = until(lambda: prometheus.query(query), 60, f"Prometheus answers {query}")
        assert any("node" in series["metric"] for series in answer), (
            f"{query} does not keep the node: {answer}"
        )
    for rule in readme.rules():
        answer = prometheus.query(rule["expr"])
        if rule["alert"] == "SmapsExporterAbsent":
            assert answer == [], "there are exporters"
            continue
        assert all("node" in series["metric"] for series in answer), rule
        assert "$labels.node" in rule["annotations"]["summary"], rule


# A shell function that takes the place of curl, which may not be installed.
CURL = """curl() { "$PYTHON" -c 'import sys, urllib.request
print(urllib.request.urlopen("http://" + sys.argv[1]).read().decode())' "${@: -1}"; }
"""


def test_the_runbooks_commands_show_something(fleet):
    _, exporter = fleet
    text = (REPOSITORY / ".github/RUNBOOKS.md").read_text()
    text = text.replace("localhost:8080", exporter.address)
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == len(readme.rules())
    # Some commands read a file that an earlier command of the same block writes, so they keep their order.
    commands = dict.fromkeys(re.findall(r"^curl .*(?:\n    .*)*", "".join(blocks), re.MULTILINE))
    assert len(commands) >= 10
    labels = {"NAMESPACE": "shop", "POD": "cart-0", "CONTAINER": "cart", "COMM": "sleep"}
    environment = os.environ | labels | {"PYTHON": sys.executable}
    for command in commands:
        shell = ["bash", "-o", "pipefail", "-c", CURL + command]
        done = subprocess.run(shell, capture_output=True, text=True, env=environment)
        assert done.returncode == 0 and done.stdout.strip(), f"{command}: {done.stderr}"


def lost(before, after, place: str = "") -> list[str]:
    """Returns the places at which a value of `before` is missing in `after`, or is different there.

    `after` may have further values, such as defaults.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        return [found for key in before for found in lost(before[key], after.get(key), f"{place}.{key}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            found
            for i, (one, other) in enumerate(zip(before, after))
            for found in lost(one, other, f"{place}[{i}]")
        ]
    return [] if before == after else [f"{place}: {before} became {after}"]


def test_the_dashboard_fits_grafanas_schema(fleet):
    """No field is lost when the Grafana SDK reads the dashboard and writes it again.

    The SDK drops every field that is not in Grafana's schema.
    """
    _, exporter = fleet
    register_default_plugins()
    dashboard = json.loads(DASHBOARD)
    assert (
        lost(dashboard, json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(dashboard)))) == []
    )
    assert exporter.get("/dashboard.json") == (200, DASHBOARD)
    rules = (readme.KUBERNETES / "rules.yaml").read_text()
    for what, expected in [("dashboard", DASHBOARD), ("rules", rules)]:
        printed = subprocess.run([BINARY, "--print", what], capture_output=True, text=True, check=True)
        assert printed.stdout == expected
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24, "panels overlap"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)
