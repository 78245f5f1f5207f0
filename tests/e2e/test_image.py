"""Tests `make image` with podman and buildah from Debian.

The test makes the registry unreachable, so the build must fail. The only allowed reason is that the base
image cannot be fetched.
"""

import os
import shutil
import subprocess
import tempfile

import pytest

from exporter import REPOSITORY

BUILDER = "docker.io/library/rust:1-slim-bookworm"


@pytest.mark.parametrize("engine", ["podman", "buildah"])
def test_image_build_fails_only_for_lack_of_a_registry(engine):
    assert shutil.which(engine), f"{engine} is missing: tests/e2e/setup.sh installs it"
    # No proxy listens at this port. So downloads fail at once, and the test needs no network.
    environment = os.environ | {"HTTPS_PROXY": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
    with tempfile.TemporaryDirectory() as directory:  # podman allows at most 50 characters for this path
        engine_command = f"{engine} --root {directory}/root --runroot {directory}/run --storage-driver vfs"
        make = ["make", "-C", REPOSITORY, "image", f"ENGINE={engine_command}"]
        done = subprocess.run(make, env=environment, capture_output=True, text=True, timeout=120)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert (
        f"pinging container registry {BUILDER.split('/')[0]}" in output
        or "pinging container registry registry-1." in output
    ), output
    assert "127.0.0.1:1" in output, output
    for message in (
        "short-name",
        "Containerfile: no such",
        "unknown flag",
        "unknown instruction",
        "syntax error",
    ):
        assert message not in output, output
