"""Fixtures that all tests in a virtual machine share: the node with its pods, and an exporter."""

import pytest

# with this call, a failed assertion in these modules shows the compared values
pytest.register_assert_rewrite("node", "ooms")

import pods
from exporter import EVERYTHING, Exporter
from node import CONTAINERD, IS_SHORT, NODE

# The tests that a machine skips if NODES_SHORT is set. The key is the Debian release that the machine's
# containerd comes from. A test is skipped if its name contains one of the strings.
#
# The script .ci/run sets NODES_SHORT. It runs two machines, one with the kernel and containerd of bookworm,
# and one with those of sid. Otherwise the machines are equal, so it is enough that each test below runs in
# one of them.
LEFT_OUT = {
    "bookworm": (
        "test_restarted_container_replaces_the_dead_one",
        "test_surviving_containers_stay_and_new_ones_are_found[pod_recreated]",
        "test_surviving_containers_stay_and_new_ones_are_found[restarted]",
    ),
    "sid": (
        "test_v8_heap_is_found[overcommit_memory=2]",
        "test_exporter_does_not_delay_containerds_stop",
        "test_moved_processes_stay_attributed_to_their_container",
        "test_surviving_containers_stay_and_new_ones_are_found[killed]",
        "test_surviving_containers_stay_and_new_ones_are_found[stopped_for_a_while]",
        "test_surviving_containers_stay_and_new_ones_are_found[systemd_executed_again]",
        "test_surviving_containers_stay_and_new_ones_are_found[systemd_reloaded]",
    ),
}


assert not set(LEFT_OUT["bookworm"]) & set(LEFT_OUT["sid"]), "a test would run in neither machine of the gate"


def pytest_collection_modifyitems(config, items: list[pytest.Item]):
    left_out = LEFT_OUT.get(CONTAINERD, ()) if IS_SHORT else ()
    for name in left_out:
        assert any(name in item.name for item in items), f"LEFT_OUT has {name}, which does not exist"
    others = [item for item in items if any(name in item.name for name in left_out)]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]
    # Moves the test modules that stop containerd to the end.
    items.sort(key=lambda item: item.path.name in ("test_events.py", "test_filter.py", "test_stop.py"))


def pytest_runtest_logreport(report: pytest.TestReport):
    """Prints a failure immediately, so that it is not lost if the machine hangs later."""
    if report.failed:
        print(
            "",
            *[line for line in report.longreprtext.splitlines() if line.startswith("E ")][:12],
            sep="\n",
            flush=True,
        )


@pytest.fixture(scope="session")
def node():
    """The node with its pods. All tests share this node.

    A test may change one of these pods only if it restores the pod afterwards. Otherwise, the test runs a pod
    of its own, and changes that pod.
    """
    pods.prepare_memory()
    with NODE() as node:
        pods.run(node)
        yield node


@pytest.fixture
def exporter(node):
    """An exporter that reports every container. It does not run in a pod."""
    with Exporter("--containerd-sock", node.socket, *EVERYTHING) as exporter:
        yield exporter
