"""System calls that an attacker inside the exporter would make, and a way to run them in its threads."""

import os
import re
import subprocess
from pathlib import Path

from lab import until

KERNEL = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])
EPERM, EACCES = -1, -13
AT_FDCWD, O_RDONLY, O_WRONLY, O_RDWR, O_CREAT, O_TRUNC = -100, 0, 1, 2, 0o100, 0o1000
# The numbers of system calls on x86-64 and on arm64.
# fmt: off
NUMBERS = {
    "bpf": (321, 280), "chmod": (90, None), "clone": (56, 220), "creat": (85, None), "execve": (59, 221),
    "fchmodat": (268, 53), "fork": (57, None), "getpid": (39, 172), "init_module": (175, 105),
    "io_uring_setup": (425, 425), "kill": (62, 129), "memfd_create": (319, 279), "mmap": (9, 222),
    "mount": (165, 40), "open": (2, None), "openat": (257, 56), "openat2": (437, 437),
    "pidfd_getfd": (438, 438), "pidfd_open": (434, 434), "prctl": (157, 167), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "ptrace": (101, 117), "rename": (82, None), "renameat2": (316, 276),
    "seccomp": (317, 277), "setns": (308, 268), "socket": (41, 198), "tgkill": (234, 131),
    "truncate": (76, 45), "unlink": (87, None), "unlinkat": (263, 35),
}
# fmt: on
NUMBERS = {name: numbers[os.uname().machine == "aarch64"] for name, numbers in NUMBERS.items()}


def injector(program: Path):
    """Returns a function that makes a thread run a system call.

    For this, it runs `program` (programs/inject.c).
    """

    def inject(thread: int, number: int, *arguments: int | str) -> int:
        texts = [f":{value}" if isinstance(value, str) else str(value) for value in arguments]

        def attempt():
            done = subprocess.run([program, str(thread), str(number), *texts], capture_output=True, text=True)
            # The program fails if the thread is not waiting in a system call. The caller then tries again.
            return done.stdout if done.returncode == 0 else None

        return int(until(attempt, 20, "the thread waits in a system call"))

    return inject


def calls(victim: int, file: Path) -> dict[str, tuple]:
    """Returns the system calls that an attacker would try on this architecture, by name."""
    made = {
        "execve": ("/bin/true", 0, 0),
        "openat(/proc/1/mem, O_RDWR)": (AT_FDCWD, "/proc/1/mem", O_RDWR),
        "openat(/proc/<victim>/mem, O_WRONLY)": (AT_FDCWD, f"/proc/{victim}/mem", O_WRONLY),
        "openat(/proc/1/root/tmp/x, O_WRONLY|O_CREAT)": (
            AT_FDCWD,
            "/proc/1/root/tmp/x",
            O_WRONLY | O_CREAT,
            0o600,
        ),
        "openat(/proc/<victim>/root/..., O_WRONLY|O_CREAT)": (
            AT_FDCWD,
            f"/proc/{victim}/root{file}.root",
            O_WRONLY | O_CREAT,
            0o600,
        ),
        "openat(O_TRUNC)": (AT_FDCWD, str(file), O_RDONLY | O_TRUNC),
        "open(O_RDWR)": (str(file), O_RDWR),
        "creat": (f"{file}.new", 0o600),
        "openat2": (AT_FDCWD, str(file), 0, 24),
        "ptrace(PTRACE_ATTACH)": (16, victim, 0, 0),
        "process_vm_writev": (victim, 0, 0, 0, 0, 0),
        "process_vm_readv": (victim, 0, 0, 0, 0, 0),
        "pidfd_open": (victim, 0),
        "pidfd_getfd": (0, 0, 0),
        "unlink": (str(file),),
        "renameat2": (AT_FDCWD, str(file), AT_FDCWD, f"{file}.moved", 0),
        "fchmodat": (AT_FDCWD, str(file), 0o777),
        "unlinkat": (AT_FDCWD, str(file), 0),
        "rename": (str(file), f"{file}.moved"),
        "chmod": (str(file), 0o777),
        "truncate": (str(file), 0),
        "kill": (victim, 9),
        "tgkill": (victim, victim, 9),
        "fork": (),
        "clone, not of a thread": (17, 0, 0, 0, 0),
        "mount": ("none", "/mnt", "tmpfs", 0, 0),
        "setns": (0, 0),
        "bpf": (0, 0, 0),
        "init_module": (0, 0, 0),
        "io_uring_setup": (1, 0),
        "memfd_create": ("x", 0),
        "mmap(PROT_EXEC)": (0, 4096, 7, 0x22, -1, 0),
        "socket(AF_INET)": (2, 1, 0),
        "socket(AF_UNIX), with a recording": (1, 1, 0),
        "prctl(PR_SET_DUMPABLE)": (4, 1, 0, 0, 0),
        "seccomp": (0, 0, 0),
    }
    numbers = {call: NUMBERS.get(re.match(r"\w+", call)[0]) for call in made}
    return {call: (numbers[call], *arguments) for call, arguments in made.items() if numbers[call]}
