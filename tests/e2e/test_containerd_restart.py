"""containerd goes away and comes back under a running exporter."""

import os
import signal

import pytest

import kernel
from conftest import FOREVER, TWO_SLEEPS, WEB
from exporter import EVERYTHING, Exporter
from lab import Container, Lab, until

COMMAND = ("namespace", "pod", "container", "comm")


@pytest.fixture
def lab():
    """A node of the test's own."""
    with Lab() as lab:
        yield lab


def test_known_containers_go_on_while_containerd_is_gone(lab):
    lab.run_pod("default", WEB, [Container("app", TWO_SLEEPS)])
    until(lambda: sum(kernel.counts(lab).values()) == 3, 10, "the pod's processes run")
    with Exporter("--containerd-sock", lab.socket, *EVERYTHING) as exporter:
        assert exporter.after().value("smaps_exporter_containerd_up") == 1
        known = exporter.metrics().by("process_smaps_processes", *COMMAND)
        assert known == {("default", WEB, "app", "sh"): 1, ("default", WEB, "app", "sleep"): 2}

        lab.kill()
        until(lambda: exporter.metrics().value("smaps_exporter_containerd_up") == 0, 20, "the exporter notices")
        exposition = exporter.after()
        assert exposition.value("smaps_exporter_containerd_up") == 0
        assert exposition.value("smaps_exporter_containerd_errors_total") >= 1
        assert exposition.by("process_smaps_processes", *COMMAND) == known

        # they are read anew, not remembered
        os.kill(kernel.processes(lab)["default", WEB, "app", "sleep"][0], signal.SIGKILL)
        exposition = exporter.after()
        assert exposition.value("smaps_exporter_containerd_up") == 0
        assert exposition.by("process_smaps_processes", *COMMAND)["default", WEB, "app", "sleep"] == 1

        lab.start()
        until(lambda: exporter.metrics().value("smaps_exporter_containerd_up") == 1, 20, "the exporter is connected again")
        lab.run_pod("batch", "job-0", [Container("worker", ["sleep", FOREVER])])
        commands = exporter.after().by("process_smaps_processes", *COMMAND)
        assert commands == kernel.counts(lab)
        assert ("batch", "job-0", "worker", "sleep") in commands
        assert exporter.process.poll() is None
        assert exporter.get("/healthz")[0] == 200
