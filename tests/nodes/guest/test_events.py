"""Restarts containerd, systemd and pods. Two exporters must keep the old pods and find the new pods."""

import os
import re
import signal
import threading
import time
import urllib.error
from collections import Counter

import pytest

import kernel
import pods
from exporter import EVERYTHING, Client, Exporter
from in_pod import InPod
from lab import Container, cri, until
from node import SYSTEMD, command, settled
from pods import FOREVER

pytestmark = pytest.mark.skipif(not SYSTEMD, reason="systemd does not manage containerd here")


@pytest.fixture(scope="module")
def exporters(node):
    """Two exporters. One runs outside of pods, the other in a pod."""
    with Exporter("--containerd-sock", node.socket, *EVERYTHING) as outside, InPod(node) as inside:
        yield [outside, inside]


def reported(exporter: Client) -> dict[tuple[str, ...], int]:
    """Returns the number of exported processes of each command.

    Does not use the strict parser, which would take seconds on an emulated processor.
    """
    found = {}
    for line in re.findall(r"^process_smaps_processes\{.*$", exporter.get("/metrics")[1], re.MULTILINE):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
        found[tuple(labels[name] for name in kernel.COMMAND)] = int(line.rpartition(" ")[2])
    return found


def up(exporter: Client) -> bool:
    return "\nsmaps_exporter_containerd_up 1\n" in exporter.get("/metrics")[1]


class Observer(threading.Thread):
    """Scrapes an exporter every second.

    `seen[command][n]` is the number of scrapes that showed n processes of a command.
    """

    def __init__(self, exporter: Client):
        super().__init__(daemon=True)
        self.exporter = exporter
        self.seen: dict[tuple[str, ...], Counter] = {}
        self.n_answers = 0
        self.errors: list[str] = []
        self._stopping = threading.Event()

    def run(self):
        while not self._stopping.wait(1):
            try:
                answer = reported(self.exporter)
            except (OSError, urllib.error.URLError) as error:
                self.errors.append(str(error))
                continue
            self.n_answers += 1
            for key in answer:
                self.seen.setdefault(key, Counter())[answer[key]] += 1

    def stop(self):
        self._stopping.set()
        self.join()


# The events.


def restarted(node):
    node.restart()


def killed(node):
    node.kill()


def stopped_for_a_while(node):
    node.stop()
    time.sleep(5)  # containers keep running while containerd is stopped
    node.start()


def systemd_reloaded(node):
    command("systemctl", "daemon-reload")


def systemd_executed_again(node):
    command("systemctl", "daemon-reexec")


def pod_recreated(node):
    [sandbox] = [
        pod.id
        for pod in node.cri.ListPodSandbox(cri.ListPodSandboxRequest()).items
        if pod.metadata.name == "cart-0"
    ]
    node.remove_pod(sandbox)
    pods.run_cart(node)


EVENTS = [restarted, killed, stopped_for_a_while, systemd_reloaded, systemd_executed_again, pod_recreated]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_surviving_containers_stay_and_new_ones_are_found(node, exporters, event):
    for exporter in exporters:
        settled(lambda: reported(exporter), lambda: kernel.counts(node))
    before = kernel.processes(node)
    observers = [Observer(exporter) for exporter in exporters]
    for observer in observers:
        observer.start()
    event(node)
    pod = node.run_pod("new", "new-0", [Container("new", ["sh", "-c", f"sleep {FOREVER} & wait"])])
    until(lambda: kernel.counts(node).get(("new", "new-0", "new", "sleep")), 30, "the new pod runs")
    try:
        for exporter in exporters:
            settled(lambda: reported(exporter), lambda: kernel.counts(node))
            until(lambda: up(exporter), 60, "containerd is up")
    finally:
        for observer in observers:
            observer.stop()
        node.remove_pod(pod)
    after = kernel.processes(node)
    survivors = {key: len(pids) for key, pids in before.items() if after.get(key) == pids}
    assert len(survivors) > 10
    for observer in observers:
        assert observer.n_answers > 0 and not observer.errors
        for key, n in survivors.items():
            assert observer.seen.get(key) == {n: observer.n_answers}, key


def test_restarted_container_replaces_the_dead_one(node, exporters):
    """The kubelet starts a container again in the same pod and under the same name."""
    pod = node.run_pod(
        "new", "new-0", [Container("stays", ["sleep", FOREVER]), Container("dies", ["sleep", FOREVER])]
    )
    dies = ("new", "new-0", "dies", "sleep")
    try:
        for exporter in exporters:
            settled(lambda: reported(exporter), lambda: kernel.counts(node))
        [pid] = kernel.processes(node)[dies]
        os.kill(pid, signal.SIGKILL)
        for exporter in exporters:
            until(lambda: dies not in reported(exporter), 60, "the dead container is no longer reported")
        node.start_container(pod, Container("dies", ["sleep", FOREVER]), attempt=1)
        for exporter in exporters:
            settled(lambda: reported(exporter), lambda: kernel.counts(node))
        assert dies in kernel.counts(node)
    finally:
        node.remove_pod(pod)
