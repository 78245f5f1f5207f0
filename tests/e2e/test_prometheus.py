"""Tests that a real Prometheus scrapes a running exporter."""

import subprocess


import kernel
import readme
from exporter import EVERYTHING, REPOSITORY, Exporter, once
from exposition import Exposition
from lab import BOOKWORM, until
from prometheus import Prometheus


def test_promql_sum_equals_the_sum_of_the_exposition(node, exporter, tmp_path):
    with kernel.stopped(node):
        exposition = exporter.after(2)
        expected = {pod: value for (pod,), value in exposition.by("process_smaps_pss_bytes", "pod").items()}
        # Prometheus starts only now, while SIGSTOP keeps the processes from running. So it stores the same
        # values that `expected` has.
        with Prometheus(tmp_path, exporter.address) as prometheus:
            answer = until(
                lambda: prometheus.query("sum by (pod) (process_smaps_pss_bytes)"),
                30,
                "Prometheus has scraped",
            )
            [up] = prometheus.query("up")
            [samples] = prometheus.query("scrape_samples_scraped")
    assert up["value"][1] == "1"
    assert int(samples["value"][1]) == sum(len(family.samples) for family in exposition.values())
    assert {series["metric"]["pod"]: float(series["value"][1]) for series in answer} == expected


def test_jobs_by_kind_and_by_path_share_an_exporter(tmp_path):
    """Tests the two scrape jobs that README.md and src/kubernetes/README.md contain.

    Both jobs scrape one exporter. One job gets the series of all pods by kind. The other job gets the series
    of one namespace by path.
    """
    recorded = ("--fixture", REPOSITORY / "fixtures/node")
    jobs = readme.scrape_jobs()
    with Exporter(*recorded, *EVERYTHING, "--group-by", "kind", "--fields", "rss,pss") as exporter:
        for job in jobs:
            job["static_configs"] = [{"targets": [exporter.address]}]
            del job["kubernetes_sd_configs"], job["relabel_configs"]
        with Prometheus(tmp_path, jobs) as prometheus:
            by_job = [f'{{job="{job["job_name"]}"}}' for job in jobs]
            metrics = ("process_smaps_pss_bytes", "process_smaps_by_path_pss_bytes")
            until(lambda: all(prometheus.query(metric) for metric in metrics), 60, "both jobs have scraped")
            kinds, paths = (prometheus.query(metric + job) for metric, job in zip(metrics, by_job))
            assert not prometheus.query("process_smaps_pss_bytes" + by_job[1]), "sums would count pods twice"
            accounts = [prometheus.query("cgroup_memory_current_bytes" + job) for job in by_job]
    assert {"file", "heap"} <= {series["metric"]["kind"] for series in kinds} and not any(
        "path" in series["metric"] for series in kinds
    )
    expected = once("--once", *recorded, "--filter", "shop/*/*/*", "--fields", "rss,pss", "--omit-zero")
    expected = Exposition(expected).by("process_smaps_pss_bytes", "pod", "container", "comm", "path")
    labels = ("pod", "container", "comm", "path")
    assert {
        tuple(series["metric"][name] for name in labels): float(series["value"][1]) for series in paths
    } == expected
    assert accounts[0] and not accounts[1], "the second job drops metrics that the first one has"


def test_promtool_finds_no_problems(node):
    text = once("--once", "--containerd-sock", node.socket, *EVERYTHING)
    done = subprocess.run(
        [BOOKWORM / "usr/bin/promtool", "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
