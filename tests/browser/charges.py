"""Makes cgroup metrics and responses of /ooms. The tests append the metrics to real expositions."""

import json
import re
import time
from dataclasses import dataclass, field

from exposition import Exposition

MIB = 1 << 20
CONTAINER = ("namespace", "pod", "container")
PARTS = (
    "anon anon_unmapped page_cache shmem hugetlb slab page_tables sec_page_tables kernel_stacks percpu "
    "vmalloc zswap kernel_other sockets remainder"
).split()
# The parts of a container's memory that have one tile each in the treemap. Anonymous memory, page cache and
# shared memory are not in this list. The treemap shows them in the tiles of the mapped paths, and in the
# tiles of `Charge.unmapped`. The part `remainder` is not in this list either, because the treemap shows the
# memory that is in no other tile as `cgroup_memory_difference`.
TILES = [part for part in PARTS if part not in ("anon", "page_cache", "shmem", "remainder")]


@dataclass
class Charge:
    """The memory of one container's cgroup, in bytes. A value that is None or missing has no sample."""

    current: int
    limit: int | None = None
    parts: dict = field(default_factory=dict)
    unmapped: dict = field(default_factory=dict)

    def tiles(self, mapped):
        """Returns {name: bytes} for all tiles of the container, except the tiles of paths.

        `mapped` is the sum of the tiles of paths. If all tiles together are smaller than the container's
        memory use, the rest has the tile `cgroup_memory_difference`.
        """
        tiles = {f"cgroup_memory_unmapped_{part}": v for part, v in self.unmapped.items() if v > 0}
        tiles |= {f"cgroup_memory_{part}": self.parts[part] for part in TILES if self.parts.get(part, 0) > 0}
        left = self.current - mapped - sum(tiles.values())
        return tiles | ({"cgroup_memory_difference": left} if left > 0 else {})


def containers(exposition):
    """Returns the PSS of each container: {(namespace, pod, container): bytes}."""
    sums = {}
    for labels, value in exposition.families["process_smaps_pss_bytes"]:
        key = tuple(labels[name] for name in CONTAINER)
        sums[key] = sums.get(key, 0) + int(value)
    return sums


