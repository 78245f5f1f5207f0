#!/usr/bin/env python3
"""image-tar.py BINARY ARCHIVE NAME [ARG=VALUE...]: makes the image of the Containerfile's last stage.

The script takes a static binary and writes an OCI archive for `ctr -n k8s.io images import`, `podman load` or
`docker load`. It needs neither a container engine nor a network. The same binary, name and arguments give the
same bytes. All times in the archive and in the image are $SOURCE_DATE_EPOCH, which reproducible builds set.
"""

import hashlib
import io
import json
import os
import re
import shlex
import struct
import sys
import tarfile
import time
from pathlib import Path

CONTAINERFILE = Path(__file__).resolve().parent.parent / "Containerfile"
ARCHITECTURES = {62: "amd64", 183: "arm64"}  # the keys are ELF's e_machine
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))


def last_stage(arguments: dict[str, str]) -> tuple[str, dict]:
    """Returns the path of the binary in the image, and the run configuration of the image."""
    text = re.sub(r"\\\n", " ", CONTAINERFILE.read_text())
    instructions = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    start = max(i for i, (keyword, _) in enumerate(instructions) if keyword == "FROM")
    assert instructions[start][1] == "scratch", "the last stage has to begin FROM scratch"
    values: dict[str, str] = {}
    place = None
    config: dict = {}
    for keyword, rest in instructions[start + 1 :]:
        rest = re.sub(r"\$\{(\w+)\}", lambda name: values[name[1]], rest)
        match keyword:
            case "ARG":
                name, default = rest.split("=", 1)
                values[name] = arguments.get(name, default)
            case "LABEL":
                config["Labels"] = dict(label.split("=", 1) for label in shlex.split(rest))
            case "COPY":
                assert place is None, "the image has to have exactly one file"
                place = rest.split()[-1].lstrip("/")
            case "USER":
                config["User"] = rest
            case "EXPOSE":
                config["ExposedPorts"] = {f"{rest}/tcp": {}}
            case "ENTRYPOINT":
                config["Entrypoint"] = json.loads(rest)
            case _:
                raise ValueError(f"{CONTAINERFILE.name}: unsupported instruction {keyword}")
    return place, config


def tar(files: dict[str, tuple[int, bytes]]) -> bytes:
    """Returns a tar archive of files (name -> mode, content), all owned by root."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, (mode, content) in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(content), mode, EPOCH
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def main(binary: str, out: str, name: str, *arguments: str):
    blobs: dict[str, tuple[int, bytes]] = {}

    def blob(content: bytes, kind: str, **more) -> dict:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = (0o644, content)
        return {
            "mediaType": f"application/vnd.oci.image.{kind}",
            "digest": f"sha256:{digest}",
            "size": len(content),
            **more,
        }

    def text(value) -> bytes:
        return json.dumps(value, sort_keys=True).encode()

    content = Path(binary).read_bytes()
    assert content[:4] == b"\x7fELF", f"{binary} is not an ELF binary"
    platform = {"architecture": ARCHITECTURES[struct.unpack_from("<H", content, 18)[0]], "os": "linux"}
    place, config = last_stage(dict(argument.split("=", 1) for argument in arguments))
    # The layer is not compressed: compressed bytes would depend on the version of the compressor.
    layer = blob(tar({place: (0o755, content)}), "layer.v1.tar")
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(EPOCH))
    rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
    image = blob(text({**platform, "created": created, "config": config, "rootfs": rootfs}), "config.v1+json")
    media_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = text({"schemaVersion": 2, "mediaType": media_type, "config": image, "layers": [layer]})
    annotations = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    entry = blob(manifest, "manifest.v1+json", platform=platform, annotations=annotations)
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]}
    path = {descriptor["digest"]: f"blobs/sha256/{descriptor['digest'][7:]}" for descriptor in (layer, image)}
    # Some engines read only docker's archives, and these need manifest.json.
    docker = [{"Config": path[image["digest"]], "RepoTags": [name], "Layers": [path[layer["digest"]]]}]
    files = {"oci-layout": (0o644, text({"imageLayoutVersion": "1.0.0"})), "index.json": (0o644, text(index))}
    Path(out).write_bytes(tar({**files, "manifest.json": (0o644, text(docker)), **blobs}))
    print(f"{out}: {name} for {platform['os']}/{platform['architecture']}, {Path(out).stat().st_size} bytes")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
