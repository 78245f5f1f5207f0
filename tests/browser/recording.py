"""Writes recorded nodes: DIR/containers.tsv and DIR/proc/<pid>/{cgroup,comm,smaps}, as `--fixture` reads them."""

from dataclasses import dataclass, field
from pathlib import Path

FIELDS = (
    "Size KernelPageSize MMUPageSize Rss Pss Pss_Dirty Shared_Clean Shared_Dirty Private_Clean Private_Dirty Referenced "
    "Anonymous KSM LazyFree AnonHugePages ShmemPmdMapped FilePmdMapped Shared_Hugetlb Private_Hugetlb Swap SwapPss Locked"
).split()


@dataclass
class Mapping:
    """One mapping of `rss` KiB that `sharers` processes share; the fields follow from that."""

    path: bytes
    rss: int
    sharers: int = 1
    swap: int = 0

    def values(self):
        values = dict.fromkeys(FIELDS, 0)
        named = self.path.startswith(b"/")
        values.update(Size=self.rss * 2, KernelPageSize=4, MMUPageSize=4, Rss=self.rss, Pss=self.rss // self.sharers)
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
    """What the kernel would print for these mappings."""
    out, address = [], 0x7F0000000000
    for m in mappings:
        end = address + m.rss * 2048
        out.append(b"%x-%x rw-p 00000000 00:00 0 %s\n" % (address, end, b" " * 26 + m.path if m.path else b""))
        values = m.values()
        out += [b"%-16s%8d kB\n" % (name.encode() + b":", values[name]) for name in fields]
        out.append(b"THPeligible:           0\nVmFlags: rd wr mr mw me ac \n")
        address = end
    return b"".join(out)


def write(directory: Path, containers, fields=FIELDS):
    """Records `containers` to `directory`, which may exist but for a proc."""
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
