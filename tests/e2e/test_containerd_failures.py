"""containerd fails, restarts or sends large answers. Containers that were listed before must still be read.

A server of the test takes the place of containerd. The containers are cgroups with processes of the test.
"""

import re
import time
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from exporter import EVERYTHING, Exporter
from lab import until
from live_node import MIB, Cgroup, roots

messages, _ = grpc.protos_and_services("containerd.proto")
RUNNING, UNKNOWN = 2, 0
ERRORS = "smaps_exporter_containerd_errors_total"
OFTEN = (*EVERYTHING, "--scrape-interval", "200ms")


class Containerd:
    """A gRPC server with the two methods of containerd that the exporter uses."""

    def __init__(self, path: Path):
        self.path = path
        self.tasks: dict[str, tuple[int, int]] = {}  # container id -> pid and status
        self.refused: set[str] = set()  # the ids for which Containers.Get fails
        # the answer to each Containers.Get; if it is empty, the server answers with a container named after
        # its id
        self.record = b""
        self.list_error = None  # if set, Tasks.List always fails with this status code and text
        self.list_cut = 0  # the number of bytes that are cut off the end of each answer to Tasks.List
        self.calls: list[str] = []  # the calls so far: "tasks" for Tasks.List, or the id of a Containers.Get
        self.server = None

    def _list(self, request, context):
        self.calls.append("tasks")
        if self.list_error:
            context.abort(*self.list_error)
        tasks = [messages.Process(id=id, pid=pid, status=status) for id, (pid, status) in self.tasks.items()]
        answer = messages.ListTasksResponse(tasks=tasks).SerializeToString()
        return answer[: len(answer) - self.list_cut]

    def _get(self, request, context):
        self.calls.append(request.id)
        if request.id in self.refused:
            context.abort(grpc.StatusCode.INTERNAL, "the database is locked")
        labels = {
            "io.kubernetes.pod.namespace": "default",
            "io.kubernetes.pod.name": "pod",
            "io.kubernetes.container.name": request.id,
        }
        container = messages.Container(id=request.id, labels=labels)
        return self.record or messages.GetContainerResponse(container=container).SerializeToString()

    def start(self):
        def handler(function, request):
            return grpc.unary_unary_rpc_method_handler(function, request_deserializer=request.FromString)

        unlimited = [("grpc.max_send_message_length", -1)]
        self.server = grpc.server(futures.ThreadPoolExecutor(8), options=unlimited)
        services = {
            "tasks.v1.Tasks": {"List": handler(self._list, messages.ListTasksRequest)},
            "containers.v1.Containers": {"Get": handler(self._get, messages.GetContainerRequest)},
        }
        for service, methods in services.items():
            service = f"containerd.services.{service}"
            self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
        self.path.unlink(missing_ok=True)
        assert self.server.add_insecure_port(f"unix:{self.path}")
        self.server.start()

    def stop(self):
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
    """The cgroups of two running containers with the ids `a` and `b`."""
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
    with Exporter("--containerd-sock", containerd.path, *OFTEN) as exporter:
        assert processes(exporter.after()) == {"a": 1, "b": 1}
        yield exporter


def processes(exposition):
    if "process_smaps_processes" not in exposition:
        return {}
    return {container: n for (container,), n in exposition.by("process_smaps_processes", "container").items()}


def is_up(exporter) -> bool:
    return exporter.metrics().value("smaps_exporter_containerd_up") == 1


def start_container(containerd, cgroups, id: str):
    """Starts a container. The exporter then lists containers, because it finds a new cgroup."""
    cgroups[id] = Cgroup(cgroups["a"].path.parent)
    containerd.tasks[id] = (cgroups[id].init.pid, RUNNING)


