"""Tests that CRI and the kubelet's links list the same containers as containerd's own API."""

import os
import secrets
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

import kernel
from conftest import FOREVER, NODE_PROCESSES
from exporter import EVERYTHING, Exporter, once
from exposition import Exposition, smaps_lines
from kernel import COMMAND
from lab import Container, Lab, cri, until
from live_node import Cgroup, roots

CREATED, RUNNING, EXITED, UNKNOWN = range(4)


def kubelet_links(lab: Lab, directory: Path):
    """Fills a directory like /var/log/containers.

    It has links to containers, stale links, and invalid names.
    """
    directory.mkdir(exist_ok=True)
    pods = {
        sandbox.id: sandbox.metadata for sandbox in lab.cri.ListPodSandbox(cri.ListPodSandboxRequest()).items
    }
    links = {}
    for container in lab.cri.ListContainers(cri.ListContainersRequest()).containers:
        pod, name = pods[container.pod_sandbox_id], container.metadata.name
        link = f"{pod.name}_{pod.namespace}_{name}-{container.id}.log"
        links[link] = f"/var/log/pods/{pod.namespace}_{pod.name}_{pod.uid}/{name}/0.log"
    links[f"gone-0_default_app-{secrets.token_hex(32)}.log"] = "/does/not/exist"
    links["x_y_z-kubepods.log"] = (
        "/dev/zero"  # "kubepods" is not an id; if it counted as one, it would match the cgroup of every pod
    )
    links["README"] = "/dev/stdin"
    links["\udcff_default_app-0.log"] = "/"
    for link in directory.iterdir():
        if link.is_symlink() and link.name not in links:
            link.unlink()
    for name, target in links.items():
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(target)
    os.makedirs(directory / "a-directory_default_app", exist_ok=True)


def test_all_sources_give_the_same_exposition(node, tmp_path):
    kubelet_links(node, tmp_path / "containers")
    sources = [
        ("--containerd-sock", node.socket),
        ("--containerd-sock", f"unix://{node.socket}"),
        ("--cri-sock", node.socket),
        ("--cri-sock", f"unix://{node.socket}"),
        ("--container-logs", tmp_path / "containers"),
    ]
    with kernel.stopped(node):
        # Pods share pages with processes of the host, so values may change between two scrapes. In this case,
        # both scrapes are repeated. The metrics of the node are left out, because they change all the time.
        options = ("--once", *EVERYTHING, "--cgroup-metrics", "memory,pod")
        for source in sources[1:]:
            text = until(
                lambda: (text := once(*source, *options)) == once(*sources[0], *options) and text,
                60,
                f"{source[0]} gives the same bytes as {sources[0][0]}",
            )
            assert len(smaps_lines(text)) > 100
            assert Exposition(text).by("process_smaps_processes", *COMMAND) == NODE_PROCESSES


@pytest.mark.parametrize("source", ["--cri-sock", "--container-logs"])
def test_recording_without_init_processes_replays(node, tmp_path, source):
    kubelet_links(node, tmp_path / "containers")
    value = {"--cri-sock": node.socket, "--container-logs": tmp_path / "containers"}[source]
    with kernel.stopped(node):
        live = once("--once", source, value, *EVERYTHING)
        once("--record", tmp_path / "node", source, value, *EVERYTHING)
    assert smaps_lines(once("--once", "--fixture", tmp_path / "node", *EVERYTHING)) == smaps_lines(live)


@pytest.mark.parametrize("source", ["--cri-sock", "--container-logs"])
def test_new_pods_appear_and_removed_pods_disappear(node, tmp_path, source):
    links = tmp_path / "containers"
    kubelet_links(node, links)
    value = {"--cri-sock": node.socket, "--container-logs": links}[source]
    with Exporter(source, value, *EVERYTHING) as exporter:
        assert exporter.metrics().by("process_smaps_processes", *COMMAND) == NODE_PROCESSES
        # The number of containers includes only running containers. Links to removed containers are ignored.
        n_running = len({command[:3] for command in NODE_PROCESSES})
        assert exporter.metrics().value("smaps_exporter_containers") == n_running
        pod = node.run_pod("batch", "job-0", [Container("worker", ["sleep", FOREVER])])
        try:
            kubelet_links(node, links)
            job = ("batch", "job-0", "worker", "sleep")
            until(
                lambda: job in exporter.metrics().by("process_smaps_processes", *COMMAND),
                10,
                "the new pod is reported",
            )
        finally:
            node.remove_pod(pod)
        kubelet_links(node, links)
        assert exporter.after(2).by("process_smaps_processes", *COMMAND) == NODE_PROCESSES
        assert exporter.metrics().value("smaps_exporter_containerd_errors_total") == 0


