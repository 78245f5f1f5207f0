"""Clients that read large expositions slowly, and an exporter in a cgroup with a memory limit."""

import contextlib
import os
import socket
import time
from pathlib import Path

from cgroups import IS_V2
from lab import until
from target import MIB, Target, record

# These options turn off the sample limit, so that the recordings decide how large expositions are.
ALL = ("--max-samples", "0")
GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
GET_GZIP = GET.replace(b"\r\n\r\n", b"\r\nAccept-Encoding: gzip\r\n\r\n")


def node(directory, n_megabytes: int):
    """Generates a recorded node for which the exporter serves about `n_megabytes` megabytes.

    The exporter serves at least about 16 MB, even if `n_megabytes` is smaller.
    """
    n_mappings = 4200
    return record(directory, 1, n_mappings, "x" * ((n_megabytes - 16) * 10**6 // n_mappings // 23))


@contextlib.contextmanager
def memory_cgroup(n_bytes: int):
    """Makes a cgroup with this memory limit.

    Yields a prefix that makes a command run in the cgroup, and the directory of the cgroup.
    """
    root = Path("/sys/fs/cgroup" if IS_V2 else "/sys/fs/cgroup/memory")
    directory = root / f"large-answers-{os.getpid()}"
    directory.mkdir()
    try:
        (directory / ("memory.max" if IS_V2 else "memory.limit_in_bytes")).write_text(str(n_bytes))
        yield ("sh", "-c", f'echo $$ > {directory}/cgroup.procs && exec "$@"', "sh"), directory
    finally:
        until(lambda: not (directory / "cgroup.procs").read_text(), 10, "the cgroup is empty")
        directory.rmdir()


def connect_slowly(target, request: bytes) -> socket.socket:
    """Connects a client, sends the request, and leaves it to the caller to read the response slowly.

    The receive buffer of the client holds at most 16 KiB. So most of a large response has to wait at the
    exporter's end until the caller reads.
    """
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    client.settimeout(10)
    client.connect(target.peer)
    client.sendall(request)
    return client


def hold_many_expositions(directory: Path, n_megabytes: int, n_generations: int, limit: int):
    """Makes slow readers hold several expositions. Asserts that memory stays within the documented bound.

    The memory of the exporter's cgroup must also stay within the limit of the cgroup.
    """
    recording = node(directory, n_megabytes)
    with memory_cgroup(limit) as (prefix, cgroup), Target(recording, *ALL, prefix=prefix) as target:
        readers, n_bytes = [], len(target.scrape()[1])
        assert n_bytes > 0.9 * n_megabytes * 10**6
        for _ in range(n_generations):
            for request in (GET, GET_GZIP):
                readers += [connect_slowly(target, request) for _ in range(4)]
            time.sleep(1)
            for reader in readers:
                with contextlib.suppress(OSError):
                    reader.recv(1000, socket.MSG_DONTWAIT)
            target.scrape()
        peak = target.memory("VmHWM")
        counted = int((cgroup / ("memory.peak" if IS_V2 else "memory.max_usage_in_bytes")).read_text())
        for reader in readers:
            reader.close()
    print(
        f"exposition {n_bytes / MIB:.1f} MiB, peak RSS {peak / MIB:.1f} MiB, "
        f"peak of the cgroup {counted / MIB:.1f} MiB"
    )
    assert peak < 8 * MIB + 2.2 * n_bytes
    # The kernel holds up to 128 KiB for each connection. With version 2, the peak of the cgroup includes
    # these bytes. With version 1, the test adds them.
    assert (counted if IS_V2 else peak + len(readers) * MIB // 8) < limit
