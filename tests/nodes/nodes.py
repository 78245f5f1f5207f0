"""Boots virtual machines, two at a time, runs the tests of guest/ in each, and prints a table of results.

usage: nodes.py [NODE...]             boots machines of machines.py: by default all except arm64
       nodes.py prepare [NODE...]     only builds the disks that they boot from

NODES_TESTS has arguments for pytest in the machines, such as "-k 'rights or takeover'". NODES_RECORDS is the
number of runs of each leak in test_oom_records.py: `make night` sets 10, which takes hours. With
NODES_SHORT=1, as in the gate, each machine leaves out the tests that guest/conftest.py lists for its release
of containerd, and fewer containers are killed and removed at once. With BLESS=1, the smaps that these kernels
print are copied into fixtures/smaps.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import xml.etree.ElementTree as xml
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool
from pathlib import Path

import build
from build import NODES_DIR
from machines import ARM64, MACHINES, Machine

REPOSITORY = Path(__file__).resolve().parents[2]
RECORDS = os.environ.get("NODES_RECORDS", "")
SHORT = os.environ.get("NODES_SHORT", "")
# The time limit for a machine, in minutes. If two machines run at the same time on two cores, they take nine
# minutes. They take longer if the browser tests run, too. With NODES_RECORDS, they take hours.
MINUTES = 240 if RECORDS else 30
AT_ONCE = 2  # the tests in one machine mostly use one core
RUNTIMES = ("openjdk-17-jre-headless", "nodejs")
COLUMNS = ("kernel", "cgroup", "driver", "containerd", "samples compared", "differences", "events survived")


@dataclass
class Result:
    """The results of the tests in a machine. A machine without results has failed."""

    failed: list[str] = field(default_factory=list)
    n_passed: int = 0
    n_skipped: int = 0
    properties: dict[str, str] = field(default_factory=dict)


def programs(architecture: str) -> Path:
    """Returns a directory with the workloads, which are linked statically."""
    source, others = REPOSITORY / "tests/nodes/programs", REPOSITORY / "tests/e2e/programs"
    static = [others / name for name in ("inject.c", "leak.c", "arenas.c")]
    go = others / "parts.go"

    def make(out: Path):
        out.mkdir()
        compiler = ["gcc"]
        if architecture != "amd64":
            # An unpacked compiler does not find its assembler and linker, so the option -B gives their
            # directory.
            binutils = shutil.which("aarch64-linux-gnu-as").removesuffix("as")
            compiler = ["aarch64-linux-gnu-gcc", f"-B{binutils}"]
        build.run(*compiler, "-O1", "-static", "-o", out / "memory", source / "memory.c")
        for path in static:
            build.run(*compiler, "-O1", "-static", "-o", out / path.stem, path)
        root = Path(shutil.which("go")).resolve().parents[1]  # an unpacked Go does not know its own directory
        environment = {
            "GOROOT": root,
            "GOARCH": architecture,
            "CGO_ENABLED": "0",
            "GO111MODULE": "off",
            "HOME": out,
        }
        build.run("go", "build", "-o", out / "parts", go, env=os.environ | environment)
        shutil.rmtree(out / ".cache")
        if architecture != "amd64":
            return
        # The program needs no C library. So gcc-multilib, which conflicts with the cross compilers, is not
        # needed to build it.
        flags = ("-m32", "-nostdlib", "-ffreestanding", "-static", "-no-pie", "-fno-stack-protector")
        build.run("gcc", *flags, "-o", out / "i386", source / "i386.c")

    texts = [path.read_text() for path in (*sorted(source.iterdir()), *static, go)]
    return build.build_once(NODES_DIR / f"programs-{architecture}-{build.key(*texts)}", make)


def runtimes(architecture: str) -> Path:
    """Returns the image of a disk with a JVM, Node.js and the libraries that they need."""

    def make(out: Path):
        with tempfile.TemporaryDirectory(dir=NODES_DIR) as directory:
            system = Path(directory) / "root"
            for name in ("bin", "sbin", "lib", "lib64"):
                (system / "usr" / name).mkdir(parents=True)
                (system / name).symlink_to(f"usr/{name}")
            for name in ("proc", "dev", "tmp"):
                (system / name).mkdir()
            build.Apt("bookworm", architecture).unpack(system, *RUNTIMES, with_dependencies=True)
            build.disk(system, out, 768)

    return build.build_once(NODES_DIR / f"runtimes-{architecture}-{build.key(*RUNTIMES)}.ext4", make)


# The files of the repository that are needed by the tests in a machine.
PACKED = (
    "src/kubernetes/*.yaml",
    "tests/e2e/*.py",
    "tests/e2e/*.proto",
    "tests/e2e/programs/*.js",
    "tests/nodes/guest/*",
)


def pack(out: Path, architecture: str):
    """Packs what the machine unpacks into /lab: the workloads, the exporter, and parts of the repository."""
    with tarfile.open(out, "w") as tar:
        for pattern in PACKED:
            for path in sorted(REPOSITORY.glob(pattern)):
                if path.is_file():
                    tar.add(path, path.relative_to(REPOSITORY))
        for variable, name in (("EXPORTER", "smaps-container-exporter"), ("IMAGE_TAR", "image.tar")):
            tar.add(Path(os.environ[variable]).resolve(), f"bin/{name}")
        tar.add(programs(architecture), "bin")


def prepare(machine: Machine):
    """Builds the disks from which a machine boots, unless they exist.

    Several machines may use the same disk.
    """
    build.kernel(machine.kernel, machine.flavour, machine.containerd, machine.runc)
    build.root(machine.architecture)
    runtimes(machine.architecture)
    programs(machine.architecture)


def boot(machine: Machine) -> tuple[Result, float]:
    """Boots a machine and waits until it powers off.

    Returns its results, and after how many seconds it powered off.
    """
    started_at = time.monotonic()
    directory = NODES_DIR / "runs" / machine.name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    kernel, serial, results = (
        build.kernel(machine.kernel, machine.flavour, machine.containerd, machine.runc),
        directory / "serial.log",
        directory / "results.tar",
    )
    pack(directory / "lab.tar", machine.architecture)
    with results.open("wb") as file:
        file.truncate(64 << 20)
    disks = []
    for path, options in (
        # what the machine writes to this disk is discarded
        (build.root(machine.architecture), "snapshot=on,cache=unsafe"),
        (kernel / "node.ext4", "readonly=on"),
        (directory / "lab.tar", "readonly=on"),
        (results, "cache=unsafe"),
        (runtimes(machine.architecture), "readonly=on"),
    ):
        disks += ["-drive", f"file={path},format=raw,if=virtio,{options}"]
    tests = os.environ.get("NODES_TESTS", "").replace(" ", ",")
    for_guest = f"nodes.tests={tests} nodes.records={RECORDS} nodes.short={SHORT}"
    qemu = (
        ["qemu-system-x86_64"]
        if machine.architecture == "amd64"
        else ["qemu-system-aarch64", "-machine", "virt"]
    )
    # Without impdef, qemu emulates the usual cipher of pointer authentication, which is slow.
    processor = "max" if machine.architecture == "amd64" else "max,pauth-impdef=on"
    command = [
        *(*qemu, "-accel", "tcg,thread=multi", "-cpu", processor, "-smp", "2", "-m", "3G"),
        *("-nodefaults", "-no-reboot", "-display", "none", "-nic", "none", "-device", "virtio-rng-pci"),
        *("-serial", f"file:{serial}", "-kernel", str(kernel / "vmlinuz"), "-initrd", str(kernel / "initrd")),
        *("-append", f"{machine.command_line} {for_guest}", *disks),
    ]
    qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(NODES_DIR)})
    try:
        qemu.wait(60 * MINUTES)
    except subprocess.TimeoutExpired:
        pass
    finally:
        qemu.kill()
        qemu.wait()
    try:
        with tarfile.open(results) as tar:
            tar.extractall(directory / "results", filter="data")
    except tarfile.TarError:
        pass
    results.unlink()
    return parse_results(directory / "results/results.xml"), time.monotonic() - started_at


def parse_results(path: Path) -> Result:
    result = Result()
    if not path.exists():
        result.failed.append("the machine left no results")
        return result
    cases = list(xml.parse(path).getroot().iter("testcase"))
    for case in cases:
        if case.find("failure") is not None or case.find("error") is not None:
            result.failed.append(case.get("name"))
        elif case.find("skipped") is not None:
            result.n_skipped += 1
        else:
            result.n_passed += 1
        for element in case.iter("property"):
            result.properties[element.get("name")] = element.get("value")
    events = [
        case for case in cases if "test_events" in case.get("classname") and case.find("skipped") is None
    ]
    survived = [case for case in events if case.get("name") not in result.failed]
    result.properties["events survived"] = f"{len(survived)} of {len(events)}" if events else "not tried"
    return result


def report(directory: Path):
    """Prints the failures in the log of a machine. Without a log, prints the end of its console output."""
    for name, pattern in (("results/log", r"(E  |_____).*"), ("serial.log", ".*")):
        path = directory / name
        if path.exists():
            lines = [
                line for line in path.read_text(errors="replace").splitlines() if re.match(pattern, line)
            ]
            print("".join(f"    {line[:300]}\n" for line in lines[-60:]), end="")
            return print(f"  see {directory}")


def bless(machine: Machine, result: Result):
    """Copies the smaps that the kernel of this machine printed for the workload to fixtures/smaps."""
    smaps = NODES_DIR / "runs" / machine.name / "results/memory.smaps"
    if machine.cgroup == 2 and smaps.exists():
        version = re.match(r"\d+\.\d+", result.properties["kernel"])[0]
        words = [
            "linux",
            version,
            "debian",
            *filter(None, machine.name.removeprefix(machine.kernel).split("-")),
        ]
        shutil.copy(smaps, REPOSITORY / f"fixtures/smaps/{'-'.join(words)}.smaps")


def main(words: list[str]) -> int:
    is_preparing = words[:1] == ["prepare"]
    names = words[is_preparing:]
    known = {machine.name: machine for machine in (*MACHINES, *ARM64)}
    if unknown := [name for name in names if name not in known]:
        print(f'no machine "{unknown[0]}": expected some of {", ".join(known)}', file=sys.stderr)
        return 2
    rows, n_passed, n_failed = [], 0, 0
    machines = [known[name] for name in names or [machine.name for machine in MACHINES]]
    for machine in machines:
        prepare(machine)
    if is_preparing:
        return 0
    for machine, (result, seconds) in zip(machines, ThreadPool(AT_ONCE).imap(boot, machines), strict=True):
        counts = f"{result.n_passed} passed, {len(result.failed)} failed, {result.n_skipped} skipped"
        print(f"nodes: {machine.name}: {counts} in {seconds:.0f} s")
        if result.failed:
            print("  failed: " + ", ".join(result.failed))
            report(NODES_DIR / "runs" / machine.name)
        sys.stdout.flush()
        if os.environ.get("BLESS"):
            bless(machine, result)
        n_passed, n_failed = n_passed + result.n_passed, n_failed + len(result.failed)
        result.properties["kernel"] = " ".join(
            filter(None, (result.properties.get("kernel", machine.name), machine.arguments))
        )
        rows.append([result.properties.get(column, "?") for column in COLUMNS])
    table = [f"| {' | '.join(cells)} |\n" for cells in (COLUMNS, ["---"] * len(COLUMNS), *rows)]
    print("\n" + "".join(table))
    (NODES_DIR / "table.md").write_text("".join(table))
    print(f"nodes: {n_passed} passed, {n_failed} failed")
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
