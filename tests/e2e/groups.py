"""Runs the end-to-end tests in groups. A table says which groups run at the same time, and which run alone.

usage: groups.py [GROUP|waiting|alone]...    all groups by default

Tests of a waiting group wait most of the time. So up to three waiting groups run at once, each with a
containerd of its own. The other groups run alone. They have:

- tests that measure CPU, latency or memory;
- tests that compare PSS, shared or private bytes with the kernel's, because other processes change these;
- tests that make stuck processes, because every program that reads the cmdline of a stuck process blocks, for
  example ps or the lab;
- tests with OOM kills, because the kernel counts the kills of the whole machine.
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
# The directory for logs and results.
OUT = HERE.parents[1] / "target/e2e"


class Group(NamedTuple):
    is_waiting: bool
    # Names of modules and of single functions. If one group lists a function and another group lists the
    # module of the function, the function belongs to the group that lists the function.
    tests: tuple[str, ...]


GROUPS = {
    "containerd": Group(True, ("test_containerd_failures", "test_containerd_outages")),
    "prometheus": Group(
        True,
        (
            "test_alerts",
            "test_fleet",
            "test_prometheus::test_jobs_by_kind_and_by_path_share_an_exporter",
            "test_queries",
            "test_ship",
        ),
    ),
    "pods": Group(
        True,
        (
            "test_attribution",
            "test_cgroups",
            "test_diagnostics",
            "test_groups",
            "test_hostile_http::test_ten_thousand_responses_are_complete_and_consistent",
            "test_hostile_processes",
            "test_image",
            "test_manifest",
            "test_prometheus::test_promtool_finds_no_problems",
            "test_rights_table",
            "test_sandbox",
            "test_sources",
        ),
    ),
    "requests": Group(
        True,
        (
            "test_demand::test_container_started_between_scrapes_is_in_the_next_scrape",
            "test_demand::test_each_request_of_prometheus_gets_fresh_data",
            "test_demand::test_regular_requests_cause_no_scrape_ahead_of_time",
            "test_http_clients::test_clients_above_the_connection_limit_get_status_503",
            "test_http_clients::test_foreign_host_headers_are_refused_on_loopback",
            "test_http_clients::test_own_address_of_the_machine_counts_as_local",
            "test_http_clients::test_redirect_works_behind_a_proxy_with_a_path_prefix",
            "test_proxy",
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
            "test_sources::test_all_sources_give_the_same_exposition",
            "test_sources::test_recording_without_init_processes_replays",
        ),
    ),
    "measured": Group(
        False,
        (
            "test_adversary",
            "test_containerd_failures::test_listing_stays_within_the_documented_memory",
            "test_containerd_stop",
            "test_demand",
            "test_growing",
            "test_hostile_http",
            "test_hostile_processes::test_65000_mappings_use_no_more_memory",
            "test_hostile_processes::test_memory_with_5000_processes_is_bounded",
            "test_hostile_processes::test_new_processes_do_not_starve_old_ones",
            "test_hostile_processes::test_short_lived_processes_are_reported_correctly",
            "test_hostile_processes::test_sigterm_ends_pid_1_within_a_second",
            "test_http_clients",
            "test_large_responses",
            "test_manifest::test_make_prints_what_the_program_prints",  # waits for other builds' lock
            "test_ooms::test_version_1_counts_kills_of_full_containers_within_the_budget",
            "test_shutdown",
            "test_slow_reads",
        ),
    ),
    "stuck": Group(False, ("test_stuck",)),
    "ooms": Group(False, ("test_ledger", "test_ooms")),
}


def group_of(module: str, function: str) -> str:
    """Returns the group of a test. Fails if the test is in no group or in several groups."""
    for entry in (f"{module}::{function}", module):
        found = [name for name, group in GROUPS.items() if entry in group.tests]
        if found:
            assert len(found) == 1, f"groups.py has {entry} in several groups: {', '.join(found)}"
            return found[0]
    raise AssertionError(f"groups.py has no group for {module}::{function}")


def stale(tests: set[tuple[str, str]]) -> list[str]:
    """Returns the entries of `GROUPS` that match no test.

    `tests` has a (module, function) pair for each test.
    """
    known = {module for module, _ in tests} | {f"{module}::{function}" for module, function in tests}
    return [entry for group in GROUPS.values() for entry in group.tests if entry not in known]


class Run:
    """A run of several groups, with their pytest processes and their results."""

    def __init__(self):
        self.started_at = time.monotonic()
        self.running: set[subprocess.Popen] = set()
        self.failed: list[str] = []
        self.n_passed = 0
        self._printing = Lock()

    def run_group(self, name: str):
        started_at = time.monotonic()
        log, results = OUT / f"{name}.log", OUT / f"{name}.xml"
        results.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "-q", HERE, "--group", name, f"--junitxml={results}"]
        with log.open("w") as file:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
            self.running.add(process)
            process.wait()
            self.running.discard(process)
        with self._printing:
            self._report(name, process.returncode, results, log.read_text(), time.monotonic() - started_at)

    def _report(self, name: str, code: int, results: Path, log: str, seconds: float):
        """Prints how long each test took, and the failures."""
        tests = list(xml.parse(results).getroot().iter("testcase")) if results.exists() else []
        passed = [
            test
            for test in tests
            if not [child for child in test if child.tag in ("failure", "error", "skipped")]
        ]
        self.n_passed += len(passed)
        if code != 0:
            self.failed.append(name)
            print(log)
        for test in sorted(tests, key=lambda test: -float(test.get("time"))):
            module = test.get("classname").rpartition(".")[2]
            print(f"  {float(test.get('time')):6.1f} s  {module}::{test.get('name')}")
        summary = re.sub(r"=+", "", log.strip().rpartition("\n")[2]).strip()
        print(f"e2e: {name}: {summary}; {seconds:.0f} s with its containerd", flush=True)

    def run_groups(self, names: list[str]) -> int:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self.run_group, [name for name in names if GROUPS[name].is_waiting]))
        for name in names:
            if not GROUPS[name].is_waiting:
                self.run_group(name)
        print(f"e2e: {self.n_passed} passed in {time.monotonic() - self.started_at:.0f} s; logs are in {OUT}")
        if self.failed:
            print(f"e2e: failed: {', '.join(self.failed)}", file=sys.stderr)
        return 1 if self.failed else 0

    def interrupt(self, *_):
        """Passes a signal on to each group. Each group then removes its lab and exits."""
        for process in list(self.running):
            process.send_signal(signal.SIGINT)
        raise SystemExit(130)


def names_of(words: list[str]) -> list[str] | None:
    """Returns the names of the groups that the words select.

    A word is the name of a group, or one of the kinds of groups, "waiting" and "alone" (see the top of this
    file). Returns None if there is any other word.
    """
    kind_of = {name: "waiting" if group.is_waiting else "alone" for name, group in GROUPS.items()}
    if not set(words) <= {*GROUPS, *kind_of.values()}:
        return None
    return [name for name, kind in kind_of.items() if not words or name in words or kind in words]


def main(words: list[str]) -> int:
    names = names_of(words)
    if names is None:  # then the words are arguments for pytest
        return subprocess.run([sys.executable, "-m", "pytest", *words]).returncode
    OUT.mkdir(parents=True, exist_ok=True)
    run = Run()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, run.interrupt)
    return run.run_groups(names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
