"""Defines the virtual machines: their kernel, containerd and cgroup version.

"Tested on" in src/kubernetes/README.md lists them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    name: str
    kernel: str  # the Debian release that the kernel comes from
    containerd: str = "bookworm"  # the Debian release that containerd comes from
    cgroup: int = 2
    is_hybrid: bool = False  # has version 1's controllers, and a version 2 hierarchy without controllers
    runc: str = "bookworm"  # the Debian release that runc comes from
    arguments: str = ""  # further arguments for the command line of the kernel
    architecture: str = "amd64"  # the architecture, as Debian names it
    flavour: str = "cloud-amd64"  # the flavour of the kernel package

    @property
    def driver(self) -> str:
        return "systemd" if self.cgroup == 2 and self.architecture == "amd64" else "cgroupfs"

    @property
    def command_line(self) -> str:
        """Returns the kernel's command line.

        It configures the kernel, systemd and the tests in the machine.
        """
        # On amd64, the kernel checks the timer at boot. It panics if the emulator gets no core for some
        # milliseconds during the check, so `no_timer_check` switches the check off.
        terminal = "ttyS0 no_timer_check" if self.architecture == "amd64" else "ttyAMA0"
        hierarchy = "systemd.unified_cgroup_hierarchy=1"
        if self.cgroup == 1:
            hierarchy = "systemd.unified_cgroup_hierarchy=0 "
            hierarchy += f"systemd.legacy_systemd_cgroup_controller={0 if self.is_hybrid else 1}"
        return (
            f"root=/dev/vda rw console={terminal} quiet apparmor=1 security=apparmor "
            f"transparent_hugepage=always systemd.show_status=0 {hierarchy} {self.arguments} "
            f"nodes.cgroup={'hybrid' if self.is_hybrid else self.cgroup} nodes.driver={self.driver} "
            f"nodes.containerd={self.containerd}"
        )


MACHINES = [
    Machine("bullseye", "bullseye"),
    Machine("bookworm", "bookworm"),
    Machine("trixie", "trixie", containerd="trixie"),
    Machine("sid", "sid", containerd="sid"),
    Machine("bookworm-cgroup-1", "bookworm", cgroup=1),
    # The containers of this hybrid node must not have version 2 cgroups of their own. The node has bullseye's
    # runc, because bookworm's runc would make such cgroups.
    Machine("bookworm-hybrid", "bookworm", cgroup=1, is_hybrid=True, runc="bullseye"),
    Machine("trixie-vsyscall", "trixie", containerd="trixie", arguments="vsyscall=xonly"),
]

# Machines that run only if their names are arguments of nodes.py. By default, nodes.py runs only machines of
# one architecture, because it tests one binary, which is built for one architecture.
ARM64 = [
    Machine("arm64", "trixie", architecture="arm64", flavour="cloud-arm64"),
    Machine("arm64-16k", "trixie", architecture="arm64", flavour="arm64-16k"),
]
