"""Tests that skipping unchanged processes changes no value: samples always equal a direct read of smaps.

There are four pairs of programs that change their memory at random, one step at a time. The programs pause
while the test compares samples. The two programs of a pair share memory. For some time, one program of the
pair is active and the other is idle. The exporter must notice if the memory of the idle program changes.

EXACTNESS_STEPS sets the number of steps, and EXACTNESS_SEED the seed. The default is 300 steps, always with
the same seed. `make night` takes 3,000 steps, each time with a new seed.
"""

import os
import random
import time
from collections import Counter, defaultdict
from pathlib import Path

from kernel import SUMMED, sum_by_path
from lab import until

STEPS = int(os.environ.get("EXACTNESS_STEPS", 300))
N_PAIRS = 4
SEED = int(os.environ.get("EXACTNESS_SEED", 13))
ROUNDED = {"pss", "pss_dirty", "swap_pss", "locked"}


def rollups(pids: list[int]) -> list[str]:
    return [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]


def exported(exposition) -> dict:
    values = defaultdict(dict)
    for field in SUMMED.values():
        name = f"process_smaps_{field}_bytes"
        for labels, value in exposition[name].samples.items() if name in exposition else ():
            labels = dict(labels)
            values[labels["pid"], labels["comm"], labels["path"]][field] = value
    return values


def reads(exposition, kind: str) -> float:
    return exposition.by("smaps_exporter_reads_total", "kind")[(kind,)]


def read_after(exporter, moment: float):
    """Returns an exposition in which all values were read after the time `moment`."""

    def fresh():
        exposition = exporter.metrics()
        ended = exposition.value("smaps_exporter_last_scrape_timestamp_seconds")
        return exposition if ended - exposition.value("smaps_exporter_oldest_data_seconds") > moment else None

    return until(fresh, 30, "everything is read again")


def compare(expected: dict, counts: Counter, found: dict) -> tuple[list, int]:
    """Returns the values that differ, and the number of values that differ only because the kernel rounds."""
    wrong, n_rounded = [], 0
    for key in expected.keys() | found.keys():
        expected_fields, found_fields = expected.get(key, {}), found.get(key, {})
        for field in expected_fields.keys() | found_fields.keys():
            a, b = expected_fields.get(field), found_fields.get(field)
            if a != b and field in ROUNDED and None not in (a, b) and abs(a - b) <= 1024 * counts[key]:
                n_rounded += 1
            elif a != b:
                wrong.append((key, field, a, b))
    return wrong, n_rounded


class Pair:
    """Two programs that map the same files and can change each other's memory."""

    def __init__(self, cgroup, program, directory):
        directory.mkdir()
        self.shapes = [cgroup.run_ready(program, directory, stdin=-1, bufsize=0) for _ in range(2)]
        for shape, partner in zip(self.shapes, reversed(self.shapes), strict=True):
            shape.stdin.write(b"%d\n" % partner.pid)

    def step(self, chance) -> tuple:
        """Makes one of the programs do a random operation.

        Returns the pid of the program, the name of the operation, and, only if the kernel refused the
        operation, the word "refused".
        """
        if chance.random() < 0.1:
            self.shapes.reverse()
        shape = self.shapes[0]
        shape.stdin.write(b"%d\n" % chance.randrange(1 << 31))
        answer = shape.stdout.readline().decode().split()
        assert answer, f"process {shape.pid} has ended"
        return (shape.pid, *answer)


def test_skipped_reads_change_no_value(any_node, programs, tmp_path):
    print(f"seed {SEED}, {STEPS} steps")
    chance = random.Random(SEED)
    pairs = [Pair(any_node.cgroup, programs / "shapeshifter", tmp_path / str(i)) for i in range(N_PAIRS)]
    done, refused, roundings, n_counted, wrong = Counter(), Counter(), 0, 0, []
    with any_node.exporter("--pid", "--scrape-interval", "100ms", "--cpu-budget", "0") as exporter:
        first = exporter.metrics()
        for i in range(0, STEPS, N_PAIRS):
            steps = [pair.step(chance) for pair in pairs]
            for _, name, *is_refused in steps:
                (refused if is_refused else done)[name] += 1
            # The comparison is repeated, because other processes may map the same files for a moment. The
            # programs are paused meanwhile, so a value that is wrong stays wrong in each comparison.
            for _ in range(10):
                moment = time.time()
                pids = any_node.cgroup.pids()
                before = rollups(pids)
                expected, counts = sum_by_path(pids)
                last = read_after(exporter, moment)
                is_still = rollups(pids) == before and not compare(expected, counts, sum_by_path(pids)[0])[0]
                differences, n_rounded = compare(expected, counts, exported(last))
                if is_still and not differences:
                    break
            n_counted += N_PAIRS * is_still
            roundings += n_rounded
            wrong += [(i, steps, *difference) for difference in differences if is_still]
    unchanged, smaps = (reads(last, kind) - reads(first, kind) for kind in ("unchanged", "smaps"))
    print(f"{n_counted} steps counted, {len(wrong)} disagreements, {roundings} roundings")
    print(
        f"{unchanged:.0f} reads unchanged, {smaps:.0f} of smaps; done {dict(done)}; refused {dict(refused)}"
    )
    assert not wrong, wrong[:10]
    assert n_counted > 0.9 * STEPS
    assert unchanged > 0.2 * (unchanged + smaps), "hardly any read was skipped by the change check"
    assert len(done) > 12, "hardly any kind of operation succeeded"
    if STEPS >= 1000:
        kinds = set(
            "mmap munmap mremap mprotect mlock munlock write read dontneed free pageout fork exit".split()
        )
        kinds |= set("map-shared map-own rename-file delete-file rename-self".split())
        kinds |= {"process-madvise", "process-vm-writev"}
        assert kinds <= done.keys(), kinds - done.keys()
