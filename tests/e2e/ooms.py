"""Containers that leak until the kernel kills them, and checks of /ooms and of the counters."""

import json
import os
import re
import subprocess
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest

import kernel
from cgroups import IS_V2, MIB, path_of
from exporter import Client, Exporter
from lab import Container, Lab, kill, read_proc, until
from live_node import rmdir

LIMIT = 100 * MIB
FOREVER = "1000000"
ROOT = Path("/sys/fs/cgroup") if IS_V2 else Path("/sys/fs/cgroup/memory")


def records(exporter: Client) -> list[dict]:
    status, body = exporter.get("/ooms")
    assert status == 200
    return json.loads(body)["records"]


def kills(exporter: Client) -> dict[str, int]:
    """Returns how many kills are exported for each `pod/container`.

    Does not use the strict parser, which would take seconds on an emulated CPU.
    """
    lines = re.findall(
        r"^smaps_exporter_oom_kills_total\{(.*)\} (\d+)$", exporter.get("/metrics")[1], re.MULTILINE
    )
    labels = [(dict(re.findall(r'(\w+)="([^"]*)"', text)), int(count)) for text, count in lines]
    return {f"{names['pod']}/{names['container']}": count for names, count in labels}


def pids_of(lab: Lab, container: Container) -> list[int]:
    return [
        pid for members in kernel.processes(lab).values() for pid in members if container.id in path_of(pid)
    ]


def is_leaking(lab: Lab, container: Container) -> bool:
    return any(read_proc(pid, "comm") == b"leak\n" for pid in pids_of(lab, container))


def leak(mounts, start: int = 70, rate: int = 5, limit: int = LIMIT, delay: int = 0) -> Container:
    """Returns a container with a child process that leaks.

    The first process of the container does not end. If it ended, the runtime would remove the cgroup, and
    the kernel's counter of kills would be lost.
    """
    script = f"sleep {delay}; /programs/leak heap {start} {rate} 1000; sleep {FOREVER}"
    return Container("app", ["sh", "-c", script], memory_limit_bytes=limit, mounts=mounts)


def ends(lab: Lab, container: Container) -> float:
    """Waits until the leaking process has been killed. Returns the time of the kill."""
    until(lambda: is_leaking(lab, container), 20, "the leak runs")
    until(lambda: not is_leaking(lab, container), 60, "the leak was killed")
    return time.time()


def assert_leaked(
    record: dict, name: str, ended_at: float, limit: int = LIMIT, seconds: float = 10, share: float = 0.85
):
    """Checks the record of a leak.

    The exporter must have read the container at most `seconds` before the kill, when the container had at
    least this share of its limit. The exporter must have recorded the kill at most `seconds` after it.
    """
    labels = ("namespace", "pod", "container", "command")
    assert [record[label] for label in labels] == ["accounts", name, "app", "leak"]
    assert record["kills"] == 1 and record["limit_bytes"] == limit
    assert record["limit"] == ("container" if IS_V2 else None)
    assert limit * 0.9 <= record["use_bytes"] <= limit
    assert 0 <= record["reading_age_seconds"] < seconds and abs(record["time"] - ended_at) < seconds
    largest = record["paths"][0]
    assert (largest["command"], largest["path"]) == ("leak", "[heap]") and largest[
        "pss_bytes"
    ] >= share * limit
    assert record["mapped_bytes"] >= sum(path["pss_bytes"] for path in record["paths"]) >= share * limit
    assert record["account"]["anon"] >= share * limit
    assert sum(record["account"].values()) == pytest.approx(record["use_bytes"], abs=2 * MIB)


def limit_cgroup(directory: Path, limit: int):
    """Sets the memory limit of a cgroup, and forbids swap."""
    values = {"memory.max": limit, "memory.swap.max": 0} if IS_V2 else {"memory.limit_in_bytes": limit}
    for name, value in values.items():
        if (directory / name).exists():
            (directory / name).write_text(f"{value}\n")


def below(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.is_dir()]


