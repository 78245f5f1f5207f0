"""Tests that the cgroup_* metrics of a container equal the files of the cgroup that has its limits."""

import os
import subprocess
from pathlib import Path

import kernel
from cgroups import CONTAINER, EVERY_GROUP, IS_V2, MIB, WORK, assert_same, exported, path_of, pod, scrape
from cgroups import wait_until_asleep
from conftest import FOREVER
from exporter import BINARY, EVERYTHING, Exporter, once
from exposition import Exposition
from lab import BOOKWORM, Container, Lab, mounts, until


def test_metrics_equal_the_cgroup_files(node):
    app = Container("app", ["sh", "-c", WORK], memory_limit_bytes=64 * MIB)
    with pod(node, "limit-0", app):
        cgroup = wait_until_asleep(node, app)
        with cgroup.frozen():
            values = assert_same(node, cgroup, "accounts", "limit-0", "app")
    assert values["memory_limit_bytes"] == values["memory_max_bytes"] == 64 * MIB
    assert values["memory_stat_shmem_bytes"] >= 5 * MIB and values["memory_stat_file_bytes"] >= 8 * MIB
    assert len(values) >= (40 if IS_V2 else 24), values


def test_limit_of_the_pod_applies_to_its_container(node):
    app = Container("app", ["sh", "-c", WORK], memory_limit_bytes=64 * MIB)
    with pod(node, "limit-0", app) as made:
        cgroup = wait_until_asleep(node, app)
        node.limit_pod(made, 48 * MIB)
        with cgroup.frozen():
            values = assert_same(node, cgroup, "accounts", "limit-0", "app")
    assert (values["memory_max_bytes"], values["memory_limit_bytes"]) == (64 * MIB, 48 * MIB)


def test_missing_limits_are_not_exported(node):
    app = Container("app", ["sh", "-c", WORK])
    with pod(node, "free-0", app):
        cgroup = wait_until_asleep(node, app)
        with cgroup.frozen():
            values = assert_same(node, cgroup, "accounts", "free-0", "app")
    assert (
        not {"memory_max_bytes", "memory_limit_bytes", "memory_high_bytes", "memory_swap_max_bytes"}
        & values.keys()
    )


def test_metrics_stay_when_processes_move_to_a_nested_cgroup(node):
    """systemd and nested container runtimes make cgroups inside the cgroup of a container."""
    app = Container("app", ["sh", "-c", WORK], memory_limit_bytes=64 * MIB)
    with pod(node, "nested-0", app):
        cgroup = wait_until_asleep(node, app)
        pids = [
            pid
            for (*_, name, _), members in kernel.processes(node).items()
            for pid in members
            if name == "app" and app.id in path_of(pid)
        ]
        for directory in [cgroup.directory("memory") / "below.scope"]:
            directory.mkdir()
            for pid in pids:
                (directory / "cgroup.procs").write_text(str(pid))
        assert all(path_of(pid).endswith("/below.scope") for pid in pids)
        with cgroup.frozen():
            values = assert_same(node, cgroup, "accounts", "nested-0", "app")
    assert values["memory_limit_bytes"] == 64 * MIB


def test_removed_cgroups_disappear_without_a_log_line(node, tmp_path):
    def containers(exposition: Exposition) -> set[tuple[str, ...]]:
        return set(exposition.by("cgroup_memory_current_bytes", *CONTAINER))

    with Exporter("--containerd-sock", node.socket, *EVERYTHING, "--scrape-interval", "100ms") as exporter:
        before = containers(exporter.after())
        for name in ("gone-0", "gone-0"):
            with pod(node, name, Container("app", ["sh", "-c", WORK])):
                until(
                    lambda: ("accounts", "gone-0", "app") in containers(exporter.metrics()),
                    20,
                    "the container has an account",
                )
            assert containers(exporter.after()) == before
        assert not exporter.unusual_log_lines(), exporter.unusual_log_lines()


def test_cgroup_recreated_at_the_same_path_is_noticed(tmp_path):
    """If the cgroup's directory is removed and made again, the exporter reads the new cgroup.

    The exporter holds a descriptor of the removed directory. Reading files through this descriptor fails, so
    the exporter opens the directory at the same path again.
    """
    top = Path("/sys/fs/cgroup" if IS_V2 else "/sys/fs/cgroup/memory")
    cgroup = top / f"lab-{os.getpid()}"
    limit = "memory.max" if IS_V2 else "memory.limit_in_bytes"
    sleep = subprocess.Popen(["sleep", FOREVER])
    (tmp_path / "containers.tsv").write_text(
        f"id\tinit_pid\tnamespace\tpod\tcontainer\n{cgroup.name}\t{sleep.pid}\tshop\tp\tc\n"
    )
    (tmp_path / "proc").symlink_to("/proc")
    arguments = (
        "--fixture",
        tmp_path,
        "--cgroup-path",
        "/sys/fs/cgroup",
        "--scrape-interval",
        "100ms",
        *EVERYTHING,
    )

    def make(mib: int):
        cgroup.mkdir()
        (cgroup / limit).write_text(str(mib * MIB))
        (cgroup / "cgroup.procs").write_text(str(sleep.pid))

    def remove():
        (top / "cgroup.procs").write_text(str(sleep.pid))
        until(lambda: _removed(cgroup), 10, "the cgroup is removed")

    try:
        make(64)
        with Exporter(*arguments) as exporter:
            assert exporter.after()["cgroup_memory_max_bytes"].samples.popitem()[1] == 64 * MIB
            for mib in (32, 96):
                remove()
                make(mib)
                assert exporter.after()["cgroup_memory_max_bytes"].samples.popitem()[1] == mib * MIB
            remove()
            assert "cgroup_memory_max_bytes" not in exporter.after()
            make(48)
            assert exporter.after()["cgroup_memory_max_bytes"].samples.popitem()[1] == 48 * MIB
    finally:
        sleep.kill()
        sleep.wait()
        until(lambda: _removed(cgroup), 10, "the cgroup is removed")


