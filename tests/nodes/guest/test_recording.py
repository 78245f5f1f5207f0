"""Tests that a recording of this machine gives the same values as a live scrape.

Also keeps the smaps of the recorded workload. They can become a fixture: see BLESS in nodes.py.
"""

import re
from pathlib import Path

import kernel
from exporter import EVERYTHING, once
from exposition import smaps_lines

RESULTS = Path("/results")


def test_recording_replays_to_the_live_exposition(node, tmp_path):
    recording = tmp_path / "recording"
    source = ("--containerd-sock", node.socket, "--filter", "memory/*/*/*", "--filter", "default/*/*/*")
    with kernel.stopped(node):
        live = once("--once", *source)
        once("--record", recording, *source)
    assert smaps_lines(once("--once", "--fixture", recording, *EVERYTHING)) == smaps_lines(live)
    pid, _ = sorted(kernel.processes(node)["memory", "memory-0", "memory", "memory"])
    (RESULTS / "memory.smaps").write_text(one_of_each((recording / f"proc/{pid}/smaps").read_text()))


def one_of_each(smaps: str) -> str:
    """Returns the mappings without those that look like an earlier mapping.

    Two mappings look alike if the same fields are nonzero and their addresses have the same number of digits.
    """
    found = {}
    for mapping in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", smaps)[1:]:
        fields = frozenset(re.findall(r"(?m)^(\w+): +[1-9]", mapping))
        found.setdefault((fields, mapping.index("-")), mapping)
    return "".join(found.values())
