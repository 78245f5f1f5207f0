"""Fixtures that all tests in a virtual machine share: the node with its pods, and an exporter."""

import pytest

# with this, a failed assertion in these modules shows its values
pytest.register_assert_rewrite("node", "ooms")

import pods
from exporter import EVERYTHING, Exporter
from node import NODE


def pytest_collection_modifyitems(items: list[pytest.Item]):
    # Test modules that stop containerd come last.
    items.sort(key=lambda item: item.path.name in ("test_events.py", "test_filter.py", "test_stop.py"))


def pytest_runtest_logreport(report: pytest.TestReport):
    """Prints a failure immediately, so that it is known even if the machine hangs later."""
    if report.failed:
        print(
            "",
            *[line for line in report.longreprtext.splitlines() if line.startswith("E ")][:12],
            sep="\n",
            flush=True,
        )


@pytest.fixture(scope="session")
def node():
    """The node with its pods. A test that changes a pod uses a pod of its own, or restores the pod."""
    pods.prepare_memory()
    with NODE() as node:
        pods.run(node)
        yield node


@pytest.fixture
def exporter(node):
    """An exporter outside of pods. It selects every process."""
    with Exporter("--containerd-sock", node.socket, *EVERYTHING) as exporter:
        yield exporter
