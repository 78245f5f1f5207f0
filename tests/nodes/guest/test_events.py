"""What happens to a node in its life, under two exporters: nothing that lives on is lost, and what is new is found."""

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

pytestmark = pytest.mark.skipif(not SYSTEMD, reason="containerd is not systemd's here")


@pytest.fixture(scope="module")
def exporters(node):
    """One on the machine, one in a pod."""
    with Exporter("--containerd-sock", node.socket, *EVERYTHING) as outside, InPod(node) as inside:
        yield [outside, inside]


def shown(exporter: Client) -> dict[tuple[str, ...], int]:
    """Processes by command. The strict reader would take seconds for a large text on an emulated processor."""
    found = {}
    for line in re.findall(r"^process_smaps_processes\{.*$", exporter.get("/metrics")[1], re.MULTILINE):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
        found[tuple(labels[name] for name in kernel.COMMAND)] = int(line.rpartition(" ")[2])
    return found


def up(exporter: Client) -> bool:
    return "\nsmaps_exporter_containerd_up 1\n" in exporter.get("/metrics")[1]


class Watch(threading.Thread):
    """Asks an exporter every second, and keeps how many processes it showed of each command."""

    def __init__(self, exporter: Client):
        super().__init__(daemon=True)
        self.exporter = exporter
        self.seen: dict[tuple[str, ...], Counter] = {}
        self.n_answers = 0
        self.errors: list[str] = []
        self._ends = threading.Event()

    def run(self):
        while not self._ends.wait(1):
            try:
                answer = shown(self.exporter)
            except (OSError, urllib.error.URLError) as error:
                self.errors.append(str(error))
                continue
            self.n_answers += 1
            for command in answer:
                self.seen.setdefault(command, Counter())[answer[command]] += 1

    def end(self):
        self._ends.set()
        self.join()


# the events


def restarted(node):
    node.restart()


def killed(node):
    node.kill()


def stopped_for_a_while(node):
    node.stop()
    time.sleep(5)  # containers go on without it meanwhile
    node.start()


def systemd_reloaded(node):
    command("systemctl", "daemon-reload")


def systemd_executed_again(node):
    command("systemctl", "daemon-reexec")


def pod_made_anew(node):
    [sandbox] = [pod.id for pod in node.cri.ListPodSandbox(cri.ListPodSandboxRequest()).items if pod.metadata.name == "cart-0"]
    node.remove_pod(sandbox)
    pods.run_cart(node)


EVENTS = [restarted, killed, stopped_for_a_while, systemd_reloaded, systemd_executed_again, pod_made_anew]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_what_lives_on_stays_and_what_is_new_is_found(node, exporters, event):
    for exporter in exporters:
        settled(lambda: shown(exporter), lambda: kernel.counts(node))
    before = kernel.processes(node)
    watches = [Watch(exporter) for exporter in exporters]
    for watch in watches:
        watch.start()
    event(node)
    pod = node.run_pod("new", "new-0", [Container("new", ["sh", "-c", f"sleep {FOREVER} & wait"])])
    until(lambda: kernel.counts(node).get(("new", "new-0", "new", "sleep")), 30, "the new pod runs")
    try:
        for exporter in exporters:
            settled(lambda: shown(exporter), lambda: kernel.counts(node))
            until(lambda: up(exporter), 60, "containerd is up")
    finally:
        for watch in watches:
            watch.end()
        node.remove_pod(pod)
    after = kernel.processes(node)
    lived_on = {command: len(pids) for command, pids in before.items() if after.get(command) == pids}
    assert len(lived_on) > 10
    for watch in watches:
        assert watch.n_answers > 0 and not watch.errors
        for command, n in lived_on.items():
            assert watch.seen.get(command) == {n: watch.n_answers}, command


def test_a_container_that_died_is_replaced(node, exporters):
    """The kubelet starts it again in the same pod, under the same name."""
    pod = node.run_pod("new", "new-0", [Container("stays", ["sleep", FOREVER]), Container("dies", ["sleep", FOREVER])])
    dies = ("new", "new-0", "dies", "sleep")
    try:
        for exporter in exporters:
            settled(lambda: shown(exporter), lambda: kernel.counts(node))
        [pid] = kernel.processes(node)[dies]
        os.kill(pid, signal.SIGKILL)
        for exporter in exporters:
            until(lambda: dies not in shown(exporter), 60, "the dead one is not")
        node.start_container(pod, Container("dies", ["sleep", FOREVER]), attempt=1)
        for exporter in exporters:
            settled(lambda: shown(exporter), lambda: kernel.counts(node))
        assert dies in kernel.counts(node)
    finally:
        node.remove_pod(pod)
