"""Fixtures that several test modules use: nodes, exporters and compiled programs."""

import os
import signal
import subprocess

import pytest

pytest.register_assert_rewrite("ooms")  # with this, a failed assertion in ooms.py shows its values

import groups
import kernel
from exporter import BINARY, EVERYTHING, Exporter
from lab import CONTAINER, HERE, NODE, POD, Container, Lab, cri, until
from live_node import Node, roots

FOREVER = "1000000"
TWO_SLEEPS = ["sh", "-c", f"sleep {FOREVER} & sleep {FOREVER} & wait"]
WEB = "web-7d4b9c6f5d-x2x8k"

# The number of processes on the node for each (namespace, pod, container, comm).
NODE_PROCESSES = {
    ("default", WEB, "app", "sh"): 1,
    ("default", WEB, "app", "sleep"): 2,
    ("default", WEB, "app", "tail"): 1,  # started as by kubectl exec
    ("default", WEB, "sidecar", "sleep"): 1,
    # This pod has the same pod and container names as another pod, in another namespace.
    ("batch", WEB, "app", "sleep"): 1,
    # The containers of this pod use the PID namespace of the node (`pid: NODE` in CRI).
    ("kube-system", "node-agent-4tq9z", "agent", "sh"): 1,
    ("kube-system", "node-agent-4tq9z", "agent", "sleep"): 2,
    # The containers of this pod share one PID namespace (`pid: POD`).
    ("shop", "cart-0", "cart", "sleep"): 1,
    ("shop", "cart-0", "logs", "tail"): 1,
    ("shop", "cart-0", "logs", "sleep"): 1,  # started as by kubectl exec
    # A process of this container makes a second PID namespace, inside the PID namespace of the container.
    ("shop", "runner-0", "runner", "unshare"): 1,
    ("shop", "runner-0", "runner", "sleep"): 1,
}


def pytest_addoption(parser):
    parser.addoption("--group", choices=groups.GROUPS, help="run only this group's tests, see groups.py")


def pytest_collection_modifyitems(config, items):
    if name := config.getoption("--group"):
        others = [item for item in items if groups.group_of(item.path.stem, item.originalname) != name]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


def pytest_sessionstart(session):
    if session.config.option.collectonly:
        return
    if os.geteuid() != 0:
        pytest.exit("the end-to-end tests run containerd and need root", 1)
    if not BINARY.exists():
        pytest.exit(f"{BINARY} does not exist; run cargo build --release", 1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # with this, SIGTERM removes the labs, too


@pytest.fixture(scope="session")
def node():
    """A node with pods of every kind.

    Tests never change these pods. A test that needs changes runs a pod of its own.
    """
    with Lab() as lab:
        app = Container("app", TWO_SLEEPS)
        lab.run_pod("default", WEB, [app, Container("sidecar", ["sleep", FOREVER])], CONTAINER)
        lab.run_pod("batch", WEB, [Container("app", ["sleep", FOREVER])], CONTAINER)
        lab.run_pod("kube-system", "node-agent-4tq9z", [Container("agent", TWO_SLEEPS)], NODE)
        logs = Container("logs", ["tail", "-f", "/dev/null"])
        lab.run_pod("shop", "cart-0", [Container("cart", ["sleep", FOREVER]), logs], POD)
        unshare = ["unshare", "--pid", "--fork", "sleep", FOREVER]
        may_unshare = cri.LinuxContainerSecurityContext(
            capabilities=cri.Capability(add_capabilities=["SYS_ADMIN"])
        )
        lab.run_pod("shop", "runner-0", [Container("runner", unshare, security=may_unshare)], CONTAINER)
        lab.exec(app, ["tail", "-f", "/dev/null"])
        lab.exec(logs, ["sleep", FOREVER])
        until(lambda: kernel.counts(lab) == NODE_PROCESSES, 20, "all processes of the node run")
        yield lab


@pytest.fixture
def exporter(node):
    """An exporter that selects every process of the node."""
    with Exporter("--containerd-sock", node.socket, *EVERYTHING) as exporter:
        yield exporter


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """The directory with the compiled C programs of programs/."""
    directory = tmp_path_factory.mktemp("programs")
    for source in (HERE / "programs").glob("*.c"):
        libraries = ["-lfuse3"] if source.stem == "stuck" else ["-static"]
        command = [
            "gcc",
            "-O1",
            "-Wall",
            "-Werror",
            "-pthread",
            "-o",
            directory / source.stem,
            source,
            *libraries,
        ]
        subprocess.run(command, check=True)
    return directory


@pytest.fixture
def any_node(tmp_path):
    """A node for tests that do not depend on the cgroup version. Its only container has live processes."""
    node = Node(tmp_path, sorted(roots().items())[0][1])
    yield node
    node.cgroup.close()
