"""Tests that OOM records explain leaks, and that reads cause no additional OOM kills.

The first test requests no metrics while its containers leak, because the records must not depend on scrapes.
"""

import os

import pytest

from cgroups import IS_V2
from node import PROGRAMS
from ooms import Leaks, pods_of, second_victims

pytestmark = pytest.mark.skipif(not IS_V2, reason="tests/e2e tests version 1")
# The number of leaking containers for each rate in RATES (MiB per second) and each limit in LIMITS (MiB).
# `make night` sets the number to 10. If the number is 0, the test runs only one container for each
# (rate, limit) pair in GATE.
N_EACH = int(os.environ.get("NODES_RECORDS") or 0)
GATE = [(1, 64), (10, 64), (50, 64), (10, 256), (50, 256), (50, 512)]
RATES, LIMITS = (50, 10, 1), (64, 256, 1000)
AT_ONCE = 2000  # the MiB that all containers together may use; the machine has 3 GiB


def test_oom_records_explain_leaks(tmp_path, record_property):
    with pods_of(tmp_path / "links", PROGRAMS) as pods, pods.exporter() as exporter:
        leaks = Leaks(pods, exporter)
        if not N_EACH:
            leaks.run("gate", GATE)
        for limit in LIMITS if N_EACH else ():
            n_at_once = min(N_EACH, AT_ONCE // limit)
            for rate in RATES:
                for first in range(0, N_EACH, n_at_once):
                    leaks.run(f"l{limit}-{rate}-{first}", [(rate, limit)] * min(n_at_once, N_EACH - first))
                    print(leaks, flush=True)
    record_property("records", str(leaks))
    assert leaks.n_kills == leaks.n, leaks
    if N_EACH:  # otherwise, the emulated machine of .ci/run may be too slow
        assert leaks.n_by_path >= leaks.n * 80 // 90 and leaks.n_named >= leaks.n * 87 // 90, leaks


@pytest.fixture(scope="module")
def n_without(tmp_path_factory) -> int:
    """The number of containers in which the kernel kills more than one process while no exporter runs."""
    with pods_of(tmp_path_factory.mktemp("harm") / "links", PROGRAMS) as pods:
        return second_victims(pods, "without", 4 * N_EACH)


@pytest.mark.skipif(not N_EACH, reason="runs in make night")
@pytest.mark.parametrize("interval", [0.05, 1])
def test_reading_causes_no_second_oom_kill(tmp_path, record_property, n_without, interval):
    n = 4 * N_EACH
    with pods_of(tmp_path / "links", PROGRAMS) as pods:
        with pods.exporter("--scrape-interval", f"{interval}s") as exporter:
            n_with = second_victims(pods, "with", n, exporter, interval)
    record_property("second victims", f"{n_with} of {n}, {n_without} without the exporter")
    assert n_with <= n_without + 1, (n_with, n_without)
