"""Tests that a recording gives the same values as a live scrape at the same time."""

from pathlib import Path

import kernel
from exporter import EVERYTHING, once
from exposition import smaps_lines


def test_recording_replays_to_the_live_exposition(node, tmp_path):
    recording = tmp_path / "node"
    with kernel.stopped(node):
        live = once("--once", "--containerd-sock", node.socket, *EVERYTHING)
        once("--record", recording, "--containerd-sock", node.socket, *EVERYTHING)
    replayed = once("--once", "--fixture", recording, *EVERYTHING)
    assert smaps_lines(replayed) == smaps_lines(live)
    assert len(smaps_lines(live)) > 100
    limit = "proc/sys/vm/max_map_count"
    assert (recording / limit).read_text() == (Path("/") / limit).read_text()


def test_recording_has_only_selected_processes(node, tmp_path):
    recording = tmp_path / "node"
    selection = ("--filter", "shop/*/*/*")
    with kernel.stopped(node):
        live = once("--once", "--containerd-sock", node.socket, *selection)
        once("--record", recording, "--containerd-sock", node.socket, *selection)
        expected = {
            str(pid)
            for command, members in kernel.processes(node).items()
            if command[0] == "shop"
            for pid in members
        }
    of_node = {"meminfo", "sys", "vmstat", "zoneinfo"}
    assert {entry.name for entry in (recording / "proc").iterdir()} == expected | of_node
    assert smaps_lines(once("--once", "--fixture", recording, *EVERYTHING)) == smaps_lines(live)
