"""Tests that each sample of stopped processes equals an independent sum."""

import os
from pathlib import Path

import pytest

import kernel
from exporter import EVERYTHING, once
from exposition import Exposition
from lab import read_proc, until
from sandbox import KERNEL

# The workload has memory of each of these kinds, so that the compared values of these fields are not 0.
NOT_ZERO = set(
    """size rss pss shared_clean shared_dirty private_clean private_dirty referenced anonymous lazyfree
    anon_hugepages shmem_pmdmapped shared_hugetlb private_hugetlb swap swap_pss locked kernel_page_size
    mmu_page_size""".split()
)


@pytest.fixture(scope="module")
def stopped_node(node):
    """The node while all its processes are stopped."""
    with kernel.stopped(node):
        yield node


def samples(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Returns the process_smaps_* families: family -> label values -> value."""
    return {
        name: {tuple(value for _, value in labels): value for labels, value in family.samples.items()}
        for name, family in Exposition(text).items()
        if name.startswith("process_smaps_")
    }


def compared(node, *arguments: str):
    """Returns the values of the exporter and the values of the kernel.

    The values of the kernel were the same before and after the scrape.
    """

    def unchanged():
        before = kernel.exposition(node)
        seen = samples(
            once("--once", "--containerd-sock", node.socket, "--anon-parts", "off", *EVERYTHING, *arguments)
        )
        return (seen, before) if kernel.exposition(node) == before else None

    return until(unchanged, 120, "the kernel's figures do not change during a scrape")


def test_samples_equal_the_kernels_figures(stopped_node, record_property):
    seen, expected = compared(stopped_node)
    n_samples, differences = 0, []
    for name in expected.keys() | seen.keys():
        ours, theirs = seen.get(name, {}), expected.get(name, {})
        for series in ours.keys() | theirs.keys():
            n_samples += 1
            if ours.get(series) != theirs.get(series):
                differences.append(f"{name}{series}: {ours.get(series)} instead of {theirs.get(series)}")
    record_property("samples compared", n_samples)
    record_property("differences", len(differences))
    assert not differences
    names = (
        NOT_ZERO | ({"ksm"} if KERNEL >= (6, 8) else set()) | ({"pss_dirty"} if KERNEL >= (6, 0) else set())
    )
    if os.sysconf("SC_PAGE_SIZE") > 4096:
        # If pages are larger than 4 KiB, huge pages are larger than all mappings of the workload. So these
        # three fields are 0.
        names -= {"anon_hugepages", "shmem_pmdmapped", "shared_hugetlb"}
    assert not {name for name in names if not any(expected[f"process_smaps_{name}_bytes"].values())}, (
        "only zeros were compared"
    )


def test_sums_do_not_depend_on_grouping(stopped_node):
    _, expected = compared(stopped_node)
    for arguments in (("--pid",), ("--group-by", "kind"), ("--group-by", "process")):
        seen = samples(once("--once", "--containerd-sock", stopped_node.socket, *EVERYTHING, *arguments))
        for name, family in expected.items():
            if "page_size" not in name:
                assert sum(seen[name].values()) == sum(family.values()), (arguments, name)


def test_addresses_above_47_bits_are_read(stopped_node):
    if "la57" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("the processor does not support five levels of page tables")
    [pid, _] = kernel.processes(stopped_node)["memory", "memory-0", "memory", "memory"]
    assert b"\n10000000000000-" in read_proc(pid, "smaps")
