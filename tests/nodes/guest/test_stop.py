"""Tests that a connected exporter does not delay the stop of containerd."""

import time

import pytest

from exporter import EVERYTHING, Exporter
from node import SYSTEMD

pytestmark = pytest.mark.skipif(not SYSTEMD, reason="systemd does not manage containerd here")


def test_exporter_does_not_delay_containerds_stop(node):
    """containerd stops as fast with an exporter as without one.

    Two scrapes later, the exporter reports containerd as down.
    """

    def stop_seconds() -> float:
        started_at = time.monotonic()
        node.stop()
        return time.monotonic() - started_at

    alone = stop_seconds()
    node.start()
    with Exporter("--containerd-sock", node.socket, *EVERYTHING) as exporter:
        observed = stop_seconds()
        try:
            assert exporter.after(2).value("smaps_exporter_containerd_up") == 0
        finally:
            node.start()
    # An idle connection would delay the stop by half a minute or more.
    assert observed - alone < 5, f"{observed:.1f} s with an exporter, {alone:.1f} s without"
