"""The machines: which kernel, which containerd, which cgroups. README's "tested on" is the table of all of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    name: str
    kernel: str  # the Debian release whose newest kernel it is
    containerd: str = "bookworm"  # and that whose containerd
    cgroup: int = 2
    arguments: str = ""  # more for the kernel's command line

    @property
    def driver(self) -> str:
        return "systemd" if self.cgroup == 2 else "cgroupfs"

    @property
    def command_line(self) -> str:
        """What the kernel, systemd and the guest's tests are told."""
        hierarchy = f"systemd.unified_cgroup_hierarchy={self.cgroup - 1}"
        if self.cgroup == 1:
            hierarchy += " systemd.legacy_systemd_cgroup_controller=1 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
        return (
            "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0 apparmor=1 security=apparmor transparent_hugepage=always "
            f"{hierarchy} nodes.cgroup={self.cgroup} nodes.driver={self.driver} nodes.containerd={self.containerd} {self.arguments}"
        )


MACHINES = [
    Machine("bullseye", "bullseye"),
    Machine("bookworm", "bookworm"),
    Machine("trixie", "trixie", containerd="trixie"),
    Machine("sid", "sid", containerd="sid"),
    Machine("bookworm-cgroup-1", "bookworm", cgroup=1),
    Machine("trixie-vsyscall", "trixie", containerd="trixie", arguments="vsyscall=xonly"),
]
