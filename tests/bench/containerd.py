"""Measures how much CPU containerd and its shims use if the exporter is scraped once a second, with 50 pods.

The script compares this with their CPU use without requests, and with one call of Tasks.List per second. It
also measures the CPU time and the duration of one listing by Tasks.List and by CRI. `SECONDS=0` measures only
these listings.
"""

import os
import statistics
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

import exporter  # noqa: E402
from lab import Container, Lab, cri, pids, cmdline  # noqa: E402

N_PODS = 50
N_ROUNDS = int(os.environ.get("ROUNDS", "1"))
SECONDS = int(os.environ.get("SECONDS", "60"))
N_LISTINGS = 300


def cpu_seconds(lab: Lab) -> float:
    """Returns the CPU seconds that all threads of containerd and its shims have used so far.

    Threads do not end when they become idle, so their CPU time stays in the sum.
    """
    socket = str(lab.socket)
    ours = [
        pid
        for pid in pids()
        if socket in (line := cmdline(pid))
        and "shim" in line
        or str(lab.directory / "containerd.toml") in line
    ]
    assert len(ours) == N_PODS + 1, f"{len(ours)} processes, expected containerd and one shim per pod"
    threads = (thread for pid in ours for thread in Path(f"/proc/{pid}/task").iterdir())
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def cpu_over_a_minute(lab: Lab, each_second=lambda: None) -> float:
    """Calls a function once a second for a minute.

    Returns the CPU seconds that containerd and its shims used in this minute.
    """
    before, started_at = cpu_seconds(lab), time.monotonic()
    for second in range(SECONDS):
        time.sleep(max(0.0, started_at + second - time.monotonic()))
        each_second()
    time.sleep(max(0.0, started_at + SECONDS - time.monotonic()))
    return cpu_seconds(lab) - before


def cost_of_listing(lab: Lab, request) -> tuple[float, float]:
    """Returns the average CPU time and the average duration of one listing, both in milliseconds."""
    request()
    cpu, started_at = cpu_seconds(lab), time.monotonic()
    for _ in range(N_LISTINGS):
        request()
    took = time.monotonic() - started_at
    busy = cpu_seconds(lab) - cpu
    time.sleep(took)
    idle = cpu_seconds(lab) - cpu - busy
    return (busy - idle) / N_LISTINGS * 1000, took / N_LISTINGS * 1000


def compare_listings(lab: Lab, tasks_list):
    def by_cri():
        assert len(lab.cri.ListPodSandbox(cri.ListPodSandboxRequest()).items) == N_PODS
        assert len(lab.cri.ListContainers(cri.ListContainersRequest()).containers) == N_PODS

    ways = {
        "Tasks.List": lambda: tasks_list(b"", metadata=[("containerd-namespace", "k8s.io")]),
        "ListPodSandbox and ListContainers": by_cri,
    }
    results = {way: [cost_of_listing(lab, request) for _ in range(3)] for way, request in ways.items()}
    print(f"\none listing of {N_PODS} pods, averaged over {N_LISTINGS}, three times")
    print(f"{'':72}{'minimum':>12}{'median':>12}")
    for way, values in results.items():
        row(f"CPU of containerd and its shims, {way}", [cpu for cpu, _ in values], "ms")
        row(f"duration, {way}", [took for _, took in values], "ms")


def row(what: str, values: list[float], unit: str, target: str = ""):
    print(f"  {what:70}{min(values):12.3f}{statistics.median(values):12.3f}  {target:12}{unit}".rstrip())


def main():
    with Lab() as lab:
        for i in range(N_PODS):
            lab.run_pod("bench", f"pod-{i}", [Container("app", ["/bin/sleep", "100000"])])
        tasks_list = lab._channel.unary_unary("/containerd.services.tasks.v1.Tasks/List")
        compare_listings(lab, tasks_list)
        if SECONDS == 0:
            return
        arguments = ["--containerd-sock", lab.socket, "--filter", "bench/*/*/*", "--scrape-interval", "1s"]
        alone, listed, scraped = [], [], []
        for _ in range(N_ROUNDS):
            alone.append(cpu_over_a_minute(lab))
            listed.append(
                cpu_over_a_minute(lab, lambda: tasks_list(b"", metadata=[("containerd-namespace", "k8s.io")]))
            )
            with redirect_stdout(sys.stderr), exporter.Exporter(*arguments) as running:
                time.sleep(5)  # then the requests of the start are over
                scraped.append(cpu_over_a_minute(lab))
                n_seen = running.metrics().value("smaps_exporter_containers")
                assert n_seen == N_PODS, f"the exporter sees {n_seen} containers"
        print(f"\ncontainerd and its shims over a minute, {N_PODS} pods")
        print(f"{'':72}{'minimum':>12}{'median':>12}  target")
        row("CPU, no requests", alone, "s")
        row("CPU, one Tasks.List per second", listed, "s")
        row("CPU, exporter with an interval of 1 s", scraped, "s")
        ratios = [(ours - idle) / (theirs - idle) for ours, theirs, idle in zip(scraped, listed, alone)]
        row("added CPU, relative to one Tasks.List per second", ratios, "times", "<= 0.02")


if __name__ == "__main__":
    main()
