"""Tests that hostile processes falsify no values, and that the exporter stays small and on time.

There is no containerd: the exporter reads a recording with a link to /proc, and the containers are cgroups
with processes of the test.
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
from exposition import Exposition, comms, errors, errors_without_gone
from lab import children, kill, until
from live_node import MIB, Node, resident, roots


@pytest.fixture(params=sorted(roots()))
def node(request, tmp_path):
    # If the memory controller is in cgroup version 1, the exporter uses a version 2 cgroup only if its path
    # has the id of a container. So this cgroup is named like a container, with 64 hexadecimal digits.
    node = Node(
        tmp_path,
        roots()[request.param],
        uuid.uuid4().hex * 2 if request.param == "v2" and "v1" in roots() else "",
    )
    yield node
    node.cgroup.close()


# How many seconds each test with short-lived processes takes. These tests make hundreds of calls of exec,
# exit, fork, vfork and posix_spawn a second.

CHURN_SECONDS = float(os.environ.get("CHURN_SECONDS", 10))


@contextmanager
def churn(node: Node, programs: Path, directory: Path):
    """Keeps about twenty short-lived processes running.

    Yields a counter that has a count for each kind of event.
    """
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


def assert_consistent(exposition: Exposition, directory: Path):
    """Asserts that each process has all its mappings, and has the files of only one program."""
    own = re.compile(re.escape(str(directory)) + r"/([ab])/(p-\d)(\.map)?")
    by_pid = {}
    for labels in exposition["process_smaps_mappings"].samples:
        labels = dict(labels)
        by_pid.setdefault((labels["comm"], labels["pid"]), []).append(labels["path"])
    for (comm, pid), paths in by_pid.items():
        found = [own.fullmatch(path) for path in paths]
        files = {(match[1], match[2]) for match in found if match}
        if not files:
            continue  # the init process, the parent of the copies, or a copy that has just started
        assert len(files) == 1, f"process {pid} {comm!r} has the files of several programs: {sorted(files)}"
        assert {name for _, name in files} == {comm}, f"process {pid} is {comm!r} and has {sorted(files)}"
        if any(match and match[3] for match in found):
            assert "[stack]" in paths, f"process {pid} {comm!r} was not read completely: {paths}"


@pytest.mark.parametrize("shape", ["paths", "rollup"])
def test_short_lived_processes_are_reported_correctly(any_node, programs, tmp_path, shape):
    """Samples are right, there are only expected errors, memory does not grow, and nothing is logged."""
    arguments = {
        "paths": ["--pid", "--fields", "size,rss,pss"],
        # With these options, the exporter reads two files instead of `smaps`: `smaps_rollup` with the sums
        # that the kernel computes, and `maps` to count the mappings.
        "rollup": ["--fields", "rss,pss", "--group-by", "process"],
    }[shape]
    with any_node.exporter("--scrape-interval", "100ms", "--cpu-budget", "0", *arguments) as exporter:
        with churn(any_node, programs, tmp_path) as events:
            until(lambda: events["x"] > 100, 60, "the churn is under way")
            n_scrapes, most, sizes = 0, 0, []
            before, seconds = Counter(events), CHURN_SECONDS if shape == "paths" else CHURN_SECONDS / 4
            deadline = time.monotonic() + seconds
            for exposition in exporter.scrapes():
                if shape == "paths":
                    assert_consistent(exposition, tmp_path)
                n_scrapes += 1
                most = max(most, exposition.value("smaps_exporter_processes"))
                sizes.append(resident(exporter.process.pid))
                if time.monotonic() > deadline:
                    break
            n_events = sum((events - before).values())
        figures = f"{n_scrapes} scrapes, {dict(events - before)}, at most {most:.0f} processes, "
        figures += f"{errors(exposition)}"
        warm = max(sizes[len(sizes) // 4 : len(sizes) // 2])
        print(
            f"{figures}, RSS {warm >> 10} KiB after the warm-up, "
            f"at most {max(sizes[len(sizes) // 2 :]) >> 10} KiB later"
        )
        assert n_events > 100 * seconds and most >= 10, figures
        assert errors(exposition)["io"] == errors(exposition)["denied"] == 0, figures
        assert errors(exposition)["gone"] + errors(exposition)["exec"] > 0, (
            f"no process ended during its read: {figures}"
        )
        # After the warm-up, the exporter may use up to 1 MiB more, because the number of series varies. Until
        # a forked child ends or executes another program, it has the name and the mappings of its parent. If
        # the exporter reads both, the same process is counted twice, which adds series.
        assert max(sizes[len(sizes) // 2 :]) < warm + MIB
        assert exporter.unusual_log_lines() == []
        assert comms(exporter.after()) == {}, "a process of the churn is still reported"


# Unusual processes.


def test_process_without_its_first_thread_is_read(node, programs, tmp_path):
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
    """Starts an exporter and returns the exposition of its first scrape."""
    return Exposition(once("--once", "--fixture", directory, *EVERYTHING))


def test_zombies_are_not_counted(node, programs):
    with node.exporter() as exporter:
        process = node.cgroup.run_ready(programs / "hostile", "zombie")
        assert comms(exporter.after()) == {"sleep": 1, "zombie": 1}
        process.kill()
        until(
            lambda: "State:\tZ" in Path(f"/proc/{process.pid}/status").read_text(),
            10,
            "the process is a zombie",
        )
        exposition = exporter.after()
        assert comms(exposition) == comms(first_scrape(node.directory)) == {"sleep": 1}
        assert errors_without_gone(exposition) == {}
        process.wait()


def test_zombie_init_process_gets_no_other_processes(node, programs):
    """With cgroup version 1, the kernel shows a zombie in the root cgroup.

    If the zombie is the init process of a container, the exporter must not take the root cgroup for the
    cgroup of this container. Otherwise, it would report all processes of the node in this container.
    """
    with node.exporter() as exporter:
        node.cgroup.run_ready(programs / "hostile", "left-over")
        node.cgroup.init.kill()  # the parent does not wait for the process, so it stays a zombie
        until(
            lambda: "State:\tZ" in Path(f"/proc/{node.cgroup.init.pid}/status").read_text(),
            10,
            "the init process is a zombie",
        )
        assert comms(exporter.after()) == {"left-over": 1}
        assert comms(exporter.after(5)) == {"left-over": 1}
    # An exporter that is started now cannot know which container the remaining process is in.
    output = once("--once", "--fixture", node.directory, *EVERYTHING)
    assert "comm=" not in output.replace('comm="left-over"', "")


def test_changed_inode_numbers_of_proc_lose_no_values(any_node, programs):
    """When memory is short, the kernel drops the inodes of /proc, so processes get new inode numbers.

    The exporter must keep the values of processes that are not due to be read.
    """
    for _ in range(20):
        any_node.cgroup.run_ready(programs / "hostile", "busy")
    with any_node.exporter("--scrape-interval", "200ms", "--cpu-budget", "0.005") as exporter:
        assert comms(exporter.after())["busy"] == 20
        pid = any_node.cgroup.init.pid
        before = os.stat(f"/proc/{pid}").st_ino

        def has_another():
            # drop_caches cannot drop the inode of /proc/<pid> while the exporter has this directory open.
            # The exporter opens it for a moment in each scrape, so the test may need several attempts.
            Path("/proc/sys/vm/drop_caches").write_text("2")
            return os.stat(f"/proc/{pid}").st_ino != before

        until(has_another, 20, "the process has another inode number")
        assert comms(exporter.after())["busy"] == 20


# Hostile names.

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


def test_hostile_names_and_paths_are_escaped(any_node, programs, tmp_path):
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
        # When names and paths that are not UTF-8 are decoded, two of them may become equal. Equal paths
        # become one series.
        texts = Counter(name.decode(errors="replace") for name in NAMES)
        assert comms(exposition) == {"sleep": 1, **texts}
        assert errors_without_gone(exposition) == {}
        expected = Counter(path.replace(b"\n", rb"\012").decode(errors="replace") for path in paths)
        assert sorted(expected.values())[-1] == 2, "two paths decode to the same text"
        for name, n_processes in texts.items():
            sizes = {
                path: size
                for (comm, path), size in exposition.by("process_smaps_size_bytes", "comm", "path").items()
                if comm == name
            }
            found = {path: sizes[path] // 4096 for path in expected}
            assert found == {path: n * n_processes for path, n in expected.items()}


def test_paths_longer_than_path_max_are_cut(any_node, programs, tmp_path):
    """Nested directories can make a path in smaps longer than PATH_MAX.

    The exporter reports only the start of such a path.
    """
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


# Without permission.

UNPRIVILEGED = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


def readable(tmp_path: Path) -> Path:
    """Lets other users read the recording in `tmp_path`. Copies the program there, so that they can run it.

    Returns the path of the copy.
    """
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


def test_missing_permission_is_counted_and_logged_once(any_node, programs, tmp_path):
    any_node.cgroup.run_ready(programs / "hostile", "secret")
    # The exporter must not count a zombie as a refused read.
    any_node.cgroup.run_ready(programs / "hostile", "zombie").kill()
    with unprivileged(any_node, tmp_path, *UNPRIVILEGED, "--bounding-set=-all", log="log") as exporter:
        exposition = exporter.after(10)
        assert comms(exposition) == {} and not [
            name for name in exposition if name.startswith("process_smaps_")
        ]
        # The kernel does not let the exporter read the two processes of the container. After each refusal,
        # the exporter waits for twice as many scrapes as before. In ten scrapes, it tries to read each of the
        # two processes at least three times.
        assert errors(exposition)["denied"] >= 6 and exposition.value("smaps_exporter_processes") == 0
        warnings = [line for line in exporter.log().splitlines() if "WARN" in line]
        assert len(warnings) == 1 and "CAP_SYS_PTRACE is missing" in warnings[0], warnings
        assert exporter.get("/healthz")[0] == 200


def test_cap_perfmon_suffices_or_is_named_as_insufficient(any_node, programs, tmp_path):
    """Since Linux 6.15, CAP_PERFMON is enough to read processes.

    On older kernels, reads are refused, and the log says so.
    """
    any_node.cgroup.run_ready(programs / "hostile", "secret")
    perfmon = ("--inh-caps=-all,+perfmon", "--ambient-caps=-all,+perfmon", "--bounding-set=-all,+perfmon")
    with unprivileged(any_node, tmp_path, *UNPRIVILEGED, *perfmon, log="log") as exporter:
        exposition = exporter.after()
        print(f"with CAP_PERFMON only: {comms(exposition)}, {errors(exposition)}\n{exporter.log()}")
        if errors(exposition)["denied"]:
            assert comms(exposition) == {}
            assert "CAP_PERFMON is present, but this kernel requires more" in exporter.log()
        else:
            assert comms(exposition) == {"sleep": 1, "secret": 1}


# Size.


def test_65000_mappings_use_no_more_memory(any_node, programs):
    with any_node.exporter("--cpu-budget", "0") as exporter:
        before = resident(exporter.process.pid)
        process = any_node.cgroup.run_ready(programs / "hostile", "many", "65000")
        # Reading 65,000 mappings may take so long that a scrape ends without the values of this process. A
        # later scrape then has these values.
        mapped = lambda exposition: exposition.by("process_smaps_mappings", "comm", "path").get(
            ("hostile", "[anon]"), 0
        )
        until(lambda: mapped(exporter.metrics()) >= 64_990, 30, "all mappings are exported")
        peak = resident(exporter.process.pid)
        process.kill()
        process.wait()
        exporter.after()
        after = resident(exporter.process.pid)
        print(
            f"65,000 mappings: RSS {before >> 10} KiB before, {peak >> 10} KiB with, {after >> 10} KiB after"
        )
        assert peak < before + MIB and after < before + MIB


def test_memory_with_5000_processes_is_bounded(any_node, programs):
    # The exporter starts a thread for each slow read. By default, glibc gives each thread a malloc arena of
    # its own, which keeps freed memory. The released binary does not use glibc, so the test allows one arena.
    with any_node.exporter(prefix=("env", "MALLOC_ARENA_MAX=1")) as exporter:
        before, first_peak = resident(exporter.process.pid), 0
        for _ in range(2):  # the second time shows whether memory grows
            any_node.cgroup.run_ready(programs / "hostile", "fork", "5000")
            until(
                lambda: exporter.metrics().value("smaps_exporter_processes") == 5002,
                300,
                "all processes are read",
            )
            scrapes = exporter.scrapes()
            times = [next(scrapes).value("smaps_exporter_last_scrape_timestamp_seconds") for _ in range(6)]
            peak = resident(exporter.process.pid)
            init = any_node.cgroup.init.pid
            for pid in any_node.cgroup.pids():
                if pid != init:
                    kill(pid, signal.SIGKILL)
            until(lambda: exporter.metrics().value("smaps_exporter_processes") == 1, 60, "they have ended")
            exporter.after()
            after = resident(exporter.process.pid)
            intervals = [end - start for start, end in zip(times, times[1:])]
            print(
                f"5,000 processes: RSS {before >> 10} KiB before, {peak >> 10} KiB with them, "
                f"{after >> 10} KiB after; scrapes every {intervals} s"
            )
            # glibc cannot return freed memory to the kernel if memory above it is in use. So the exporter may
            # keep the memory for the first 5,000 processes, but must reuse it for the next 5,000 processes.
            first_peak = first_peak or peak
            assert peak < before + 6 * MIB and max(peak, after) < first_peak + MIB
        assert exporter.get("/healthz")[0] == 200


def test_endless_smaps_does_not_block_the_exporter(any_node, programs):
    """A process keeps mapping memory ahead of the reader of its smaps, so that a read could take hours.

    Whether the reader or the process is faster depends on the machine. If the reader reaches the last
    mapping, the read succeeds. The process also unmaps memory behind the reader, so the reader may find more
    mappings than a process can have at one time. Then the read ends with an error.
    """
    with any_node.exporter() as exporter:
        process = any_node.cgroup.run_ready(programs / "hostile", "leapfrog")
        has_ended, deadline = False, time.monotonic() + 20
        for exposition in exporter.scrapes():
            assert comms(exposition)["sleep"] == 1
            assert exposition.value("smaps_exporter_mappings") < 75_000, (
                "more mappings than a process can have"
            )
            has_ended |= "hostile" in comms(exposition) or errors(exposition)["io"] > 0
            if has_ended or time.monotonic() > deadline:
                break
        assert has_ended and exporter.get("/healthz")[0] == 200
        process.kill()
        process.wait()
        assert comms(exporter.after()) == {"sleep": 1}


def test_new_processes_do_not_starve_old_ones(any_node, programs, tmp_path):
    """There are always new processes.

    If new processes were always read first, they would use up the budget.
    """
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
            "the old processes are read again",
        )


# The program itself.


def test_second_instance_on_the_same_port_exits_with_an_error(any_node):
    with any_node.exporter() as exporter:
        command = [BINARY, "--addr", exporter.address, "--fixture", any_node.directory]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert done.returncode == 1 and done.stdout == ""
        [line] = done.stderr.splitlines()
        assert exporter.address in line and "in use" in line.lower()
        assert exporter.get("/healthz")[0] == 200


def test_exit_codes_are_kept_if_standard_error_is_full():
    with open("/dev/full", "w") as full:
        for arguments, code in [(["--nonsense"], 2), (["--once", "--fixture", "/does/not/exist"], 1)]:
            assert subprocess.run([BINARY, *arguments], stderr=full, timeout=20).returncode == code


def test_sigterm_ends_pid_1_within_a_second(any_node):
    with any_node.exporter(prefix=("unshare", "--pid", "--fork")) as exporter:
        [pid] = children(exporter.process.pid)
        assert f"NSpid:\t{pid}\t1\n" in Path(f"/proc/{pid}/status").read_text()
        sent_at = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        assert exporter.process.wait(timeout=10) == 0  # unshare exits with the code of its child
        assert time.monotonic() - sent_at < 1
