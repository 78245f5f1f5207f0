"""The program ends when it is told to."""

import os
import signal
import time

import pytest

from exporter import EVERYTHING, Exporter, assert_exits_within_a_second
from lab import children


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_leaves_within_a_second(exporter, how):
    assert_exits_within_a_second(exporter, how)


def test_it_leaves_within_a_second_as_pid_1(node):
    """PID 1 has no default action for a signal: it must handle it."""
    with Exporter(
        "--containerd-sock", node.socket, *EVERYTHING, prefix=("unshare", "--pid", "--fork")
    ) as exporter:
        [pid] = children(exporter.process.pid)
        assert "NSpid:\t%d\t1\n" % pid in open(f"/proc/{pid}/status").read()
        told = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        assert exporter.process.wait(timeout=10) == 0  # unshare ends as its child did
        assert time.monotonic() - told < 1
