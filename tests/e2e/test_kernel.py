"""Tests that the exposition of stopped processes equals the kernel's own figures."""

import os

import pytest

import kernel
from exporter import EVERYTHING, once
from exposition import Exposition
from kernel import COMMAND


@pytest.fixture(autouse=True, scope="module")
def which_kernel(pytestconfig):
    """Prints what kind of kernel this is, even if pytest captures output."""
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(
            f"\ncompared with Linux {os.uname().release}; the number of mappings per page is "
            f"{kernel.page_mapcount()}"
        )


def test_each_series_equals_the_sum_over_smaps(node):
    with kernel.stopped(node):
        exposition = Exposition(once("--once", "--containerd-sock", node.socket, *EVERYTHING))
        expected = kernel.exposition(node)
    smaps = {
        name: {tuple(value for _, value in labels): value for labels, value in family.samples.items()}
        for name, family in exposition.items()
        if name.startswith("process_smaps_")
    }
    assert smaps.keys() == expected.keys()
    for name in expected:
        assert smaps[name] == expected[name], name


def test_labels_have_the_documented_order(node):
    exposition = Exposition(once("--once", "--containerd-sock", node.socket, *EVERYTHING))
    for name, family in exposition.items():
        if name.startswith("process_smaps_"):
            expected = COMMAND if name == "process_smaps_processes" else (*COMMAND, "path")
            assert {tuple(key for key, _ in labels) for labels in family.samples} == {expected}, name


def test_rss_equals_the_sum_in_smaps_rollup(node):
    with kernel.stopped(node):
        exposition = Exposition(once("--once", "--containerd-sock", node.socket, *EVERYTHING))
        expected = {
            command: sum(map(kernel.rollup_rss, members))
            for command, members in kernel.processes(node).items()
        }
    assert exposition.by("process_smaps_rss_bytes", *COMMAND) == expected
    assert all(expected.values())
