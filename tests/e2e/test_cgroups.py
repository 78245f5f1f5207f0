"""What is exported of a container's cgroup is what the kernel's files say, of the cgroup that its limits are on."""

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

import kernel
from conftest import FOREVER
from exporter import BINARY, EVERYTHING, Exporter, once
from exposition import Exposition
from lab import BOOKWORM, Container, Lab, mounts, until

MIB = 1 << 20
CONTAINER = ("namespace", "pod", "container")
EVERY_GROUP = ("--cgroup-metrics", "memory,cpu,pids")
# so many MiB of tmpfs, and a file that is read and not mapped
WORK = f"dd if=/dev/zero of=/dev/shm/x bs=1M count=5; dd if=/dev/zero of=/tmp/x bs=1M count=3; cat /tmp/x > /dev/null; sleep {FOREVER} & wait"

# metric -> the file and the key that it is read from, and the number by which it is divided
STAT_KEYS = (
    "anon file kernel kernel_stack pagetables percpu sock shmem file_mapped file_dirty swapcached zswap anon_thp file_thp inactive_anon "
    "inactive_file active_anon active_file unevictable slab_reclaimable slab_unreclaimable slab"
)
V2 = {
    **{
        f"memory_{name}_bytes": (f"memory.{name.replace('swap_', 'swap.')}", None, 1)
        for name in ("current", "peak", "low", "high", "max", "swap_current", "swap_max")
    },
    **{f"memory_stat_{key}_bytes": ("memory.stat", key, 1) for key in STAT_KEYS.split()},
    **{f"memory_stat_{key}_total": ("memory.stat", key, 1) for key in ("pgfault", "pgmajfault")},
    **{f"cpu_{key}_seconds_total": ("cpu.stat", f"{key}_usec", 10**6) for key in ("usage", "user", "system", "throttled")},
    **{f"cpu_{key}_total": ("cpu.stat", key, 1) for key in ("nr_periods", "nr_throttled")},
    **{f"pids_{name}": (f"pids.{name}", None, 1) for name in ("current", "max", "peak")},
}
V1_STAT = {
    "swap_current": "swap",
    "stat_anon": "rss",
    "stat_file": "cache",
    "stat_file_mapped": "mapped_file",
    "stat_file_dirty": "dirty",
    "stat_anon_thp": "rss_huge",
    **{f"stat_{key}": key for key in "shmem swapcached inactive_anon inactive_file active_anon active_file unevictable".split()},
}
V1 = {
    "memory_current_bytes": ("memory.usage_in_bytes", None, 1),
    "memory_peak_bytes": ("memory.max_usage_in_bytes", None, 1),
    "memory_max_bytes": ("memory.limit_in_bytes", None, 1),
    "memory_stat_kernel_bytes": ("memory.kmem.usage_in_bytes", None, 1),
    **{f"memory_{name}_bytes": ("memory.stat", f"total_{key}", 1) for name, key in V1_STAT.items()},
    **{f"memory_stat_{key}_total": ("memory.stat", f"total_{key}", 1) for key in ("pgfault", "pgmajfault")},
    "cpu_usage_seconds_total": ("cpuacct.usage", None, 10**9),
    "cpu_user_seconds_total": ("cpuacct.stat", "user", 100),
    "cpu_system_seconds_total": ("cpuacct.stat", "system", 100),
    "cpu_nr_periods_total": ("cpu.stat", "nr_periods", 1),
    "cpu_nr_throttled_total": ("cpu.stat", "nr_throttled", 1),
    "cpu_throttled_seconds_total": ("cpu.stat", "throttled_time", 10**9),
    **{f"pids_{name}": (f"pids.{name}", None, 1) for name in ("current", "max", "peak")},
}
IS_V2 = any(kind == "cgroup2" and root == "/sys/fs/cgroup" for _, root, kind, *_ in mounts())


