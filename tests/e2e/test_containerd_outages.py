"""containerd exits, hangs, and comes back while the exporter runs."""

import os
import signal
import time

import pytest

import kernel
from conftest import FOREVER, TWO_SLEEPS, WEB
from exporter import EVERYTHING, Exporter
from kernel import COMMAND
from lab import Container, Lab, until

SH = ("default", WEB, "app", "sh")
SLEEP = ("default", WEB, "app", "sleep")
WORKER = ("batch", "job-0", "worker", "sleep")


@pytest.fixture
def lab():
    """A node with one pod, used by only one test."""
    with Lab() as lab:
        lab.web = lab.run_pod("default", WEB, [Container("app", TWO_SLEEPS)])
        until(lambda: kernel.counts(lab) == {SH: 1, SLEEP: 2}, 10, "the pod's processes run")
        yield lab


@pytest.fixture
def exporter(lab):
    with Exporter("--containerd-sock", lab.socket, *EVERYTHING) as exporter:
        assert commands(exporter.after()) == {SH: 1, SLEEP: 2}
        assert exporter.metrics().value("smaps_exporter_containerd_up") == 1
        yield exporter


def commands(exposition):
    return exposition.by("process_smaps_processes", *COMMAND)


def end_a_sleep(lab):
    os.kill(kernel.processes(lab)[SLEEP][0], signal.SIGKILL)


def test_known_containers_are_read_while_containerd_is_down(lab, exporter):
    lab.kill()
    until(
        lambda: exporter.metrics().value("smaps_exporter_containerd_up") == 0,
        20,
        "the exporter notices that containerd is gone",
    )
    exposition = exporter.after()
    assert exposition.value("smaps_exporter_containerd_up") == 0
    assert exposition.value("smaps_exporter_containerd_errors_total") >= 1
    assert commands(exposition) == {SH: 1, SLEEP: 2}

    end_a_sleep(lab)  # shows whether processes are still read
    exposition = exporter.after()
    assert exposition.value("smaps_exporter_containerd_up") == 0
    assert commands(exposition) == {SH: 1, SLEEP: 1}

    lab.start()
    until(
        lambda: exporter.metrics().value("smaps_exporter_containerd_up") == 1,
        20,
        "the exporter is connected again",
    )
    lab.run_pod("batch", "job-0", [Container("worker", ["sleep", FOREVER])])
    assert commands(exporter.after()) == kernel.counts(lab) == {SH: 1, SLEEP: 1, WORKER: 1}
    assert exporter.process.poll() is None
    assert exporter.get("/healthz")[0] == 200


def test_data_stays_fresh_while_containerd_hangs(lab, exporter):
    lab.run_pod("batch", "job-0", [Container("worker", ["sleep", FOREVER])])
    until(lambda: commands(exporter.metrics()) == {SH: 1, SLEEP: 2, WORKER: 1}, 20, "both pods are reported")
    with lab.hung():
        # The end of this process ends its container. The exporter then lists the containers again.
        os.kill(kernel.processes(lab)[WORKER][0], signal.SIGKILL)
        end_a_sleep(lab)
        exporter.after()
        hung_since = time.monotonic()
        for exposition in exporter.scrapes():
            assert time.time() - exposition.value("smaps_exporter_last_scrape_timestamp_seconds") < 2
            assert exposition.value("smaps_exporter_oldest_data_seconds") < 2
            assert commands(exposition) == {SH: 1, SLEEP: 1}
            seconds = time.monotonic() - hung_since
            if seconds > 20 and exposition.value("smaps_exporter_containerd_up") == 0:
                break
            assert seconds < 60, "the exporter has not noticed that containerd hangs"
    until(
        lambda: exporter.metrics().value("smaps_exporter_containerd_up") == 1, 30, "containerd answers again"
    )
    lab.run_pod("batch", "job-1", [Container("worker", ["sleep", FOREVER])])
    assert commands(exporter.after()) == kernel.counts(lab)
    assert exporter.process.poll() is None


def test_hung_shim_delays_neither_its_pod_nor_new_pods(lab, exporter):
    with lab.hung_shim(lab.web):
        end_a_sleep(lab)
        lab.run_pod("batch", "job-0", [Container("worker", ["sleep", FOREVER])])
        until(lambda: WORKER in commands(exporter.metrics()), 20, "the new pod is reported")
        exposition = exporter.after()
        assert exposition.value("smaps_exporter_oldest_data_seconds") < 2
        assert commands(exposition) == {SH: 1, SLEEP: 1, WORKER: 1}
