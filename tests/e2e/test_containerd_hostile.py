"""Whatever answers at containerd's socket: the known containers go on being read, with young data, and the loop keeps its rate.

A server of the test's own stands for containerd; the containers are cgroups with the test's own processes.
"""

import os
import socket
import threading
import time
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from exporter import EVERYTHING, Exporter
from lab import until
from test_hostile_processes import MIB, Cgroup, resident, roots

messages, _ = grpc.protos_and_services("containerd.proto")
RUNNING, UNKNOWN = 2, 0


class Containerd:
    """A server that speaks as much of containerd as it must, and lies as it is told."""

    def __init__(self, path: Path):
        self.path = path
        self.tasks: dict[str, tuple[int, int]] = {}  # id -> pid and status
        self.padding = 0  # bytes in each task's and container's answer that are of no use
        self.delay = 0.0  # seconds before each answer
        self.broken: set[str] = set()  # containers that are asked for in vain
        self.labels: dict[str, str] = {}  # labels of every container, in place of its own
        self.list_fails = None  # a status and a text in answer to every listing
        self.list_raw = None  # the bytes that answer every listing
        self.asked: list[str] = []
        self.over = threading.Event()
        self.server = None

    def _list(self, request, context):
        self.asked.append("tasks")
        self._wait()
        if self.list_fails:
            context.abort(*self.list_fails)
        if self.list_raw is not None:
            return self.list_raw
        tasks = [messages.Process(id=id, pid=pid, status=status) for id, (pid, status) in self.tasks.items()]
        if self.padding:
            tasks.append(messages.Process(id="x" * self.padding, pid=1, status=3))  # stopped: of no interest
        return messages.ListTasksResponse(tasks=tasks)

    def _get(self, request, context):
        self.asked.append(request.id)
        self._wait()
        if request.id in self.broken:
            context.abort(grpc.StatusCode.INTERNAL, "the database is locked")
        labels = {"io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.name": "pod", "io.kubernetes.container.name": request.id}
        labels |= self.labels
        return messages.GetContainerResponse(container=messages.Container(id=request.id, labels={**labels, "padding": "x" * self.padding}))

    def _wait(self):
        self.over.wait(self.delay)

    def start(self):
        def handler(function, request, response):
            return grpc.unary_unary_rpc_method_handler(
                function,
                request_deserializer=request.FromString,
                response_serializer=lambda answer: answer if isinstance(answer, bytes) else response.SerializeToString(answer),
            )

        self.over.clear()
        options = [("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 1 << 20)]
        self.server = grpc.server(futures.ThreadPoolExecutor(8), options=options)
        tasks = {"List": handler(self._list, messages.ListTasksRequest, messages.ListTasksResponse)}
        containers = {"Get": handler(self._get, messages.GetContainerRequest, messages.GetContainerResponse)}
        for service, methods in [("tasks.v1.Tasks", tasks), ("containers.v1.Containers", containers)]:
            self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(f"containerd.services.{service}", methods),))
        self.path.unlink(missing_ok=True)
        assert self.server.add_insecure_port(f"unix:{self.path}")
        self.server.start()

    def stop(self):
        self.over.set()
        if self.server:
            self.server.stop(None).wait()
            self.server = None


@pytest.fixture
def containerd(tmp_path):
    containerd = Containerd(tmp_path / "sock")
    containerd.start()
    yield containerd
    containerd.stop()


@pytest.fixture
def cgroups(containerd):
    """Two containers that run, a and b."""
    root = sorted(roots().items())[0][1]
    made = {}
    try:
        for id in ("a", "b"):
            made[id] = Cgroup(root)
            containerd.tasks[id] = (made[id].init.pid, RUNNING)
        yield made
    finally:
        for cgroup in made.values():
            cgroup.close()


@pytest.fixture
def exporter(containerd, cgroups):
    with Exporter("--containerd-sock", containerd.path, *EVERYTHING, "--scrape-interval", "200ms") as exporter:
        assert processes(exporter.after()) == {"a": 1, "b": 1}
        yield exporter


def processes(exposition):
    if "process_smaps_processes" not in exposition:
        return {}
    return {container: n for (container,), n in exposition.by("process_smaps_processes", "container").items()}


def is_up(exporter) -> bool:
    return exporter.metrics().value("smaps_exporter_containerd_up") == 1


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
