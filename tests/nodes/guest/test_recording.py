"""A recording taken here replays to what the live scrape beside it said; its smaps become fixtures/smaps's real ones."""

from pathlib import Path

import kernel
from exporter import EVERYTHING, once
from exposition import smaps_lines

RESULTS = Path("/results")


def test_a_recording_replays_to_the_live_exposition(node, tmp_path):
    recording = tmp_path / "recording"
    taken = ("--containerd-sock", node.socket, "--filter", "memory/*/*/*", "--filter", "default/*/*/*")
    with kernel.stopped(node):
        live = once("--once", *taken)
        once("--record", recording, *taken)
    assert smaps_lines(once("--once", "--fixture", recording, *EVERYTHING)) == smaps_lines(live)
    [pid, _] = sorted(kernel.processes(node)["memory", "memory-0", "memory", "memory"])
    (RESULTS / "memory.smaps").write_bytes((recording / f"proc/{pid}/smaps").read_bytes())
