"""A server of the tests' own that stands for containerd."""

import threading
from concurrent import futures
from pathlib import Path

import grpc

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


def processes(exposition):
    if "process_smaps_processes" not in exposition:
        return {}
    return {container: n for (container,), n in exposition.by("process_smaps_processes", "container").items()}


def is_up(exporter) -> bool:
    return exporter.metrics().value("smaps_exporter_containerd_up") == 1
