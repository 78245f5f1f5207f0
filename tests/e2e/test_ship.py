"""Tests the image with the settings of the manifest.

Also tests queries for growth, and measures sizes and times."""

import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

import kernel
import readme
from clients import free_port
from conftest import FOREVER
from exporter import REPOSITORY, Client
from exposition import errors_without_gone
from lab import BOOKWORM, CONTAINER, HERE, POD, Container, Lab, cri, read_proc, until
from prometheus import Prometheus
from sandbox import KERNEL

COMMAND = ("namespace", "pod", "container", "comm")
EXPORTER_POD = ("smaps-exporter", "smaps-container-exporter-x7k2p")
OWN = (*EXPORTER_POD, "exporter", "smaps-container")  # comm has at most 15 bytes
UNPRIVILEGED = cri.LinuxContainerSecurityContext(
    run_as_user=cri.Int64Value(value=65534), readonly_rootfs=True
)
MIB = 1 << 20


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """The static binary and the image archive, which are built by their make targets."""
    archive = tmp_path_factory.mktemp("image") / "image.tar"
    done = subprocess.run(
        ["make", "-s", "image-tar", f"IMAGE_TAR={archive}"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    target = os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target"
    return Path(target) / f"{os.uname().machine}-unknown-linux-musl/release/smaps-container-exporter", archive


@pytest.fixture(scope="module", params=["bookworm", "sid"])
def ship_lab(request, built):
    """A node with the image and a few pods. Its /run/containerd is a shared mount, as systemd makes it."""
    subprocess.run([HERE / "setup.sh", request.param], check=True)
    directory = Path(tempfile.mkdtemp(prefix="smaps-lab-"))
    state = directory / "state"
    state.mkdir()
    subprocess.run(["mount", "--bind", state, state], check=True)
    subprocess.run(["mount", "--make-shared", state], check=True)
    with Lab(directory, request.param) as lab:
        lab.import_image(built[1])
        # A shell command that grows by 20 kB every half second, 1500 times. These 12 minutes are longer than
        # the tests run, so the command grows during all tests. It executes no other program.
        step = 'x="$x$(printf %20000s)"; read -t 0.5 y <&3'
        grow = f"mkfifo /pipe; exec 3<>/pipe; for i in $(seq 1500); do {step}; done; read y <&3"
        lab.run_pod(
            "default", "web-0", [Container("root", ["sleep", FOREVER]), Container("leak", ["sh", "-c", grow])]
        )
        lab.run_pod(
            "batch",
            "job-0",
            [Container("unprivileged", ["sh", "-c", f"sleep {FOREVER} & wait"], security=UNPRIVILEGED)],
        )
        # Two containers map the libraries of this machine.
        libraries = [
            cri.Mount(container_path=path, host_path=path, readonly=True)
            for path in ("/usr", "/lib", "/lib64")
            if Path(path).exists()
        ]
        tail = ["/usr/bin/tail", "-f", "/dev/null"]
        lab.run_pod("shop", "cart-0", [Container(name, tail, mounts=libraries) for name in ("cart", "logs")])
        running = {
            ("default", "web-0", "root", "sleep"),
            ("default", "web-0", "leak", "sh"),
            ("batch", "job-0", "unprivileged", "sleep"),
            ("batch", "job-0", "unprivileged", "sh"),
            ("shop", "cart-0", "cart", "tail"),
            ("shop", "cart-0", "logs", "tail"),
        }
        until(lambda: kernel.counts(lab) == dict.fromkeys(running, 1), 20, "the pods' processes run")
        yield lab


class Ship(Client):
    """The exporter in a pod of the node."""

    def __init__(self, lab: Lab, capabilities: list[str] | None = None, arguments: tuple[str, ...] = ()):
        super().__init__(f"127.0.0.1:{free_port()}")
        self.lab = lab
        self.container = readme.exporter_container(lab, self.address, capabilities, arguments=arguments)
        self.pod = lab.run_pod(*EXPORTER_POD, [self.container])
        try:
            until(lambda: is_ready(self), 20, "the exporter is ready")
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        print(f"the exporter's log:\n{self.log()}")
        self.lab.remove_pod(self.pod)

    def log(self) -> str:
        return self.lab.log_of(self.pod, "exporter")

    def pid(self) -> int:
        [pid] = kernel.processes(self.lab)[OWN]
        return pid


def is_ready(exporter: Client) -> bool:
    try:
        return exporter.get("/readyz")[0] == 200
    except (urllib.error.URLError, ConnectionError):
        return False


def rss_bytes(pid: int) -> int:
    [line] = [line for line in read_proc(pid, "status").decode().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) << 10


def shows_everything(exporter: Client, lab: Lab) -> bool:
    """Returns whether the exposition has the cgroup metrics and the processes of all containers.

    This includes the exporter's own container.
    """
    exposition = exporter.metrics()
    seen, accounts = (
        exposition.by(family, *labels) if family in exposition else {}
        for family, labels in (
            ("process_smaps_processes", COMMAND),
            ("cgroup_memory_current_bytes", COMMAND[:3]),
        )
    )
    return seen == kernel.counts(lab) and accounts.keys() == {command[:3] for command in seen}


def test_the_manifests_container_shows_every_process_and_survives_containerd(ship_lab):
    with Ship(ship_lab) as exporter:
        until(lambda: shows_everything(exporter, ship_lab), 10, "every process is shown")
        assert kernel.counts(ship_lab)[OWN] == 1
        status = dict(
            line.split(":\t", 1) for line in read_proc(exporter.pid(), "status").decode().splitlines()
        )
        assert int(status["CapEff"], 16) == 1 << 19, "CAP_SYS_PTRACE and nothing else"
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert errors_without_gone(exporter.metrics()) == {}
        old = exporter.pid()

        # A pod starts and ends while the exporter runs. The exporter's mounts must not keep the file system
        # of the pod busy.
        pod = ship_lab.run_pod("batch", "job-1", [Container("worker", ["sleep", FOREVER])])
        until(lambda: shows_everything(exporter, ship_lab), 10, "the new pod is shown")
        assert pod.id.encode() in read_proc(old, "mountinfo"), "the node's mounts reach the exporter"
        ship_lab.remove_pod(pod)
        assert pod.id.encode() not in read_proc(old, "mountinfo"), (
            "the exporter keeps no mount of a removed pod"
        )
        until(lambda: shows_everything(exporter, ship_lab), 10, "the removed pod is gone")

        # While containerd is down, the exporter still exports the containers that it has listed before.
        pod = ship_lab.run_pod("batch", "job-2", [Container("worker", ["sleep", FOREVER])])
        until(lambda: shows_everything(exporter, ship_lab), 10, "the new pod is shown")
        ship_lab.kill()
        [worker] = kernel.processes(ship_lab)["batch", "job-2", "worker", "sleep"]
        os.kill(worker, signal.SIGKILL)  # when a process has ended, the exporter lists containers
        down = until(
            lambda: exporter.metrics().value("smaps_exporter_containerd_up") == 0 and exporter.after(),
            90,
            "containerd is reported as down",
        )
        assert down.by("process_smaps_processes", *COMMAND) == kernel.counts(ship_lab)
        # After its restart, containerd has a new socket file, to which the exporter must connect.
        ship_lab.start()
        until(
            lambda: exporter.metrics().value("smaps_exporter_containerd_up") == 1,
            90,
            "containerd is up again",
        )
        ship_lab.remove_pod(pod)
        pod = ship_lab.run_pod("batch", "job-3", [Container("worker", ["sleep", FOREVER])])
        until(lambda: shows_everything(exporter, ship_lab), 10, "a pod of the new containerd is shown")
        ship_lab.remove_pod(pod)
        assert exporter.pid() == old


@pytest.mark.parametrize("pid", [CONTAINER, POD], ids=["own PID namespace", "shared PID namespace"])
def test_the_sidecar_shows_only_its_own_pod(ship_lab, pid):
    address = f"127.0.0.1:{free_port()}"
    place = ("shop", "payment-0")
    sidecar = readme.exporter_container(ship_lab, address, sidecar_of=place)
    pod = ship_lab.run_pod(
        *place, [Container("app", ["sleep", FOREVER], security=UNPRIVILEGED), sidecar], pid
    )
    try:
        exporter = Client(address)
        expected = {(*place, "app", "sleep"): 1, (*place, sidecar.name, OWN[-1]): 1}

        def processes():
            families = exporter.metrics() if is_ready(exporter) else {}
            return families and families.by("process_smaps_processes", *COMMAND)

        until(lambda: processes() == expected, 20, "the pod's processes are shown")
        ship_lab.exec(pod["app"], ["tail", "-f", "/dev/null"])
        expected[*place, "app", "tail"] = 1
        until(lambda: processes() == expected, 20, "the exec'd process is shown")
        assert exporter.metrics().by("process_smaps_rss_bytes", "pid"), (
            "samples have the label that --pid adds"
        )
        accounts = exporter.metrics().by("cgroup_memory_current_bytes", *COMMAND[:3])
        assert accounts.keys() == {command[:3] for command in expected}
    finally:
        ship_lab.remove_pod(pod)


def test_perfmon_suffices_from_the_documented_kernel_on(ship_lab):
    """Since Linux 6.15, CAP_PERFMON is enough to read processes.

    On older kernels, the exporter can read only its own process.
    """
    with Ship(ship_lab, ["PERFMON"]) as exporter:
        status = dict(
            line.split(":\t", 1) for line in read_proc(exporter.pid(), "status").decode().splitlines()
        )
        assert int(status["CapEff"], 16) == 1 << 38, "CAP_PERFMON and nothing else"
        if KERNEL >= (6, 15):
            until(lambda: shows_everything(exporter, ship_lab), 10, "every process is shown")
            assert errors_without_gone(exporter.metrics()) == {}
        else:
            errors = exporter.after()["smaps_exporter_read_errors_total"].samples
            assert errors[(("reason", "denied"),)] > 0
            assert "CAP_SYS_PTRACE" in exporter.log()


@pytest.mark.parametrize("group_by", ["path", "kind"])
def test_queries_for_growth_find_the_growing_container(ship_lab, tmp_path, group_by):
    [growth] = [query for _, query in readme.queries() if "deriv(process" in query]
    [leak] = [rule["expr"].strip() for rule in readme.rules() if rule["alert"] == "MemoryLeak"]
    # The alert MemoryLeak fires for processes that are an hour old and grow by more than 1 GB a day. The test
    # cannot wait for an hour, so it removes the offset and the threshold from the expression.
    any_growth = re.sub(r"\s+offset 55m", "", leak.removesuffix(" * 86400 > 1e9"))
    assert len(leak) - len(any_growth) > len("offset 55m * 86400 > 1e9")
    with (
        Ship(ship_lab, arguments=(f"--group-by={group_by}",)) as exporter,
        Prometheus(tmp_path, exporter.address) as prometheus,
    ):
        until(lambda: prometheus.query("process_smaps_rss_bytes"), 60, "Prometheus has scraped it")
        [up] = prometheus.query("up")
        assert up["value"][1] == "1"
        pods = prometheus.query("count by (namespace, pod, container) (process_smaps_rss_bytes)")
        shown = {tuple(series["metric"][label] for label in COMMAND[:3]) for series in pods}
        assert shown == {command[:3] for command in kernel.counts(ship_lab)}
        for query in (growth, f"{any_growth} > 0"):
            until(
                lambda: "leak" in {series["metric"]["container"] for series in prometheus.query(query)},
                60,
                f"the growing container is in the answer to {query}",
            )


def promtool(*arguments: str | Path, **options):
    done = subprocess.run(
        [BOOKWORM / "usr/bin/promtool", *arguments], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_scrape_configuration(tmp_path):
    configuration = {"scrape_configs": readme.scrape_jobs()}
    for job in configuration["scrape_configs"]:
        assert job["honor_labels"]
        # Debian's Prometheus is built without support for Kubernetes.
        assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    promtool("check", "config", "--syntax-only", "prometheus.yml", cwd=tmp_path)


def test_sizes_and_times(built, ship_lab, capsys):
    """Prints sizes and times. Times and resident memory are meaningful only if this test runs alone."""
    binary, archive = built
    assert binary.stat().st_size <= 3 * MIB, "expected a binary of at most 3 MiB"

    def first_metrics_seconds() -> float:
        address = f"127.0.0.1:{free_port()}"
        arguments = ["--addr", address, "--containerd-sock", ship_lab.socket, "--filter", "*/*/*/*"]
        began = time.monotonic()
        process = subprocess.Popen([binary, *arguments], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while True:
                assert time.monotonic() - began < 30, "no samples in 30 s"
                try:
                    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
                        if b"\nprocess_smaps_rss_bytes{" in response.read():
                            return time.monotonic() - began
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.001)
        finally:
            process.kill()
            process.wait()

    starts = [first_metrics_seconds() for _ in range(5)]
    idle = Idle(binary, ship_lab)
    with idle, Ship(ship_lab) as exporter:
        until(lambda: shows_everything(exporter, ship_lab), 10, "every process is shown")
        for client in (idle, exporter):
            client.after()
        exposition = exporter.get("/metrics")[1]
        figures = {
            "containerd": ship_lab.version,
            "binary": f"{binary.stat().st_size / MIB:.2f} MiB",
            "image archive": f"{archive.stat().st_size / MIB:.2f} MiB",
            "resident, idle": f"{rss_bytes(idle.process.pid) / MIB:.2f} MiB",
            "resident, on this node": f"{rss_bytes(exporter.pid()) / MIB:.2f} MiB"
            f" with {len(exposition) / MIB:.2f} MiB of metrics",
            "from exec to metrics with data": f"{min(starts) * 1000:.0f} ms at best,"
            f" median {statistics.median(starts) * 1000:.0f} ms",
        }
    with capsys.disabled():
        print("\n" + "".join(f"  {name:<32}{figure}\n" for name, figure in figures.items()), end="")


class Idle(Client):
    """An exporter that runs the static binary with a filter that matches no container."""

    def __init__(self, binary: Path, lab: Lab):
        super().__init__(f"127.0.0.1:{free_port()}")
        arguments = ["--addr", self.address, "--containerd-sock", lab.socket, "--filter", "none/*/*/*"]
        self.process = subprocess.Popen(
            [binary, *arguments], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def __enter__(self):
        until(lambda: is_ready(self), 20, "the idle exporter is ready")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
