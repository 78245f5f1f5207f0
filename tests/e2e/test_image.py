"""`make image` with the builders that Debian has: without a registry, what fails is fetching the builder's image, and nothing of ours."""

import os
import shutil
import subprocess
import tempfile

import pytest

from exporter import REPOSITORY

BUILDER = "docker.io/library/rust:1-slim-bookworm"


@pytest.mark.parametrize("engine", ["podman", "buildah"])
def test_only_the_registry_is_missing(engine):
    assert shutil.which(engine), f"{engine} is missing: tests/e2e/setup.sh installs it"
    # Nothing answers there, so the test needs no network, and fails in no time.
    environment = os.environ | {"HTTPS_PROXY": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
    with tempfile.TemporaryDirectory() as directory:  # podman takes no path of over 50 characters
        apart = f"{engine} --root {directory}/root --runroot {directory}/run --storage-driver vfs"
        make = ["make", "-C", REPOSITORY, "image", f"ENGINE={apart}"]
        done = subprocess.run(make, env=environment, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert (
        f"pinging container registry {BUILDER.split('/')[0]}" in said
        or "pinging container registry registry-1." in said
    ), said
    assert "127.0.0.1:1" in said, said
    for ours in (
        "short-name",
        "Containerfile: no such",
        "unknown flag",
        "unknown instruction",
        "syntax error",
    ):
        assert ours not in said, said
