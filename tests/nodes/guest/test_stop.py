"""Whoever observes containerd does not keep it from stopping."""

import time

import pytest

from exporter import EVERYTHING, Exporter
from node import SYSTEMD

pytestmark = pytest.mark.skipif(not SYSTEMD, reason="containerd is not systemd's here")


def test_containerds_stop_is_not_delayed(node):
    """It stops as soon with an exporter as without; the exporter knows by its second scrape."""

    def stop_seconds() -> float:
        began = time.monotonic()
        node.stop()
        return time.monotonic() - began

    alone = stop_seconds()
    node.start()
    with Exporter("--containerd-sock", node.socket, *EVERYTHING) as exporter:
        observed = stop_seconds()
        try:
            assert exporter.after(2).value("smaps_exporter_containerd_up") == 0
        finally:
            node.start()
    # a connection that says nothing delays it by half a minute and more
    assert observed - alone < 5, f"{observed:.1f} s with an exporter, {alone:.1f} s without"
