"""Compares the parts of anonymous memory on this kernel with the figures of language runtimes.

Each test runs twice. In the second run, `vm.overcommit_memory` is 2. With this setting, the kernel does not
set the flag `nr`, and some rules find nothing.
"""

import json
import re
import socket
from pathlib import Path

import pytest

from anon_parts import JavaMemory, assert_close, resident_by, start_ready
from lab import until
from live_node import MIB, Node, roots
from node import PROGRAMS, command
from sandbox import KERNEL

SCRIPTS = Path("/lab/tests/e2e/programs")
ROOT = Path("/runtimes")
IN_ROOT = ("busybox", "chroot", ROOT)
OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
# The expected recall of stacks. Since Linux 6.7, the mappings of stacks have the flag `nh`. On older kernels,
# stacks of an unusual size are found only if at least two stacks have this size.
STACKS = 0.99 if KERNEL >= (6, 7) else 0.9


@pytest.fixture(scope="module")
def runtimes():
    """The mounted disk with Java and Node.js, which is used as a root directory."""
    ROOT.mkdir()
    command("mount", "-o", "ro", "/dev/vde", ROOT)
    command("mount", "--bind", "/proc", ROOT / "proc")
    command("mount", "--bind", "/dev", ROOT / "dev")
    command("mount", "-t", "tmpfs", "tmp", ROOT / "tmp")


@pytest.fixture(params=["as it is", "overcommit_memory=2"])
def strict(request) -> bool:
    """Whether the kernel accounts for all reserved memory (strict overcommit)."""
    is_strict, before = request.param != "as it is", OVERCOMMIT.read_text()
    if is_strict:
        Path("/proc/sys/vm/overcommit_kbytes").write_text(f"{8 << 20}\n")
        OVERCOMMIT.write_text("2\n")
    yield is_strict
    OVERCOMMIT.write_text(before)


@pytest.fixture
def workload(strict, tmp_path):
    """A container in which a test runs its program."""
    node = Node(tmp_path, sorted(roots().items())[0][1])
    yield node
    node.cgroup.close()


def test_glibc_stacks_and_arenas_are_found(workload, strict):
    _, printed = start_ready(workload, PROGRAMS / "arenas", "8", "8", "16")
    arenas = re.findall(r'<heap nr="[1-9]\d*">.*?<system type="current" size="(\d+)"/>', printed, re.DOTALL)
    assert len(arenas) == 8
    found = resident_by(workload, "arenas")
    # With strict overcommit, the kernel ignores MAP_NORESERVE. So the kernel may merge the unused part of a
    # malloc arena with the guard pages of the thread stack directly above the arena. The exporter then finds
    # neither this arena nor this stack. This can happen to only one of the eight arenas, because arenas.c
    # maps all arenas after all stacks.
    n_merged = 1 if strict else 0
    assert_close(found["anon_malloc_arena"], sum(map(int, arenas)), 0.993 - n_merged / 8)
    # Before Linux 6.7, each of the eight stacks may contain a huge page of 2 MiB.
    most = MIB if KERNEL >= (6, 7) else 8 * 2 * MIB
    assert (8 - n_merged) * 4096 <= found["anon_thread_stack"] <= most
    assert found["anon"] >= 16 * MIB, "a block that malloc maps separately is in no part"
    assert {kind for kind in found if kind.startswith("anon")} == {
        "anon",
        "anon_malloc_arena",
        "anon_thread_stack",
    }


def test_go_heap_is_found(workload):
    _, printed = start_ready(workload, PROGRAMS / "parts", "24")
    reported = json.loads(printed)
    held = reported["HeapSys"] + reported["StackSys"] - reported["HeapReleased"]
    found = resident_by(workload, "parts")
    assert_close(found["anon_go_heap"], held, 0.98, reported["HeapInuse"] + reported["StackInuse"])
    assert {kind for kind in found if kind.startswith("anon")} == {"anon", "anon_go_heap"}


def merged_stacks(pid: int) -> int:
    """Returns the resident bytes of the stacks that the exporter misses because their guards were merged.

    With strict overcommit, the kernel ignores MAP_NORESERVE. So the kernel may merge the guard of a stack
    with reserved memory below the guard. The exporter does not take such a large area for a guard.
    """
    resident, reserve_end, is_stack = 0, None, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if header := re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ", line):
            begin, end = int(header[1], 16), int(header[2], 16)
            is_usual = end - begin in (1008 * 1024, MIB, 8 * MIB)  # USUAL_STACKS of src/anonymous/rules.rs
            is_stack = header[3] == "rw-p" and begin == reserve_end and is_usual
            reserve_end = end if header[3] == "---p" and end - begin > 64 * 1024 else None
        elif is_stack and line.startswith("Rss:"):
            resident += int(line.split()[1]) * 1024
    return resident


def test_jvm_parts_are_found(workload, runtimes, strict):
    [java] = ROOT.glob("usr/lib/jvm/java-17-*/bin/rmiregistry")
    options = (
        "-Xms48m",
        "-Xmx48m",
        "-XX:+AlwaysPreTouch",
        "-XX:+UseSerialGC",
        "-XX:NativeMemoryTracking=summary",
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = workload.cgroup.run(
        *IN_ROOT, f"/{java.relative_to(ROOT)}", *(f"-J{option}" for option in options), str(port)
    )

    def is_ready() -> bool:
        assert process.poll() is None
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    until(is_ready, 120, "the JVM listens")
    memory = JavaMemory(process)
    found = resident_by(workload, "rmiregistry")
    if strict:
        found["anon_thread_stack"] = found.get("anon_thread_stack", 0) + merged_stacks(process.pid)
    # With strict overcommit, not only guards are merged. Before Linux 6.7, stacks lack the flag `nh`, so the
    # kernel may also merge a stack itself with the memory above it. `merged_stacks` misses such stacks.
    stacks = 0.7 if strict and KERNEL < (6, 7) else STACKS
    memory.assert_matches(found, stacks=stacks, classes=0 if strict else 0.75)
    assert memory.n_threads > 8 and memory.heap == 48 * MIB


def test_v8_heap_is_found(workload, runtimes):
    (ROOT / "tmp/parts.js").write_bytes((SCRIPTS / "parts.js").read_bytes())
    # V8 keeps up to 3 MB of heap that it does not report. `assert_close` allows 5% more than V8 reports. Once
    # the script has filled 40 MB, V8 reports a heap so large that 5% of it is more than 3 MB.
    _, printed = start_ready(workload, *IN_ROOT, "/usr/bin/node", "/tmp/parts.js", "40")
    reported = json.loads(printed)
    [found] = [found for comm in ("node", "MainThread") if (found := resident_by(workload, comm))]
    least = reported["total_physical_size"] - found["anon_jit_code"]
    assert_close(found["anon_v8_heap"], reported["total_heap_size"], 0.99, least)
