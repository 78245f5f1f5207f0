"""Tests the page's prediction of how much memory the end of a container would free.

The test ends the container, and compares the prediction with the memory that is really freed.

Needs root, to make cgroups.
"""

import os
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from charges import MIB
from conftest import until

# A program that shares memory with its child: 50 MiB each of anonymous memory, a shared mapping, a memfd and
# System V shared memory. The program also writes 50 MiB to a file in tmpfs, which no process maps. It shares
# a memfd of 20 MiB with the container `sidecar` of the same pod.
HOLDS = """
import ctypes, mmap, os, sys, time
SIZE, libc = 50 << 20, ctypes.CDLL(None, use_errno=True)
def memfd(name, size):
    fd = os.memfd_create(name)
    os.ftruncate(fd, size)
    return fd
def filled(memory, size):
    memory[:size] = b"x" * size
    return memory
common = memfd("common", 20 << 20)
held = [filled(bytearray(SIZE), SIZE), filled(mmap.mmap(-1, SIZE), SIZE)]
held += [filled(mmap.mmap(memfd("own", SIZE), SIZE), SIZE), filled(mmap.mmap(common, 20 << 20), 20 << 20)]
segment = libc.shmget(0, SIZE, 0o1600)
libc.shmat.restype = ctypes.c_void_p
address = libc.shmat(segment, None, 0)
libc.shmctl(segment, 0, None)
ctypes.memset(address, 1, SIZE)
with open(sys.argv[1], "wb", 0) as file:
    file.write(b"x" * SIZE)
del file
done, tell = os.pipe()
is_child = os.fork() == 0
for memory in [*held, (ctypes.c_char * SIZE).from_address(address)]:
    memory[::4096]
# After touching all memory, the child writes to a pipe. The parent waits for this and prints a line.
if is_child:
    os.write(tell, b"x")
else:
    os.read(done, 1)
    print(common, flush=True)
time.sleep(1000000)
"""
NEIGHBOUR = """
import mmap, os, sys, time
memory = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 20 << 20)
sum(memory[::4096])
print("ready", flush=True)
time.sleep(1000000)
"""


@pytest.fixture
def pod():
    """The cgroup of a pod. With version 1 of cgroups, it is in the hierarchy of the memory controller."""
    root = Path("/sys/fs/cgroup/memory")
    path = (root if root.is_dir() else Path("/sys/fs/cgroup")) / f"page-{uuid.uuid4()}"
    path.mkdir()
    if (path / "cgroup.subtree_control").exists():
        (path / "cgroup.subtree_control").write_text("+memory")
    yield path
    for container in [*path.glob("*/"), path]:
        if container.exists():
            end(container)


def end(cgroup):
    """Kills all processes of a cgroup and removes it."""

    def is_removed():
        for pid in (cgroup / "cgroup.procs").read_text().split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        try:
            cgroup.rmdir()
        except OSError:
            return False
        return True

    until(f"the end of {cgroup}", is_removed)


def start(cgroup, program, argument):
    """Runs a program in a new cgroup.

    Returns its process, and the line that the program prints when it is ready.
    """
    cgroup.mkdir()
    enter = f"import os; open({str(cgroup / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
    process = subprocess.Popen(
        [sys.executable, "-c", enter + program, argument], stdout=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline().strip()


def usage(cgroup):
    file = cgroup / "memory.current"
    return int((file if file.exists() else cgroup / "memory.usage_in_bytes").read_text())


def shown(text, after):
    """Finds a size by its label, such as "Freed" in "Freed: 1.5 MiB". Returns the size in bytes."""
    number, unit = re.search(rf"{after}: ([\d.]+) ([KMG])iB", text).groups()
    return float(number) * 1024 ** "_KMG".index(unit)


def test_predicted_freed_memory_equals_actually_freed_memory(exporter, tmp_path, page, pod):
    file = Path(f"/dev/shm/{pod.name}")
    try:
        app, descriptor = start(pod / "app", HOLDS, str(file))
        sidecar, _ = start(pod / "sidecar", NEIGHBOUR, f"/proc/{app.pid}/fd/{descriptor}")
        rows = [
            f"{name}\t{process.pid}\tshop\tweb-0\t{name}\n"
            for name, process in (("app", app), ("sidecar", sidecar))
        ]
        (tmp_path / "node").mkdir()
        (tmp_path / "node/containers.tsv").write_text(
            "id\tinit_pid\tnamespace\tpod\tcontainer\n" + "".join(rows)
        )
        (tmp_path / "node/proc").symlink_to("/proc")
        one = exporter(tmp_path / "node", "--filter", "*/*/*/*", "--cgroup-path", "/sys/fs/cgroup")
        page.open(one, "#/shop/web-0/app?field=uss")
        text = until("the account", lambda: page.text("#ends"))
        assert "Private to single processes" in page.text(
            "#total"
        ) and "Private to single processes" in page.text("#stats")
        private, freed, stays = (
            shown(text, after)
            for after in (
                "Private to single processes",
                "Freed if the container ended",
                "Stays until the pod ends",
            )
        )
        before = usage(pod)
        end(pod / "app")
        left = usage(pod)
        print(f"{text}; its end freed {(before - left) / MIB:.1f} MiB")
        # The end of the container frees about 200 MiB. The two processes of the container share nearly all of
        # it, so little of it is private to one process. The tolerance of 4 MiB covers kernel memory and page
        # cache of the Python interpreter.
        assert abs(freed - (before - left)) < 4 * MIB and freed > 195 * MIB > 40 * private
        assert abs(stays - 50 * MIB) < MIB
        file.unlink()
        assert abs(left - usage(pod) - stays) < 2 * MIB
        # The other container, `sidecar`, has no file in tmpfs.
        page.go("#/shop/web-0/sidecar")
        until("the neighbour", lambda: page.crumbs()[-1] == "sidecar")
        assert "Freed" in page.text("#ends") and "Stays" not in page.text("#ends")
    finally:
        file.unlink(missing_ok=True)
