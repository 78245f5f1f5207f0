"""Whatever answers at containerd's socket: the known containers go on being read, with young data, and the loop keeps its rate.

A server of the test's own stands for containerd; the containers are cgroups with the test's own processes.
"""

import os
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from exporter import EVERYTHING, Exporter
from fake_containerd import RUNNING, UNKNOWN, is_up, processes
from lab import until
from live_node import MIB, Cgroup, resident


@pytest.fixture
def exporter(containerd, cgroups):
    with Exporter("--containerd-sock", containerd.path, *EVERYTHING, "--scrape-interval", "200ms") as exporter:
        assert processes(exporter.after()) == {"a": 1, "b": 1}
        yield exporter


def assert_goes_on(exporter, cgroups, condition, seconds: float):
    """Until the condition holds: every scrape is on time, and shows what is done to the known containers meanwhile."""
    cgroups["a"].run("/bin/sleep", "1000000")
    exporter.after()
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        exposition = exporter.metrics()
        assert time.time() - exposition.value("smaps_exporter_last_scrape_timestamp_seconds") < 2
        assert exposition.value("smaps_exporter_oldest_data_seconds") < 2
        assert processes(exposition) == {"a": 2, "b": 1}
        time.sleep(0.05)


@contextmanager
def garbage(path: Path, say):
    """A server that takes connections and does `say` with each."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)
        taken = []

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                taken.append(connection)
                try:
                    say(connection)
                except OSError:
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield taken
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for connection in taken:
                connection.close()
            thread.join()


def say_nothing(connection):
    pass


def say_noise(connection):
    connection.settimeout(0.5)
    for _ in range(64):
        connection.sendall(os.urandom(65536))


def say_http(connection):
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n\n\x1b[2J")
    connection.close()


def say_frames(connection):
    """HTTP/2's greeting, then a header block that never ends."""
    connection.settimeout(0.5)
    connection.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    for _ in range(1000):
        connection.sendall(bytes([0, 0x40, 0, 9, 0, 0, 0, 0, 1]) + bytes(0x4000))


@pytest.mark.parametrize("say", [say_nothing, say_noise, say_http, say_frames])
def test_something_else_at_the_socket(containerd, cgroups, exporter, say):
    before = resident(exporter.process.pid)
    containerd.stop()
    with garbage(containerd.path, say) as taken:
        until(lambda: not is_up(exporter), 20, "the exporter notices")
        assert_goes_on(exporter, cgroups, lambda: len(taken) >= 4, 90)
        errors = exporter.metrics().value("smaps_exporter_containerd_errors_total")
        assert resident(exporter.process.pid) < before + 4 * MIB
    containerd.start()
    until(lambda: is_up(exporter), 30, "containerd is back")
    assert processes(exporter.after()) == {"a": 2, "b": 1}
    lines = exporter.news()
    assert len(lines) <= 3 and all(line.isprintable() for line in lines), f"one line a change, {errors} errors: {lines}"


def test_the_socket_is_replaced(containerd, cgroups, exporter):
    for _ in range(3):
        containerd.stop()
        until(lambda: not is_up(exporter), 20, "the exporter notices")
        containerd.start()  # a new inode under the same name
        until(lambda: is_up(exporter), 30, "the exporter is connected again")
    assert processes(exporter.after()) == {"a": 1, "b": 1}


def test_the_socket_is_gone(containerd, cgroups, exporter):
    containerd.stop()
    containerd.path.unlink(missing_ok=True)
    n_errors = lambda: exporter.metrics().value("smaps_exporter_containerd_errors_total")
    assert_goes_on(exporter, cgroups, lambda: n_errors() >= 4, 60)
    containerd.start()
    until(lambda: is_up(exporter), 30, "containerd is back")


def test_a_slow_containerd(containerd, cgroups, exporter):
    """Every answer takes a second, and a new container calls for several."""
    containerd.delay = 1.0
    with_c = {}
    containerd.asked.clear()
    cgroups["c"] = Cgroup(cgroups["a"].path.parent)
    containerd.tasks["c"] = (cgroups["c"].init.pid, RUNNING)
    cgroups["a"].run("/bin/sleep", "1000000")
    scrapes = exporter.scrapes()
    next(scrapes)
    deadline = time.monotonic() + 30
    for exposition in scrapes:
        assert time.time() - exposition.value("smaps_exporter_last_scrape_timestamp_seconds") < 2
        with_c = processes(exposition)
        if "c" in with_c:
            break
        assert with_c == {"a": 2, "b": 1} and time.monotonic() < deadline
    assert with_c == {"a": 2, "b": 1, "c": 1}
    assert "a" not in containerd.asked, "labels do not change while a task lives"
    assert is_up(exporter)


def test_a_container_that_is_asked_for_in_vain(containerd, cgroups):
    """What was learned before the failure is kept, so the next listing begins there."""
    containerd.broken.add("b")
    with Exporter("--containerd-sock", containerd.path, *EVERYTHING, "--scrape-interval", "200ms") as exporter:
        until(lambda: exporter.metrics() and containerd.asked.count("b") >= 3, 30, "it is asked for again and again")
        assert containerd.asked.count("a") == 1
        containerd.broken.clear()
        until(lambda: is_up(exporter), 30, "the listing succeeds")
        assert processes(exporter.after()) == {"a": 1, "b": 1}


def test_answers_over_4_mib(containerd, cgroups):
    """A thousand containers, and more in one answer than gRPC takes unless it is told to."""
    a, b = (cgroups[id].init.pid for id in ("a", "b"))
    containerd.tasks |= {f"c{i}": (a, RUNNING) for i in range(1000)}  # a is the first to claim its cgroup
    containerd.tasks["b"] = (b, RUNNING)
    containerd.padding = 0
    with Exporter("--containerd-sock", containerd.path, *EVERYTHING) as exporter:
        until(lambda: exporter.metrics().value("smaps_exporter_containers") == 1002, 60, "all of them are known")
        before = resident(exporter.process.pid)
        containerd.padding = 6 * MIB
        cgroups["d"] = Cgroup(cgroups["a"].path.parent)
        containerd.tasks["d"] = (cgroups["d"].init.pid, RUNNING)
        until(lambda: processes(exporter.metrics()) == {"a": 1, "b": 1, "d": 1}, 60, "the new one is known")
        containerd.padding = 0
        assert exporter.metrics().value("smaps_exporter_containerd_errors_total") == 0
        print(f"1,003 containers: RSS {before >> 10} KiB, {resident(exporter.process.pid) >> 10} KiB after answers of 6 MiB")


def test_a_hung_shim_s_tasks_keep_their_pids(containerd, cgroups, exporter):
    """They come back unknown, with pid 0."""
    containerd.tasks["a"] = (0, UNKNOWN)
    n_asked = containerd.asked.count("tasks")
    cgroups["c"] = Cgroup(cgroups["a"].path.parent)  # calls for a listing
    until(lambda: exporter.metrics() and containerd.asked.count("tasks") > n_asked + 1, 30, "containerd was asked")
    assert processes(exporter.after()) == {"a": 1, "b": 1}
    cgroups["a"].init.kill()
    cgroups["a"].init.wait()
    assert processes(exporter.after()) == {"b": 1}