def test_newest_of_containers_with_equal_labels_is_exported(node):
    """After a restart of a container, its old task may still exist."""
    old, new = (Container("app", ["sh", "-c", WORK], memory_limit_bytes=limit * MIB) for limit in (64, 96))
    with pod(node, "twice-0", old) as made:
        wait_until_asleep(node, old)
        node.start_container(made, new, attempt=1)
        until(lambda: [1 for line in cgroups_of_processes(node) if new.id in line], 20, "both containers run")
        values = exported(scrape(node), "accounts", "twice-0", "app")
    assert values["memory_max_bytes"] == 96 * MIB


def cgroups_of_processes(lab: Lab) -> list[str]:
    return [path_of(pid) for members in kernel.processes(lab).values() for pid in members]


def test_recording_replays_to_the_same_cgroup_metrics(node, tmp_path):
    app = Container("app", ["sh", "-c", WORK], memory_limit_bytes=64 * MIB)
    with pod(node, "recorded-0", app) as made:
        cgroup = wait_until_asleep(node, app)
        node.limit_pod(made, 48 * MIB)
        with cgroup.frozen():
            values = assert_same(node, cgroup, "accounts", "recorded-0", "app")
            for attempt in range(20):
                recording = tmp_path / str(attempt)
                once(
                    "--record",
                    recording,
                    "--containerd-sock",
                    node.socket,
                    "--filter",
                    "accounts/*/*/*",
                    *EVERY_GROUP,
                )
                values = assert_same(node, cgroup, "accounts", "recorded-0", "app")
                replayed = exported(
                    once("--once", "--fixture", recording, *EVERYTHING, *EVERY_GROUP),
                    "accounts",
                    "recorded-0",
                    "app",
                )
                if replayed == values:
                    break
    assert replayed == values
    assert values["memory_limit_bytes"] == 48 * MIB


def test_promtool_finds_no_problems(node):
    text = scrape(node)
    assert (
        "cgroup_memory_current_bytes" in text
        and "cgroup_cpu_usage_seconds_total" in text
        and "cgroup_pids_current" in text
    )
    done = subprocess.run(
        [BOOKWORM / "usr/bin/promtool", "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_other_metrics_work_without_a_cgroup_file_system(node, tmp_path):
    with Exporter("--containerd-sock", node.socket, *EVERYTHING, "--cgroup-path", tmp_path) as exporter:
        exposition = exporter.after()
        assert exposition.by("process_smaps_processes", "pod") and not [
            name for name in exposition if name.startswith("cgroup_")
        ]
        [line] = exporter.unusual_log_lines()
        assert f'no cgroup_* metrics: "{tmp_path}" is not a cgroup file system' in line and "WARN" in line
    with Exporter(
        "--containerd-sock", node.socket, *EVERYTHING, "--cgroup-metrics", "none", "--cgroup-path", tmp_path
    ) as exporter:
        assert (
            not [name for name in exporter.after() if name.startswith("cgroup_")]
            and not exporter.unusual_log_lines()
        )


def test_metrics_are_read_from_inside_a_cgroup_namespace(tmp_path):
    """With version 2, a pod with a cgroup namespace sees other cgroups by paths relative to its own cgroup.

    On a node with version 1, the test uses the version 2 hierarchy of that node, which has no memory
    controller.
    """
    [top] = [
        Path(root)
        for _, root, kind, *_ in mounts()
        if kind == "cgroup2" and root.startswith("/sys/fs/cgroup")
    ]
    lab = top / f"lab-{os.getpid()}"
    own, container = lab / "kube/pod2/own", lab / "kube/pod1/abc/below"
    own.mkdir(parents=True)
    container.mkdir(parents=True)
    host = tmp_path / "host"
    host.mkdir()
    subprocess.run(["mount", "--bind", top, host], check=True)
    sleep = subprocess.Popen(["sleep", FOREVER])
    try:
        (container / "cgroup.procs").write_text(str(sleep.pid))
        (tmp_path / "containers.tsv").write_text(
            f"id\tinit_pid\tnamespace\tpod\tcontainer\nabc\t{sleep.pid}\tshop\tp\tc\n"
        )
        (tmp_path / "proc").symlink_to("/proc")
        arguments = ["--once", "--fixture", tmp_path, "--cgroup-path", host, *EVERYTHING, *EVERY_GROUP]
        mount = 'mount -t cgroup2 none /sys/fs/cgroup; exec "$@"'
        enter = f"echo $$ > {own}/cgroup.procs; exec unshare --cgroup --mount sh -c '{mount}' - \"$@\""
        done = subprocess.run(
            ["sh", "-c", enter, "-", BINARY, *arguments], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert "cpu_usage_seconds_total" in exported(done.stdout, "shop", "p", "c"), done.stderr
    finally:
        sleep.kill()
        sleep.wait()
        subprocess.run(["umount", host], check=True)
        for directory, _, _ in os.walk(lab, topdown=False):
            until(lambda directory=directory: _removed(Path(directory)), 10, f"{directory} is removed")


def _removed(path: Path) -> bool:
    try:
        path.rmdir()
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True
