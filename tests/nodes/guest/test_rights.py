"""The image under the manifest, and with other rights: what it sees and what it says."""

import os
import re

import pytest

import kernel
from in_pod import OWN, InPod
from kernel import COMMAND
from lab import read_proc, until
from node import SYSTEMD, settled

pytestmark = pytest.mark.skipif(not SYSTEMD, reason="containers have no AppArmor here, and the exporter no image")
KERNEL = tuple(int(number) for number in os.uname().release.split("-")[0].split("+")[0].split(".")[:2])
# A dozen scrapes take a dozen seconds by default.
OFTEN = ("--scrape-interval=100ms",)
CANNOT = re.compile(r"cannot read (\d+) of (\d+) processes: (.*)")


def seen(exporter: InPod) -> dict[tuple[str, ...], float]:
    exposition = exporter.metrics()
    return exposition.by("process_smaps_processes", *COMMAND) if "process_smaps_processes" in exposition else {}


def denied(exporter: InPod) -> float:
    return exporter.metrics()["smaps_exporter_read_errors_total"].samples[(("reason", "denied"),)]


def test_the_manifests_rights_are_enough(node):
    with InPod(node) as exporter:
        settled(lambda: seen(exporter), lambda: kernel.counts(node))
        status = exporter.status()
        assert int(status["CapEff"], 16) == 1 << 19, "CAP_SYS_PTRACE and nothing else"
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        exporter.after(2)
        assert denied(exporter) == 0
        assert not CANNOT.search(exporter.log())


def sees_some(node, exporter: InPod, visible, cause: str):
    """The exporter shows just the processes that it may read, says once what is missing, and leaves the others alone for longer and longer."""
    expected = {}
    for command, members in kernel.processes(node).items():
        if n := sum(map(visible, members)):
            expected[command] = n
    settled(lambda: seen(exporter), lambda: expected)
    n_all = sum(kernel.counts(node).values())
    n_refused = n_all - sum(expected.values())
    assert n_refused > 0
    line = until(lambda: CANNOT.search(exporter.log()), 15, "the log says what is missing")
    assert (int(line[1]), int(line[2])) == (n_refused, n_all)
    assert re.search(cause, line[3]), line[0]
    exporter.after(12)
    assert len(CANNOT.findall(exporter.log())) == 1, "it is said once"
    assert denied(exporter) <= 6 * n_refused, "refused at the scrapes 1, 2, 4, 8, 16 and no others"


def is_own(node):
    return lambda pid: pid in kernel.processes(node)[OWN]


def test_without_a_capability_it_says_which(node):
    with InPod(node, capabilities=[], arguments=OFTEN) as exporter:
        sees_some(node, exporter, is_own(node), "CAP_SYS_PTRACE")


def test_perfmon_is_enough_from_linux_6_15_on(node):
    with InPod(node, capabilities=["PERFMON"], arguments=OFTEN) as exporter:
        assert int(exporter.status()["CapEff"], 16) == 1 << 38, "CAP_PERFMON and nothing else"
        if KERNEL >= (6, 15):
            settled(lambda: seen(exporter), lambda: kernel.counts(node))
            assert denied(exporter) == 0
        else:
            sees_some(node, exporter, is_own(node), "PERFMON")


def profile_of(node) -> bytes:
    """The profile that the exporter runs under, which is the default one."""
    [own] = kernel.processes(node)[OWN]
    profile = read_proc(own, "attr/current")
    assert profile.startswith(b"cri-containerd.apparmor.d")
    return profile


def test_under_apparmors_default_profile_it_names_apparmor(node):
    with InPod(node, apparmor="RuntimeDefault", arguments=OFTEN) as exporter:
        profile = profile_of(node)
        sees_some(node, exporter, lambda pid: read_proc(pid, "attr/current") == profile, "AppArmor")


@pytest.mark.skipif(KERNEL < (6, 15), reason="the kernel's CAP_PERFMON does not read smaps")
def test_with_perfmon_the_kernel_does_not_ask_apparmor(node):
    with InPod(node, capabilities=["PERFMON"], apparmor="RuntimeDefault") as exporter:
        assert profile_of(node) != read_proc(kernel.processes(node)["kube-system", "agent-0", "agent", "sh"][0], "attr/current")
        settled(lambda: seen(exporter), lambda: kernel.counts(node))
        assert denied(exporter) == 0
