"""Parts of anonymous memory on this machine's kernel, against what the runtimes of the programs say.

Each test runs twice: also with `vm.overcommit_memory=2`, where the kernel sets no `nr`. There some rules claim nothing.
"""

import json
import os
import re
import socket
from pathlib import Path

import pytest

from anon_parts import JavaMemory, check, parts, started
from lab import until
from live_node import MIB, Node, roots
from node import PROGRAMS, command

SCRIPTS = Path("/lab/tests/e2e/programs")
ROOT = Path("/runtimes")
IN_ROOT = ("busybox", "chroot", ROOT)
OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
KERNEL = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])
# Stacks have `nh` from Linux 6.7 on; before, those of unusual sizes are recognized only if two have the same size.
STACKS = 0.99 if KERNEL >= (6, 7) else 0.9


@pytest.fixture(scope="module")
def runtimes():
    """The disk with Java and Node.js, as a root directory."""
    ROOT.mkdir()
    command("mount", "-o", "ro", "/dev/vde", ROOT)
    command("mount", "--bind", "/proc", ROOT / "proc")
    command("mount", "--bind", "/dev", ROOT / "dev")
    command("mount", "-t", "tmpfs", "tmp", ROOT / "tmp")


@pytest.fixture(params=["as it is", "overcommit_memory=2"])
def strict(request) -> bool:
    """Whether the kernel accounts for all memory that is reserved."""
    is_strict, before = request.param != "as it is", OVERCOMMIT.read_text()
    if is_strict:
        Path("/proc/sys/vm/overcommit_kbytes").write_text(f"{8 << 20}\n")
        OVERCOMMIT.write_text("2\n")
    yield is_strict
    OVERCOMMIT.write_text(before)


@pytest.fixture
def workload(strict, tmp_path):
    """A container, with what the test runs in it."""
    node = Node(tmp_path, sorted(roots().items())[0][1])
    yield node
    node.cgroup.close()


def test_stacks_arenas_and_a_large_block_of_glibc(workload, strict):
    _, printed = started(workload, PROGRAMS / "arenas", "8", "8", "16")
    arenas = re.findall(r'<heap nr="[1-9]\d*">.*?<system type="current" size="(\d+)"/>', printed, re.DOTALL)
    assert len(arenas) == 8
    found = parts(workload, "arenas")
    # Without `nr`, what an arena reserves merges with the guard of a stack above: then neither is claimed.
    n_merged = 1 if strict else 0
    check(found["anon_malloc_arena"], sum(map(int, arenas)), 0.993 - n_merged / 8)
    # Before `nh`, the kernel may put a huge page into each stack.
    most = MIB if KERNEL >= (6, 7) else 8 * 2 * MIB
    assert (8 - n_merged) * 4096 <= found["anon_thread_stack"] <= most
    assert found["anon"] >= 16 * MIB, "a block that malloc maps by itself is in no part"
    assert {kind for kind in found if kind.startswith("anon")} == {
        "anon",
        "anon_malloc_arena",
        "anon_thread_stack",
    }


def test_the_heap_of_go(workload):
    _, printed = started(workload, PROGRAMS / "parts", "24")
    says = json.loads(printed)
    held = says["HeapSys"] + says["StackSys"] - says["HeapReleased"]
    found = parts(workload, "parts")
    check(found["anon_go_heap"], held, 0.98, says["HeapInuse"] + says["StackInuse"])
    assert {kind for kind in found if kind.startswith("anon")} == {"anon", "anon_go_heap"}


def test_a_jvm(workload, runtimes, strict):
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

    until(is_ready, 120, "the JVM serves")
    memory = JavaMemory(process)
    found = parts(workload, "rmiregistry")
    memory.check(found, stacks=STACKS, classes=0 if strict else 0.75)
    assert memory.n_threads > 8 and memory.heap == 48 * MIB


def test_the_heap_of_v8(workload, runtimes):
    (ROOT / "tmp/parts.js").write_bytes((SCRIPTS / "parts.js").read_bytes())
    # With this size, 5% of the heap is more than the 3 MB of it that V8 keeps and does not count.
    _, printed = started(workload, *IN_ROOT, "/usr/bin/node", "/tmp/parts.js", "40")
    says = json.loads(printed)
    [(_, found)] = [(comm, found) for comm in ("node", "MainThread") if (found := parts(workload, comm))]
    check(
        found["anon_v8_heap"],
        says["total_heap_size"],
        0.99,
        says["total_physical_size"] - found["anon_jit_code"],
    )
