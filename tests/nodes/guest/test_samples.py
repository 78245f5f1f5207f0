"""Every sample against an independent sum, the processes held still."""

import os
from pathlib import Path

import pytest

import kernel
from exporter import EVERYTHING, once
from exposition import Exposition
from lab import read_proc, until

KERNEL = tuple(int(number) for number in os.uname().release.split("-")[0].split("+")[0].split(".")[:2])
# What the workload has for sure, so that no column of the comparison is one of zeros.
NOT_ZERO = {
    *(
        "size",
        "rss",
        "pss",
        "shared_clean",
        "shared_dirty",
        "private_clean",
        "private_dirty",
        "referenced",
        "anonymous",
        "lazyfree",
    ),
    *("anon_hugepages", "shmem_pmdmapped", "shared_hugetlb", "private_hugetlb", "swap", "swap_pss", "locked"),
    *("kernel_page_size", "mmu_page_size"),
}


@pytest.fixture(scope="module")
def still(node):
    """The node, its processes held still."""
    with kernel.stopped(node):
        yield node


def samples(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """The families of smaps: family -> labels' values -> value."""
    return {
        name: {tuple(value for _, value in labels): value for labels, value in family.samples.items()}
        for name, family in Exposition(text).items()
        if name.startswith("process_smaps_")
    }


def compared(node, *arguments: str):
    """What the exporter says, and what the kernel said before and after alike."""

    def unchanged():
        before = kernel.exposition(node)
        seen = samples(
            once("--once", "--containerd-sock", node.socket, "--anon-parts", "off", *EVERYTHING, *arguments)
        )
        return (seen, before) if kernel.exposition(node) == before else None

    return until(unchanged, 120, "the kernel's numbers stand still")


def test_every_sample_is_the_kernels(still, record_property):
    seen, expected = compared(still)
    n_samples, differences = 0, []
    for name in expected.keys() | seen.keys():
        ours, theirs = seen.get(name, {}), expected.get(name, {})
        for series in ours.keys() | theirs.keys():
            n_samples += 1
            if ours.get(series) != theirs.get(series):
                differences.append(
                    f"{name}{series}: {ours.get(series)}, the kernel says {theirs.get(series)}"
                )
    record_property("samples compared", n_samples)
    record_property("differences", len(differences))
    assert not differences
    wanted = (
        NOT_ZERO | ({"ksm"} if KERNEL >= (6, 8) else set()) | ({"pss_dirty"} if KERNEL >= (6, 0) else set())
    )
    if os.sysconf("SC_PAGE_SIZE") > 4096:
        wanted -= {
            "anon_hugepages",
            "shmem_pmdmapped",
            "shared_hugetlb",
        }  # a huge page is larger than what the workload maps
    assert not {name for name in wanted if not any(expected[f"process_smaps_{name}_bytes"].values())}, (
        "only zeros were compared"
    )


def test_the_sums_are_the_same_however_they_are_grouped(still):
    _, expected = compared(still)
    for arguments in (("--pid",), ("--group-by", "kind"), ("--group-by", "process")):
        seen = samples(once("--once", "--containerd-sock", still.socket, *EVERYTHING, *arguments))
        for name, family in expected.items():
            if "page_size" not in name:
                assert sum(seen[name].values()) == sum(family.values()), (arguments, name)


def test_addresses_of_five_levels_are_read(still):
    if "la57" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("the processor has no five levels")
    [pid, _] = kernel.processes(still)["memory", "memory-0", "memory", "memory"]
    assert b"\n10000000000000-" in read_proc(pid, "smaps")
