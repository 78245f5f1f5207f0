"""A real Prometheus scrapes the running exporter."""

import subprocess

import kernel
from exporter import EVERYTHING, once
from lab import BOOKWORM, until
from prometheus import Prometheus


def test_a_promql_sum_equals_the_expositions(node, exporter, tmp_path):
    with kernel.stopped(node):
        exposition = exporter.after(2)
        expected = {pod: value for (pod,), value in exposition.by("process_smaps_pss_bytes", "pod").items()}
        # Prometheus starts only now, so that it has never seen anything else
        with Prometheus(tmp_path, exporter.address) as prometheus:
            answer = until(lambda: prometheus.query("sum by (pod) (process_smaps_pss_bytes)"), 30, "Prometheus has scraped")
            [up] = prometheus.query("up")
            [samples] = prometheus.query("scrape_samples_scraped")
    assert up["value"][1] == "1"
    assert int(samples["value"][1]) == sum(len(family.samples) for family in exposition.values())
    assert {series["metric"]["pod"]: float(series["value"][1]) for series in answer} == expected


def test_promtool_has_nothing_to_say(node):
    text = once("--once", "--containerd-sock", node.socket, *EVERYTHING)
    done = subprocess.run([BOOKWORM / "usr/bin/promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
