"""Tests OOM kills without a scrape: records in /ooms, log lines and counters.

Also tests the parts of a container's account.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cgroups import CONTAINER, IS_V2, MIB, Cgroup, pod
from conftest import FOREVER
from exporter import EVERYTHING, Exporter, once
from exposition import Exposition
from lab import Container, Lab, cpu_seconds, cri, kill, read_proc, until
from live_node import rmdir
from ooms import (
    LIMIT,
    Instance,
    assert_leaked,
    ends,
    is_leaking,
    kills,
    leak,
    limit_cgroup,
    pids_of,
    pods_of,
    records,
    second_victims,
    wait_for,
    wait_until_listed,
)

# The number of containers near their limits. `make night` sets a larger number.
N_FULL = int(os.environ.get("N_FULL_CONTAINERS", 100))


@pytest.fixture
def mounts(programs):
    """The mounts that `leak` needs in a container: the program at /programs, and a tmpfs at /cache."""
    cache = tempfile.mkdtemp(prefix="smaps-lab-", dir="/dev/shm")
    yield [
        cri.Mount(host_path=str(programs), container_path="/programs", readonly=True),
        cri.Mount(host_path=cache, container_path="/cache"),
    ]
    shutil.rmtree(cache)


def exporter_of(lab: Lab, *arguments: str) -> Exporter:
    return Exporter("--containerd-sock", lab.socket, *EVERYTHING, *arguments)


def test_a_kill_is_recorded_without_a_scrape(node, mounts):
    with exporter_of(node) as exporter:
        scrapes = exporter.metrics().value("smaps_exporter_scrapes_total")
        with pod(node, "leak-0", leak(mounts)) as made:
            ended_at = ends(node, made["app"])
            [record] = until(lambda: records(exporter), 3, "the kill is recorded")
            assert_leaked(record, "leak-0", ended_at, seconds=3)
        [line] = exporter.unusual_log_lines()
        [victim] = record["victims"]
        start = 'OOM kill: namespace="accounts" pod="leak-0" container="app" '
        start += f'largest_command="leak" victim="leak" victim_pid={victim["pid"]} kills=1 '
        assert line.partition("] ")[2].startswith(start), line
        assert f" limit_bytes={LIMIT} use_bytes={record['use_bytes']} " in line
        assert f'"leak[{victim["pid"]}]=' in line.partition(" processes=")[2]
        assert re.search(
            r' reading_age_seconds=\d+\.\d+ mapped_bytes=\d+ (growth_seconds=\S+ )?"\[heap\]"=\d+[ (]', line
        ), line
        exposition = exporter.after()
        assert exposition.by("smaps_exporter_oom_kills_total", *CONTAINER)["accounts", "leak-0", "app"] == 1
        assert exposition.value("smaps_exporter_scrapes_total") - scrapes <= 4, "no client asked for a scrape"
        assert records(exporter) == [record], "the kill is recorded once"


def test_ten_kills_at_once_are_recorded(node, mounts):
    with exporter_of(node) as exporter:
        # The leaks begin after three seconds. By then the containers are listed, even on a busy machine.
        containers = [leak(mounts, 60, 4 + i % 3, 80 * MIB, delay=3) for i in range(10)]
        pods = [node.run_pod("accounts", f"leak-{i}", [container]) for i, container in enumerate(containers)]
        try:
            # Waits only for the records, and not until all leaks run at the same time. On a busy machine, the
            # first container may be killed before the last container has started.
            until(lambda: len(records(exporter)) == 10, 120, "all are recorded")
        finally:
            for made in pods:
                node.remove_pod(made)
        found = records(exporter)
        assert sorted(record["pod"] for record in found) == sorted(f"leak-{i}" for i in range(10))
        assert all([victim["command"] for victim in record["victims"]] == ["leak"] for record in found)
        for record in found:
            assert_leaked(record, record["pod"], record["time"], 80 * MIB)
        counts = exporter.after().by("smaps_exporter_oom_kills_total", *CONTAINER)
        assert [counts["accounts", f"leak-{i}", "app"] for i in range(10)] == [1] * 10


def test_a_full_container_killed_by_a_signal_has_no_record(node, mounts):
    full = Container(
        "app", ["/programs/leak", "heap", "97", "1", "97"], memory_limit_bytes=LIMIT, mounts=mounts
    )
    with exporter_of(node) as exporter, pod(node, "full-0", full):
        until(lambda: pids_of(node, full), 20, "the container runs")
        cgroup = Cgroup(node, full)
        until(lambda: cgroup.values()["memory_current_bytes"] > 0.96 * LIMIT, 20, "the container is full")
        time.sleep(2.5)
        for pid in pids_of(node, full):
            kill(pid, 9)
        time.sleep(3)
        assert records(exporter) == [] and not exporter.unusual_log_lines()
        counts = exporter.after().by("smaps_exporter_oom_kills_total", *CONTAINER)
        assert counts.get(("accounts", "full-0", "app"), 0) == 0


def test_a_restarted_container_has_its_own_record(node, mounts):
    with exporter_of(node) as exporter:
        first, second = leak(mounts, 80), leak(mounts, 80)
        with pod(node, "again-0", first) as made:
            ends(node, first)
            until(lambda: len(records(exporter)) == 1, 3, "the first is recorded")
            for pid in pids_of(node, first):
                kill(pid, 9)
            until(lambda: not pids_of(node, first), 20, "the first has ended")
            node.start_container(made, second, attempt=1)
            ended_at = ends(node, second)
            until(lambda: len(records(exporter)) == 2, 3, "the second is recorded")
        assert_leaked(records(exporter)[0], "again-0", ended_at)
        counts = exporter.after().by("smaps_exporter_oom_kills_total", *CONTAINER)
        assert counts["accounts", "again-0", "app"] == 2


def test_frequent_scrapes_do_not_change_the_record_of_a_kill(node, mounts):
    with exporter_of(node, "--scrape-interval", "50ms") as exporter:
        for attempt in range(3):
            with pod(node, f"asked-{attempt}", leak(mounts, 85, 20)) as made:
                until(lambda made=made: is_leaking(node, made["app"]), 20, "the container runs")
                for _ in exporter.scrapes():
                    if not is_leaking(node, made["app"]):
                        break
                until(
                    lambda attempt=attempt: len(records(exporter)) == attempt + 1, 3, "the kill is recorded"
                )
            assert_leaked(records(exporter)[0], f"asked-{attempt}", time.time())


def test_each_part_of_the_account_has_its_size(node, mounts, tmp_path):
    """A container has 20 MiB of tmpfs, 30 MiB of page cache and 10 MiB of heap.

    Then it maps a file of 8 MiB that is in another tmpfs.
    """
    work = (
        "dd if=/dev/zero of=/dev/shm/x bs=1M count=20; dd if=/dev/zero of=/tmp/x bs=1M count=30;"
        "cat /tmp/x > /dev/null;"
        "/programs/leak heap 10 1 10 & sleep 1000000 & wait"
    )
    app = Container("app", ["sh", "-c", work], memory_limit_bytes=64 * MIB, mounts=mounts)
    parts_0 = ["accounts", "parts-0", "app"]

    def parts(exporter: Exporter) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        exposition = exporter.after()
        of_app = {}
        for family in ("account", "unmapped"):
            values = exposition.by(f"cgroup_memory_{family}_bytes", *CONTAINER, "part")
            of_app[family] = {part: value for (*labels, part), value in values.items() if labels == parts_0}
        mapped = exposition.by("process_smaps_pss_bytes", *CONTAINER, "path")
        by_path = {path: value for (*labels, path), value in mapped.items() if labels == parts_0}
        return of_app["account"], of_app["unmapped"], by_path

    with exporter_of(node) as exporter, pod(node, "parts-0", app):
        until(lambda: len(pids_of(node, app)) == 3, 20, "its processes run")
        time.sleep(1)
        cgroup = Cgroup(node, app)
        with cgroup.frozen():
            time.sleep(2)  # until the kernel has updated its counters
            # The container has just grown fast. The exporter does not read the processes of a container if
            # such growth could reach the limit during the read. So the test waits until the exporter
            # considers the growth over and reads the processes.
            account, unmapped, mapped = until(
                lambda: (found := parts(exporter))[1] and found, 20, "its processes are read"
            )
            current = cgroup.values()["memory_current_bytes"]
        assert account["shmem"] == pytest.approx(20 * MIB, rel=0.05)
        assert account["page_cache"] == pytest.approx(30 * MIB, rel=0.05)
        assert unmapped == {"shmem": account["shmem"], "page_cache": pytest.approx(30 * MIB, rel=0.05)}
        assert account["anon"] == pytest.approx(10 * MIB, rel=0.05)
        assert mapped["[heap]"] == pytest.approx(10 * MIB, rel=0.05)
        assert sum(account.values()) == pytest.approx(current, rel=0.01)
        assert abs(account["remainder"]) < 0.1 * current
        assert ("slab" in account) == IS_V2
        # The container touches the file before any other container, so the file is charged to this container.
        script = "dd if=/dev/zero of=/cache/x bs=1M count=8 2> /dev/null; /programs/leak map /cache/x"
        node.exec(app, ["sh", "-c", script])

        def is_mapped(found) -> bool:
            _, unmapped, mapped = found
            return bool(unmapped) and mapped.get("/cache/x") == 8 * MIB

        account, unmapped, _ = until(
            lambda: is_mapped(found := parts(exporter)) and found, 20, "the file is mapped"
        )
        assert account["shmem"] == pytest.approx(28 * MIB, rel=0.05)
        assert unmapped["shmem"] == pytest.approx(20 * MIB, rel=0.05), (
            "mounts show which files are on a tmpfs"
        )
        once("--record", tmp_path / "node", "--containerd-sock", node.socket, *EVERYTHING)
        replayed = Exposition(once("--once", "--fixture", tmp_path / "node", *EVERYTHING))
        shmem = replayed.by("cgroup_memory_unmapped_bytes", *CONTAINER, "part")[*parts_0, "shmem"]
        assert shmem == pytest.approx(20 * MIB, rel=0.05), "the recording has the same value"


@contextmanager
def killed_elsewhere(programs: Path):
    """A process in a cgroup outside all containers. The kernel kills the process after `go` is called."""
    cgroup = Path("/sys/fs/cgroup" if IS_V2 else "/sys/fs/cgroup/memory") / f"lab-elsewhere-{os.getpid()}"
    cgroup.mkdir()
    (cgroup / ("memory.max" if IS_V2 else "memory.limit_in_bytes")).write_text(str(10 * MIB))
    script = f"echo $$ > {cgroup}/cgroup.procs; read line; exec {programs}/leak heap 100 1 100"
    process = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE)

    def go():
        process.communicate(b"\n")
        assert process.returncode == -9

    try:
        yield go
    finally:
        kill(process.pid, 9)
        process.wait()
        until(lambda: rmdir(cgroup), 10, "the cgroup is empty")


def test_a_kill_outside_containers_counts_for_no_container(node, mounts, programs):
    """The kernel kills a process outside all containers while a container near its limit ends."""
    full = Container(
        "app", ["/programs/leak", "heap", "97", "1", "97"], memory_limit_bytes=LIMIT, mounts=mounts
    )
    with exporter_of(node) as exporter, pod(node, "full-0", full), killed_elsewhere(programs) as go:
        until(lambda: pids_of(node, full), 20, "the container runs")
        cgroup = Cgroup(node, full)
        until(lambda: cgroup.values()["memory_current_bytes"] > 0.96 * LIMIT, 20, "the container is full")
        time.sleep(2.5)
        go()
        for pid in pids_of(node, full):
            kill(pid, 9)
        time.sleep(3)
        assert records(exporter) == [] and not exporter.unusual_log_lines()


def test_a_kill_at_the_limit_of_the_pod_is_recorded(node, mounts):
    """A container leaks until it and another container together reach the limit of their pod."""
    neighbour = Container("neighbour", ["/programs/leak", "heap", "30", "1", "30"], mounts=mounts)
    app = Container("app", ["sh", "-c", f"/programs/leak heap 50 5 1000; sleep {FOREVER}"], mounts=mounts)
    with exporter_of(node) as exporter, pod(node, "shared-0", neighbour, app) as made:
        node.limit_pod(made, LIMIT)
        [record] = until(lambda: records(exporter), 60, "the kill is recorded")
        assert (record["pod"], record["container"], record["command"]) == ("shared-0", "app", "leak")
        assert record["limit_bytes"] == LIMIT
        assert record["limit"] == ("pod" if IS_V2 else None)
        assert record["paths"][0]["path"] == "[heap]" and record["paths"][0]["pss_bytes"] > 55 * MIB
        assert sum(record["account"].values()) == record["use_bytes"] > 55 * MIB


def test_successive_kills_have_separate_records(node, mounts):
    """The kernel kills three child processes, a few seconds apart.

    No record has the values of an earlier record.
    """
    leaks = "for i in 1 2 3; do /programs/leak heap 70 10 1000; sleep 1; done"
    app = Container("app", ["sh", "-c", f"{leaks}; sleep {FOREVER}"], memory_limit_bytes=LIMIT, mounts=mounts)
    with exporter_of(node) as exporter, pod(node, "kids-0", app):
        until(lambda: len(records(exporter)) == 3, 60, "three are recorded")
        found = records(exporter)
        for record in found:
            assert_leaked(record, "kids-0", record["time"])
        assert len({record["use_bytes"] for record in found}) == 3


def test_a_loop_of_kills_does_not_crowd_out_other_records_and_log_lines(programs, tmp_path):
    """The exporter keeps at most four OOM records of one container.

    It logs the kills in one container at most once in ten seconds.
    """
    with pods_of(tmp_path / "links", programs) as pods, pods.exporter() as exporter:
        idle = f"exec sleep {FOREVER}"
        other, loop = (pods.start(pods.pod(name), "s-app", idle, 8 * MIB) for name in ("other", "loop"))
        wait_until_listed(exporter, "other/s-app", "loop/s-app")
        leak = f"exec {programs}/leak heap 16 1 16"
        assert other.run(leak).wait(60) == -9
        until(lambda: records(exporter), 10, "the kill is recorded")
        began = time.monotonic()
        while loop.n_kills() <= 20:
            assert loop.run(leak).wait(60) == -9
        wait_for(exporter, {"other/s-app": 1, "loop/s-app": loop.n_kills()})
        pods_of_records = [record["pod"] for record in records(exporter)]
        assert pods_of_records.count("other") == 1 and 1 <= pods_of_records.count("loop") <= 4

        def logged() -> list[int]:
            lines = [line for line in exporter.unusual_log_lines() if 'pod="loop"' in line]
            return [int(re.search(r" kills=(\d+) ", line)[1]) for line in lines]

        until(lambda: sum(logged()) == loop.n_kills(), 30, "all are logged")
        # The exporter logs the first kill at once, and then at most one line per ten seconds. The test allows
        # one line more.
        assert len(logged()) <= 2 + (time.monotonic() - began) / 10, logged()


def test_the_record_of_a_fast_leak_names_the_victim_and_its_paths(programs, tmp_path):
    """A process leaks so fast that its container reaches the memory limit in less than two seconds.

    The exporter reads the process before the limit is reached, although nothing requests a scrape.
    """
    with pods_of(tmp_path / "links", programs) as pods, pods.exporter() as exporter:
        script = f"read line; {programs}/leak heap 70 17 200 3; sleep {FOREVER}"
        app = pods.start(pods.pod("fast"), "s-app", script, LIMIT)
        wait_until_listed(exporter, "fast/s-app")
        app.signal()
        [leak] = until(
            lambda: [pid for pid in pids_in(app) if read_proc(pid, "comm") == b"leak\n"], 20, "the leak runs"
        )
        [record] = until(lambda: records(exporter), 30, "the kill is recorded")
        assert record["victims"] == [{"pid": int(leak), "command": "leak"}]
        assert record["mapped_bytes"] >= 0.85 * LIMIT and record["paths"][0]["path"] == "[heap]"
        [largest, *others] = record["processes"]
        assert (largest["pid"], largest["command"], others[0]["command"]) == (int(leak), "leak", "sh")
        assert largest["rss_anon_bytes"] >= 0.85 * LIMIT
        assert (
            record["limit_bytes"] == LIMIT
            and 0.9 * LIMIT <= record["use_bytes"] <= record["peak_bytes"] <= LIMIT
        )
        assert sum(record["account"].values()) == record["use_bytes"]
        if IS_V2:
            assert (record["limit"], record["hit_limit_bytes"], record["oom_group"]) == (
                "container",
                LIMIT,
                False,
            )


def test_a_container_full_of_page_cache_is_not_read(programs, tmp_path):
    """The container uses nearly all of its limit, but its processes map only a little of this memory."""
    with pods_of(tmp_path / "links", programs) as pods, pods.exporter() as exporter:
        file = tmp_path / "file"
        # When the page cache reaches the limit, the kernel frees up to 4 MiB at once. So the script reads the
        # file until the container happens to be full. Its input is the path of the file with the memory use.
        fill = f"dd if=/dev/zero of={file} bs=1M count=60 2> /dev/null"
        fill += f"; until [ $(cat $used) -gt {45 * MIB} ]; do cat {file} > /dev/null; done"
        full = pods.start(pods.pod("cache"), "s-app", f"read used; {fill}; exec sleep {FOREVER}", 48 * MIB)
        wait_until_listed(exporter, "cache/s-app")
        used = full.directory / ("memory.current" if IS_V2 else "memory.usage_in_bytes")
        full.processes[0].stdin.write(f"{used}\n".encode())
        full.processes[0].stdin.flush()
        until(lambda: int(used.read_text()) > 45 * MIB, 20, "the container is full")
        until(lambda: [read_proc(pid, "comm") for pid in pids_in(full)] == [b"sleep\n"], 20, "it is idle")
        exporter.after()

        def n_reads():
            reads = exporter.metrics().by("smaps_exporter_reads_total", "kind")
            return sum(reads[kind,] for kind in ("smaps", "rollup", "unchanged"))

        # During five seconds without a request, the exporter must read no process. Two reads are allowed for
        # the scrape that the last request causes.
        before = n_reads()
        time.sleep(5)
        assert n_reads() - before <= 2
    file.unlink()


HARM_TRIALS = int(os.environ.get("HARM_TRIALS") or 4)


@pytest.fixture(scope="module")
def n_without(programs, tmp_path_factory) -> int:
    """The number of containers in which the kernel kills more than one process while no exporter runs."""
    with pods_of(tmp_path_factory.mktemp("harm") / "links", programs) as pods:
        return second_victims(pods, "without", HARM_TRIALS)


@pytest.mark.parametrize("interval", [0.05, 1])
def test_reading_causes_no_second_oom_kill(programs, tmp_path, n_without, interval):
    """Compares leaking containers with and without an exporter that reads their processes.

    The test counts the containers in which the kernel kills more than one process. `make night` compares 40
    containers with an exporter and 40 without.
    """
    with pods_of(tmp_path / "links", programs) as pods:
        with pods.exporter("--scrape-interval", f"{interval}s") as exporter:
            n_with = second_victims(pods, "with", HARM_TRIALS, exporter, interval)
    print(f"second victims, scraped every {interval} s: {n_with} of {HARM_TRIALS}, {n_without} without")
    assert n_with <= n_without + 1, (n_with, n_without)


@pytest.mark.skipif(IS_V2, reason="version 2 reports events")
def test_version_1_counts_kills_of_full_containers_within_the_budget(programs, tmp_path):
    """OOM kills are counted in many containers that have nearly reached their memory limits.

    Between scrapes, the exporter checks the memory use of these containers within the CPU budget. It counts
    each kill even while twelve processes outside of the containers use all CPU time.
    """
    with pods_of(tmp_path / "links", programs) as pods, ExitStack() as loops:
        work = f"{programs}/leak heap 1 1 1 & read line; {programs}/leak heap 16 1 16; wait"
        full = [pods.start(pods.pod(f"full-{i}"), "s-app", work) for i in range(N_FULL)]
        until(lambda: all(len(pids_in(instance)) == 2 for instance in full), 60, "all run")
        for instance in full:
            used = int((instance.directory / "memory.usage_in_bytes").read_text())
            limit_cgroup(instance.directory, used + used // 20)
        with pods.exporter("--cpu-budget", "0.01") as exporter:
            assert len(kills(exporter)) == len(full)
            began, cpu = time.monotonic(), cpu_seconds(exporter.process.pid)
            time.sleep(10)
            share = (cpu_seconds(exporter.process.pid) - cpu) / (time.monotonic() - began)
            for _ in range(12):
                loop = loops.enter_context(subprocess.Popen(["sh", "-c", "while :; do :; done"]))
                loops.callback(loop.kill)
            for instance in full[:8]:
                instance.signal()
            for instance in full[:8]:
                instance.processes[0].wait(60)
            assert all(instance.n_kills() for instance in full[:8])
            # The kernel may kill several processes of one container, one after another, so the kernel's count
            # may still rise. Each try compares the exporter's count with the latest count of the kernel.
            until(lambda: counted(exporter, full[:8]), 60, "each kill is counted")
            assert all(record["limit"] is None for record in records(exporter))
        print(f"{share:.2%} of a core with {len(full)} full containers")
        assert share < 0.012


def counted(exporter: Exporter, full: list[Instance]) -> bool:
    """Returns whether the exporter has counted all kills in these containers.

    The container at index i is in the pod `full-i`.
    """
    counts = kills(exporter)
    return all(counts.get(f"full-{i}/s-app") == instance.n_kills() for i, instance in enumerate(full))


def pids_in(instance: Instance) -> list[str]:
    return (instance.directory / "cgroup.procs").read_text().split()