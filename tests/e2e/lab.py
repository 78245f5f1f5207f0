"""A node for one test run: a real containerd with real CRI pods, without Kubernetes.

`close()` removes everything that the lab made: processes (each by its pid), mounts, the cgroups of pods, and
the directory of the lab. Pods use the host's network, so they need no CNI plugin. If a test run was killed,
`lab.py close DIR` removes its lab.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Without this variable, gRPC logs a line each time this process starts another program.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
sys.path.insert(0, str(HERE))

import grpc  # noqa: E402
import image  # noqa: E402

cri, cri_services = grpc.protos_and_services("cri.proto")

BOOKWORM = HERE / ".debs/bookworm"
# How many seconds a test observes an exporter under load. `make night` sets a longer time.
WATCH_SECONDS = float(os.environ.get("WATCH_SECONDS", 5))
WORK_IMAGE = "lab.test/busybox:1"
PAUSE_IMAGE = "lab.test/pause:1"
# Each running lab holds a shared lock on this file. When a lab ends, it tries to get the exclusive lock. Only
# the last lab can get it, and then removes the parent cgroups, which all labs share.
CGROUPS_LOCK = Path(tempfile.gettempdir()) / "smaps-lab-cgroups.lock"
CONTAINER, POD, NODE = cri.CONTAINER, cri.POD, cri.NODE


@dataclass
class Container:
    """The configuration of a container. `id` is empty until the container is started.

    If the command is empty, the entry point of the image is run.
    """

    name: str
    command: list[str] = field(default_factory=list)
    args: list[str] = field(default_factory=list)
    image: str = WORK_IMAGE
    env: dict[str, str] = field(default_factory=dict)
    mounts: list[cri.Mount] = field(default_factory=list)
    security: cri.LinuxContainerSecurityContext = field(default_factory=cri.LinuxContainerSecurityContext)
    memory_limit_bytes: int = 0
    id: str = ""


@dataclass
class Pod:
    namespace: str
    name: str
    containers: list[Container]
    id: str
    config: cri.PodSandboxConfig

    def __getitem__(self, name: str) -> Container:
        return next(container for container in self.containers if container.name == name)


class Lab:
    """A containerd and its pods.

    `suite` is the Debian release that containerd comes from (see setup.sh).
    """

    def __init__(self, directory: str | Path | None = None, suite: str | None = None):
        # The path must be short, because the path of a unix socket has at most 107 bytes.
        self.directory = Path(
            directory or os.environ.get("SMAPS_LAB_DIR") or tempfile.mkdtemp(prefix="smaps-lab-")
        )
        self.bin = HERE / ".debs" / (suite or os.environ.get("SMAPS_LAB_SUITE") or "bookworm") / "usr/bin"
        self.socket = self.directory / "state/containerd.sock"
        self.log = self.directory / "containerd.log"
        self.uid = uuid.uuid4()
        self._pid_file = self.directory / "containerd.pid"
        self._cgroups = self.directory / "cgroups"
        self._containerd: subprocess.Popen | None = None
        self._channel: grpc.Channel | None = None
        self._execs: list[grpc.Future] = []
        self._cgroups_lock = CGROUPS_LOCK.open("w")

    def __enter__(self):
        self.directory.mkdir(parents=True, exist_ok=True)
        fcntl.flock(self._cgroups_lock, fcntl.LOCK_SH)
        try:
            self.start()
            self.import_image(
                image.busybox_archive(
                    HERE / ".debs", BOOKWORM / "bin/busybox", {WORK_IMAGE: [], PAUSE_IMAGE: ["/pause"]}
                )
            )
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    # containerd itself

    def start(self):
        """Starts containerd, and waits until it answers."""
        assert not self._alive(), "containerd is already running"
        config = self.directory / "containerd.toml"
        config.write_text(self._config())
        # containerd finds its shim and runc by PATH.
        environment = {"PATH": f"{self.bin}:{BOOKWORM}/usr/sbin:/usr/sbin:/usr/bin:/sbin:/bin"}
        with self.log.open("ab") as log:
            self._containerd = subprocess.Popen(
                [self.bin / "containerd", "--config", config],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C then interrupts only the tests, and these stop containerd
            )
        self._pid_file.write_text(str(self._containerd.pid))
        self._connect()

    def _connect(self):
        """Opens the channel to containerd's CRI service, and waits until the service answers."""
        # By default, gRPC sends the path of the socket as :authority, which containerd rejects.
        self._channel = grpc.insecure_channel(
            f"unix:{self.socket}", options=[("grpc.default_authority", "localhost")]
        )
        self.cri = cri_services.RuntimeServiceStub(self._channel)

        def answers():
            assert self._alive(), f"containerd exited, see {self.log}:\n{self._log_tail()}"
            try:
                return self.cri.Version(cri.VersionRequest(), timeout=2)
            except grpc.RpcError:
                return None

        self.version = until(answers, 60, f"containerd answers, see {self.log}").runtime_version

    def stop(self):
        """Stops containerd as a service manager would. The containers keep running."""
        self._end(signal.SIGTERM)

    def kill(self):
        """Kills containerd with SIGKILL. The containers keep running."""
        self._end(signal.SIGKILL)

    @contextmanager
    def hung(self):
        """Stops containerd with SIGSTOP. A stopped containerd accepts connections, but never answers."""
        self._containerd.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._containerd.send_signal(signal.SIGCONT)

    @contextmanager
    def hung_shim(self, pod: "Pod"):
        """Stops a pod's shim with SIGSTOP. containerd's calls to the shim then do not return."""
        [shim] = [pid for pid in self._shims() if f"-id {pod.id} " in cmdline(pid) + " "]
        os.kill(shim, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(shim, signal.SIGCONT)

    def ctr(self, *arguments: str | Path, namespace: str = "k8s.io") -> str:
        """Runs ctr, containerd's command line client."""
        done = subprocess.run(
            [self.bin / "ctr", "--address", self.socket, "--namespace", namespace, *arguments],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"ctr {arguments}: {done.stderr}"
        return done.stdout

    def import_image(self, archive: Path):
        """Imports an archive of images. Waits until CRI has received containerd's event about the images."""
        self.ctr("images", "import", archive)
        until(
            lambda: all(
                "io.cri-containerd.image=managed" in line
                for line in self.ctr("images", "ls").splitlines()[1:]
            ),
            30,
            "CRI knows the imported images",
        )

    # pods

    def run_pod(self, namespace: str, name: str, containers: list[Container], pid: int = CONTAINER) -> Pod:
        """Runs a pod as the kubelet would.

        The environment of its processes has LAB_CONTAINER=<namespace>/<pod>/<container> and LAB_UID.
        """
        uid = str(uuid.uuid4())
        cgroup = self._cgroup_parent(uid)
        with self._cgroups.open("a") as made:
            made.write(cgroup + "\n")
        labels = {
            "io.kubernetes.pod.name": name,
            "io.kubernetes.pod.namespace": namespace,
            "io.kubernetes.pod.uid": uid,
        }
        namespaces = cri.NamespaceOption(network=NODE, pid=pid, ipc=POD)
        config = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=uid, namespace=namespace),
            log_directory=str(self.directory / f"logs/{namespace}_{name}_{uid}"),
            labels=labels,
            linux=cri.LinuxPodSandboxConfig(
                cgroup_parent=cgroup,
                security_context=cri.LinuxSandboxSecurityContext(namespace_options=namespaces),
            ),
        )
        sandbox = self.cri.RunPodSandbox(cri.RunPodSandboxRequest(config=config)).pod_sandbox_id
        pod = Pod(namespace, name, containers, sandbox, config)
        for container in containers:
            self.start_container(pod, container)
        return pod

    def _cgroup_parent(self, uid: str) -> str:
        """Returns the name of a pod's cgroup, as chosen by a kubelet with the cgroupfs driver."""
        return f"/kubepods/burstable/pod{uid}"

    def limit_pod(self, pod: Pod, memory_limit_bytes: int):
        """Sets the memory limit of a whole pod.

        The kubelet does the same if each container of a pod has a limit.
        """
        cgroup = pod.config.linux.cgroup_parent
        for root in (
            Path(root)
            for _, root, kind, options, *_ in mounts()
            if kind == "cgroup2" or "memory" in options.split(",")
        ):
            for limit in (
                root / cgroup.lstrip("/") / name for name in ("memory.max", "memory.limit_in_bytes")
            ):
                if limit.exists():
                    limit.write_text(str(memory_limit_bytes))

    def start_container(self, pod: Pod, container: Container, attempt: int = 0):
        """Creates and starts a container of a pod.

        `attempt` is the number of restarts, as counted by the kubelet.
        """
        place = f"{pod.namespace}/{pod.name}/{container.name}"
        environment = {"LAB_CONTAINER": place, "LAB_UID": str(self.uid), **container.env}
        security = cri.LinuxContainerSecurityContext(
            namespace_options=pod.config.linux.security_context.namespace_options
        )
        security.MergeFrom(container.security)
        resources = cri.LinuxContainerResources(
            cpu_shares=102, memory_limit_in_bytes=container.memory_limit_bytes
        )
        request = cri.CreateContainerRequest(
            pod_sandbox_id=pod.id,
            sandbox_config=pod.config,
            config=cri.ContainerConfig(
                metadata=cri.ContainerMetadata(name=container.name, attempt=attempt),
                image=cri.ImageSpec(image=container.image),
                command=container.command,
                args=container.args,
                envs=[cri.KeyValue(key=key, value=value) for key, value in environment.items()],
                mounts=container.mounts,
                labels={"io.kubernetes.container.name": container.name, **pod.config.labels},
                log_path=f"{container.name}.log",
                linux=cri.LinuxContainerConfig(resources=resources, security_context=security),
            ),
        )
        container.id = self.cri.CreateContainer(request).container_id
        self.cri.StartContainer(cri.StartContainerRequest(container_id=container.id))

    def remove_pod(self, pod: Pod | str):
        """Stops and removes a pod and its containers."""
        sandbox = pod if isinstance(pod, str) else pod.id
        try:
            self.cri.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox))
        except grpc.RpcError:  # this fails while a container is ending; the kubelet retries, too
            time.sleep(1)
            self.cri.StopPodSandbox(cri.StopPodSandboxRequest(pod_sandbox_id=sandbox))
        self.cri.RemovePodSandbox(cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox))

    def exec_sync(self, container: Container, command: list[str]) -> str:
        """Runs a command in a container, as `kubectl exec` would.

        Waits until the command exits, and returns its output.
        """
        done = self.cri.ExecSync(cri.ExecSyncRequest(container_id=container.id, cmd=command))
        assert done.exit_code == 0, (
            f"{command} in {container.name} exited {done.exit_code}: {done.stdout + done.stderr}"
        )
        return done.stdout.decode()

    def exec(self, container: Container, command: list[str]):
        """Starts a command in a container, and does not wait for its end.

        The parent of the new process is the shim, not the init process of the container.
        """
        request = cri.ExecSyncRequest(container_id=container.id, cmd=command)
        self._execs.append(self.cri.ExecSync.future(request))  # dropping the future would cancel the call

    def cgroups_of(self, pid: int) -> list[Path]:
        """Returns the directories of a process's cgroups in the hierarchies v2, memory and name=systemd."""
        roots = {}
        for _, root, kind, options, *_ in mounts():
            if kind in ("cgroup", "cgroup2"):
                names = {"", "memory", "name=systemd"} & set(options.split(",") if kind == "cgroup" else [""])
                roots.update((name, root) for name in names)
        lines = (line.split(":", 2) for line in read_proc(pid, "cgroup").decode().splitlines())
        return [Path(roots[name] + path) for _, name, path in lines if name in roots and path != "/"]

    def log_of(self, pod: Pod, container: str) -> str:
        """Returns the output of a container."""
        logs = self.directory.glob(f"logs/{pod.namespace}_{pod.name}_*/{container}.log")
        return "".join(log.read_text() for log in logs)

    # clean-up

    def close(self):
        """Removes everything that the lab made.

        Raises an error if something cannot be removed in the usual way.
        """
        failures = []
        if self._alive() or self._shims():
            try:
                if self._containerd is None or not self._alive():
                    self._end_recorded_containerd()
                    self.start()  # only containerd can remove its containers properly
                for sandbox in self.cri.ListPodSandbox(cri.ListPodSandboxRequest()).items:
                    try:
                        self.remove_pod(sandbox.id)
                    except grpc.RpcError as error:
                        failures.append(f"CRI cannot remove {sandbox.metadata.name}: {error.details()}")
            finally:
                for shim in self._shims():  # shims are left only if the calls to CRI failed
                    for child in children(shim):
                        kill(child, signal.SIGKILL)
                    kill(shim, signal.SIGKILL)
                    failures.append(f"shim {shim} was still running")
                if self._channel:
                    self._channel.close()
                self._end(signal.SIGTERM)
        for _, mount, *_ in reversed(mounts()):
            if mount.startswith(f"{self.directory}/"):
                subprocess.run(["umount", mount], check=True)
        self._remove_cgroups()
        shutil.rmtree(self.directory)
        assert not failures, "\n".join(failures)

    def _end_recorded_containerd(self):
        """Stops a containerd that another process has started for the directory of this lab."""
        if self._pid_file.exists():
            pid = int(self._pid_file.read_text())
            if str(self.directory) in cmdline(pid):
                kill(pid, signal.SIGTERM)
                until(lambda: not cmdline(pid), 20, f"containerd {pid} has exited")

    def _end(self, how: signal.Signals):
        if self._containerd:
            self._containerd.send_signal(how)
            self._containerd.wait(timeout=30)
            self._containerd = None

    def _alive(self) -> bool:
        return self._containerd is not None and self._containerd.poll() is None

    def _shims(self) -> list[int]:
        return [
            pid
            for pid in pids()
            if "containerd-shim" in (line := cmdline(pid)) and f"-address {self.socket} " in line + " "
        ]

    def _remove_cgroups(self):
        """Removes the cgroups of pods, as the kubelet would.

        Also removes the parents of these cgroups, unless another lab uses them.
        """
        made = self._cgroups.read_text().split() if self._cgroups.exists() else []
        roots = [Path(root) for _, root, kind, *_ in mounts() if kind in ("cgroup", "cgroup2")]
        for root in roots:
            for cgroup in made:
                pod = root / cgroup.lstrip("/")
                if pod.is_dir():
                    for below in [path for path, _, _ in os.walk(pod, topdown=False)]:
                        until(lambda: _rmdir(Path(below)), 10, f"{below} is empty")
        try:
            fcntl.flock(self._cgroups_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for parent in ("kubepods/burstable", "kubepods"):
                for root in roots:
                    _rmdir(root / parent)
        except BlockingIOError:
            pass
        finally:
            fcntl.flock(self._cgroups_lock, fcntl.LOCK_UN)

    def _log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def _config(self) -> str:
        common = f"""
root = "{self.directory}/root"
state = "{self.directory}/state"
oom_score = 0

[grpc]
  address = "{self.socket}"

[ttrpc]
  address = "{self.socket}.ttrpc"

[plugins."io.containerd.internal.v1.opt"]
  path = "{self.directory}/opt"
"""
        # Because of restrict_oom_score_adj, pods can start even if root lacks CAP_SYS_RESOURCE, for example
        # inside a container.
        runtime = """
  disable_apparmor = true
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
"""
        runc = f"""
    [plugins."PLUGIN".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."PLUGIN".containerd.runtimes.runc.options]
        BinaryName = "{BOOKWORM}/usr/sbin/runc"
        Root = "{self.directory}/state/runc"
        SystemdCgroup = false
"""
        version = (
            subprocess.check_output([self.bin / "containerd", "--version"], text=True).split()[2].lstrip("v")
        )
        if version.startswith("1."):
            return f"""version = 2
{common}
[plugins."io.containerd.grpc.v1.cri"]
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  sandbox_image = "{PAUSE_IMAGE}"
{runtime}
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = "{self.directory}/cni"
{runc.replace("PLUGIN", "io.containerd.grpc.v1.cri")}
"""
        return f"""version = 3
{common}
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE_IMAGE}"

[plugins."io.containerd.cri.v1.runtime"]
  enable_cdi = false
{runtime}
  [plugins."io.containerd.cri.v1.runtime".cni]
    conf_dir = "{self.directory}/cni"
{runc.replace("PLUGIN", "io.containerd.cri.v1.runtime")}
[plugins."io.containerd.grpc.v1.cri"]
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
"""


# the host


def until(condition, seconds: float, what: str):
    """Polls a condition until its result is true, and returns the result. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"timed out after {seconds} s waiting until {what}"
        time.sleep(0.05)
    return answer


def mounts() -> list[list[str]]:
    """Returns the mounts of the host, oldest first: the fields of each line of /proc/self/mounts."""
    return [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def cpu_seconds(pid: int) -> float:
    """Returns the CPU seconds that a process has used, from its CPU clock (see clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)


def read_proc(pid: int, name: str) -> bytes:
    """Returns the content of a file of a process. Returns b"" if the file is gone or may not be read."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def cmdline(pid: int) -> str:
    """Returns the arguments of a process, separated by spaces.

    Returns "" if the process has ended or is a zombie.
    """
    return read_proc(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").rstrip()


def environment(pid: int) -> dict[str, str]:
    """Returns the environment with which a process was started."""
    variables = read_proc(pid, "environ").decode(errors="replace").split("\0")
    return dict(variable.split("=", 1) for variable in variables if "=" in variable)


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            found += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            pass  # the thread has ended
    return found


def kill(pid: int, how: signal.Signals):
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        pass


def _rmdir(path: Path) -> bool:
    try:
        path.rmdir()
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


if __name__ == "__main__":
    if sys.argv[1:2] != ["close"] or len(sys.argv) != 3:
        sys.exit("usage: lab.py close DIR")
    Lab(sys.argv[2]).close()
