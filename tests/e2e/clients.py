"""Runs programs from Debian's packages: HTTP clients (ab, wrk), proxies (nginx, haproxy), and strace."""

import contextlib
import random
import socket
import subprocess

from lab import HERE, until

CLIENTS = HERE / ".debs/clients"
LIBRARIES = ":".join(map(str, CLIENTS.glob("usr/lib/*-linux-gnu")))


def command(name: str, *arguments) -> list[str]:
    (program,) = [path for path in (CLIENTS / "usr/bin" / name, CLIENTS / "usr/sbin" / name) if path.exists()]
    return ["env", f"LD_LIBRARY_PATH={LIBRARIES}", str(program), *map(str, arguments)]


@contextlib.contextmanager
def running(arguments: list[str], peer: tuple[str, int]):
    """Runs a server that listens at `peer`. Ends the server at the end of the block."""
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)
    try:

        def listens():
            assert process.poll() is None, f"{arguments} exited {process.returncode}"
            with contextlib.suppress(OSError):
                return socket.create_connection(peer, timeout=1).close() or True

        until(listens, 20, f"{arguments[2]} listens")
        yield
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """Returns a free port of 127.0.0.1 for a server that is started soon.

    The port is below the range from which the kernel gives ports to clients (net.ipv4.ip_local_port_range
    begins at 32768). So no client can take the port before the server listens.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
