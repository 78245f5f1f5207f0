"""Compares the parts of anonymous memory with the memory use that language runtimes report."""

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

from exporter import EVERYTHING, once
from exposition import Exposition
from lab import until
from live_node import MIB, Node


def start_ready(node: Node, *command) -> tuple[subprocess.Popen, str]:
    """Starts a program in the node's container and waits until it prints "ready".

    Returns the process, and what the program printed before "ready".
    """
    process = node.cgroup.run(*command, stdout=subprocess.PIPE, text=True)
    printed = []
    for line in process.stdout:
        if line == "ready\n":
            return process, "".join(printed)
        printed.append(line)
    raise AssertionError(f"{command} exited before it printed ready: {''.join(printed)}")


def resident_by(node: Node, comm: str, *arguments: str, label: str = "kind") -> dict[str, float]:
    """Returns the resident bytes of a command for each value of one label, usually `kind`."""
    text = once(
        "--once",
        "--fixture",
        node.directory,
        "--group-by",
        label,
        "--cpu-budget",
        "0",
        *arguments,
        *EVERYTHING,
    )
    sums = Exposition(text).by("process_smaps_rss_bytes", "comm", label)
    return {value: n_bytes for (name, value), n_bytes in sums.items() if name == comm}


def assert_close(part: float, reported: float, recall: float, least: float | None = None):
    """Asserts that the exporter finds about as many bytes for a part as the program itself reports.

    `part` may exceed `reported` by 5% or by 2 MiB, whichever is more. `part` must be at least `recall` times
    `reported`, or at least `recall` times `least` if `least` is given. `least` is needed if `reported`
    includes memory that may not be resident, or that the exporter reports as another part. `least` does not
    include this memory.
    """
    assert part <= max(1.05 * reported, reported + 2 * MIB), (part, reported)
    assert part >= recall * (reported if least is None else least), (part, reported, least)


def jcmd(process: subprocess.Popen, command: str) -> str:
    """Runs a jcmd command in a JVM and returns the output of the command.

    A JRE lacks the program jcmd, so this function uses the protocol of jcmd
    (hotspot/os/posix/attachListener_posix.cpp).
    """
    temporary = Path(f"/proc/{process.pid}/root/tmp")
    listener = temporary / f".java_pid{process.pid}"
    if not listener.exists():
        (temporary / f".attach_pid{process.pid}").touch()
        process.send_signal(signal.SIGQUIT)  # if the JVM listened already, it would print its threads instead
        until(listener.exists, 60, "the JVM listens for commands")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(listener))
        client.sendall(f"1\0jcmd\0{command}\0\0\0".encode())
        with client.makefile() as answer:
            status, *lines = answer.read().split("\n")
    assert status == "0", lines
    return "\n".join(lines)


class JavaMemory:
    """What the Native Memory Tracking of a JVM reports, in bytes."""

    def __init__(self, process: subprocess.Popen):
        # the first call makes the JVM allocate memory, so only the result of the second call is used
        jcmd(process, "VM.native_memory summary")
        self._tracked, code = jcmd(process, "VM.native_memory summary"), jcmd(process, "Compiler.codecache")
        self.heap = self._committed(r"Java Heap \(")
        self.n_threads = int(re.search(r"\(thread #(\d+)\)", self._tracked)[1])
        self.stacks = self._committed(r"\(stack: ")
        self.classes = self._committed(r"\(  Metadata:   \)\n\s*\(    ") + self._committed(
            r"\(  Class space:\)\n\s*\(    "
        )
        self.code = self._committed(r"Code \(")
        self.code_used = sum(int(kib) << 10 for kib in re.findall(r"used=(\d+)Kb", code))

    def _committed(self, pattern: str) -> int:
        return sum(int(kib) << 10 for kib in re.findall(pattern + r"[^)]*committed=(\d+)KB", self._tracked))

    def assert_matches(self, found: dict[str, float], stacks: float = 0.99, classes: float = 0.75):
        """Compares the exporter's parts with the JVM's figures.

        The exporter must find at least the share `stacks` of the memory that the JVM reports for thread
        stacks. It must find at least the share `classes` of the memory that the JVM reports for classes.
        """
        assert_close(found["anon_java_heap"], self.heap, 0.99)
        # The JVM's figure includes a guard area of at least 16 KiB for each stack. Guard areas are never
        # resident, so `least_stacks` does not include them.
        guard = max(16 << 10, 3 * os.sysconf("SC_PAGE_SIZE"))
        least_stacks = self.stacks - self.n_threads * guard
        assert_close(found.get("anon_thread_stack", 0), self.stacks, stacks, least_stacks)
        assert_close(found.get("anon_java_classes", 0), self.classes, classes)
        assert_close(found["anon_jit_code"], self.code, 0.97, self.code_used)
        for kind in found:
            assert not re.match("anon_(go|v8|allocator)", kind), f"a JVM has no {kind}"