class Crio:
    """A server that answers CRI calls as CRI-O does.

    Each of its containers is only a cgroup with a sleeping process. For each container, there is a second
    cgroup with a process in place of the monitor, conmon.
    """

    def __init__(self, path: Path, root: Path, driver: str):
        self.path, self.root, self.driver = path, root, driver
        self.sandboxes: list[cri.PodSandbox] = []
        self.containers: list[cri.Container] = []
        self.cgroups: list[Cgroup] = []
        self.calls: list[str] = []
        self.server = grpc.server(futures.ThreadPoolExecutor(2))
        listings = {
            "ListPodSandbox": (self._list_pod_sandbox, cri.ListPodSandboxRequest),
            "ListContainers": (self._list_containers, cri.ListContainersRequest),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                function,
                request_deserializer=request.FromString,
                response_serializer=lambda answer: answer.SerializeToString(),
            )
            for name, (function, request) in listings.items()
        }
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("runtime.v1.RuntimeService", handlers),)
        )
        assert self.server.add_insecure_port(f"unix:{path}")
        self.server.start()

    def close(self):
        self.server.stop(None).wait()
        for cgroup in reversed(self.cgroups):
            cgroup.close()

    def _list_pod_sandbox(self, request, context):
        assert not request.ListFields()
        self.calls.append("ListPodSandbox")
        return cri.ListPodSandboxResponse(items=self.sandboxes)

    def _list_containers(self, request, context):
        assert not request.ListFields()
        self.calls.append("ListContainers")
        return cri.ListContainersResponse(containers=self.containers)

    def run_pod(self, namespace: str, name: str, containers: list[str]):
        """Makes the slice of a pod, and in it the scopes of the containers.

        There is also an infra container. Each container has a further scope for conmon, the process with
        which CRI-O monitors the container.
        """
        sandbox, uid = secrets.token_hex(32), secrets.token_hex(16)
        metadata = cri.PodSandboxMetadata(name=name, uid=uid, namespace=namespace)
        self.sandboxes.append(
            cri.PodSandbox(
                id=sandbox,
                metadata=metadata,
                labels={"app": "web"},
                annotations={"kubernetes.io/config.source": "api"},
            )
        )
        pod = {"systemd": f"kubepods-burstable-pod{uid}.slice", "cgroupfs": f"pod{uid}"}[self.driver]
        parent = self._cgroup(self.root / pod)
        for container, id in [
            ("POD", sandbox),
            *((container, secrets.token_hex(32)) for container in containers),
        ]:
            suffix = {"systemd": ".scope", "cgroupfs": ""}[self.driver]
            self._cgroup(parent.path / f"crio-{id}{suffix}")
            self._cgroup(parent.path / f"crio-conmon-{id}{suffix}")
            if container != "POD":  # CRI-O does not list the infra container
                self.containers.append(self.container(container, id, sandbox, RUNNING))

    def container(self, name: str, id: str, sandbox: str, state: int) -> cri.Container:
        return cri.Container(
            id=id,
            pod_sandbox_id=sandbox,
            metadata=cri.ContainerMetadata(name=name),
            image=cri.ImageSpec(image="quay.io/example/app"),
            image_ref="quay.io/example/app@sha256:0",
            state=state,
            created_at=1_700_000_000_000_000_000,
            labels={"io.kubernetes.container.name": "not the name that counts"},
            annotations={"io.kubernetes.container.hash": "a" * 1000},
        )

    def _cgroup(self, path: Path) -> Cgroup:
        cgroup = Cgroup(path.parent, path.name)
        self.cgroups.append(cgroup)
        return cgroup


@contextmanager
def crio(path: Path, kind: str, driver: str):
    runtime = Crio(path, roots()[kind], driver)
    try:
        yield runtime
    finally:
        runtime.close()


@pytest.mark.parametrize("driver", ["systemd", "cgroupfs"])
@pytest.mark.parametrize("kind", sorted(roots()))
def test_containers_of_cri_o_are_listed(tmp_path, kind, driver):
    with crio(tmp_path / "crio.sock", kind, driver) as runtime:
        runtime.run_pod("shop", "web-0", ["app", "proxy"])
        runtime.run_pod("default", "web-0", ["app"])
        sandbox = runtime.sandboxes[0].id
        runtime.containers.append(runtime.container("init", secrets.token_hex(32), sandbox, EXITED))
        runtime.containers.append(runtime.container("lost", secrets.token_hex(32), sandbox, UNKNOWN))
        with Exporter("--cri-sock", runtime.path, *EVERYTHING, "--scrape-interval", "200ms") as exporter:
            expected = {
                ("shop", "web-0", "app"): 1,
                ("shop", "web-0", "proxy"): 1,
                ("default", "web-0", "app"): 1,
            }
            # A pod also has processes that are in none of its containers. They must not be exported. CRI-O
            # runs an infra container in each pod, and a monitor, conmon, for each container. One more process
            # is directly in the cgroup of the pod.
            assert exporter.after().by("process_smaps_processes", "namespace", "pod", "container") == expected
            assert exporter.metrics().value("smaps_exporter_containers") == 3
            runtime.run_pod("batch", "job-0", ["worker"])
            expected["batch", "job-0", "worker"] = 1
            found = lambda: (
                exporter.metrics().by("process_smaps_processes", "namespace", "pod", "container") == expected
            )
            until(found, 10, "the new pod is reported")
            # For each listing, the exporter calls ListContainers and ListPodSandbox once each. A further
            # listing may have begun that has made only the first of these calls. So the test waits until the
            # numbers of both calls are equal.
            calls = runtime.calls
            until(
                lambda: calls.count("ListContainers") == calls.count("ListPodSandbox"),
                10,
                "a listing has both of its calls",
            )
            assert "containers are listed by CRI at" in exporter.log()
