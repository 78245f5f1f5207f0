"""The machines: which kernel, which containerd, which cgroups. The README's "tested on" is the table of all of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    name: str
    kernel: str  # the Debian release whose newest kernel it is
    containerd: str = "bookworm"  # and that whose containerd
    cgroup: int = 2
    is_hybrid: bool = False  # version 1's controllers beside an empty version 2
    runc: str = "bookworm"  # the release whose runc it is
    arguments: str = ""  # more for the kernel's command line
    architecture: str = "amd64"  # Debian's word
    flavour: str = "cloud-amd64"  # of the kernel

    @property
    def driver(self) -> str:
        return "systemd" if self.cgroup == 2 and self.architecture == "amd64" else "cgroupfs"

    @property
    def command_line(self) -> str:
        """What the kernel, systemd and the guest's tests are told."""
        terminal = "ttyS0" if self.architecture == "amd64" else "ttyAMA0"
        hierarchy = "systemd.unified_cgroup_hierarchy=1"
        if self.cgroup == 1:
            hierarchy = f"systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller={0 if self.is_hybrid else 1}"
        return (
            f"root=/dev/vda rw console={terminal} quiet apparmor=1 security=apparmor transparent_hugepage=always "
            f"systemd.show_status=0 {hierarchy} {self.arguments} "
            f"nodes.cgroup={'hybrid' if self.is_hybrid else self.cgroup} nodes.driver={self.driver} nodes.containerd={self.containerd}"
        )


MACHINES = [
    Machine("bullseye", "bullseye"),
    Machine("bookworm", "bookworm"),
    Machine("trixie", "trixie", containerd="trixie"),
    Machine("sid", "sid", containerd="sid"),
    Machine("bookworm-cgroup-1", "bookworm", cgroup=1),
    # Bookworm's runc joins version 2 on such a node; bullseye's does not.
    Machine("bookworm-hybrid", "bookworm", cgroup=1, is_hybrid=True, runc="bullseye"),
    Machine("trixie-vsyscall", "trixie", containerd="trixie", arguments="vsyscall=xonly"),
]

# Only one architecture's binary is built at a time: these run when they are named.
ARM64 = [
    Machine("arm64", "trixie", architecture="arm64", flavour="cloud-arm64"),
    Machine("arm64-16k", "trixie", architecture="arm64", flavour="arm64-16k"),
]
