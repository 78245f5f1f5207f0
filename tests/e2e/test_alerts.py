"""Tests alert rules, and queries that need series of other exporters, with promtool and invented series."""

import subprocess
from pathlib import Path

import pytest
import yaml

import readme
from exporter import REPOSITORY
from lab import BOOKWORM, HERE

RULES = REPOSITORY / "src/kubernetes/rules.yaml"


def promtool(*arguments: str, cwd: Path):
    command = [BOOKWORM / "usr/bin/promtool", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_rules(tmp_path):
    (tmp_path / "rules.yaml").write_text(RULES.read_text())
    promtool("check", "rules", "rules.yaml", cwd=tmp_path)


@pytest.mark.parametrize("path", sorted((HERE / "alerts").iterdir()), ids=lambda path: path.stem)
def test_alerts_fire_only_when_they_should(tmp_path, path):
    """Runs `promtool test rules` with each file in the directory `alerts`.

    These files omit the description and the runbook URL of each expected alert. The test copies both from the
    alert rule, because they do not depend on the series.
    """
    document = yaml.safe_load(path.read_text())
    # Only rules that have a test in the YAML file are loaded, which makes promtool three times as fast.
    tested = {test["name"].partition(":")[0] for test in document["tests"]}
    rules = {rule["alert"]: rule for rule in readme.rules() if rule["alert"] in tested}
    assert rules.keys() == tested
    groups = [{"name": path.stem, "rules": list(rules.values())}]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    for test in document["tests"]:
        for expected in test.get("alert_rule_test", []):
            for alert in expected["exp_alerts"]:
                constant = rules[expected["alertname"]]["annotations"]
                alert["exp_annotations"] = constant | alert["exp_annotations"]
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(document))
    promtool("test", "rules", "tests.yaml", cwd=tmp_path)


def answers(tmp_path: Path, query: str, series: dict[str, int], expected: dict[str, int]):
    """Checks the result of a query after ten minutes in which the series have constant values."""
    samples = [{"labels": labels, "value": value} for labels, value in expected.items()]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": f"{value}x20"} for name, value in series.items()],
        "promql_expr_test": [{"expr": query, "eval_time": "10m", "exp_samples": samples}],
    }
    (tmp_path / "query.yaml").write_text(yaml.safe_dump({"tests": [test]}))
    promtool("test", "rules", "query.yaml", cwd=tmp_path)


def test_memory_by_deployment(tmp_path):
    """During a rollout, a Deployment has pods of two ReplicaSets, here on two nodes.

    Another namespace has a Deployment of the same name. The pod of a StatefulSet is in no Deployment.
    """
    pods = [
        # node, namespace, pod, uid, kind, owner
        ("n1", "shop", "cart-7d4b-x2x8k", "u1", "ReplicaSet", "cart-7d4b"),
        ("n2", "shop", "cart-5c6d-abcde", "u2", "ReplicaSet", "cart-5c6d"),
        ("n2", "batch", "cart-7d4b-x2x8k", "u3", "ReplicaSet", "cart-7d4b"),
        ("n1", "shop", "pg-0", "u4", "StatefulSet", "pg"),
    ]
    series = {}
    for node, namespace, pod, uid, kind, owner in pods:
        labels = f'node="{node}",namespace="{namespace}",pod="{pod}"'
        for container, value in [("app", 100), ("sidecar", 7)]:
            series[f'process_smaps_pss_bytes{{{labels},container="{container}",comm="java"}}'] = value
        series[f'smaps_exporter_pod_info{{{labels},uid="{uid}"}}'] = 1
        of_kube = f'namespace="{namespace}",pod="{pod}",uid="{uid}",owner_kind="{kind}",owner_name="{owner}"'
        for instance in "ab":  # two replicas of kube-state-metrics
            series[f'kube_pod_owner{{{of_kube},instance="{instance}"}}'] = 1
    for namespace, replicaset in [("shop", "cart-7d4b"), ("shop", "cart-5c6d"), ("batch", "cart-7d4b")]:
        owner = 'owner_kind="Deployment",owner_name="cart"'
        series[f'kube_replicaset_owner{{namespace="{namespace}",replicaset="{replicaset}",{owner}}}'] = 1
    expected = {'{namespace="shop",deployment="cart"}': 214, '{namespace="batch",deployment="cart"}': 107}
    answers(tmp_path, readme.join_with("kube_pod_owner"), series, expected)


def test_memory_by_the_name_of_a_docker_container(tmp_path):
    """cAdvisor's label `id` is a cgroup path. The drivers systemd and cgroupfs make different paths."""
    web, db = "1a" * 32, "2b" * 32
    series = {
        f'process_smaps_pss_bytes{{node="n1",namespace="moby",container="{web}",comm="nginx"}}': 100,
        f'process_smaps_pss_bytes{{node="n1",namespace="moby",container="{web}",comm="sh"}}': 7,
        f'process_smaps_pss_bytes{{node="n2",namespace="moby",container="{db}",comm="postgres"}}': 30,
        f'container_start_time_seconds{{id="/system.slice/docker-{web}.scope",name="web"}}': 1700000000,
        f'container_start_time_seconds{{id="/docker/{db}",name="db"}}': 1700000000,
        'container_start_time_seconds{id="/system.slice"}': 1600000000,
    }
    expected = {'{node="n1",name="web"}': 107, '{node="n2",name="db"}': 30}
    answers(tmp_path, readme.join_with("container_start_time_seconds"), series, expected)
