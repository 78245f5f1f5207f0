"""Writes recordings as `--fixture` reads them: DIR/containers.tsv and DIR/proc/<pid>/{cgroup,comm,smaps}."""

from dataclasses import dataclass, field
from pathlib import Path

FIELDS = (
    "Size KernelPageSize MMUPageSize Rss Pss Pss_Dirty Shared_Clean Shared_Dirty Private_Clean Private_Dirty "
    "Referenced Anonymous KSM LazyFree AnonHugePages ShmemPmdMapped FilePmdMapped Shared_Hugetlb "
    "Private_Hugetlb Swap SwapPss Locked"
).split()


@dataclass
class Mapping:
    """A mapping of `rss` KiB that `sharers` processes share. Its smaps fields are computed from these."""

    path: bytes
    rss: int
    sharers: int = 1
    swap: int = 0
    place: bytes = b""  # addresses and permissions, for tests that depend on them
    flags: bytes = b"rd wr mr mw me ac"

    def values(self):
        values = dict.fromkeys(FIELDS, 0)
        named = self.path.startswith(b"/")
        values.update(
            Size=self.rss * 2, KernelPageSize=4, MMUPageSize=4, Rss=self.rss, Pss=self.rss // self.sharers
        )
        values.update(Referenced=self.rss, Swap=self.swap, SwapPss=self.swap)
        if not named:
            values["Anonymous"] = self.rss
        which = ("Shared_" if self.sharers > 1 else "Private_") + ("Clean" if named else "Dirty")
        values[which] = self.rss
        values["Pss_Dirty"] = 0 if named else values["Pss"]
        return values


@dataclass
class Process:
    comm: bytes
    mappings: list[Mapping]


@dataclass
class Container:
    namespace: str
    pod: str
    name: str
    processes: list[Process] = field(default_factory=list)


def smaps(mappings, fields=FIELDS):
    """Returns the smaps file that the kernel would print for these mappings."""
    out, address = [], 0x7F0000000000
    for m in mappings:
        end = address + m.rss * 2048
        place = m.place or b"%x-%x rw-p" % (address, end)
        out.append(b"%s 00000000 00:00 0 %s\n" % (place, b" " * 26 + m.path if m.path else b""))
        values = m.values()
        out += [b"%-16s%8d kB\n" % (name.encode() + b":", values[name]) for name in fields]
        out.append(b"THPeligible:           0\nVmFlags: %s \n" % m.flags)
        address = end
    return b"".join(out)


def write(directory: Path, containers, fields=FIELDS):
    """Writes a recording of `containers` to `directory`. The directory must not contain `proc` yet."""
    lines, pid = ["id\tinit_pid\tnamespace\tpod\tcontainer"], 100
    for number, c in enumerate(containers):
        identity = f"{number:064x}"
        lines.append(f"{identity}\t{pid}\t{c.namespace}\t{c.pod}\t{c.name}")
        for process in c.processes:
            home = directory / "proc" / str(pid)
            home.mkdir(parents=True)
            (home / "cgroup").write_text(f"0::/kubepods/burstable/{identity}\n")
            (home / "comm").write_bytes(process.comm + b"\n")
            (home / "smaps").write_bytes(smaps(process.mappings, fields))
            pid += 1
    (directory / "proc").mkdir(parents=True, exist_ok=True)
    (directory / "containers.tsv").write_text("\n".join(lines) + "\n")
    return directory


LIBRARIES = [
    b"/usr/lib/x86_64-linux-gnu/" + name
    for name in (b"libc.so.6", b"libcrypto.so.3", b"libssl.so.3", b"libstdc++.so.6.0.30", b"libm.so.6")
]
CHARACTERS = "bcdfghjklmnpqrstvwxz2456789"


