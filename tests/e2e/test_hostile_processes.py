"""Processes that do whatever they can: what is exported stays true, and the exporter stays small and on time.

No containerd: a recording whose proc is a link to /proc, and containers that are cgroups with the test's own processes in them.
"""

import os
import re
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from exporter import BINARY, EVERYTHING, Exporter, once
from exposition import Exposition, comms, errors, errors_of_the_living
from lab import children, kill, until
from live_node import MIB, Node, resident, roots


@pytest.fixture(params=sorted(roots()))
def node(request, tmp_path):
    # Where version 1 accounts memory, a container that is in version 2's hierarchy only is known by its id.
    node = Node(
        tmp_path,
        roots()[request.param],
        uuid.uuid4().hex * 2 if request.param == "v2" and "v1" in roots() else "",
    )
    yield node
    node.cgroup.close()


# exec, exit, fork, vfork and posix_spawn, hundreds a second

CHURN_SECONDS = float(os.environ.get("CHURN_SECONDS", 10))


@contextmanager
def churn(node: Node, programs: Path, directory: Path):
    """Keeps some twenty processes going, none for long; counts their events."""
    homes = [directory / name for name in ("a", "b")]
    for home in homes:
        home.mkdir()
        for i in range(10):
            shutil.copy(programs / "churn", home / f"p-{i}")
            (home / f"p-{i}.map").write_bytes(bytes(64 * 4096))
    events = Counter()
    process = node.cgroup.run("keep", *homes, executable=programs / "churn", stdout=subprocess.PIPE)

    def count():
        while letters := os.read(process.stdout.fileno(), 65536):
            events.update(letters.decode())

    counting = threading.Thread(target=count)
    counting.start()
    try:
        yield events
    finally:
        process.kill()
        process.wait()
        node.cgroup.empty()
        counting.join()


def assert_true(exposition: Exposition, directory: Path):
    """Every process shows the files of one program, its own, and all of its mappings."""
    own = re.compile(re.escape(str(directory)) + r"/([ab])/(p-\d)(\.map)?")
    by_pid = {}
    for labels in exposition["process_smaps_mappings"].samples:
        labels = dict(labels)
        by_pid.setdefault((labels["comm"], labels["pid"]), []).append(labels["path"])
    for (comm, pid), paths in by_pid.items():
        found = [own.fullmatch(path) for path in paths]
        files = {(match[1], match[2]) for match in found if match}
        if not files:
            continue  # the container's init, the one that keeps it going, or a program that has just begun
        assert len(files) == 1, f"process {pid} {comm!r} shows the files of several programs: {sorted(files)}"
        assert {name for _, name in files} == {comm}, f"process {pid} is {comm!r} and shows {sorted(files)}"
        if any(match and match[3] for match in found):
            assert "[stack]" in paths, f"process {pid} {comm!r} was not read to its end: {paths}"


