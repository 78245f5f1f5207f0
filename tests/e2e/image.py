"""Makes container images without a builder or a registry: one layer of files, as from `docker save`."""

import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path


def layer(out: Path, files: dict[str, bytes], links: dict[str, str] | None = None):
    """Writes a layer with executable files, links (name -> target), and directories that containers need."""
    with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as tar:
        directories = {"proc", "sys", "dev", "etc", "tmp"}
        for name in files:
            directories.update(str(parent) for parent in Path(name).parents if str(parent) != ".")
        for name in sorted(directories):
            _add(tar, name, type=tarfile.DIRTYPE, mode=0o1777 if name == "tmp" else 0o755)
        for name, content in files.items():
            _add(tar, name, content)
        for name, target in (links or {}).items():
            _add(tar, name, type=tarfile.SYMTYPE, linkname=target)


def busybox_layer(out: Path, busybox: Path):
    """Writes a layer with busybox, links for all its commands, and /pause.

    Pod sandboxes run /pause. Containers run the commands of busybox.
    """
    applets = subprocess.check_output([busybox, "--list"], text=True).split()
    layer(
        out,
        {
            "bin/busybox": busybox.read_bytes(),
            "pause": b"#!/bin/sh\nwhile :; do sleep 1000000; done\n",
            "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
            "etc/group": b"root:x:0:\n",
        },
        {f"bin/{applet}": "busybox" for applet in applets if applet != "busybox"},
    )


def busybox_archive(directory: Path, busybox: Path, entrypoints: dict[str, list[str]]) -> Path:
    """Returns an archive with images that share one layer with busybox.

    If the directory already has an archive made from the same inputs, that archive is returned. If several
    tests make the archive at the same time, they give it the same name, so only one archive remains.
    """
    inputs = (Path(__file__).read_bytes(), busybox.read_bytes(), repr(entrypoints).encode())
    archive = directory / f"busybox-{hashlib.sha256(b''.join(inputs)).hexdigest()[:12]}.tar"
    if not archive.exists():
        with tempfile.TemporaryDirectory(dir=directory) as partial:
            busybox_layer(Path(partial, "layer"), busybox)
            pack(Path(partial, "archive"), Path(partial, "layer"), entrypoints)
            Path(partial, "archive").rename(archive)
    return archive


def pack(out: Path, layer: Path, entrypoints: dict[str, list[str]]):
    """Writes an archive of images (tag -> entry point) that share one layer, for `ctr images import`."""
    with layer.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    manifest = []
    with tarfile.open(out, "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.add(layer, f"{digest}/layer.tar")
        for tag, entrypoint in entrypoints.items():
            config = json.dumps(
                {
                    "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
                    "os": "linux",
                    "config": {
                        "Entrypoint": entrypoint,
                        "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                        "WorkingDir": "/",
                    },
                    "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
                }
            ).encode()
            name = hashlib.sha256(config).hexdigest() + ".json"
            _add(tar, name, config)
            manifest.append({"Config": name, "RepoTags": [tag], "Layers": [f"{digest}/layer.tar"]})
        _add(tar, "manifest.json", json.dumps(manifest).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes = b"", **attributes):
    member = tarfile.TarInfo(name)
    member.mode = 0o755
    member.size = len(content)
    for attribute, value in attributes.items():
        setattr(member, attribute, value)
    tar.addfile(member, io.BytesIO(content))
