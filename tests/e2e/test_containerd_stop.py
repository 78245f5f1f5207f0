"""containerd stops as fast with the exporter as without, whichever containerd it is."""

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
        alone = stops(lab, exporters=0)
        with_exporter = stops(lab, exporters=1)
    print(f"containerd {lab.version}: stops in {alone:.2f} s, with the exporter in {with_exporter:.2f} s")
    assert with_exporter < alone + 1


def stops(lab: Lab, exporters: int) -> float:
    """How long containerd takes to stop: the best of three, for the machine may have other things to do."""
    seconds = []
    for _ in range(3):
        with ExitStack() as stack:
            watching = [
                stack.enter_context(
                    Exporter("--containerd-sock", lab.socket, *EVERYTHING, "--scrape-interval", "100ms")
                )
                for _ in range(exporters)
            ]
            for exporter in watching:
                until(lambda: is_up(exporter.metrics()), 30, "the exporter has listed")
                exporter.after(10)  # listings of the beginning are over, connections idle
            begun = time.monotonic()
            end(lab)
            seconds.append(time.monotonic() - begun)
            for exporter in watching:
                assert not is_up(exporter.after(2)), "two scrapes after its end containerd is still up"
        lab.start()
    return min(seconds)


def is_up(exposition) -> bool:
    return exposition.value("smaps_exporter_containerd_up") == 1


def end(lab: Lab):
    """As `lab.stop`, with as much patience as containerd has for a connection that says nothing: two minutes."""
    containerd = lab._containerd
    containerd.terminate()
    try:
        containerd.wait(timeout=150)
    except subprocess.TimeoutExpired:
        containerd.kill()
        raise
    lab.stop()