class Cgroup:
    """A container's cgroup, read in the plainest way."""

    def __init__(self, lab: Lab, container: Container):
        pid = next(pid for members in kernel.processes(lab).values() for pid in members if container.id in path_of(pid))
        self.path = path_of(pid).partition(container.id)[0] + container.id

    def directory(self, controller: str) -> Path:
        return Path("/sys/fs/cgroup" if IS_V2 else f"/sys/fs/cgroup/{controller}") / self.path.lstrip("/")

    def text(self, file: str) -> str:
        path = self.directory(file.partition(".")[0]) / file
        return path.read_text() if path.exists() else ""

    def limit_file(self, up: int = 0) -> Path:
        return self.directory("memory").joinpath(*[".."] * up) / ("memory.max" if IS_V2 else "memory.limit_in_bytes")

    def values(self) -> dict[str, float]:
        found = {}
        for metric, (file, key, divisor) in (V2 if IS_V2 else V1).items():
            for line in self.text(file).splitlines():
                name, _, number = line.rpartition(" ")
                if name == (key or "") and number.isdigit() and int(number) < 2**63 - 2**16:
                    found[metric] = int(number) / divisor
        events = self.text("memory.events" if IS_V2 else "memory.oom_control").splitlines()
        for name, number in (line.split() for line in events):
            if IS_V2 or name == "oom_kill":
                found["memory_events_total", name] = int(number)
        for line in self.text("memory.pressure").splitlines():
            found[f"memory_pressure_{line.split()[0]}_seconds_total"] = int(line.partition("total=")[2]) / 10**6
        found["memory_working_set_bytes"] = max(0, found["memory_current_bytes"] - found["memory_stat_inactive_file_bytes"])
        limits = [self.limit_file(up).read_text().strip() for up in range(self.path.count("/")) if self.limit_file(up).exists()]
        if limits := [int(limit) for limit in limits if limit != "max" and int(limit) < 2**63 - 2**16]:
            found["memory_limit_bytes"] = min(limits)
        return found

    @contextmanager
    def frozen(self):
        """Hold everything in it still."""
        file, frozen, thawed = ("cgroup.freeze", "1", "0") if IS_V2 else ("freezer.state", "FROZEN", "THAWED")
        freezer = self.directory("freezer")
        (freezer / file).write_text(frozen)
        try:
            is_frozen = (lambda: "frozen 1" in (freezer / "cgroup.events").read_text()) if IS_V2 else (
                lambda: (freezer / file).read_text().strip() == frozen
            )
            until(is_frozen, 10, "the cgroup is frozen")
            yield
        finally:
            (freezer / file).write_text(thawed)


def path_of(pid: int) -> str:
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    return next(path for _, controllers, path in lines if controllers == ("" if IS_V2 else "memory"))


def exported(text: str, *container: str) -> dict[str, float]:
    """What an exposition says of a container."""
    found = {}
    for name, family in Exposition(text).items():
        for labels, value in family.samples.items() if name.startswith("cgroup_") else ():
            labels = dict(labels)
            if tuple(labels[name] for name in CONTAINER) == container:
                metric = name.removeprefix("cgroup_")
                found[(metric, labels["event"]) if "event" in labels else metric] = value
    return found


def read(lab: Lab) -> str:
    return once("--once", "--containerd-sock", lab.socket, *EVERYTHING, *EVERY_GROUP)


def assert_same(lab: Lab, cgroup: Cgroup, *container: str):
    """What is exported is what the files say. Even of a frozen cgroup the kernel brings its counts up to date every two seconds, so that is
    tried until they are the same before and after."""
    for _ in range(20):
        before = cgroup.values()
        values = exported(read(lab), *container)
        if before == cgroup.values():
            break
    else:
        pytest.fail("the files of a frozen cgroup change all the time")
    assert values == before
    return values


@contextmanager
def pod(lab: Lab, name: str, *containers: Container):
    made = lab.run_pod("accounts", name, list(containers))
    try:
        yield made
    finally:
        lab.remove_pod(made)


def works(lab: Lab, container: Container) -> Cgroup:
    """Wait until a container has done its work, and sleeps."""
    def sleeps():
        return [command for command in kernel.processes(lab) if command[0] == "accounts" and command[2:] == (container.name, "sleep")]

    until(sleeps, 20, "it sleeps")
    return Cgroup(lab, container)


def test_every_value_is_the_files(node):
    app = Container("app", ["sh", "-c", WORK], memory_limit_bytes=64 * MIB)
    with pod(node, "limit-0", app):
        cgroup = works(node, app)
        with cgroup.frozen():
            values = assert_same(node, cgroup, "accounts", "limit-0", "app")
    assert values["memory_limit_bytes"] == values["memory_max_bytes"] == 64 * MIB
    assert values["memory_stat_shmem_bytes"] >= 5 * MIB and values["memory_stat_file_bytes"] >= 8 * MIB
    assert len(values) >= (40 if IS_V2 else 24), values


def test_a_pods_limit_counts(node):
    app = Container("app", ["sh", "-c", WORK], memory_limit_bytes=64 * MIB)
    with pod(node, "limit-0", app) as made:
        cgroup = works(node, app)
        node.limit_pod(made, 48 * MIB)
        with cgroup.frozen():
            values = assert_same(node, cgroup, "accounts", "limit-0", "app")
    assert (values["memory_max_bytes"], values["memory_limit_bytes"]) == (64 * MIB, 48 * MIB)


def test_no_limit_is_absent(node):
    app = Container("app", ["sh", "-c", WORK])
    with pod(node, "free-0", app):
        cgroup = works(node, app)
        with cgroup.frozen():
            values = assert_same(node, cgroup, "accounts", "free-0", "app")
    assert not {"memory_max_bytes", "memory_limit_bytes", "memory_high_bytes", "memory_swap_max_bytes"} & values.keys()


def test_below_its_cgroup_a_container_has_the_same_account(node):
    """As systemd or a nested container runtime makes them."""
    app = Container("app", ["sh", "-c", WORK], memory_limit_bytes=64 * MIB)
    with pod(node, "nested-0", app):
        cgroup = works(node, app)
        pids = [pid for (*_, name, _), members in kernel.processes(node).items() for pid in members if name == "app" and app.id in path_of(pid)]
        for directory in [cgroup.directory("memory") / "below.scope"]:
            directory.mkdir()
            for pid in pids:
                (directory / "cgroup.procs").write_text(str(pid))
        assert all(path_of(pid).endswith("/below.scope") for pid in pids)
        with cgroup.frozen():
            values = assert_same(node, cgroup, "accounts", "nested-0", "app")
    assert values["memory_limit_bytes"] == 64 * MIB