class Instance:
    """A container without a runtime: a cgroup with a process that reads a line and then leaks."""

    def __init__(self, directory: Path, link: Path | None):
        self.directory, self.link = directory, link
        self.processes: list[subprocess.Popen] = []

    def run(self, script: str, directory: Path | None = None) -> subprocess.Popen:
        """Runs a shell script in the container, or in a cgroup below it."""

        def enter():
            ((directory or self.directory) / "cgroup.procs").write_text(str(os.getpid()))

        process = subprocess.Popen(["sh", "-c", script], preexec_fn=enter, stdin=subprocess.PIPE)
        self.processes.append(process)
        return process

    def n_kills(self) -> int:
        """Returns how many kills the kernel has counted in the cgroup of the container."""
        text = (self.directory / ("memory.events" if IS_V2 else "memory.oom_control")).read_text()
        return int(re.search(r"^oom_kill (\d+)", text, re.MULTILINE)[1])

    def signal(self):
        """Writes the line that the first process waits for."""
        self.processes[0].stdin.write(b"\n")
        self.processes[0].stdin.flush()

    def go(self):
        """Writes the line that the processes wait for, and waits until all of them have ended."""
        for process in self.processes:
            process.stdin.write(b"\n")
            process.stdin.close()
        for process in self.processes:
            process.wait(60)

    def remove(self, delay: float = 0):
        """Kills the processes of the cgroup, waits `delay` seconds after their end, and removes the cgroup.

        A container runtime removes a cgroup about 20 ms after its last process has ended, so a test that
        imitates a runtime sets `delay` to 0.02.
        """
        directories = [*below(self.directory), self.directory]
        for directory in directories:
            for pid in (directory / "cgroup.procs").read_text().split():
                kill(int(pid), 9)
        for process in self.processes:
            process.wait(60)
        time.sleep(delay)
        for directory in directories:
            until(lambda directory=directory: rmdir(directory), 20, f"{directory} is empty")
        if self.link:
            self.link.unlink(missing_ok=True)


class Pods:
    """Pods without a runtime. The tests make their cgroups, and links like the kubelet's links to logs."""

    def __init__(self, links: Path, programs: Path):
        self.links, self.programs = links, programs
        self.parent = ROOT / f"kubepods-{uuid.uuid4().hex[:8]}"
        self.instances: list[Instance] = []
        self._make(self.parent)

    def _make(self, directory: Path, limit: int | None = None) -> Path:
        if IS_V2:
            (directory.parent / "cgroup.subtree_control").write_text("+memory\n")
        directory.mkdir()
        if limit:
            limit_cgroup(directory, limit)
        return directory

    def pod(self, name: str, limit: int | None = None) -> Path:
        return self._make(self.parent / f"pod-{name}", limit)

    def start(
        self, pod: Path, name: str, script: str, limit: int | None = None, is_listed: bool = True
    ) -> Instance:
        """Starts a container of a pod. The container runs this script."""
        id = uuid.uuid4().hex * 2
        link = self.links / f"{pod.name.removeprefix('pod-')}_ooms_{name}-{id}.log" if is_listed else None
        instance = Instance(self._make(pod / id, limit), link)
        self.instances.append(instance)
        if link:
            link.touch()
        instance.run(script)
        return instance

    def leak(self, mib: int) -> str:
        """Returns a script that waits for a line and then allocates this much memory."""
        return f"read line; exec {self.programs}/leak heap {mib} 1 {mib}"

    def exporter(self, *arguments: str) -> Exporter:
        return Exporter("--container-logs", self.links, "--filter", "ooms/*/s-*/*", *arguments)

    def close(self):
        for instance in self.instances:
            if instance.directory.exists():
                instance.remove()
        for pod in [*below(self.parent), self.parent]:
            until(lambda pod=pod: rmdir(pod), 20, f"{pod} is empty")


@contextmanager
def pods_of(links: Path, programs: Path):
    links.mkdir()
    pods = Pods(links, programs)
    try:
        yield pods
    finally:
        pods.close()


