"""Tests that the program exits on a signal."""

import os
import signal
import time

import pytest

from exporter import EVERYTHING, Exporter, assert_exits_within_a_second
from lab import children


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_the_exporter_within_a_second(exporter, how):
    assert_exits_within_a_second(exporter, how)


def test_sigterm_ends_pid_1_within_a_second(node):
    """A signal has no default action for PID 1, so the program must handle it."""
    with Exporter(
        "--containerd-sock", node.socket, *EVERYTHING, prefix=("unshare", "--pid", "--fork")
    ) as exporter:
        [pid] = children(exporter.process.pid)
        assert "NSpid:\t%d\t1\n" % pid in open(f"/proc/{pid}/status").read()
        sent_at = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        assert exporter.process.wait(timeout=10) == 0  # unshare exits with the code of its child
        assert time.monotonic() - sent_at < 1
