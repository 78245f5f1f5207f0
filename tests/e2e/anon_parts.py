"""Programs of which the runtime reports its memory, to compare the parts of anonymous memory with."""

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


def started(node: Node, *command) -> tuple[subprocess.Popen, str]:
    """Run a program in the node's container until it is ready. Return the process, and what it printed before."""
    process = node.cgroup.run(*command, stdout=subprocess.PIPE, text=True)
    printed = []
    for line in process.stdout:
        if line == "ready\n":
            return process, "".join(printed)
        printed.append(line)
    raise AssertionError(f"{command} ended: {''.join(printed)}")


def parts(node: Node, comm: str, *arguments: str, label: str = "kind") -> dict[str, float]:
    """Return the resident bytes of a command, by kind."""
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
    of = Exposition(text).by("process_smaps_rss_bytes", "comm", label)
    return {kind: n_bytes for (name, kind), n_bytes in of.items() if name == comm}


def check(part: float, figure: float, recall: float, least: float | None = None):
    """Compare a part with the runtime's figure. `least` is the figure for what is surely resident."""
    assert part <= max(1.05 * figure, figure + 2 * MIB), (part, figure)
    assert part >= recall * (figure if least is None else least), (part, figure, least)


def jcmd(process: subprocess.Popen, what: str) -> str:
    """Return the answer of a JVM to a command of jcmd, which a JRE has not (hotspot/os/posix/attachListener_posix.cpp)."""
    temporary = Path(f"/proc/{process.pid}/root/tmp")
    listener = temporary / f".java_pid{process.pid}"
    if not listener.exists():
        (temporary / f".attach_pid{process.pid}").touch()
        process.send_signal(signal.SIGQUIT)  # a JVM that listens already would print its threads
        until(listener.exists, 60, "the JVM listens to commands")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(listener))
        client.sendall(f"1\0jcmd\0{what}\0\0\0".encode())
        with client.makefile() as answer:
            status, *lines = answer.read().split("\n")
    assert status == "0", lines
    return "\n".join(lines)


class JavaMemory:
    """What Native Memory Tracking says of a JVM, in bytes."""

    def __init__(self, process: subprocess.Popen):
        jcmd(process, "VM.native_memory summary")  # what answering takes is taken before it is measured
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

    def check(self, found: dict[str, float], stacks: float = 0.99, classes: float = 0.75):
        """Compare the parts of the JVM with this. `stacks` and `classes` are the least recall of these."""
        check(found["anon_java_heap"], self.heap, 0.99)
        # It counts the guard of a stack, which takes at least 16 KiB, in which no page can be.
        guard = max(16 << 10, 3 * os.sysconf("SC_PAGE_SIZE"))
        check(found.get("anon_thread_stack", 0), self.stacks, stacks, self.stacks - self.n_threads * guard)
        check(found.get("anon_java_classes", 0), self.classes, classes)
        check(found["anon_jit_code"], self.code, 0.97, self.code_used)
        for kind in found:
            assert not re.match("anon_(go|v8|allocator)", kind), f"a JVM has no {kind}"
