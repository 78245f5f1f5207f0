"""What a sick containerd can say has a limit: beyond it, and after an error, the last known containers stay."""

import grpc
import pytest

from exporter import EVERYTHING, Exporter
from fake_containerd import RUNNING, is_up, messages, processes
from lab import until
from live_node import MIB, Cgroup, resident

# a task of two bytes: field 1, no content
TWO_BYTES = b"\x0a\x00"


@pytest.fixture
def exporter(containerd, cgroups):
    with Exporter("--containerd-sock", containerd.path, *EVERYTHING, "--scrape-interval", "200ms") as exporter:
        assert processes(exporter.after()) == {"a": 1, "b": 1}
        yield exporter


def ask_again(containerd, cgroups):
    """A cgroup that nobody knows calls for a listing."""
    cgroups[f"new-{len(cgroups)}"] = Cgroup(cgroups["a"].path.parent)


def n_errors(exporter) -> float:
    return exporter.metrics().value("smaps_exporter_containerd_errors_total")


def assert_stays(exporter, containerd, cgroups):
    """Listings fail, and the containers known go on being read: what is done to them shows."""
    ask_again(containerd, cgroups)
    until(lambda: n_errors(exporter) >= 2, 60, "listings fail")
    assert not is_up(exporter)
    cgroups["a"].run("/bin/sleep", "1000000")
    peak = 0
    scrapes = exporter.scrapes()
    until(lambda: processes(next(scrapes)) == {"a": 2, "b": 1}, 30, "the new process shows")
    seen = n_errors(exporter)
    while n_errors(exporter) < seen + 2:
        exposition = next(scrapes)
        assert processes(exposition) == {"a": 2, "b": 1}
        peak = max(peak, resident(exporter.process.pid))
    return peak


def assert_recovers(exporter, cgroups):
    until(lambda: is_up(exporter), 60, "the listing succeeds")
    assert processes(exporter.after())["a"] == 2
    lines = exporter.news()
    assert len(lines) <= 2 and all(line.isprintable() and len(line) < 1000 for line in lines), f"one line a change: {lines}"


def test_tasks_are_not_found(containerd, cgroups, exporter):
    containerd.list_fails = grpc.StatusCode.NOT_FOUND, "no such namespace " + "x" * 5000
    assert_stays(exporter, containerd, cgroups)
    containerd.list_fails = None
    assert_recovers(exporter, cgroups)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(TWO_BYTES * (30 * MIB), id="60 MiB of two-byte tasks"),
        pytest.param(TWO_BYTES * (7 * MIB), id="14 MiB of two-byte tasks"),
        pytest.param(b"\x0a\xff\xff\xff\x7f", id="no message"),
        # field 1 of 5,006 bytes: field 2, an id of 5,000 bytes; field 3, pid 1; field 4, running
        pytest.param(b"\x0a\x8f\x27" + b"\x12\x88\x27" + b"x" * 5000 + b"\x18\x01\x20\x02", id="a task with an id of 5,000 bytes"),
    ],
)
def test_answers_that_are_refused(containerd, cgroups, exporter, answer):
    before = resident(exporter.process.pid)
    containerd.list_raw = answer
    peak = assert_stays(exporter, containerd, cgroups)
    print(f"{len(answer)} bytes: RSS {before >> 10} KiB before, at most {peak >> 10} KiB meanwhile")
    assert peak < before + 48 * MIB
    containerd.list_raw = None
    assert_recovers(exporter, cgroups)


def test_a_task_that_comes_twice_is_one_container(containerd, cgroups, exporter):
    listed = [messages.Process(id=id, pid=pid, status=status) for id, (pid, status) in containerd.tasks.items()]
    containerd.list_raw = messages.ListTasksResponse(tasks=listed * 1000).SerializeToString()
    n_asked = containerd.asked.count("tasks")
    ask_again(containerd, cgroups)
    until(lambda: exporter.metrics() and containerd.asked.count("tasks") >= n_asked + 2, 30, "it has listed")
    exposition = exporter.after()
    assert exposition.value("smaps_exporter_containers") == 2 and is_up(exporter)
    assert processes(exposition) == {"a": 1, "b": 1}


def test_labels_of_a_megabyte_are_cut(containerd, cgroups):
    containerd.labels = {"io.kubernetes.pod.name": "ö" * MIB, "io.kubernetes.container.name": "c" * MIB}
    pid = cgroups["a"].init.pid
    containerd.tasks = {f"c{i}": (pid, RUNNING) for i in range(300)}
    with Exporter("--containerd-sock", containerd.path, *EVERYTHING) as exporter:
        until(lambda: exporter.metrics().value("smaps_exporter_containers") == 300, 120, "all of them are known")
        exposition = exporter.after()
        [(pod, container)] = exposition.by("process_smaps_processes", "pod", "container")
        assert (pod, container) == ("ö" * 2048, "c" * 4096)
        size = resident(exporter.process.pid)
        print(f"300 containers with two labels of 1 MiB and more: RSS {size >> 10} KiB")
        assert size < 64 * MIB


def test_more_labels_than_are_kept(containerd, cgroups, exporter):
    """2,200 containers with two labels of 4 KiB each are over 16 MiB."""
    before = resident(exporter.process.pid)
    containerd.labels = {"io.kubernetes.pod.name": "p" * 4096, "io.kubernetes.container.name": "c" * 4096}
    known = dict(containerd.tasks)
    containerd.tasks |= {f"c{i}": (cgroups["a"].init.pid, RUNNING) for i in range(2200)}
    peak = assert_stays(exporter, containerd, cgroups)
    print(f"RSS {before >> 10} KiB before, at most {peak >> 10} KiB meanwhile")
    assert peak < before + 96 * MIB
    containerd.tasks, containerd.labels = known, {}
    assert_recovers(exporter, cgroups)
