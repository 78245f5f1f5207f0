"""Reads the lab's processes from /proc in the simplest way, without the exporter's code."""

import gzip
import os
import re
import signal
from collections import Counter, defaultdict
from contextlib import contextmanager
from pathlib import Path

from lab import Lab, environment, kill, pids, read_proc, until

SUMMED = {
    "Size": "size",
    "Rss": "rss",
    "Pss": "pss",
    "Pss_Dirty": "pss_dirty",
    "Shared_Clean": "shared_clean",
    "Shared_Dirty": "shared_dirty",
    "Private_Clean": "private_clean",
    "Private_Dirty": "private_dirty",
    "Referenced": "referenced",
    "Anonymous": "anonymous",
    "KSM": "ksm",
    "LazyFree": "lazyfree",
    "AnonHugePages": "anon_hugepages",
    "ShmemPmdMapped": "shmem_pmdmapped",
    "FilePmdMapped": "file_pmdmapped",
    "Shared_Hugetlb": "shared_hugetlb",
    "Private_Hugetlb": "private_hugetlb",
    "Swap": "swap",
    "SwapPss": "swap_pss",
    "Locked": "locked",
}
LARGEST = {"KernelPageSize": "kernel_page_size", "MMUPageSize": "mmu_page_size"}

COMMAND = ("namespace", "pod", "container", "comm")
Command = tuple[str, str, str, str]


def processes(lab: Lab) -> dict[Command, list[int]]:
    """Returns the pids of the processes in the lab's containers, by command.

    The environment of a process contains the name of its container.
    """
    found = defaultdict(list)
    for pid in pids():
        variables = environment(pid)
        if variables.get("LAB_UID") == str(lab.uid):
            namespace, pod, container = variables["LAB_CONTAINER"].split("/")
            comm = read_proc(pid, "comm").decode(errors="replace").removesuffix("\n")
            found[namespace, pod, container, comm].append(pid)
    return dict(found)


def counts(lab: Lab) -> dict[Command, int]:
    return {command: len(members) for command, members in processes(lab).items()}


def mappings(pid: int) -> list[tuple[str, dict[str, int]]]:
    """Returns the path and the fields in kB of each mapping of a process."""
    found = []
    for line in read_proc(pid, "smaps").decode(errors="replace").splitlines():
        if header := re.fullmatch(r"[0-9a-f]+-[0-9a-f]+ \S{4} [0-9a-f]+ \S+ \d+ *(.*)", line):
            found.append((header[1] or "[anon]", {}))
        elif number := re.fullmatch(r"(\w+): +(\d+) kB", line):
            found[-1][1][number[1]] = int(number[2])
    return found


def exposition(lab: Lab) -> dict[str, dict[tuple[str, ...], float]]:
    """Returns the process_smaps_* families that the exporter should have: family -> label values -> value."""
    families = defaultdict(Counter)
    for command, members in processes(lab).items():
        families["process_smaps_processes"][command] = len(members)
        for pid in members:
            for path, fields in mappings(pid):
                series = (*command, path)
                families["process_smaps_mappings"][series] += 1
                for key, kilobytes in fields.items():
                    if key in SUMMED:
                        families[f"process_smaps_{SUMMED[key]}_bytes"][series] += 1024 * kilobytes
                    elif key in LARGEST:
                        family = families[f"process_smaps_{LARGEST[key]}_bytes"]
                        family[series] = max(family[series], 1024 * kilobytes)
    return {name: dict(family) for name, family in families.items()}


def sum_by_path(pids: list[int]) -> tuple[dict, Counter]:
    """Returns the bytes by (pid, comm, path) and field, and the number of mappings by (pid, comm, path)."""
    values, counts, key = defaultdict(Counter), Counter(), None
    for pid in pids:
        comm = Path(f"/proc/{pid}/comm").read_text()[:-1]
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in SUMMED:
                values[key][SUMMED[name]] += int(rest.split()[0]) * 1024
            elif "-" in name.split(" ")[0]:
                key = (str(pid), comm, (line.split(None, 5) + [""])[5] or "[anon]")
                counts[key] += 1
    return values, counts


def rollup_rss(pid: int) -> int:
    """Returns the resident bytes of a process, from the sums that the kernel computes."""
    return 1024 * int(re.search(rb"^Rss: +(\d+) kB$", read_proc(pid, "smaps_rollup"), re.MULTILINE)[1])


def page_mapcount() -> str:
    """Returns a text that says whether this kernel counts how often each page is mapped.

    Since Linux 6.15, kernels can be built without these counts. The PSS and the shared bytes of large folios
    are then estimates, and two reads may give different estimates.
    """
    for path, read in (
        (Path("/proc/config.gz"), gzip.open),
        (Path(f"/boot/config-{os.uname().release}"), open),
    ):
        if path.exists():
            with read(path, "rt") as file:
                return (
                    "estimated (CONFIG_NO_PAGE_MAPCOUNT)"
                    if "CONFIG_NO_PAGE_MAPCOUNT=y\n" in file.read()
                    else "counted for each page"
                )
    return "unknown"


@contextmanager
def stopped(lab: Lab):
    """Stops all processes in the lab's containers with SIGSTOP. They continue at the end of the block."""
    held = [pid for members in processes(lab).values() for pid in members]
    try:
        for pid in held:
            os.kill(pid, signal.SIGSTOP)
        for pid in held:
            until(
                lambda: read_proc(pid, "stat").rpartition(b") ")[2][:1] == b"T",
                10,
                f"process {pid} has stopped",
            )
        yield
    finally:
        for pid in held:
            kill(pid, signal.SIGCONT)
