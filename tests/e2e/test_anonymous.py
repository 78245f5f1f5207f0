"""Compares the parts of anonymous memory of live programs with the figures of their language runtimes.

A part may exceed the runtime's figure by 5% or 2 MiB, whichever is more. It must also be at least a certain
share of the figure. This share is based on how much of such memory is found in the snapshots of
fixtures/anonymous (see src/anonymous). The tests compare parts by kind, and not by path. On kernels that
name mappings, a mapping that the runtime has named has this name as its path, but its kind is the same.
"""

import json
import re
import subprocess

import pytest

from anon_parts import JavaMemory, assert_close, resident_by, start_ready
from lab import HERE, until
from live_node import MIB
from ooms import pods_of, records, wait_until_listed

PROGRAMS = HERE / "programs"


@pytest.fixture
def java(tmp_path) -> tuple:
    """Compiles programs/Parts.java. Returns the beginning of a command that runs the compiled program."""
    subprocess.run(["javac", "-d", tmp_path / "java", PROGRAMS / "Parts.java"], check=True)
    return (
        "java",
        "-XX:+AlwaysPreTouch",
        "-XX:+UseSerialGC",
        "-XX:NativeMemoryTracking=summary",
        "-cp",
        tmp_path / "java",
    )


def test_java_parts_match_native_memory_tracking(any_node, java):
    process, _ = start_ready(any_node, *java, "-Xms96m", "-Xmx96m", "Parts", "200", "64")
    memory, found = JavaMemory(process), resident_by(any_node, "java")
    memory.assert_matches(found)
    assert memory.n_threads > 200
    assert found["anon"] >= 64 * MIB, "direct buffers are in no part"
    assert found["anon_malloc_arena"] > 0

    # With --anon-parts off, the same memory has the kind `anon`, and its paths begin with `[anon`.
    whole = resident_by(any_node, "java", "--anon-parts", "off")
    assert {kind for kind in whole if kind.startswith("anon")} == {"anon"}
    assert whole["anon"] == pytest.approx(
        sum(n for kind, n in found.items() if kind.startswith("anon")), abs=MIB
    )
    by_path = resident_by(any_node, "java", label="path")
    assert sum(n for path, n in by_path.items() if re.fullmatch(r"\[anon(\]| ~.*)", path)) == pytest.approx(
        whole["anon"], abs=MIB
    )


def test_java_heap_without_compressed_pointers_is_found(any_node, java):
    process, _ = start_ready(any_node, *java, "-Xms64m", "-Xmx40g", "Parts", "1", "1")
    heap = JavaMemory(process).heap
    assert_close(resident_by(any_node, "java")["anon_java_heap"], heap, 0.99)


def test_go_heap_matches_runtime_memstats(any_node, tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CGO_ENABLED": "0", "GO111MODULE": "off"}
    subprocess.run(
        ["go", "build", "-o", tmp_path / "parts", PROGRAMS / "parts.go"], check=True, env=environment
    )
    _, printed = start_ready(any_node, tmp_path / "parts", "100")
    reported = json.loads(printed)
    held = reported["HeapSys"] + reported["StackSys"] - reported["HeapReleased"]
    found = resident_by(any_node, "parts")
    assert_close(found["anon_go_heap"], held, 0.98, reported["HeapInuse"] + reported["StackInuse"])
    assert {kind for kind in found if kind.startswith("anon")} == {"anon", "anon_go_heap"}


def test_glibc_arenas_match_malloc_info(any_node, programs):
    _, printed = start_ready(any_node, programs / "arenas", "8", "24", "32")
    arenas = re.findall(r'<heap nr="[1-9]\d*">.*?<system type="current" size="(\d+)"/>', printed, re.DOTALL)
    assert len(arenas) == 8
    found = resident_by(any_node, "arenas")
    assert_close(found["anon_malloc_arena"], sum(map(int, arenas)), 0.993)
    assert 8 * 4096 <= found["anon_thread_stack"] <= MIB
    assert found["anon"] >= 32 * MIB, "a block that malloc maps separately is in no part"


def test_v8_heap_matches_its_heap_statistics(any_node):
    _, printed = start_ready(any_node, "node", PROGRAMS / "parts.js", "48")
    reported = json.loads(printed)
    # In some versions of Node.js, the first thread is not called `node`.
    [comm] = [comm for comm in ("node", "MainThread") if resident_by(any_node, comm)]
    found = resident_by(any_node, comm)
    # V8's figures include code. The exporter reports code as another part, because code is executable.
    least = reported["total_physical_size"] - found["anon_jit_code"]
    assert_close(found["anon_v8_heap"], reported["total_heap_size"], 0.99, least)


def test_oom_record_has_the_parts(programs, tmp_path):
    with pods_of(tmp_path / "links", programs) as pods, pods.exporter() as exporter:
        arenas = f"{programs}/arenas 4 16 1 > /dev/null & read line; exec {programs}/leak heap 16 5 60"
        app = pods.start(pods.pod("parts"), "s-app", arenas, 100 * MIB)
        wait_until_listed(exporter, "parts/s-app")
        app.signal()
        [record] = until(lambda: records(exporter), 60, "the kill is recorded")
        # The kernel kills the largest process, which is `arenas`.
        assert record["command"] == "arenas"
        [of_arenas] = [path for path in record["paths"] if path["path"] == "[anon ~malloc arenas]"]
        assert of_arenas["command"] == "arenas" and 64 * MIB <= of_arenas["pss_bytes"] <= 66 * MIB
        assert record["paths"][0] == of_arenas, "the largest path comes first"