def assert_known_containers_are_read(exporter, cgroups, n_errors: int):
    """Asserts that scrapes stay on time while containerd fails to list the containers.

    Scrapes must also show a new process in a container that the exporter has listed before. The function
    waits until `n_errors` listings have failed.
    """
    cgroups["a"].run("/bin/sleep", "1000000")
    exporter.after()
    deadline = time.monotonic() + 60
    for exposition in exporter.scrapes():
        assert time.time() - exposition.value("smaps_exporter_last_scrape_timestamp_seconds") < 2
        assert exposition.value("smaps_exporter_oldest_data_seconds") < 2
        assert processes(exposition) == {"a": 2, "b": 1}
        if exposition.value(ERRORS) >= n_errors and exposition.value("smaps_exporter_containerd_up") == 0:
            return
        assert time.monotonic() < deadline, f"{exposition.value(ERRORS)} listings failed"


def assert_recovers(exporter, expected):
    until(lambda: is_up(exporter) and processes(exporter.metrics()) == expected, 30, "a listing succeeds")
    lines = exporter.unusual_log_lines()
    assert len(lines) <= 2 and all(line.isprintable() for line in lines), f"one line per change: {lines}"


@pytest.mark.parametrize("failure", ["an error", "a truncated answer"])
def test_known_containers_are_read_while_listings_fail(containerd, cgroups, exporter, failure):
    if failure == "an error":
        containerd.list_error = grpc.StatusCode.NOT_FOUND, "no such namespace\n" + "x" * 5000
    else:
        containerd.list_cut = 1
    start_container(containerd, cgroups, "c")
    assert_known_containers_are_read(exporter, cgroups, n_errors=3)
    containerd.list_error, containerd.list_cut = None, 0
    assert_recovers(exporter, {"a": 2, "b": 1, "c": 1})


def test_known_containers_are_read_while_the_socket_is_gone(containerd, cgroups, exporter):
    containerd.stop()
    containerd.path.unlink(missing_ok=True)
    assert_known_containers_are_read(exporter, cgroups, n_errors=3)
    containerd.start()
    assert_recovers(exporter, {"a": 2, "b": 1})


def test_listing_is_retried_only_for_the_failed_container(containerd, cgroups):
    containerd.refused.add("b")
    with Exporter("--containerd-sock", containerd.path, *OFTEN) as exporter:
        until(lambda: exporter.metrics() and containerd.calls.count("b") >= 3, 30, "the call is made again")
        assert not is_up(exporter)
        containerd.refused.clear()
        assert_recovers(exporter, {"a": 1, "b": 1})
        assert containerd.calls.count("a") == 1, "labels do not change while a task lives"


def test_container_with_a_too_large_record_is_named_by_its_id(containerd, cgroups, exporter):
    containerd.record = container_record(spec=33 * MIB)
    start_container(containerd, cgroups, "c")
    until(lambda: processes(exporter.metrics()) == {"a": 1, "b": 1, "c": 1}, 30, "c is listed")
    exposition = exporter.after()
    assert exposition.by("process_smaps_processes", "namespace", "pod", "container")["k8s.io", "", "c"] == 1
    assert exposition.value(ERRORS) == 0 and is_up(exporter)


def test_docker_containers_without_names_are_logged(containerd, cgroups):
    """In containerd, a container of Docker has no name, only a label with the path of its bundle.

    So the exporter reports the id of the container as its name. One log line says that `docker ps` shows the
    names.
    """
    bundle = {"com.docker/engine.bundle.path": "/var/run/docker/containerd/1a"}
    record = messages.Container(labels=bundle)
    containerd.record = messages.GetContainerResponse(container=record).SerializeToString()
    with Exporter("--containerd-sock", containerd.path, "--containerd-namespace", "moby", *OFTEN) as exporter:

        def containers():
            return exporter.metrics().by("process_smaps_processes", "namespace", "pod", "container")

        by_id = {("moby", "", "a"): 1, ("moby", "", "b"): 1}
        until(lambda: containers() == by_id, 30, "they are named by their ids")
        exporter.after(2)
        [line] = [line for line in exporter.log().splitlines() if "named by their ids" in line]
        assert '"moby"' in line and "docker ps --no-trunc" in line