class Leaks:
    """Runs programs that leak until an OOM kill, and counts what the exporter records of these kills.

    Each program stays at 70% of its memory limit for three seconds, and then grows. Nothing requests metrics
    from the exporter.
    """

    def __init__(self, pods: Pods, exporter: Exporter):
        self.pods, self.exporter = pods, exporter
        self.n = self.n_kills = self.n_by_path = self.n_named = 0
        self.worst: list[str] = []

    def run(self, name: str, leaks: list[tuple[int, int]]):
        """Runs leaking programs at the same time. A pair in `leaks` is (MiB per second, limit in MiB)."""
        instances = []
        for i, (rate, limit) in enumerate(leaks):
            leak = f"{self.pods.programs}/leak heap {limit * 7 // 10} {rate} {2 * limit} 3"
            script = f"read line; {leak}; sleep {FOREVER}"
            instances.append(self.pods.start(self.pods.pod(f"{name}-{i}"), "s-app", script, limit * MIB))
        wait_until_listed(self.exporter, *(f"{name}-{i}/s-app" for i in range(len(leaks))))
        for instance in instances:
            instance.signal()
        for instance in instances:
            until(lambda instance=instance: instance.n_kills() >= 1, 1200, "the kernel has killed it")
        names = {f"{name}-{i}" for i in range(len(leaks))}
        deadline = time.monotonic() + 20
        while names - {record["pod"] for record in records(self.exporter)} and time.monotonic() < deadline:
            time.sleep(0.2)
        found = {record["pod"]: record for record in records(self.exporter)}
        for i, (rate, limit) in enumerate(leaks):
            record = found.get(f"{name}-{i}")
            self.n += 1
            self.n_kills += bool(record)
            mapped, victims = record["mapped_bytes"] if record else 0, record["victims"] if record else []
            commands = [victim["command"] for victim in victims]
            is_by_path = mapped >= 0.85 * limit * MIB and record["paths"][0]["path"] == "[heap]"
            self.n_by_path += is_by_path
            self.n_named += "leak" in commands
            if not is_by_path or "leak" not in commands:
                share = f"{mapped / limit / MIB:.0%} by path"
                self.worst.append(f"{rate} MB/s into {limit} MB: {share}, victims {commands}")
        for instance in instances:
            instance.remove()

    def __str__(self):
        found = f"{self.n_kills} records of {self.n} kills"
        parts = f"{self.n_by_path} with 85% by path, {self.n_named} with the victim"
        return "; ".join([f"{found}, {parts}", *self.worst])


def second_victims(pods: Pods, name: str, n: int, exporter: Client | None = None, interval: float = 1) -> int:
    """Runs `n` leaking containers. Returns the number of containers with more than one OOM kill.

    One process of each container grows by 200 MB/s to a limit of 256 MB. A small process of the container
    allocates and frees 2 MiB all the time. If there is an exporter, it is scraped every `interval` seconds.
    """
    n_second = 0
    pod = pods.pod(name)
    for _ in range(n):
        script = (
            f"{pods.programs}/leak churn & read line; {pods.programs}/leak heap 180 200 1000; sleep {FOREVER}"
        )
        instance = pods.start(pod, "s-app", script, 256 * MIB)
        if exporter:
            until(lambda: f"{name}/s-app" in kills(exporter), 60, "the container is listed")
        instance.signal()
        last_at = time.monotonic() + 60
        until_at = None
        while time.monotonic() < (until_at or last_at):
            if exporter:
                exporter.get("/metrics")
            if until_at is None and instance.n_kills():
                until_at = time.monotonic() + 0.5  # a second kill would follow at once
            time.sleep(interval if until_at is None else 0.05)
        assert until_at, "the leak was not killed"
        n_second += instance.n_kills() > 1
        instance.remove()
    return n_second


def wait_until_listed(exporter: Client, *names: str):
    """Waits until these containers and pods are exported with no kills."""
    until(lambda: set(names) <= kills(exporter).keys(), 60, f"{names} are listed")
    counts = kills(exporter)
    assert [counts[name] for name in names] == [0] * len(names)


def wait_for(exporter: Client, expected: dict[str, int]):
    """Waits until these kills are exported, and checks that they are still exported two scrapes later.

    A container that has ended without a kill is not exported. Its number of kills is taken as 0.
    """

    def seen():
        counts = kills(exporter)
        return {name: counts.get(name, 0) for name in expected}

    deadline = time.monotonic() + 60
    while seen() != expected and time.monotonic() < deadline:
        time.sleep(0.2)
    assert seen() == expected
    exporter.after()
    assert seen() == expected