@pytest.mark.parametrize("shape", ["paths", "rollup"])
def test_churn(any_node, programs, tmp_path, shape):
    """No untrue sample, no error but the counted ones, memory flat, nothing in the log."""
    arguments = {
        "paths": ["--pid", "--fields", "size,rss,pss"],
        # the kernel's own sum, which reads two files of one process
        "rollup": ["--fields", "rss,pss", "--group-by", "process"],
    }[shape]
    with any_node.exporter("--scrape-interval", "100ms", "--cpu-budget", "0", *arguments) as exporter:
        with churn(any_node, programs, tmp_path) as events:
            until(lambda: events["x"] > 100, 60, "the churn is under way")
            n_scrapes, most, sizes = 0, 0, []
            begun, seconds = Counter(events), CHURN_SECONDS if shape == "paths" else CHURN_SECONDS / 4
            deadline = time.monotonic() + seconds
            for exposition in exporter.scrapes():
                if shape == "paths":
                    assert_true(exposition, tmp_path)
                n_scrapes += 1
                most = max(most, exposition.value("smaps_exporter_processes"))
                sizes.append(resident(exporter.process.pid))
                if time.monotonic() > deadline:
                    break
            n_events = sum((events - begun).values())
        figures = (
            f"{n_scrapes} scrapes, {dict(events - begun)}, at most {most:.0f} processes, {errors(exposition)}"
        )
        warm = max(sizes[len(sizes) // 4 : len(sizes) // 2])
        print(
            f"{figures}, RSS {warm >> 10} KiB after the warm-up, {max(sizes[len(sizes) // 2 :]) >> 10} KiB at most later"
        )
        assert n_events > 100 * seconds and most >= 10, figures
        assert errors(exposition)["io"] == errors(exposition)["denied"] == 0, figures
        assert errors(exposition)["gone"] + errors(exposition)["exec"] > 0, (
            f"nothing ended under a reader: {figures}"
        )
        # a process that forks is counted twice for as long as the fork lives, so the number of series swings
        assert max(sizes[len(sizes) // 2 :]) < warm + MIB
        assert exporter.news() == []
        assert comms(exporter.after()) == {}, "nothing of the churn is left"


# what there is to read


def test_a_process_whose_first_thread_has_ended(node, programs, tmp_path):
    mapped = tmp_path / "mapped"
    mapped.write_bytes(bytes(4096))
    with node.exporter() as exporter:
        process = node.cgroup.run_ready(programs / "hostile", "leaderless", mapped)
        until(
            lambda: "State:\tZ" in Path(f"/proc/{process.pid}/status").read_text(),
            10,
            "the first thread has ended",
        )
        recording = tmp_path / "recording"
        once("--record", recording, "--fixture", node.directory, *EVERYTHING)
        for exposition in (exporter.after(), first_scrape(node.directory), first_scrape(recording)):
            assert comms(exposition) == {"sleep": 1, "leaderless": 1}
            assert (
                exposition.by("process_smaps_size_bytes", "comm", "path")["leaderless", str(mapped)] == 4096
            )
        process.kill()
        process.wait()
        assert comms(exporter.after()) == {"sleep": 1}


def first_scrape(directory: Path) -> Exposition:
    """One scrape of an exporter that has seen nothing before."""
    return Exposition(once("--once", "--fixture", directory, *EVERYTHING))


def test_zombies_are_not_counted(node, programs):
    with node.exporter() as exporter:
        process = node.cgroup.run_ready(programs / "hostile", "zombie")
        assert comms(exporter.after()) == {"sleep": 1, "zombie": 1}
        process.kill()
        until(lambda: "State:\tZ" in Path(f"/proc/{process.pid}/status").read_text(), 10, "it is a zombie")
        exposition = exporter.after()
        assert comms(exposition) == comms(first_scrape(node.directory)) == {"sleep": 1}
        assert errors_of_the_living(exposition) == {}
        process.wait()


def test_an_init_process_that_is_a_zombie_owns_no_more_than_before(node, programs):
    """Of a process that has ended a version 1 hierarchy says that it is at the root, where everything lies below."""
    with node.exporter() as exporter:
        node.cgroup.run_ready(programs / "hostile", "left-over")
        node.cgroup.init.kill()  # and nobody waits for it
        until(
            lambda: "State:\tZ" in Path(f"/proc/{node.cgroup.init.pid}/status").read_text(),
            10,
            "it is a zombie",
        )
        assert comms(exporter.after()) == {"left-over": 1}
        assert comms(exporter.after(5)) == {"left-over": 1}
    # One that starts now cannot know whose the rest is.
    output = once("--once", "--fixture", node.directory, *EVERYTHING)
    assert "comm=" not in output.replace('comm="left-over"', "")


def test_the_inode_numbers_of_proc_change(any_node, programs):
    """The kernel forgets them when it is short of memory. The values of processes whose turn has not come stay all the same."""
    for _ in range(20):
        any_node.cgroup.run_ready(programs / "hostile", "busy")
    with any_node.exporter("--scrape-interval", "200ms", "--cpu-budget", "0.005") as exporter:
        assert comms(exporter.after())["busy"] == 20
        pid = any_node.cgroup.init.pid
        before = os.stat(f"/proc/{pid}").st_ino

        def has_another():
            # not while somebody has the directory open, as the exporter does for a moment at each scrape
            Path("/proc/sys/vm/drop_caches").write_text("2")
            return os.stat(f"/proc/{pid}").st_ino != before

        until(has_another, 20, "the process has another inode number")
        assert comms(exporter.after())["busy"] == 20


# hostile names

NAMES = [b"a\nb", b'"} 1', b"a/b\\n", b"\xff\xfe\xc3(", b'x="y",z', b"# HELP x", b")) 0 (Z", b"  "]
FILES = [
    b"new\nline",
    b'"quo\\te"} 1',
    b"\xff\xc3",
    b"\xfe\xc3",
    b"tab\tand trailing ",
    b"Rss:   12 kB",
    b"5-6 r--p 0 0:0 0 x",
    b"n" * 250,
]


def test_hostile_names(any_node, programs, tmp_path):
    home = os.fsencode(tmp_path) + b"/" + b"/".join([b"d" * 240] * 15)
    os.makedirs(home)
    paths = [os.fsencode(tmp_path) + b"/" + name for name in FILES] + [home + b"/" + b"l" * 150]
    assert len(paths[-1]) > 3800
    for path in paths:
        Path(os.fsdecode(path)).write_bytes(b"x" * 4096)
    with any_node.exporter("--max-label-bytes", "4096") as exporter:
        for name in NAMES:
            any_node.cgroup.run_ready(programs / "hostile", name, *paths)
        exposition = exporter.after()
        # two names that are not UTF-8 read the same here; so do two paths, which then are one series
        texts = Counter(name.decode(errors="replace") for name in NAMES)
        assert comms(exposition) == {"sleep": 1, **texts}
        assert errors_of_the_living(exposition) == {}
        expected = Counter(path.replace(b"\n", rb"\012").decode(errors="replace") for path in paths)
        assert sorted(expected.values())[-1] == 2, "two paths read the same"
        for name, n_processes in texts.items():
            sizes = {
                path: size
                for (comm, path), size in exposition.by("process_smaps_size_bytes", "comm", "path").items()
                if comm == name
            }
            found = {path: sizes[path] // 4096 for path in expected}
            assert found == {path: n * n_processes for path, n in expected.items()}


def test_a_path_that_no_call_would_take_is_cut(any_node, programs, tmp_path):
    """Directories can be nested to any depth, and the kernel prints it all."""
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(100):
        os.mkdir("d" * 250, dir_fd=here)
        deeper = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    leaf = os.open("leaf", os.O_RDWR | os.O_CREAT, dir_fd=here)
    os.write(leaf, b"x" * 4096)
    any_node.cgroup.run_ready(programs / "hostile", "deep", f"/dev/fd/{leaf}", pass_fds=[leaf])
    os.close(leaf)
    os.close(here)
    sizes = first_scrape(any_node.directory).by("process_smaps_size_bytes", "path")
    [(path,)] = [labels for labels in sizes if "d" * 250 in labels[0]]
    assert str(tmp_path) in path and len(path) < 20_000
    assert sizes[path,] == 4096
    subprocess.run(["rm", "-rf", tmp_path / ("d" * 250)], check=True)


# without permission

UNPRIVILEGED = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


def readable(tmp_path: Path) -> Path:
    """The program and the recording where another user can reach them."""
    for directory in [tmp_path, *tmp_path.parents][:3]:
        directory.chmod(0o755)
    binary = tmp_path / "exporter"
    shutil.copy(BINARY, binary)
    return binary


@contextmanager
def unprivileged(node: Node, tmp_path: Path, *prefix: str, log: str):
    binary = readable(tmp_path)
    with open(tmp_path / log, "w") as stderr:
        command = [
            *prefix,
            binary,
            "--addr",
            "127.0.0.1:0",
            "--scrape-interval",
            "100ms",
            "--fixture",
            node.directory,
            *EVERYTHING,
        ]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=stderr)
    exporter = Exporter.__new__(Exporter)
    exporter.process, exporter._log = process, open(tmp_path / log)
    try:
        exporter.address = until(exporter._listening, 20, "the exporter listens")
        until(lambda: exporter.get("/readyz")[0] == 200, 20, "the exporter has made a scrape")
        yield exporter
    finally:
        exporter.close()


def test_without_permission(any_node, programs, tmp_path):
    any_node.cgroup.run_ready(programs / "hostile", "secret")
    any_node.cgroup.run_ready(
        programs / "hostile", "zombie"
    ).kill()  # nobody waits for it, and it is refused to nobody
    with unprivileged(any_node, tmp_path, *UNPRIVILEGED, "--bounding-set=-all", log="log") as exporter:
        exposition = exporter.after(10)
        assert comms(exposition) == {} and not [
            name for name in exposition if name.startswith("process_smaps_")
        ]
        # two processes, at the scrapes 1, 2, 4, 8
        assert errors(exposition)["denied"] >= 6 and exposition.value("smaps_exporter_processes") == 0
        warnings = [line for line in exporter.log().splitlines() if "WARN" in line]
        assert len(warnings) == 1 and "CAP_SYS_PTRACE is missing" in warnings[0], warnings
        assert exporter.get("/healthz")[0] == 200


def test_with_cap_perfmon_only(any_node, programs, tmp_path):
    """Since Linux 6.8 or so it is enough; before, it is refused with a line that says so."""
    any_node.cgroup.run_ready(programs / "hostile", "secret")
    perfmon = ("--inh-caps=-all,+perfmon", "--ambient-caps=-all,+perfmon", "--bounding-set=-all,+perfmon")
    with unprivileged(any_node, tmp_path, *UNPRIVILEGED, *perfmon, log="log") as exporter:
        exposition = exporter.after()
        print(f"with CAP_PERFMON only: {comms(exposition)}, {errors(exposition)}\n{exporter.log()}")
        if errors(exposition)["denied"]:
            assert comms(exposition) == {}
            assert "CAP_PERFMON is there, but this kernel asks for more" in exporter.log()
        else:
            assert comms(exposition) == {"sleep": 1, "secret": 1}


# size


def test_a_process_of_65000_mappings(any_node, programs):
    with any_node.exporter("--cpu-budget", "0") as exporter:
        before = resident(exporter.process.pid)
        process = any_node.cgroup.run_ready(programs / "hostile", "many", "65000")
        # Its read may take longer than the scrape waits for it, and then its values come with a later one.
        mapped = lambda exposition: exposition.by("process_smaps_mappings", "comm", "path").get(
            ("hostile", "[anon]"), 0
        )
        until(lambda: mapped(exporter.metrics()) >= 64_990, 30, "all of them are exported")
        peak = resident(exporter.process.pid)
        process.kill()
        process.wait()
        exporter.after()
        after = resident(exporter.process.pid)
        print(
            f"65,000 mappings: RSS {before >> 10} KiB before, {peak >> 10} KiB with it, {after >> 10} KiB after"
        )
        assert peak < before + MIB and after < before + MIB


def test_5000_processes(any_node, programs):
    # One heap, as the static binary has: glibc gives each thread that a slow read calls in one of its own, which keeps what it once held.
    with any_node.exporter(prefix=("env", "MALLOC_ARENA_MAX=1")) as exporter:
        before, first_peak = resident(exporter.process.pid), 0
        for _ in range(2):  # nothing grows with time
            any_node.cgroup.run_ready(programs / "hostile", "fork", "5000")
            until(
                lambda: exporter.metrics().value("smaps_exporter_processes") == 5002,
                300,
                "all of them are read",
            )
            scrapes = exporter.scrapes()
            times = [next(scrapes).value("smaps_exporter_last_scrape_timestamp_seconds") for _ in range(6)]
            peak = resident(exporter.process.pid)
            init = any_node.cgroup.init.pid
            for pid in any_node.cgroup.pids():
                if pid != init:
                    kill(pid, signal.SIGKILL)
            until(lambda: exporter.metrics().value("smaps_exporter_processes") == 1, 60, "they are gone")
            exporter.after()
            after = resident(exporter.process.pid)
            steps = [round_to - round_from for round_from, round_to in zip(times, times[1:])]
            print(
                f"5,000 processes: RSS {before >> 10} KiB before, {peak >> 10} KiB with them, {after >> 10} KiB after; scrapes every {steps} s"
            )
            # What is freed below something that stays in use is kept by glibc's heap: a round may not need more than that.
            first_peak = first_peak or peak
            assert peak < before + 6 * MIB and max(peak, after) < first_peak + MIB
        assert exporter.get("/healthz")[0] == 200


def test_a_process_that_maps_ahead_of_its_reader(any_node, programs):
    """smaps goes on from the address where it was: a process that maps ahead and unmaps behind would be read for hours.

    Whether its reader or the process is faster is up to the machine: a read ends at the end of the mappings, or at more of them than there
    can be, which is an error. Either way it ends.
    """
    with any_node.exporter() as exporter:
        process = any_node.cgroup.run_ready(programs / "hostile", "leapfrog")
        has_ended, deadline = False, time.monotonic() + 20
        for exposition in exporter.scrapes():
            assert comms(exposition)["sleep"] == 1
            assert exposition.value("smaps_exporter_mappings") < 75_000, (
                "more than the kernel lets a process have"
            )
            has_ended |= "hostile" in comms(exposition) or errors(exposition)["io"] > 0
            if has_ended or time.monotonic() > deadline:
                break
        assert has_ended and exporter.get("/healthz")[0] == 200
        process.kill()
        process.wait()
        assert comms(exporter.after()) == {"sleep": 1}


def test_newcomers_do_not_starve_the_rest(any_node, programs, tmp_path):
    """New processes have no values yet, but if they always went first, more of them than the budget allows would be all that is read."""
    for _ in range(3):
        any_node.cgroup.run_ready(programs / "hostile", "settled")
    with (
        any_node.exporter("--scrape-interval", "100ms", "--cpu-budget", "0.01") as exporter,
        churn(any_node, programs, tmp_path) as events,
    ):
        until(lambda: events["x"] > 500, 60, "the churn is under way")
        ages = [
            scrape.value("smaps_exporter_oldest_data_seconds")
            for scrape, _ in zip(exporter.scrapes(), range(30))
        ]
        print(f"oldest data: {max(ages):.1f} s at most, {ages[-1]:.1f} s at the end")
        until(
            lambda: exporter.metrics().value("smaps_exporter_oldest_data_seconds") < 5,
            60,
            "the settled ones are read again",
        )


# the program itself


def test_a_second_instance_on_the_same_port(any_node):
    with any_node.exporter() as exporter:
        command = [BINARY, "--addr", exporter.address, "--fixture", any_node.directory]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert done.returncode == 1 and done.stdout == ""
        [line] = done.stderr.splitlines()
        assert exporter.address in line and "in use" in line.lower()
        assert exporter.get("/healthz")[0] == 200


def test_exit_codes_survive_a_full_standard_error():
    with open("/dev/full", "w") as full:
        for arguments, code in [(["--nonsense"], 2), (["--once", "--fixture", "/does/not/exist"], 1)]:
            assert subprocess.run([BINARY, *arguments], stderr=full, timeout=20).returncode == code


def test_as_pid_1_it_leaves_within_a_second(any_node):
    with any_node.exporter(prefix=("unshare", "--pid", "--fork")) as exporter:
        [pid] = children(exporter.process.pid)
        assert f"NSpid:\t{pid}\t1\n" in Path(f"/proc/{pid}/status").read_text()
        told = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        assert exporter.process.wait(timeout=10) == 0  # unshare ends as its child did
        assert time.monotonic() - told < 1
