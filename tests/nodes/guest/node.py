"""The containerd of the machine, with the chosen cgroup driver. It is run by systemd or by the lab."""

import os
import subprocess
import time
from pathlib import Path

import image
from lab import PAUSE_IMAGE, WORK_IMAGE, Lab

DRIVER = os.environ["NODES_DRIVER"]
# The Debian release that containerd comes from.
CONTAINERD = os.environ["NODES_CONTAINERD"]
# Whether the machine runs fewer tests, to save minutes. The gate, .ci/run, sets NODES_SHORT for this.
IS_SHORT = bool(os.environ.get("NODES_SHORT"))
SYSTEMD = Path("/proc/1/comm").read_text() == "systemd\n"
MEMORY_IMAGE = "lab.test/memory:1"
PROGRAMS = Path("/lab/bin")


def command(*words: str | Path) -> str:
    """Runs a command and returns its output. Fails if the command fails."""
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, f"{words} exited {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def settled(get, want, seconds: float = 60):
    """Waits until both functions return the same value.

    If this does not happen, an assertion shows both values.
    """
    deadline = time.monotonic() + seconds
    # Each function is called as rarely as possible, because a call takes a second on an emulated processor.
    while (seen := get()) != (wanted := want()) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert seen == wanted


class Node(Lab):
    """A lab, which is a containerd and its pods, with the image of the workloads.

    `close` removes nothing, because the virtual machine is discarded after the tests.
    """

    def __enter__(self):
        super().__enter__()
        self.import_programs()
        return self

    def import_programs(self):
        layer, archive = self.directory / "memory.layer", self.directory / "memory.tar"
        programs = [path for name in ("memory", "i386") if (path := PROGRAMS / name).exists()]
        image.layer(layer, {path.name: path.read_bytes() for path in programs})
        image.pack(archive, layer, {MEMORY_IMAGE: []})
        self.import_image(archive)

    def close(self):
        pass


class SystemdNode(Node):
    """A node on which systemd runs containerd. It has the images of the exporter and the workloads."""

    def __init__(self):
        super().__init__("/var/lib/nodes")
        self.socket = Path("/run/containerd/containerd.sock")
        self.bin = Path("/usr/bin")

    def __enter__(self):
        self.directory.mkdir()
        for program in Path("/node/containerd/usr/bin").glob("*"):
            command("mount", "--bind", program, self.bin / program.name)
        for program in Path("/node/runc").glob("usr/sbin/runc"):
            command("mount", "--bind", program, "/usr/sbin/runc")
        Path("/etc/containerd").mkdir(exist_ok=True)
        Path("/etc/containerd/config.toml").write_text(self._config())
        self.start()
        layer, archive = self.directory / "busybox.layer", self.directory / "busybox.tar"
        image.busybox_layer(layer, Path("/usr/bin/busybox"))
        image.pack(archive, layer, {WORK_IMAGE: [], PAUSE_IMAGE: ["/pause"]})
        self.import_image(archive)
        self.import_image(PROGRAMS / "image.tar")
        self.import_programs()
        return self

    def start(self):
        command("systemctl", "start", "containerd")
        self._connect()

    def stop(self):
        command("systemctl", "stop", "containerd")

    def restart(self):
        command("systemctl", "restart", "containerd")
        self._connect()

    def kill(self):
        """Kills containerd with SIGKILL. systemd starts it again."""
        command("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "containerd")
        self._connect()

    def _alive(self) -> bool:
        return subprocess.run(["systemctl", "is-failed", "--quiet", "containerd"]).returncode != 0

    def _log_tail(self) -> str:
        return command("journalctl", "-u", "containerd", "-n", "20", "-o", "cat", "--no-pager")

    def _cgroup_parent(self, uid: str) -> str:
        if DRIVER == "cgroupfs":
            return super()._cgroup_parent(uid)
        return f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid.replace('-', '_')}.slice"

    def _config(self) -> str:
        version = command(self.bin / "containerd", "--version").split()[2].lstrip("v")
        old = version.startswith("1.")
        plugin = "io.containerd.grpc.v1.cri" if old else "io.containerd.cri.v1.runtime"
        pause = f'sandbox_image = "{PAUSE_IMAGE}"' if old else ""
        pinned = (
            ""
            if old
            else f'[plugins."io.containerd.cri.v1.images".pinned_images]\n  sandbox = "{PAUSE_IMAGE}"'
        )
        return f"""version = {2 if old else 3}
{pinned}
[plugins."{plugin}"]
  {pause}
  [plugins."{plugin}".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."{plugin}".containerd.runtimes.runc.options]
      SystemdCgroup = {"true" if DRIVER == "systemd" else "false"}
"""


NODE = SystemdNode if SYSTEMD else Node
