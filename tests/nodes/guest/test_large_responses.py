"""Tests slow readers of large expositions on a node with version 2 of cgroups.

On version 2, the memory use of a cgroup includes the buffers of its sockets.
"""

import os

import pytest

from cgroups import IS_V2, MIB
from slow_readers import hold_many_expositions


@pytest.mark.skipif(
    not IS_V2 or not os.environ.get("NODES_RECORDS"),
    reason="runs in make night on version 2; tests/e2e tests version 1",
)
def test_slow_readers_of_many_expositions_stay_within_the_limit(tmp_path):
    hold_many_expositions(tmp_path, 16, 3, 52 * MIB)
