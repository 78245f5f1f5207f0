"""Parts of anonymous memory of live programs, against what their own runtimes say.

A part may exceed the runtime's figure by 5% or 2 MiB, and falls short of it by no more than the rule does on the snapshots of
fixtures/anonymous: see src/anonymous. By kind, so that a kernel that names mappings gives the same.
"""

import json
import re
import subprocess

import pytest

from anon_parts import JavaMemory, check, parts, started
from lab import HERE, until
from live_node import MIB
from ooms import pods_of, records, wait_until_listed

PROGRAMS = HERE / "programs"


@pytest.fixture
def java(tmp_path) -> tuple:
    """The beginning of the command that runs programs/Parts.java."""
    subprocess.run(["javac", "-d", tmp_path / "java", PROGRAMS / "Parts.java"], check=True)
    return (
        "java",
        "-XX:+AlwaysPreTouch",
        "-XX:+UseSerialGC",
        "-XX:NativeMemoryTracking=summary",
        "-cp",
        tmp_path / "java",
    )


def test_java_against_its_native_memory_tracking(any_node, java):
    process, _ = started(any_node, *java, "-Xms96m", "-Xmx96m", "Parts", "200", "64")
    memory, found = JavaMemory(process), parts(any_node, "java")
    memory.check(found)
    assert memory.n_threads > 200
    assert found["anon"] >= 64 * MIB, "direct buffers are in no part"
    assert found["anon_malloc_arena"] > 0

    # The same bytes are `anon` without parts, and `[anon]` by path.
    whole = parts(any_node, "java", "--anon-parts", "off")
    assert {kind for kind in whole if kind.startswith("anon")} == {"anon"}
    assert whole["anon"] == pytest.approx(
        sum(n for kind, n in found.items() if kind.startswith("anon")), abs=MIB
    )
    by_path = parts(any_node, "java", label="path")
    assert sum(n for path, n in by_path.items() if re.fullmatch(r"\[anon(\]| ~.*)", path)) == pytest.approx(
        whole["anon"], abs=MIB
    )


def test_a_java_heap_without_compressed_pointers(any_node, java):
    process, _ = started(any_node, *java, "-Xms64m", "-Xmx40g", "Parts", "1", "1")
    heap = JavaMemory(process).heap
    check(parts(any_node, "java")["anon_java_heap"], heap, 0.99)


def test_go_against_its_memory_statistics(any_node, tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CGO_ENABLED": "0", "GO111MODULE": "off"}
    subprocess.run(
        ["go", "build", "-o", tmp_path / "parts", PROGRAMS / "parts.go"], check=True, env=environment
    )
    _, printed = started(any_node, tmp_path / "parts", "100")
    says = json.loads(printed)
    held = says["HeapSys"] + says["StackSys"] - says["HeapReleased"]
    found = parts(any_node, "parts")
    check(found["anon_go_heap"], held, 0.98, says["HeapInuse"] + says["StackInuse"])
    assert {kind for kind in found if kind.startswith("anon")} == {"anon", "anon_go_heap"}


def test_arenas_of_glibc_against_malloc_info(any_node, programs):
    _, printed = started(any_node, programs / "arenas", "8", "24", "32")
    arenas = re.findall(r'<heap nr="[1-9]\d*">.*?<system type="current" size="(\d+)"/>', printed, re.DOTALL)
    assert len(arenas) == 8
    found = parts(any_node, "arenas")
    check(found["anon_malloc_arena"], sum(map(int, arenas)), 0.993)
    assert 8 * 4096 <= found["anon_thread_stack"] <= MIB
    assert found["anon"] >= 32 * MIB, "a block that malloc maps by itself is in no part"


def test_node_against_the_statistics_of_v8(any_node):
    _, printed = started(any_node, "node", PROGRAMS / "parts.js", "48")
    says = json.loads(printed)
    # Node.js names its thread; code, which is executable, is a part of its own.
    [comm] = {"node", "MainThread"} & {comm for comm in ("node", "MainThread") if parts(any_node, comm)}
    found = parts(any_node, comm)
    check(
        found["anon_v8_heap"],
        says["total_heap_size"],
        0.99,
        says["total_physical_size"] - found["anon_jit_code"],
    )


def test_a_record_of_an_oom_kill_has_the_parts(programs, tmp_path):
    with pods_of(tmp_path / "links", programs) as pods, pods.exporter() as exporter:
        arenas = f"{programs}/arenas 4 16 1 > /dev/null & read line; exec {programs}/leak heap 16 5 60"
        app = pods.start(pods.pod("parts"), "s-app", arenas, 100 * MIB)
        wait_until_listed(exporter, "parts/s-app")
        app.signal()
        [record] = until(lambda: records(exporter), 60, "the kill is recorded")
        # The kernel kills the larger one.
        assert record["command"] == "arenas"
        [of_arenas] = [path for path in record["paths"] if path["path"] == "[anon ~malloc arenas]"]
        assert of_arenas["command"] == "arenas" and 64 * MIB <= of_arenas["pss_bytes"] <= 66 * MIB
        assert record["paths"][0] == of_arenas, "it is the largest"