def busy_node(grown=0, leaked=0):
    """Returns a realistic node of sixty pods.

    Some heaps are larger by `grown` KiB, and one heap by `leaked` KiB.
    """
    out = []

    def name(deployment, replica, revision=None):
        """Returns the name that Kubernetes would give to a pod of a deployment."""
        seed = sum(map(ord, deployment)) * 7919 + (revision or 0)
        digits = [CHARACTERS[(seed * (k + 3) * 31 + k) % len(CHARACTERS)] for k in range(9)]
        ends = [CHARACTERS[(seed + replica * 997 * (k + 1) + k * 13) % len(CHARACTERS)] for k in range(5)]
        return f"{deployment}-{''.join(digits)}-{''.join(ends)}"

    def libraries(sharers, scale=1):
        return [Mapping(path, (1900 - 300 * k) * scale, sharers) for k, path in enumerate(LIBRARIES)]

    def go(binary, size, heap):
        return [
            Mapping(binary, size, 2),
            Mapping(b"[anon: Go: heap]", heap),
            Mapping(b"", heap // 9),
            Mapping(b"[stack]", 136),
        ]

    def add(namespace, pod, container, *processes):
        out.append(Container(namespace, pod, container, list(processes)))

    for replica in range(8):
        heap = 96_000 + 9_000 * replica + grown * (replica % 3) + (leaked if replica == 5 else 0)
        java = [
            Mapping(b"[heap]", heap // 5),
            Mapping(b"", heap),
            Mapping(b"[anon:Metaspace]", 48_000),
            Mapping(b"/opt/java/lib/server/libjvm.so", 19_000, 8),
            Mapping(b"/opt/java/lib/modules", 34_000, 8),
        ]
        add("shop", name("checkout", replica), "app", Process(b"java", java + libraries(8)))
        if replica % 2:
            add(
                "shop",
                name("checkout", replica),
                "istio-proxy",
                Process(
                    b"envoy",
                    [Mapping(b"/usr/local/bin/envoy", 41_000, 20), Mapping(b"[heap]", 29_000)]
                    + libraries(20),
                ),
            )
    for replica in range(6):
        node = [
            Mapping(b"[heap]", 61_000 + 3_000 * replica),
            Mapping(b"", 22_000),
            Mapping(b"/usr/local/bin/node", 37_000, 6),
        ]
        add("shop", name("shopcart", replica), "web", Process(b"node", node + libraries(6)))
    for replica in range(5):
        gunicorn = [
            Mapping(b"[heap]", 38_000 + replica * 500 + grown),
            Mapping(b"/usr/lib/python3.11/site-packages/numpy/core/_multiarray_umath.so", 9_000, 5),
            Mapping(b"", 12_000),
        ]
        add(
            "shop",
            name("recommendations", replica),
            "app",
            Process(b"gunicorn", gunicorn + libraries(5)),
            Process(b"gunicorn: worker", [Mapping(b"[heap]", 52_000)] + libraries(5)),
        )
    for member in range(3):
        buffers = [
            Mapping(b"/dev/zero (deleted)", 262_144, 6),
            Mapping(b"[heap]", 2_400),
            Mapping(b"/usr/lib/postgresql/16/bin/postgres", 7_900, 6),
        ]
        workers = [
            Process(
                comm, [Mapping(b"/dev/zero (deleted)", 131_072, 6), Mapping(b"[heap]", 5_100)] + libraries(6)
            )
            for comm in (b"checkpointer", b"background writ", b"walwriter", b"postgres")
        ]
        add(
            "data",
            f"orders-db-{member}",
            "postgres",
            Process(b"postmaster", buffers + libraries(6)),
            *workers,
        )
        add(
            "data",
            f"redis-node-{member}",
            "redis",
            Process(
                b"redis-server",
                [
                    Mapping(b"[anon:jemalloc]", 143_000 + 20_000 * member, swap=9_000 * member),
                    Mapping(b"", 3_000),
                ]
                + libraries(3),
            ),
        )
    for broker in range(3):
        segments = [
            Mapping(b"/var/lib/kafka/data/orders-%d/00000000000000000000.index" % k, 10_240) for k in range(6)
        ]
        add(
            "data",
            f"kafka-{broker}",
            "kafka",
            Process(
                b"java",
                [
                    Mapping(b"", 310_000 + 8_000 * broker + grown),
                    Mapping(b"/opt/java/lib/server/libjvm.so", 19_000, 3),
                ]
                + segments
                + libraries(3),
            ),
        )
    chunks = [
        Mapping(b"/prometheus/%s/chunks/%06d" % (block, 1 + part), 48_000 - 9_000 * part)
        for block in (b"01JCX3M8Q0", b"01JCXATZY4", b"01JCXHPQ68")
        for part in range(2)
    ]
    chunks += [Mapping(b"/prometheus/chunks_head/%06d" % (300 + k), 32_000) for k in range(3)] + [
        Mapping(b"/prometheus/wal/00000193", 26_000)
    ]
    add(
        "monitoring",
        "prometheus-main-0",
        "prometheus",
        Process(b"prometheus", chunks + go(b"/bin/prometheus", 61_000, 410_000)),
    )
    add(
        "monitoring",
        name("grafana", 0),
        "grafana",
        Process(b"grafana", go(b"/usr/share/grafana/bin/grafana", 88_000, 93_000)),
    )
    add(
        "monitoring",
        "alertmanager-main-0",
        "alertmanager",
        Process(b"alertmanager", go(b"/bin/alertmanager", 19_000, 21_000)),
    )
    add(
        "monitoring",
        "node-exporter-x4k2v",
        "node-exporter",
        Process(b"node_exporter", go(b"/bin/node_exporter", 11_000, 14_000)),
    )
    for k, deployment in enumerate(("cert-manager", "cert-manager-cainjector", "cert-manager-webhook")):
        add(
            "cert-manager",
            name(deployment, k),
            deployment,
            Process(deployment.encode()[:15], go(b"/app/cmd/controller", 24_000, 31_000 - 6_000 * k)),
        )
    for k, pod in enumerate(("cilium-9xw2k", "kube-proxy-7rqlm", "ebs-csi-node-c5v8d", "fluent-bit-zz6tp")):
        add(
            "kube-system",
            pod,
            pod.rsplit("-", 1)[0],
            Process(
                pod.rsplit("-", 1)[0].encode()[:15],
                go(b"/usr/bin/" + pod.encode()[:6], 52_000 - 9_000 * k, 118_000 - 27_000 * k),
            ),
        )
    for replica in range(2):
        add(
            "kube-system",
            name("coredns", replica),
            "coredns",
            Process(b"coredns", go(b"/coredns", 31_000, 24_000 + replica * 900)),
        )
        add(
            "ingress",
            name("ingress-nginx-controller", replica),
            "controller",
            Process(b"nginx-ingress-c", go(b"/nginx-ingress-controller", 39_000, 44_000)),
            *[
                Process(
                    b"nginx",
                    [
                        Mapping(b"[heap]", 17_000),
                        Mapping(b"/usr/bin/nginx", 4_100, 8),
                        Mapping(b"/dev/shm/ngx_cache (deleted)", 10_240, 8),
                    ]
                    + libraries(8),
                )
                for _ in range(3)
            ],
        )
    for k in range(12):
        team = ("billing", "search", "ml-batch")[k % 3]
        add(
            team,
            name(f"{team}-worker", k // 3),
            "worker",
            Process(
                b"python3",
                [
                    Mapping(b"[heap]", 27_000 + 11_000 * (k % 5)),
                    Mapping(b"", 16_000),
                    Mapping(b"/models/embeddings-v3.bin", 96_000 if team == "ml-batch" else 900, 4),
                ]
                + libraries(12),
            ),
        )
    for k in range(6):
        add(
            "batch-jobs",
            f"nightly-report-2894{k}-{CHARACTERS[k]}h{CHARACTERS[k + 3]}2k",
            "report",
            Process(
                b"ruby",
                [Mapping(b"[heap]", 18_000 + 1_000 * k), Mapping(b"/usr/local/bin/ruby", 3_000, 6)]
                + libraries(6),
            ),
        )
    return out