def test_a_cgroup_that_vanishes(node, tmp_path):
    def containers(exposition: Exposition) -> set[tuple[str, ...]]:
        return set(exposition.by("cgroup_memory_current_bytes", *CONTAINER))

    with Exporter("--containerd-sock", node.socket, *EVERYTHING, "--scrape-interval", "100ms") as exporter:
        before = containers(exporter.after())
        for name in ("gone-0", "gone-0"):
            with pod(node, name, Container("app", ["sh", "-c", WORK])):
                until(lambda: ("accounts", "gone-0", "app") in containers(exporter.metrics()), 20, "the container has an account")
            assert containers(exporter.after()) == before
        assert not exporter.news(), exporter.news()


def test_of_two_containers_with_the_same_labels_the_younger_counts(node):
    """A restarted container whose old task lingers."""
    old, new = (Container("app", ["sh", "-c", WORK], memory_limit_bytes=limit * MIB) for limit in (64, 96))
    with pod(node, "twice-0", old) as made:
        works(node, old)
        node.start_container(made, new, attempt=1)
        until(lambda: [1 for line in process_cgroups(node) if new.id in line], 20, "both run")
        values = exported(read(node), "accounts", "twice-0", "app")
    assert values["memory_max_bytes"] == 96 * MIB


def process_cgroups(lab: Lab) -> list[str]:
    return [path_of(pid) for members in kernel.processes(lab).values() for pid in members]


def test_a_recording_replays_to_the_same_accounts(node, tmp_path):
    app = Container("app", ["sh", "-c", WORK], memory_limit_bytes=64 * MIB)
    with pod(node, "recorded-0", app) as made:
        cgroup = works(node, app)
        node.limit_pod(made, 48 * MIB)
        with cgroup.frozen():
            values = assert_same(node, cgroup, "accounts", "recorded-0", "app")
            for attempt in range(20):
                recording = tmp_path / str(attempt)
                once("--record", recording, "--containerd-sock", node.socket, "--filter", "accounts/*/*/*", *EVERY_GROUP)
                values = assert_same(node, cgroup, "accounts", "recorded-0", "app")
                replayed = exported(once("--once", "--fixture", recording, *EVERYTHING, *EVERY_GROUP), "accounts", "recorded-0", "app")
                if replayed == values:
                    break
    assert replayed == values
    assert values["memory_limit_bytes"] == 48 * MIB


def test_promtool_has_nothing_to_say(node):
    text = read(node)
    assert "cgroup_memory_current_bytes" in text and "cgroup_cpu_usage_seconds_total" in text and "cgroup_pids_current" in text
    done = subprocess.run([BOOKWORM / "usr/bin/promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_a_cgroup_file_system_the_rest_works(node, tmp_path):
    with Exporter("--containerd-sock", node.socket, *EVERYTHING, "--cgroup-path", tmp_path) as exporter:
        exposition = exporter.after()
        assert exposition.by("process_smaps_processes", "pod") and not [name for name in exposition if name.startswith("cgroup_")]
        [line] = exporter.news()
        assert f'no cgroup_* metrics: "{tmp_path}" is no cgroup file system' in line and "WARN" in line
    with Exporter("--containerd-sock", node.socket, *EVERYTHING, "--cgroup-metrics", "none", "--cgroup-path", tmp_path) as exporter:
        assert not [name for name in exporter.after() if name.startswith("cgroup_")] and not exporter.news()


def test_from_inside_a_cgroup_namespace(tmp_path):
    """As in a pod on version 2, where proc names the node's other cgroups from the exporter's own: on a node of version 1 without memory."""
    [top] = [Path(root) for _, root, kind, *_ in mounts() if kind == "cgroup2" and root.startswith("/sys/fs/cgroup")]
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
        (tmp_path / "containers.tsv").write_text(f"id\tinit_pid\tnamespace\tpod\tcontainer\nabc\t{sleep.pid}\tshop\tp\tc\n")
        (tmp_path / "proc").symlink_to("/proc")
        arguments = ["--once", "--fixture", tmp_path, "--cgroup-path", host, *EVERYTHING, *EVERY_GROUP]
        enter = f"echo $$ > {own}/cgroup.procs; exec unshare --cgroup --mount sh -c 'mount -t cgroup2 none /sys/fs/cgroup; exec \"$@\"' - \"$@\""
        done = subprocess.run(["sh", "-c", enter, "-", BINARY, *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "cpu_usage_seconds_total" in exported(done.stdout, "shop", "p", "c"), done.stderr
    finally:
        sleep.kill()
        sleep.wait()
        subprocess.run(["umount", host], check=True)
        for directory, _, _ in os.walk(lab, topdown=False):
            until(lambda directory=directory: _removed(Path(directory)), 10, f"{directory} is empty")


def _removed(path: Path) -> bool:
    try:
        path.rmdir()
    except OSError:
        return False
    return True
