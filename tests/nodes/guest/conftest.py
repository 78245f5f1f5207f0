"""The machine's node with its pods, which every test shares, and exporters of it."""

import pytest

pytest.register_assert_rewrite("node", "ooms")  # a failed assertion shows its values

import pods
from exporter import EVERYTHING, Exporter
from node import NODE


def pytest_collection_modifyitems(items: list[pytest.Item]):
    items.sort(
        key=lambda item: item.path.name in ("test_events.py", "test_filter.py", "test_stop.py")
    )  # what ends containerd comes last


def pytest_runtest_logreport(report: pytest.TestReport):
    """Why a test failed, at once: a machine that does not come to its end says it too."""
    if report.failed:
        print(
            "",
            *[line for line in report.longreprtext.splitlines() if line.startswith("E ")][:12],
            sep="\n",
            flush=True,
        )


@pytest.fixture(scope="session")
def node():
    """The node with its pods. They stay as they are; a test that changes one runs its own, or makes good for it."""
    pods.prepare_memory()
    with NODE() as node:
        pods.run(node)
        yield node


@pytest.fixture
def exporter(node):
    """An exporter of everything, on the machine itself."""
    with Exporter("--containerd-sock", node.socket, *EVERYTHING) as exporter:
        yield exporter
