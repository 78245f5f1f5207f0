"""Slow readers of large expositions on version 2, which counts socket buffers."""

import pytest

from cgroups import IS_V2, MIB
from slow_readers import hold_many_generations


@pytest.mark.skipif(not IS_V2, reason="the end-to-end tests try it on version 1")
def test_slow_readers_of_many_generations_stay_within_the_limit(tmp_path):
    hold_many_generations(tmp_path, 16, 3, 52 * MIB)
