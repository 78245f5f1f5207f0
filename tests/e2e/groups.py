"""Which end-to-end tests run together, and which alone: one table, and what runs it.

usage: groups.py [GROUP|waiting|alone]...    all groups by default

A waiting group's tests mostly wait, so that up to three of these groups run at once, each with a containerd of its own.
The others run when nothing else does:

- tests that measure CPU, latency or memory;
- tests that compare PSS, shared or private bytes with the kernel's: another process that maps a page changes them;
- tests that make stuck processes: whatever reads /proc/<pid>/cmdline of one waits, such as ps, and the lab itself;
- tests with OOM kills: the kernel counts them for the whole machine.
"""

import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as xml
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import NamedTuple

AT_ONCE = 3
HERE = Path(__file__).resolve().parent
# Logs and results.
OUT = HERE.parents[1] / "target/e2e"


class Group(NamedTuple):
    is_waiting: bool
    # modules, and functions of modules: a function's own entry goes before its module's
    tests: tuple[str, ...]


GROUPS = {
    "containerd": Group(True, ("test_containerd_failures", "test_containerd_sick")),
    "prometheus": Group(
        True, ("test_fleet", "test_prometheus::test_one_job_by_kind_and_another_by_path", "test_proxy", "test_ship")
    ),
    "pods": Group(
        True,
        (
            "test_attribution",
            "test_causes",
            "test_cgroups",
            "test_demand::test_a_container_that_started_between_scrapes_is_in_the_next",
            "test_door::test_a_page_that_points_its_name_at_loopback_reads_nothing",
            "test_door::test_a_proxy_with_a_prefix",
            "test_door::test_more_clients_than_places_get_an_orderly_answer",
            "test_door::test_the_machines_own_address_counts_as_this_machine",
            "test_groups",
            "test_hostile_http::test_ten_thousand_requests",
            "test_hostile_processes",
            "test_image",
            "test_manifest",
            "test_prometheus::test_promtool_has_nothing_to_say",
            "test_rights_table",
            "test_sandbox",
            "test_sources",
        ),
    ),
    "exact": Group(
        False,
        (
            "test_anonymous",
            "test_exactness",
            "test_kernel",
            "test_prometheus",
            "test_recording",
            "test_sources::test_a_recording_without_init_processes_replays",
            "test_sources::test_the_same_exposition_by_every_source",
        ),
    ),
    "measured": Group(
        False,
        (
            "test_adversary",
            "test_containerd_failures::test_listing_stays_within_the_documented_memory",
            "test_containerd_stop",
            "test_demand",
            "test_door",
            "test_end",
            "test_growing",
            "test_hostile_http",
            "test_hostile_processes::test_5000_processes",
            "test_hostile_processes::test_a_process_of_65000_mappings",
            "test_hostile_processes::test_as_pid_1_it_leaves_within_a_second",
            "test_hostile_processes::test_churn",
            "test_hostile_processes::test_newcomers_do_not_starve_the_rest",
            "test_large_answers",
            "test_ooms::test_version_1_counts_kills_of_full_containers_within_the_budget",
            "test_ship::test_sizes_and_times",
            "test_slow",
        ),
    ),
    "stuck": Group(False, ("test_stuck",)),
    "ooms": Group(False, ("test_ooms",)),
}


def group_of(module: str, function: str) -> str:
    """The only group of a test, by its module's name and its function's."""
    for entry in (f"{module}::{function}", module):
        found = [name for name, group in GROUPS.items() if entry in group.tests]
        if found:
            assert len(found) == 1, f"groups.py has {entry} in several groups: {', '.join(found)}"
            return found[0]
    raise AssertionError(f"groups.py has no group for {module}::{function}")


def stale(tests: set[tuple[str, str]]) -> list[str]:
    """The entries that none of these tests has, each a module's and a function's name."""
    known = {module for module, _ in tests} | {f"{module}::{function}" for module, function in tests}
    return [entry for group in GROUPS.values() for entry in group.tests if entry not in known]


class Run:
    """The groups as they run: pytest processes, and what came of them."""

    def __init__(self):
        self.began = time.monotonic()
        self.running: set[subprocess.Popen] = set()
        self.failed: list[str] = []
        self.n_passed = 0
        self._printing = Lock()

    def group(self, name: str):
        began = time.monotonic()
        log, results = OUT / f"{name}.log", OUT / f"{name}.xml"
        results.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", HERE, "--group", name, f"--junitxml={results}"]
        with log.open("w") as file:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
            self.running.add(process)
            process.wait()
            self.running.discard(process)
        with self._printing:
            self._report(name, process.returncode, results, log.read_text(), time.monotonic() - began)

    def _report(self, name: str, code: int, results: Path, log: str, seconds: float):
        """Print each test's time and the failures."""
        tests = list(xml.parse(results).getroot().iter("testcase")) if results.exists() else []
        passed = [test for test in tests if not [child for child in test if child.tag in ("failure", "error", "skipped")]]
        self.n_passed += len(passed)
        if code != 0:
            self.failed.append(name)
            print(log)
        for test in sorted(tests, key=lambda test: -float(test.get("time"))):
            print(f"  {float(test.get('time')):6.1f} s  {test.get('classname').rpartition('.')[2]}::{test.get('name')}")
        words = re.sub(r"=+", "", log.strip().rpartition("\n")[2]).strip()
        print(f"e2e: {name}: {words}; {seconds:.0f} s with its containerd", flush=True)

    def all(self, names: list[str]) -> int:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self.group, [name for name in names if GROUPS[name].is_waiting]))
        for name in names:
            if not GROUPS[name].is_waiting:
                self.group(name)
        print(f"e2e: {self.n_passed} passed in {time.monotonic() - self.began:.0f} s; logs below {OUT}")
        if self.failed:
            print(f"e2e: failed: {', '.join(self.failed)}", file=sys.stderr)
        return 1 if self.failed else 0

    def end(self, *_):
        """A signal is passed on; each group takes its lab down and ends."""
        for process in list(self.running):
            process.send_signal(signal.SIGINT)
        raise SystemExit(130)


def names_of(words: list[str]) -> list[str] | None:
    """The groups that these words name, or none if they do not name groups."""
    kind_of = {name: "waiting" if group.is_waiting else "alone" for name, group in GROUPS.items()}
    if not set(words) <= {*GROUPS, *kind_of.values()}:
        return None
    return [name for name, kind in kind_of.items() if not words or name in words or kind in words]


def main(words: list[str]) -> int:
    names = names_of(words)
    if names is None:  # they are pytest's
        return subprocess.run([sys.executable, "-m", "pytest", *words]).returncode
    OUT.mkdir(parents=True, exist_ok=True)
    run = Run()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, run.end)
    return run.all(names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