def test_restarted_containerd_is_listed_again(containerd, cgroups, exporter):
    for n in range(3):
        containerd.stop()
        until(lambda: not is_up(exporter), 20, "the exporter notices")
        containerd.start()  # this makes a new socket with the same name
        until(lambda: is_up(exporter), 30, "the exporter is connected again")
        start_container(containerd, cgroups, f"c{n}")
    expected = {"a": 1, "b": 1, "c0": 1, "c1": 1, "c2": 1}
    until(lambda: processes(exporter.metrics()) == expected, 30, "new containers are listed")


def test_tasks_of_a_hung_shim_keep_their_pids(containerd, cgroups, exporter):
    containerd.tasks["a"] = (0, UNKNOWN)
    n_calls = containerd.calls.count("tasks")
    cgroups["c"] = Cgroup(cgroups["a"].path.parent)
    until(
        lambda: exporter.metrics() and containerd.calls.count("tasks") > n_calls + 1,
        30,
        "two listings are made",
    )
    assert processes(exporter.after()) == {"a": 1, "b": 1}
    cgroups["a"].init.kill()
    cgroups["a"].init.wait()
    assert processes(exporter.after()) == {"b": 1}


# The peak of the exporter's resident memory must stay below this number of bytes. This is what the README
# allowed when the test was written: 4 MiB, and 2.2 times an exposition, which is taken as 12.8 MB here. Now
# .github/COST.md allows more: 191 MiB by default.
DOCUMENTED = 4 * MIB + 2.2 * 12.8e6


@pytest.mark.parametrize(
    ("n", "record"),
    [
        pytest.param(110, {"spec": MIB}, id="110 containers with 1 MiB of environment"),
        pytest.param(5000, {"spec": 20 << 10}, id="5,000 containers"),
        pytest.param(2, {"spec": 6 * MIB}, id="more than the 4 MiB that tonic takes by default"),
        pytest.param(2, {"labels": 1_500_000}, id="the labels of a hostile image"),
    ],
)
def test_listing_stays_within_the_documented_memory(containerd, cgroups, request, n, record):
    containerd.record = container_record(**record)
    containerd.tasks |= {f"c{i}": (cgroups["a"].init.pid, RUNNING) for i in range(n - 2)}
    with Exporter("--containerd-sock", containerd.path, *EVERYTHING) as exporter:
        until(
            lambda: exporter.metrics().value("smaps_exporter_containers") == n,
            120,
            "all containers are listed",
        )
        assert exporter.after().value(ERRORS) == 0
        peak, resident = (memory(exporter.process.pid, key) for key in ("VmHWM", "VmRSS"))
        print(f"{request.node.callspec.id}: RSS {resident >> 10} KiB, at most {peak >> 10} KiB")
        assert peak < DOCUMENTED


def container_record(labels: int = 0, spec: int = 0) -> bytes:
    """Returns an answer to Containers.Get with this number of labels, and an OCI spec of `spec` bytes."""
    named = {"io.kubernetes.pod.name": "pod", "io.kubernetes.container.name": "app"}
    record = messages.Container(labels=named, spec=messages.Any(value=bytes(spec))).SerializeToString()
    # The Python library protobuf would take ten seconds to encode 1.5 million labels. So the code below
    # writes the bytes of the labels without the library.
    tag = messages.Container.DESCRIPTOR.fields_by_name["labels"].number << 3 | 2
    keys = (b"%x" % i for i in range(labels))
    record += b"".join(b"%c%c\n%c%b\x12\0" % (tag, len(key) + 4, len(key), key) for key in keys)
    return b"\n" + varint(len(record)) + record


def varint(n: int) -> bytes:
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def memory(pid: int, key: str) -> int:
    return int(re.search(rf"{key}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) * 1024
