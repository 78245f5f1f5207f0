"""Builds the parts of virtual machines from Debian's packages, in $NODES_DIR.

Each part is built only once. Its name contains a hash of its inputs.

root-amd64-KEY.ext4         bookworm with systemd, containerd and Python, for all kernels
root-arm64-KEY.ext4         the same with busybox instead of systemd
kernel-RELEASE-FLAVOUR-KEY/ vmlinuz, initrd, and node.ext4: the kernel's modules, containerd and runc

The arm64 system has no systemd, because the package scripts that set up systemd can run only on arm64.

An existing kernel is kept even if Debian has a newer one. To get newer kernels, remove the directories
kernel-*.
"""

import gzip
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
NODES_DIR = Path(os.environ["NODES_DIR"])
REQUIREMENTS = HERE.parent / "e2e/requirements.txt"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

PACKAGES = (
    "systemd-sysv,dbus,udev,kmod,containerd,runc,python3,python3-pkg-resources,apparmor,procps,iproute2,"
    "busybox-static,e2fsprogs,util-linux"
)
UNIT = """
[Unit]
Description=The tests of smaps-container-exporter
After=multi-user.target

[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/bin/sh -c 'mkdir -p /lab && tar -xf /dev/vdc -C /lab && exec /lab/tests/nodes/guest/run'
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
"""
# Package scripts of another architecture cannot run on this machine, so they cannot set up systemd. For other
# architectures, the root file system has busybox instead of systemd.
BARE_PACKAGES = ("containerd", "runc", "python3", "libstdc++6", "busybox-static", "mount", "kmod", "tar")
BARE_APPLETS = (
    "sh cat chmod cp cut dmesg grep id ls ln mkdir mkswap rm sed sleep stat swapon sync tee tr true umount "
    "uname"
).split()
BARE_INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs run /run; mount -t tmpfs tmp /tmp
mkdir -p /dev/shm /dev/pts; mount -t tmpfs shm /dev/shm; mount -t devpts pts /dev/pts
mount --make-rshared /
busybox ip link set lo up
tar -xf /dev/vdc -C /lab
# The end-to-end tests run .debs/bookworm/usr/bin/containerd. This link makes them run /usr/bin/containerd.
mkdir -p /lab/tests/e2e/.debs && ln -s / /lab/tests/e2e/.debs/bookworm
exec /lab/tests/nodes/guest/run
"""
# The kernel modules that the initrd needs to mount the disks.
MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
# The directories of kernel modules that are left out, because the machines do not have such devices. These
# modules make up two thirds of the size of all modules.
NO_MODULES = ("drivers/net", "drivers/gpu", "drivers/infiniband", "drivers/media", "sound")
INIT = """#!/bin/busybox sh
mount() { busybox mount "$@"; }
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in /modules/*; do busybox insmod $module; done
for i in $(busybox seq 100); do [ -b /dev/vda ] && [ -b /dev/vdb ] && break; busybox sleep 0.1; done
mount -t ext4 /dev/vda /new
mount -t ext4 -o ro /dev/vdb /new/node
mount --bind /new/node/modules /new/usr/lib/modules
busybox umount /proc /sys; mount --move /dev /new/dev
exec busybox switch_root /new /sbin/init
"""


def run(*command: str | Path, **options):
    """Runs a command and returns its output. If the command fails, raises SystemExit with this output."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise SystemExit(
            f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done.stdout


def mirror() -> str:
    """Returns the address of the package mirror of this host."""
    for sources in sorted(Path("/etc/apt").glob("sources.list.d/*.sources")):
        for line in sources.read_text().splitlines():
            if line.startswith("URIs:"):
                return line.split()[1]
    for line in Path("/etc/apt/sources.list").read_text().splitlines():
        words = [word for word in line.split() if not word.startswith("[") and not word.endswith("]")]
        if words[:1] == ["deb"]:
            return words[1]
    raise SystemExit("no package source in /etc/apt: the machines are built from Debian's packages")


class Apt:
    """The package lists of a release, kept apart from the package lists of the host."""

    def __init__(self, release: str, architecture: str = "amd64"):
        self.directory = NODES_DIR / f"apt-{release}-{architecture}"
        (self.directory / "lists/partial").mkdir(parents=True, exist_ok=True)
        (self.directory / "archives/partial").mkdir(parents=True, exist_ok=True)
        (self.directory / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {release} main\n")
        (self.directory / "status").touch()
        config = self.directory / "apt.conf"
        config.write_text(
            f"""APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::Etc::sourcelist "{self.directory}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "{self.directory}/lists";
Dir::State::status "{self.directory}/status";
Dir::Cache "{self.directory}";
"""
        )
        self._environment = {**os.environ, "APT_CONFIG": str(config)}
        run("apt-get", "-qq", "update", env=self._environment)

    def names(self, prefix: str) -> list[str]:
        return run("apt-cache", "pkgnames", prefix, env=self._environment).split()

    def unpack(self, into: Path, *packages: str, with_dependencies: bool = False):
        """Unpacks packages into a directory. Does not run the scripts of the packages.

        The directory's `lib` may be a link to `usr/lib`.
        """
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.directory) as directory:
            (Path(directory) / "partial").mkdir()
            if with_dependencies:
                options = (
                    "-y",
                    "--no-install-recommends",
                    "--download-only",
                    f"-oDir::Cache::archives={directory}",
                )
                run("apt-get", "-qq", "install", *options, *packages, env=self._environment)
            else:
                run("apt-get", "-qq", "download", *packages, env=self._environment, cwd=directory)
            for deb in sorted(Path(directory).glob("*.deb")):
                with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as archive:
                    run("tar", "-xp", "--keep-directory-symlink", "-C", into, stdin=archive.stdout)


def newest_kernel(apt: Apt, flavour: str) -> str:
    """Returns the version of the newest kernel of a release and flavour, such as 6.1.0-53-cloud-amd64."""
    names = [name.removeprefix("linux-image-") for name in apt.names("linux-image-")]
    versions = [
        name
        for name in names
        if name[0].isdigit() and name.endswith("-" + flavour) and "unsigned" not in name
    ]
    assert versions, f"no linux-image-...-{flavour} in {apt.directory}"
    return run("sort", "-V", input="\n".join(versions)).split()[-1]


def key(*parts: str) -> str:
    return hashlib.sha256("\0".join((Path(__file__).read_text(), *parts)).encode()).hexdigest()[:12]


def build_once(path: Path, make) -> Path:
    """Returns `path`. If nothing exists there, `make` first builds it under a temporary name."""
    if not path.exists():
        print(f"nodes: building {path.name}", flush=True)
        partial = path.with_name("partial-" + path.name)
        shutil.rmtree(partial, ignore_errors=True)
        partial.unlink(missing_ok=True)
        make(partial)
        partial.rename(path)
    return path


def disk(directory: Path, out: Path, mib: int):
    """Writes the image of a file system with the content of a directory."""
    with out.open("wb") as file:
        file.truncate(mib << 20)
    run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-d", directory, out)


def root(architecture: str) -> Path:
    """Returns the image of the root file system of an architecture."""
    make = {"amd64": _make_root, "arm64": _make_bare_root}[architecture]
    return build_once(NODES_DIR / f"root-{architecture}-{key(REQUIREMENTS.read_text())}.ext4", make)


def _make_root(out: Path):
    with tempfile.TemporaryDirectory(dir=NODES_DIR) as directory:
        system = Path(directory) / "root"
        paths = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale", "i18n")]
        run(
            *(
                "mmdebstrap",
                "--quiet",
                "--variant=minbase",
                f"--include={PACKAGES}",
                '--aptopt=Acquire::Languages "none"',
                *paths,
            ),
            *("bookworm", system, f"deb [signed-by={KEYRING}] {mirror()} bookworm main"),
        )
        finish(system, "manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
        (system / "etc/machine-id").write_text("")
        (system / "etc/fstab").write_text("/dev/vda / ext4 rw 0 0\n")
        units = system / "etc/systemd/system"
        # Disables containerd, timers and terminals. The tests start containerd themselves, and do not need
        # timers and terminals.
        for wants in units.glob("*.wants/*"):
            if wants.name == "containerd.service" or wants.suffix == ".timer":
                wants.unlink()
        (units / "getty.target").symlink_to("/dev/null")
        (units / "nodes.service").write_text(UNIT)
        (units / "multi-user.target.wants/nodes.service").symlink_to("../nodes.service")
        disk(system, out, 3072)


def _make_bare_root(out: Path):
    with tempfile.TemporaryDirectory(dir=NODES_DIR) as directory:
        system = Path(directory) / "root"
        for name in ("bin", "sbin", "lib"):
            (system / "usr" / name).mkdir(parents=True)
            (system / name).symlink_to(f"usr/{name}")
        Apt("bookworm", "arm64").unpack(system, *BARE_PACKAGES, with_dependencies=True)
        for applet in BARE_APPLETS:
            if not os.path.lexists(system / "usr/bin" / applet):
                (system / "usr/bin" / applet).symlink_to("busybox")
        for name in ("proc", "sys", "dev", "run", "tmp", "var/lib", "etc"):
            (system / name).mkdir(parents=True, exist_ok=True)
        (system / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (system / "etc/group").write_text("root:x:0:\n")
        finish(system, "manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_28_aarch64")
        (system / "sbin/init").write_text(BARE_INIT)
        (system / "sbin/init").chmod(0o755)
        disk(system, out, 3072)


def finish(system: Path, *platforms: str):
    """Adds what every root file system needs: a host name, Python packages, and mount points."""
    for name in ("node", "usr/lib/modules", "lab", "results"):
        (system / name).mkdir(parents=True, exist_ok=True)
    (system / "etc/hostname").write_text("node\n")
    (system / "etc/hosts").write_text("127.0.0.1 localhost node\n")
    (system / "etc/resolv.conf").write_text("")  # the machines have no network
    run(  # Debian's grpcio-tools cannot compile protocols at run time
        *(
            NODES_DIR / "venv/bin/python",
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "--only-binary=:all:",
        ),
        *("--python-version=3.11", *(f"--platform={platform}" for platform in platforms)),
        *("--target", system / "opt/python", "-r", REQUIREMENTS),
    )


def kernel(release: str, flavour: str, containerd: str, runc: str) -> Path:
    """Returns a directory with the kernel of a Debian release.

    The directory also has the programs containerd and runc. The parameters `containerd` and `runc` are the
    Debian releases that these programs come from. A program from bookworm is left out, because the root file
    system already has it.
    """
    path = NODES_DIR / f"kernel-{release}-{flavour}-{key(containerd, runc)}"
    return build_once(path, lambda out: _make_kernel(out, release, flavour, containerd, runc))


def _make_kernel(out: Path, release: str, flavour: str, containerd: str, runc: str):
    out.mkdir()
    architecture = "arm64" if "arm64" in flavour else "amd64"
    apt = Apt(release, architecture)
    version = newest_kernel(apt, flavour)
    # Usually a kernel is one package. In sid, from Linux 6.19 on, it is several packages.
    parts = [f"linux-{part}-{version}" for part in ("image", "binary", "modules", "base")]
    names = set(apt.names("linux-"))
    with tempfile.TemporaryDirectory(dir=NODES_DIR) as directory:
        unpacked, node = Path(directory) / "unpacked", Path(directory) / "node"
        apt.unpack(unpacked, *(part for part in parts if part in names))
        [image] = [*unpacked.glob("boot/vmlinuz-*"), *unpacked.glob("usr/lib/modules/*/vmlinuz")][:1]
        (out / "vmlinuz").write_bytes(unzipped(image.read_bytes()))
        [modules] = [*unpacked.glob("lib/modules/*"), *unpacked.glob("usr/lib/modules/*")]
        for name in NO_MODULES:
            shutil.rmtree(modules / "kernel" / name, ignore_errors=True)
        for name in ("vmlinuz", "System.map", "config"):
            (modules / name).unlink(missing_ok=True)
        node.mkdir()
        (node / "modules").mkdir()
        shutil.move(modules, node / "modules" / modules.name)
        initrd(node / "modules" / modules.name, out / "initrd", architecture)
        if containerd != "bookworm":
            Apt(containerd, architecture).unpack(node / "containerd", "containerd")
        if runc != "bookworm":
            Apt(runc, architecture).unpack(node / "runc", "runc")
        disk(node, out / "node.ext4", 512)


