"""Containers that leak until the kernel kills them, and what /ooms must say of them."""

import json
import time

import pytest

import kernel
from cgroups import MIB, path_of
from exporter import Client
from lab import Container, Lab, until

LIMIT = 100 * MIB


def records(exporter: Client) -> list[dict]:
    status, body = exporter.get("/ooms")
    assert status == 200
    return json.loads(body)["records"]


def pids_of(lab: Lab, container: Container) -> list[int]:
    def is_in(pid: int) -> bool:
        try:
            return container.id in path_of(pid)
        except OSError:  # it has just ended
            return False

    return [pid for members in kernel.processes(lab).values() for pid in members if is_in(pid)]


def leak(mounts, start: int = 70, rate: int = 5, limit: int = LIMIT) -> Container:
    return Container("app", ["/programs/leak", "heap", str(start), str(rate), "1000"], memory_limit_bytes=limit, mounts=mounts)


def ends(lab: Lab, container: Container) -> float:
    """When it has ended."""
    until(lambda: pids_of(lab, container), 20, "it runs")
    until(lambda: not pids_of(lab, container), 60, "it has been killed")
    return time.time()


def assert_leaked(record: dict, name: str, ended_at: float, limit: int = LIMIT, seconds: float = 10):
    """What a record says of a leak, with what was read at most so long before, and noticed at most so long after the end."""
    assert (record["namespace"], record["pod"], record["container"], record["command"]) == ("accounts", name, "app", "leak")
    assert record["kills"] == 1 and record["limit_bytes"] == limit
    assert limit * 0.9 <= record["use_bytes"] <= limit
    assert 0 <= record["reading_age_seconds"] < seconds and abs(record["time"] - ended_at) < seconds
    largest = record["paths"][0]
    assert (largest["command"], largest["path"]) == ("leak", "[heap]") and largest["pss_bytes"] >= 0.85 * limit
    assert record["mapped_bytes"] >= sum(path["pss_bytes"] for path in record["paths"]) >= 0.85 * limit
    assert record["account"]["anon"] >= 0.85 * limit
    assert sum(record["account"].values()) == pytest.approx(record["use_bytes"], abs=2 * MIB)
