"""Parts of anonymous memory of live programs, against what their own runtimes say.

A part may exceed the runtime's figure by 5% or 2 MiB, and falls short of it by no more than the rule does on the snapshots of
fixtures/anonymous: see src/anonymous. By kind, so that a kernel that names mappings gives the same.
"""

import json
import re
import subprocess

import pytest

from exporter import EVERYTHING, once
from exposition import Exposition
from lab import HERE
from live_node import MIB

PROGRAMS = HERE / "programs"


def started(node, *command) -> tuple[subprocess.Popen, str]:
    """Run a program in the node's container until it is ready; the process, and what it printed before."""
    process = node.cgroup.run(*command, stdout=subprocess.PIPE, text=True)
    printed = []
    for line in process.stdout:
        if line == "ready\n":
            return process, "".join(printed)
        printed.append(line)
    raise AssertionError(f"{command} ended: {''.join(printed)}")


def parts(node, comm: str, *arguments: str, label: str = "kind") -> dict[str, float]:
    """The resident bytes of a command, by kind."""
    text = once("--once", "--fixture", node.directory, "--group-by", label, "--cpu-budget", "0", *arguments, *EVERYTHING)
    of = Exposition(text).by("process_smaps_rss_bytes", "comm", label)
    return {kind: n_bytes for (name, kind), n_bytes in of.items() if name == comm}


def check(part: float, figure: float, recall: float, least: float | None = None):
    """The part is the runtime's figure, within the limits. `least` is the figure for what is surely resident."""
    assert part <= max(1.05 * figure, figure + 2 * MIB), (part, figure)
    assert part >= recall * (figure if least is None else least), (part, figure, least)


@pytest.fixture
def java(tmp_path) -> tuple:
    """The beginning of the command that runs programs/Parts.java."""
    subprocess.run(["javac", "-d", tmp_path / "java", PROGRAMS / "Parts.java"], check=True)
    return ("java", "-XX:+AlwaysPreTouch", "-XX:+UseSerialGC", "-XX:NativeMemoryTracking=summary", "-cp", tmp_path / "java")


def test_java_against_its_native_memory_tracking(any_node, java):
    process, _ = started(any_node, *java, "-Xms96m", "-Xmx96m", "Parts", "200", "64")
    jcmd = lambda *what: subprocess.run(["jcmd", str(process.pid), *what], check=True, capture_output=True, text=True).stdout  # noqa: E731
    jcmd("VM.native_memory", "summary")  # what answering takes is taken before it is measured
    tracked, code = jcmd("VM.native_memory", "summary"), jcmd("Compiler.codecache")
    found = parts(any_node, "java")

    def committed(pattern: str) -> int:
        return sum(int(kib) << 10 for kib in re.findall(pattern + r"[^)]*committed=(\d+)KB", tracked))

    check(found["anon_java_heap"], committed(r"Java Heap \("), 0.99)
    n_threads = int(re.search(r"\(thread #(\d+)\)", tracked)[1])
    assert n_threads > 200
    stacks = committed(r"\(stack: ")
    # It counts the 16 KiB of a stack's guard, in which no page can be.
    check(found["anon_thread_stack"], stacks, 0.99, stacks - n_threads * 16 * 1024)
    classes = committed(r"\(  Metadata:   \)\n\s*\(    ") + committed(r"\(  Class space:\)\n\s*\(    ")
    check(found["anon_java_classes"], classes, 0.75)
    used = sum(int(kib) << 10 for kib in re.findall(r"used=(\d+)Kb", code))
    check(found["anon_jit_code"], committed(r"Code \("), 0.97, used)
    assert found["anon"] >= 64 * MIB, "direct buffers are in no part"
    assert found["anon_malloc_arena"] > 0
    for kind in found:
        assert not re.match("anon_(go|v8|allocator)", kind), f"a JVM has no {kind}"

    # The same bytes are `anon` without parts, and `[anon]` by path.
    whole = parts(any_node, "java", "--anon-parts", "off")
    assert {kind for kind in whole if kind.startswith("anon")} == {"anon"}
    assert whole["anon"] == pytest.approx(sum(n for kind, n in found.items() if kind.startswith("anon")), abs=MIB)
    by_path = parts(any_node, "java", label="path")
    assert sum(n for path, n in by_path.items() if re.fullmatch(r"\[anon(\]| ~.*)", path)) == pytest.approx(whole["anon"], abs=MIB)


def test_a_java_heap_without_compressed_pointers(any_node, java):
    process, _ = started(any_node, *java, "-Xms64m", "-Xmx40g", "Parts", "1", "1")
    tracked = subprocess.run(["jcmd", str(process.pid), "VM.native_memory"], check=True, capture_output=True, text=True).stdout
    heap = int(re.search(r"Java Heap \(reserved=\d+KB, committed=(\d+)KB", tracked)[1]) << 10
    check(parts(any_node, "java")["anon_java_heap"], heap, 0.99)


def test_go_against_its_memory_statistics(any_node, tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CGO_ENABLED": "0", "GO111MODULE": "off"}
    subprocess.run(["go", "build", "-o", tmp_path / "parts", PROGRAMS / "parts.go"], check=True, env=environment)
    _, printed = started(any_node, tmp_path / "parts", "100")
    says = json.loads(printed)
    held = says["HeapSys"] + says["StackSys"] - says["HeapReleased"]
    found = parts(any_node, "parts")
    check(found["anon_go_heap"], held, 0.98, says["HeapInuse"] + says["StackInuse"])
    assert {kind for kind in found if kind.startswith("anon")} == {"anon", "anon_go_heap"}


def test_arenas_of_glibc_against_malloc_info(any_node, programs):
    _, printed = started(any_node, programs / "arenas", "8", "24")
    arenas = re.findall(r'<heap nr="[1-9]\d*">.*?<system type="current" size="(\d+)"/>', printed, re.DOTALL)
    assert len(arenas) == 8
    found = parts(any_node, "arenas")
    check(found["anon_malloc_arena"], sum(map(int, arenas)), 0.993)
    assert 8 * 4096 <= found["anon_thread_stack"] <= MIB


def test_node_against_the_statistics_of_v8(any_node):
    _, printed = started(any_node, "node", PROGRAMS / "parts.js", "48")
    says = json.loads(printed)
    # Node.js names its thread; code, which is executable, is a part of its own.
    [comm] = {"node", "MainThread"} & {comm for comm in ("node", "MainThread") if parts(any_node, comm)}
    found = parts(any_node, comm)
    check(found["anon_v8_heap"], says["total_heap_size"], 0.99, says["total_physical_size"] - found["anon_jit_code"])