def unzipped(image: bytes) -> bytes:
    """Unpacks an arm64 kernel if it is wrapped for EFI (drivers/firmware/efi/libstub/zboot-header.S)."""
    if image[:2] != b"MZ" or image[4:8] != b"zimg":
        return image
    start, size = struct.unpack_from("<II", image, 8)
    method = image[24:32].rstrip(b"\0").decode()
    return subprocess.run(
        [{"zstd22": "zstd"}.get(method, method), "-dc"],
        input=image[start : start + size],
        capture_output=True,
    ).stdout


def initrd(modules: Path, out: Path, architecture: str):
    """Builds an initial file system, which mounts the disks and then switches to them."""
    with tempfile.TemporaryDirectory(dir=NODES_DIR) as directory:
        root = Path(directory)
        for name in ("bin", "modules", "proc", "sys", "dev", "new"):
            (root / name).mkdir()
        Apt("bookworm", architecture).unpack(root / "busybox", "busybox-static")
        (root / "busybox/bin/busybox").rename(root / "bin/busybox")
        shutil.rmtree(root / "busybox")
        (root / "init").write_text(INIT)
        (root / "init").chmod(0o755)
        for i, module in enumerate(with_dependencies(modules)):
            data = module.read_bytes()
            if module.suffix in (".xz", ".zst"):
                data = subprocess.run(
                    ["xz" if module.suffix == ".xz" else "zstd", "-dc", module],
                    check=True,
                    capture_output=True,
                ).stdout
            (root / f"modules/{i:02}.ko").write_bytes(data)
        names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        archive = subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet"],
            input=names.encode(),
            cwd=root,
            check=True,
            capture_output=True,
        )
        out.write_bytes(gzip.compress(archive.stdout, 1))


def with_dependencies(modules: Path) -> list[Path]:
    """Returns the files of MODULES, and the files of the modules that MODULES depend on.

    A module comes after the modules that it depends on.
    """
    with tempfile.TemporaryDirectory(dir=NODES_DIR) as directory:  # depmod searches in lib/modules
        (Path(directory) / "lib").mkdir()
        (Path(directory) / "lib/modules").symlink_to(modules.parent)
        # `depmod` is a link to kmod. If the package is only unpacked and not installed, the link is broken,
        # because it points to where an installed kmod would be. So this runs the kmod on the PATH, under the
        # name `depmod`.
        run("depmod", "-b", directory, modules.name, executable=shutil.which("kmod"))
    needs = dict(line.split(":", 1) for line in (modules / "modules.dep").read_text().splitlines())
    found = []
    for name in MODULES:
        for path, dependencies in needs.items():
            if Path(path).name.split(".")[0].replace("-", "_") == name:
                found += [*reversed(dependencies.split()), path]
    return [modules / path for path in dict.fromkeys(found)]
