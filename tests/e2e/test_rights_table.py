"""Tests each row of the table of rights in src/kubernetes/README.md.

If the exporter has only the rights of one row, it can read all containers. An attacker's code in its process
can then do what this row says.
"""

import os
import re
from pathlib import Path

import pytest

import kernel
import readme
from conftest import WEB
from exporter import EVERYTHING, Exporter
from kernel import COMMAND
from lab import Lab, cri, until
from sandbox import AT_FDCWD, EACCES, EPERM, KERNEL, NUMBERS, O_RDONLY, O_WRONLY, injector

TABLE = readme.KUBERNETES_PAGE.read_text().partition("<!-- rights -->")[2].partition("<!-- end -->")[0]
LINES = [re.sub(r"[*`]", "", line) for line in TABLE.splitlines() if line.startswith("|") and "`" in line]
# Each row has four columns. They say where the exporter finds containers, which capability it has, which
# Linux version this capability needs, and what an attacker can do.
ROWS = [line.strip("| ").split(" | ") for line in LINES]
AF_UNIX, SOCK_STREAM = 1, 1


def make_links(lab: Lab, directory: Path):
    """Makes links like the kubelet's, one for each container."""
    directory.mkdir()
    pods = {
        sandbox.id: sandbox.metadata for sandbox in lab.cri.ListPodSandbox(cri.ListPodSandboxRequest()).items
    }
    for container in lab.cri.ListContainers(cri.ListContainersRequest()).containers:
        pod = pods[container.pod_sandbox_id]
        link = f"{pod.name}_{pod.namespace}_{container.metadata.name}-{container.id}.log"
        (directory / link).symlink_to("/dev/null")


@pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="the injector's calls for arm64 are in tests/nodes/guest"
)
@pytest.mark.parametrize(
    ("source", "capability", "linux", "can"), ROWS, ids=[f"{row[0]}, {row[1]}" for row in ROWS]
)
def test_an_attacker_can_do_what_the_row_says(node, programs, tmp_path, source, capability, linux, can):
    if linux != "any" and KERNEL < (6, 15):
        pytest.skip("CAP_PERFMON reads smaps from Linux 6.15 on")
    assert source in ("the socket", "links") and len(ROWS) == 4
    links, file = tmp_path / "links", tmp_path / "file"
    make_links(node, links)
    file.write_text("text")
    option = ("--containerd-sock", node.socket) if source == "the socket" else ("--container-logs", links)
    only = f"-all,+{capability.lower()}"
    with Exporter(
        *option, *EVERYTHING, prefix=("setpriv", f"--inh-caps={only}", f"--bounding-set={only}")
    ) as exporter:
        until(
            lambda: exporter.after().by("process_smaps_processes", *COMMAND) == kernel.counts(node),
            20,
            "every process of every container is shown",
        )
        [victim, *_] = kernel.processes(node)["batch", WEB, "app", "sleep"]
        tasks = Path(f"/proc/{exporter.process.pid}/task").iterdir()
        threads = {(task / "comm").read_text(): int(task.name) for task in tasks}
        inject = injector(programs / "inject")

        def call(name: str, *arguments: int | str) -> int:
            return inject(threads["scrape\n"], NUMBERS[name], *arguments)

        for path in (f"/proc/{victim}/mem", f"/proc/{victim}/root/etc/passwd"):
            opened = call("openat", AT_FDCWD, path, O_RDONLY)
            assert opened >= 0 if "all memory and files" in can else opened == EACCES, path
            assert call("openat", AT_FDCWD, path, O_WRONLY) == EPERM, path
        connection = call("socket", AF_UNIX, SOCK_STREAM, 0)
        assert connection >= 0 if "be root" in can else connection == EPERM
        assert call("openat", AT_FDCWD, str(file), O_WRONLY) == EPERM
