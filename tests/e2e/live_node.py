"""Containers without containerd: cgroups with processes of a test, and a recording that links to /proc."""

import os
import re
import signal
import subprocess
import uuid
from pathlib import Path

from exporter import EVERYTHING, Exporter
from lab import kill, until

MIB = 1 << 20


def roots() -> dict[str, Path]:
    """Returns the mounted cgroup hierarchies that attribution can use, by version."""
    found = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, root, kind, options, *_ = line.split()
        if kind == "cgroup2":
            found["v2"] = Path(root)
        elif kind == "cgroup" and "memory" in options.split(","):
            found["v1"] = Path(root)
    return found


class Cgroup:
    """A container: a cgroup with a sleeping process. `run` starts further processes in it."""

    def __init__(self, root: Path, name: str = ""):
        self.path = root / (name or f"smaps-hostile-{uuid.uuid4()}")
        self.path.mkdir()
        self.init = self.run("/bin/sleep", "1000000")

    def run(self, *command, stdin=subprocess.DEVNULL, **options) -> subprocess.Popen:
        def enter():
            (self.path / "cgroup.procs").write_text(str(os.getpid()))

        return subprocess.Popen(command, preexec_fn=enter, stdin=stdin, **options)

    def run_ready(self, *command, **options) -> subprocess.Popen:
        process = self.run(*command, stdout=subprocess.PIPE, **options)
        assert process.stdout.readline() == b"ready\n"
        return process

    def pids(self) -> list[int]:
        return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]

    def empty(self):
        """Kills all processes in the cgroup, including processes that are forked during the call."""

        def is_empty():
            for pid in self.pids():
                kill(pid, signal.SIGKILL)
            if self.init.poll() is None:
                self.init.wait()
            return not self.pids()

        until(is_empty, 60, f"{self.path} is empty")

    def close(self):
        self.empty()
        until(lambda: rmdir(self.path), 20, f"{self.path} is removed")


def rmdir(path: Path) -> bool:
    try:
        path.rmdir()
    except OSError:
        return False
    return True


class Node:
    """A recording that links to the live /proc. Its only container, `workload`, has live processes.

    If `id` is given, it is the id of the container, and the name of the container's cgroup. If it is not
    given, the id is `c1`, and the name of the cgroup is random.
    """

    def __init__(self, directory: Path, root: Path, id: str = ""):
        self.directory = directory
        self.cgroup = Cgroup(root, id)
        (directory / "proc").symlink_to("/proc")
        row = f"{id or 'c1'}\t{self.cgroup.init.pid}\tdefault\tpod-0\tworkload"
        (directory / "containers.tsv").write_text(f"id\tinit_pid\tnamespace\tpod\tcontainer\n{row}\n")

    def exporter(self, *arguments, **options) -> Exporter:
        return Exporter("--fixture", self.directory, *EVERYTHING, *arguments, **options)


def resident(pid: int) -> int:
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) * 1024
