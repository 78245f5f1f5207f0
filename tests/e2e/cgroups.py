"""Reads the cgroup files of containers directly, and compares them with the exporter's cgroup_* metrics."""

import re
from contextlib import contextmanager
from pathlib import Path

import pytest

import kernel
from exporter import EVERYTHING, once
from exposition import Exposition
from lab import Container, Lab, mounts, read_proc, until

MIB = 1 << 20
CONTAINER = ("namespace", "pod", "container")
EVERY_GROUP = ("--cgroup-metrics", "memory,cpu,pids")
# A shell command that makes 5 MiB of shared memory, and reads a file without mapping it.
WORK = (
    "dd if=/dev/zero of=/dev/shm/x bs=1M count=5; dd if=/dev/zero of=/tmp/x bs=1M count=3; "
    "cat /tmp/x > /dev/null; sleep 1000000 & wait"
)

# The keys of memory.stat that have values in bytes.
STAT_KEYS = (
    "anon file kernel kernel_stack pagetables sec_pagetables percpu sock vmalloc shmem file_mapped "
    "file_dirty swapcached zswap hugetlb anon_thp file_thp inactive_anon "
    "inactive_file active_anon active_file unevictable slab_reclaimable slab_unreclaimable slab"
)
REFAULTS = ("workingset_refault_anon", "workingset_refault_file")
# For each metric: the file and the key that its value is read from, and the number that the value is divided
# by.
V2 = {
    **{
        f"memory_{name}_bytes": (f"memory.{name.replace('swap_', 'swap.')}", None, 1)
        for name in ("current", "peak", "min", "low", "high", "max", "swap_current", "swap_max")
    },
    **{f"memory_stat_{key}_bytes": ("memory.stat", key, 1) for key in STAT_KEYS.split()},
    **{
        f"memory_stat_{key}_total": ("memory.stat", key, 1)
        for key in ("pgfault", "pgmajfault", *REFAULTS, "pgscan", "pgsteal")
    },
    "memory_oom_group": ("memory.oom.group", None, 1),
    **{
        f"cpu_{key}_seconds_total": ("cpu.stat", f"{key}_usec", 10**6)
        for key in ("usage", "user", "system", "throttled")
    },
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
    **{
        f"stat_{key}": key
        for key in "shmem swapcached inactive_anon inactive_file active_anon active_file unevictable".split()
    },
}
V1 = {
    "memory_current_bytes": ("memory.usage_in_bytes", None, 1),
    "memory_peak_bytes": ("memory.max_usage_in_bytes", None, 1),
    "memory_max_bytes": ("memory.limit_in_bytes", None, 1),
    "memory_stat_kernel_bytes": ("memory.kmem.usage_in_bytes", None, 1),
    **{f"memory_{name}_bytes": ("memory.stat", f"total_{key}", 1) for name, key in V1_STAT.items()},
    **{
        f"memory_stat_{key}_total": ("memory.stat", f"total_{key}", 1)
        for key in ("pgfault", "pgmajfault", *REFAULTS)
    },
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
    """The cgroup of a container. The tests read its files in the simplest way, unlike the exporter."""

    def __init__(self, lab: Lab, container: Container):
        pid = next(
            pid
            for members in kernel.processes(lab).values()
            for pid in members
            if container.id in path_of(pid)
        )
        self.path = re.match(rf".*?{container.id}[^/]*", path_of(pid))[0]

    def directory(self, controller: str) -> Path:
        return Path("/sys/fs/cgroup" if IS_V2 else f"/sys/fs/cgroup/{controller}") / self.path.lstrip("/")

    def text(self, file: str) -> str:
        path = self.directory(file.partition(".")[0]) / file
        try:
            return path.read_text()
        except OSError:  # this kernel does not have the file, or the feature is turned off
            return ""

    def limit_file(self, up: int = 0) -> Path:
        return self.directory("memory").joinpath(*[".."] * up) / (
            "memory.max" if IS_V2 else "memory.limit_in_bytes"
        )

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
        for name, number in (line.split() for line in self.text("memory.events.local").splitlines() if IS_V2):
            if name in ("high", "max", "oom", "oom_kill"):
                found["memory_events_local_total", name] = int(number)
        for size in ("64KB", "2MB", "32MB", "512MB", "1GB"):
            if text := self.text(f"hugetlb.{size}.{'current' if IS_V2 else 'usage_in_bytes'}"):
                found["memory_hugetlb_current_bytes", size] = int(text)
        for line in self.text("memory.pressure").splitlines():
            found[f"memory_pressure_{line.split()[0]}_seconds_total"] = (
                int(line.partition("total=")[2]) / 10**6
            )
        found["memory_working_set_bytes"] = max(
            0, found["memory_current_bytes"] - found["memory_stat_inactive_file_bytes"]
        )
        limits = [
            self.limit_file(up).read_text().strip()
            for up in range(self.path.count("/"))
            if self.limit_file(up).exists()
        ]
        if limits := [int(limit) for limit in limits if limit != "max" and int(limit) < 2**63 - 2**16]:
            found["memory_limit_bytes"] = min(limits)
        return found

    @contextmanager
    def frozen(self):
        """Freezes all processes in the cgroup until the end of the block."""
        file, frozen, thawed = ("cgroup.freeze", "1", "0") if IS_V2 else ("freezer.state", "FROZEN", "THAWED")
        freezer = self.directory("freezer")
        (freezer / file).write_text(frozen)
        try:
            is_frozen = (
                (lambda: "frozen 1" in (freezer / "cgroup.events").read_text())
                if IS_V2
                else (lambda: (freezer / file).read_text().strip() == frozen)
            )
            until(is_frozen, 10, "the cgroup is frozen")
            yield
        finally:
            (freezer / file).write_text(thawed)


def path_of(pid: int) -> str:
    """Returns the path of a process's cgroup. If the process has ended, returns an empty string."""
    lines = [line.split(":", 2) for line in read_proc(pid, "cgroup").decode().splitlines()]
    return next((path for _, controllers, path in lines if controllers == ("" if IS_V2 else "memory")), "")


def exported(text: str, *container: str) -> dict[str, float]:
    """Returns the cgroup_* values of a container, except values with the label `part`.

    The exporter computes the values with this label from other values, so no file contains them.
    """
    found = {}
    for name, family in Exposition(text).items():
        for labels, value in family.samples.items() if name.startswith("cgroup_") else ():
            labels = dict(labels)
            if "part" not in labels and tuple(labels[name] for name in CONTAINER) == container:
                metric = name.removeprefix("cgroup_")
                own = labels.get("event") or labels.get("pagesize")
                found[(metric, own) if own else metric] = value
    return found


def scrape(lab: Lab) -> str:
    return once("--once", "--containerd-sock", lab.socket, *EVERYTHING, *EVERY_GROUP)


def assert_same(lab: Lab, cgroup: Cgroup, *container: str):
    """Asserts that the exported values equal the values in the cgroup's files. Returns the values.

    Every two seconds, the kernel updates the statistics of a cgroup, even if the cgroup is frozen. So the
    comparison is repeated until the files are the same before and after the scrape. The filter selects only
    this container, because reading a whole node on an emulated CPU takes longer than two seconds.
    """
    filters = ("--filter", "/".join((*container, "*")), *EVERY_GROUP)
    for _ in range(20):
        before = cgroup.values()
        text = once("--once", "--containerd-sock", lab.socket, *filters)
        if before == cgroup.values():
            break
    else:
        pytest.fail("the files of a frozen cgroup kept changing")
    values = exported(text, *container)
    differences = {
        name: (values.get(name), before.get(name))
        for name in values | before
        if values.get(name) != before.get(name)
    }
    assert not differences
    return values


@contextmanager
def pod(lab: Lab, name: str, *containers: Container):
    """Runs a pod in the namespace `accounts`. Removes the pod at the end of the block."""
    made = lab.run_pod("accounts", name, list(containers))
    try:
        yield made
    finally:
        lab.remove_pod(made)


def wait_until_asleep(lab: Lab, container: Container) -> Cgroup:
    """Waits until a container has run WORK and sleeps. Returns the container's cgroup."""

    def sleeps():
        return [
            command
            for command in kernel.processes(lab)
            if command[0] == "accounts" and command[2:] == (container.name, "sleep")
        ]

    until(sleeps, 20, f"container {container.name} sleeps")
    return Cgroup(lab, container)
