"""Tests that every version of containerd stops as fast with a connected exporter as without one."""

import subprocess
import time
from contextlib import ExitStack

import pytest

from conftest import WEB
from exporter import EVERYTHING, Exporter
from lab import HERE, Container, Lab, until


@pytest.mark.parametrize("suite", ["bookworm", "trixie", "sid"])
def test_containerd_stops_as_fast_as_without_the_exporter(suite):
    subprocess.run([HERE / "setup.sh", suite], check=True)
    with Lab(suite=suite) as lab:
        lab.run_pod("default", WEB, [Container("app", ["sleep", "1000000"])])
        alone = seconds_to_stop(lab, exporters=0)
        with_exporter = seconds_to_stop(lab, exporters=1)
    print(f"containerd {lab.version}: stops in {alone:.2f} s, with the exporter in {with_exporter:.2f} s")
    assert with_exporter < alone + 1


def seconds_to_stop(lab: Lab, exporters: int) -> float:
    """Returns how long containerd takes to stop.

    It is the shortest of three times, because the machine may be busy.
    """
    seconds = []
    for _ in range(3):
        with ExitStack() as stack:
            connected = [
                stack.enter_context(
                    Exporter("--containerd-sock", lab.socket, *EVERYTHING, "--scrape-interval", "100ms")
                )
                for _ in range(exporters)
            ]
            for exporter in connected:
                until(lambda: is_up(exporter.metrics()), 30, "the exporter has listed containers")
                exporter.after(10)  # then the first listings are over, and the connections are idle
            started_at = time.monotonic()
            stop(lab)
            seconds.append(time.monotonic() - started_at)
            for exporter in connected:
                assert not is_up(exporter.after(2)), (
                    "two scrapes after containerd's exit it is reported as up"
                )
        lab.start()
    return min(seconds)


def is_up(exposition) -> bool:
    return exposition.value("smaps_exporter_containerd_up") == 1


def stop(lab: Lab):
    """Stops containerd like `lab.stop`, but waits longer: containerd may wait two minutes for clients."""
    containerd = lab._containerd
    containerd.terminate()
    try:
        containerd.wait(timeout=150)
    except subprocess.TimeoutExpired:
        containerd.kill()
        raise
    lab.stop()