def charges_of(exposition):
    """Returns invented cgroup memory for most containers of an exposition.

    Some containers have no cgroup metrics, no limit, or no split into mapped and unmapped memory. In some
    containers, the tiles that the page draws add up to more than the container's memory use.
    """
    out = {}
    for k, (key, pss) in enumerate(sorted(containers(exposition).items())):
        if k % 11 == 9:
            continue
        cache, tmpfs = (pss // (3 + k % 5)) & -4096, (8 * MIB if k % 4 == 1 else 0)
        parts = {
            "anon_unmapped": k % 3 * 2 * MIB,
            "hugetlb": k % 5 // 4 * 4 * MIB,
            "slab": (2 + k % 3) * MIB,
            "page_tables": MIB + k * 4096,
            "kernel_stacks": (1 + k % 5) * 65536,
            "percpu": k * 1440,
            "vmalloc": k * 4096,
            "zswap": k % 4 * 65536,
            "kernel_other": 300_000,
            "sockets": k % 2 * 40_960,
        }
        difference = (-9 if k % 17 == 4 else 3 + k % 6) * MIB
        current = pss + cache + tmpfs + sum(parts.values()) + difference
        anon, page_cache = pss * 2 // 3, pss // 3 + cache
        parts = {"anon": anon, "page_cache": page_cache, "shmem": tmpfs, **parts}
        parts["remainder"] = current - sum(parts.values())
        limit = None if k % 7 == 6 else current * 100 // (55 + k * 13 % 45)
        unmapped = {} if k % 13 == 5 else {"page_cache": cache, "shmem": tmpfs}
        out[key] = Charge(current, limit, parts, unmapped)
    return out


@dataclass
class Ledger:
    """The memory of a node, split into parts, and the memory of each pod on the node.

    A pod has its memory use, its limit, and the memory in the pod's cgroup that is outside of containers.
    The memory outside of containers is split into parts.
    """

    parts: dict
    pods: dict  # (namespace, pod) -> (current, limit, {part: bytes})


def ledger_of(charges, remainder=9 * MIB, unlisted=0):
    """Returns the memory of a node that runs these containers.

    `charges` has the memory of each container's cgroup. In one pod, tmpfs of ended containers nearly fills
    the limit.
    """
    inside = {}
    for (namespace, pod, _), charge in charges.items():
        inside[namespace, pod] = inside.get((namespace, pod), 0) + charge.current
    pods = {}
    for k, (key, current) in enumerate(sorted(inside.items())):
        outside = {
            "anon": 196_608,
            "page_cache": k % 4 * MIB,
            "shmem": 0,
            "kernel": 90_112,
            "remainder": k % 3 * 4096,
        }
        if key == ("data", "kafka-1"):
            outside["shmem"] = 6 * current
        whole = current + sum(outside.values())
        share = 95 if key == ("data", "kafka-1") else 40 + k % 50
        pods[key] = (whole, None if k % 5 == 4 else whole * 100 // share, outside)
    parts = {
        "free": 1800 * MIB,
        "pods": sum(whole for whole, *_ in pods.values()) + unlisted,
        "ended_pods": 210 * MIB,
    }
    parts |= {
        "/system.slice": 410 * MIB,
        "/user.slice": 38 * MIB,
        "/init.scope": 6 * MIB,
        "/dev-mqueue.mount": 40_960,
    }
    parts |= {
        "root_cgroup": 11 * MIB,
        "kernel": 96 * MIB,
        "hugetlb_pool": 128 * MIB,
        "zram": 0,
        "remainder": remainder,
    }
    return Ledger(parts, pods)


def ledger_families(ledger):
    """Returns the metrics of the memory of the node and its pods as text."""
    lines = [f'cgroup_node_memory_bytes{{part="{part}"}} {value}' for part, value in ledger.parts.items()]
    for key, (current, limit, outside) in ledger.pods.items():
        labels = ",".join(f'{name}="{escaped(value)}"' for name, value in zip(CONTAINER, key))
        lines.append(f"cgroup_pod_memory_current_bytes{{{labels}}} {current}")
        if limit is not None:
            lines.append(f"cgroup_pod_memory_limit_bytes{{{labels}}} {limit}")
        for part, value in outside.items():
            labels_of_part = f'{labels},part="{part}"'
            lines.append(f"cgroup_pod_memory_outside_containers_bytes{{{labels_of_part}}} {value}")
    return "\n".join(lines) + "\n"


def escaped(text):
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def families(charges):
    """Returns the cgroup metrics of an exposition as text."""
    names = ("current", "limit", "working_set", "account", "unmapped")
    lines = {name: [f"# TYPE cgroup_memory_{name}_bytes gauge"] for name in names}
    for key, charge in charges.items():
        labels = ",".join(f'{name}="{escaped(value)}"' for name, value in zip(CONTAINER, key))
        working_set = charge.current * 4 // 5
        for name, value in (
            ("current", charge.current),
            ("limit", charge.limit),
            ("working_set", working_set),
        ):
            if value is not None:
                lines[name].append(f"cgroup_memory_{name}_bytes{{{labels}}} {value}")
        for name, parts in (("account", charge.parts), ("unmapped", charge.unmapped)):
            for part, value in parts.items():
                lines[name].append(f'cgroup_memory_{name}_bytes{{{labels},part="{part}"}} {value}')
    return "\n".join(line for some in lines.values() for line in some) + "\n"


PATHS = (("java", "[heap]", 88_000_000), ("java", "/opt/java/lib/server/libjvm.so", 9_000_000))


def record(time, namespace="shop", pod="web-1", container="app", command="java", paths=PATHS, **more):
    """Returns one record of /ooms."""
    account = dict.fromkeys(PARTS, 0) | {
        "anon": 90_000_000,
        "page_cache": 8_000_000,
        "slab": 3_000_000,
        "page_tables": 2_000_000,
        "kernel_stacks": 400_000,
        "percpu": 100_000,
        "kernel_other": 300_000,
        "remainder": 1_000_000,
    }
    return {
        "time": time,
        "namespace": namespace,
        "pod": pod,
        "container": container,
        "command": command,
        "kills": 1,
        "limit_bytes": 104_857_600,
        "use_bytes": 104_800_000,
        "reading_age_seconds": 0.8,
        "mapped_bytes": 99_000_000,
        "paths": [{"command": c, "path": path, "pss_bytes": v} for c, path, v in paths],
        "account": account,
        **more,
    }


def without_cgroups(text):
    return "\n".join(line for line in text.split("\n") if not re.match(r"(# \w+ )?cgroup_", line))


def charged(page, charges, ooms=None, ledger=None):
    """Adds cgroup metrics to the page's expositions, and answers the page's requests for /ooms.

    `charges` has the `Charge` of each container as a dict, or is a function that returns this dict for an
    `Exposition`. `ooms` is a list of records, or (status, body). `ledger` is a function. Its argument is the
    dict of charges, and it returns the `Ledger` of the node.
    """
    page.charges, page.ooms, page.asked, page.ledger = charges, ooms, [], ledger

    def metrics(route):
        response = route.fetch()
        text = without_cgroups(response.text())
        now = page.charges(Exposition(text)) if callable(page.charges) else page.charges
        more = ledger_families(page.ledger(now)) if page.ledger else ""
        route.fulfill(response=response, body=text + families(now) + more)

    def answer(route):
        page.asked.append(time.monotonic())
        status, body = (
            page.ooms if isinstance(page.ooms, tuple) else (200, json.dumps({"records": page.ooms or []}))
        )
        route.fulfill(status=status, content_type="application/json", body=body)

    page.tab.route("**/metrics?*", metrics)
    page.tab.route("**/ooms", answer)
