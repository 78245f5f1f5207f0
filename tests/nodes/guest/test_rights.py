"""Tests what the image reads and logs with the rights of the manifest, and with other rights."""

import re

import pytest

import kernel
from in_pod import OWN, InPod
from kernel import COMMAND
from lab import read_proc, until
from node import SYSTEMD, settled
from sandbox import KERNEL

pytestmark = pytest.mark.skipif(not SYSTEMD, reason="there is neither AppArmor nor the exporter's image here")
# With this interval, a dozen scrapes take about a second. With the default interval, they take about a dozen
# seconds.
OFTEN = ("--scrape-interval=100ms",)
CANNOT = re.compile(r"cannot read (\d+) of (\d+) processes: (.*)")


def reported(exporter: InPod) -> dict[tuple[str, ...], float]:
    exposition = exporter.metrics()
    return (
        exposition.by("process_smaps_processes", *COMMAND) if "process_smaps_processes" in exposition else {}
    )


def denied(exporter: InPod) -> float:
    return exporter.metrics()["smaps_exporter_read_errors_total"].samples[(("reason", "denied"),)]


def test_rights_of_the_manifest_suffice(node):
    with InPod(node) as exporter:
        settled(lambda: reported(exporter), lambda: kernel.counts(node))
        status = exporter.status()
        assert int(status["CapEff"], 16) == 1 << 19, "the exporter has only CAP_SYS_PTRACE"
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        exporter.after(2)
        assert denied(exporter) == 0
        assert not CANNOT.search(exporter.log())


def assert_reads_some(node, exporter: InPod, visible, cause: str):
    """Asserts that the `visible` processes are exported, and that one log line says why others are not."""
    expected = {}
    for command, members in kernel.processes(node).items():
        if n := sum(map(visible, members)):
            expected[command] = n
    settled(lambda: reported(exporter), lambda: expected)
    n_all = sum(kernel.counts(node).values())
    n_refused = n_all - sum(expected.values())
    assert n_refused > 0
    line = until(lambda: CANNOT.search(exporter.log()), 15, "the log names the cause")
    assert (int(line[1]), int(line[2])) == (n_refused, n_all)
    assert re.search(cause, line[3]), line[0]
    exporter.after(12)
    assert len(CANNOT.findall(exporter.log())) == 1, "the cause is logged once"
    assert denied(exporter) <= 6 * n_refused, "processes are tried at scrapes 1, 2, 4, 8 and 16 only"


def is_own(node):
    return lambda pid: pid in kernel.processes(node)[OWN]


def test_missing_capability_is_named(node):
    with InPod(node, capabilities=[], arguments=OFTEN) as exporter:
        assert_reads_some(node, exporter, is_own(node), "CAP_SYS_PTRACE")


def test_perfmon_suffices_since_linux_6_15(node):
    with InPod(node, capabilities=["PERFMON"], arguments=OFTEN) as exporter:
        assert int(exporter.status()["CapEff"], 16) == 1 << 38, "the exporter has only CAP_PERFMON"
        if KERNEL >= (6, 15):
            settled(lambda: reported(exporter), lambda: kernel.counts(node))
            assert denied(exporter) == 0
        else:
            assert_reads_some(node, exporter, is_own(node), "PERFMON")


def profile_of(node) -> bytes:
    """Returns the AppArmor profile of the exporter. Asserts that it is the default profile."""
    [own] = kernel.processes(node)[OWN]
    profile = read_proc(own, "attr/current")
    assert profile.startswith(b"cri-containerd.apparmor.d")
    return profile


def test_default_apparmor_profile_is_named_as_the_cause(node):
    with InPod(node, apparmor="RuntimeDefault", arguments=OFTEN) as exporter:
        profile = profile_of(node)
        assert_reads_some(node, exporter, lambda pid: read_proc(pid, "attr/current") == profile, "AppArmor")


@pytest.mark.skipif(KERNEL < (6, 15), reason="CAP_PERFMON reads smaps from Linux 6.15 on")
def test_perfmon_reads_despite_apparmor(node):
    with InPod(node, capabilities=["PERFMON"], apparmor="RuntimeDefault") as exporter:
        assert profile_of(node) != read_proc(
            kernel.processes(node)["kube-system", "agent-0", "agent", "sh"][0], "attr/current"
        )
        settled(lambda: reported(exporter), lambda: kernel.counts(node))
        assert denied(exporter) == 0
