"""rehearse-release.py: runs the release workflow without GitHub, and checks the files that it would upload.

The commands come from .github/workflows/release.yml. They run on a clone of the last commit, in the order of
the jobs, for both architectures. Some steps need GitHub, a registry or the other architecture. They are named
below and skipped.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
WORKFLOW = yaml.safe_load((REPOSITORY / ".github/workflows/release.yml").read_text())
REHEARSAL = REPOSITORY / "target/rehearsal"
CHECKOUT, UPLOADED = REHEARSAL / "checkout", REHEARSAL / "uploaded"
NAME = "smaps-container-exporter"
# The rehearsal skips these jobs and steps, because they need GitHub or a registry. If the target has another
# architecture than this machine, the rehearsal also skips commands that match NATIVE, because they run a
# binary of the target.
JOBS_ELSEWHERE = {"image"}
STEPS_ELSEWHERE = {"Release"}
NATIVE = re.compile(r"make test$|\.ci/test-static\.sh ")
MACHINES = {"x86_64-unknown-linux-musl": 62, "aarch64-unknown-linux-musl": 183}  # values of ELF's e_machine
OWN_MACHINE = {"x86_64": 62, "aarch64": 183}[platform.machine()]


def git(*arguments: str) -> str:
    return subprocess.check_output(["git", "-C", REPOSITORY, *arguments], text=True).strip()


def check_out():
    """Clones the last commit. If there is an earlier clone, cleans and updates it.

    Only target/ is kept in an earlier clone, so that the next build is faster.
    """
    if not CHECKOUT.exists():
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", REPOSITORY, CHECKOUT], check=True)
    commit = git("rev-parse", "HEAD")
    for arguments in (
        ["fetch", "--quiet", REPOSITORY, commit],
        ["checkout", "--quiet", "--force", "--detach", commit],
    ):
        subprocess.run(["git", "-C", CHECKOUT, *arguments], check=True)
    subprocess.run(["git", "-C", CHECKOUT, "clean", "-qfdx", "--exclude=target"], check=True)


def tools() -> Path:
    """Returns the directory into which the workflow installs cargo-cyclonedx.

    Also writes a program `sudo` into the directory, which runs a command as the current user. The workflow
    calls `sudo`, but a machine on which root runs this script may not have it.
    """
    directory = REHEARSAL / "tools/bin"
    directory.mkdir(parents=True, exist_ok=True)
    sudo = directory / "sudo"
    sudo.write_text('#!/bin/sh\ncase $1 in --preserve-env=*) shift ;; esac\nexec "$@"\n')
    sudo.chmod(0o755)
    return directory


def filled_in(text: str, values: dict[str, str]) -> str:
    """Replaces each expression of the workflow in a text by the value of the expression.

    Fails if an expression has no value.
    """
    return re.sub(r"\$\{\{\s*(.*?)\s*\}\}", lambda expression: values[expression[1]], text)


class Run:
    """A run of the workflow, with the outputs of its jobs and the environment of its commands."""

    def __init__(self, version: str):
        self.values: dict[str, str] = {}
        self.n_steps = 0
        self.environment = os.environ | {
            "GITHUB_REF_NAME": f"v{version}",
            "GITHUB_REPOSITORY": f"Rehearsal/{NAME}",
            "GITHUB_OUTPUT": str(REHEARSAL / "output"),
            "CARGO_INSTALL_ROOT": str(REHEARSAL / "tools"),
            "PATH": f"{tools()}:{os.environ['PATH']}",
        }
        self.environment.pop("CARGO_TARGET_DIR", None)  # in the workflow, the path is target/
        self.environment |= {name: str(value) for name, value in WORKFLOW["env"].items()}

    def job(self, name: str, matrix: dict[str, str]):
        check_out()
        self.values |= {f"matrix.{key}": value for key, value in matrix.items()}
        is_native = not matrix or MACHINES[matrix["target"]] == OWN_MACHINE
        for step in WORKFLOW["jobs"][name]["steps"]:
            if step.get("name") in STEPS_ELSEWHERE:
                continue
            if "run" in step:
                command = filled_in(step["run"], self.values)
                if is_native or not NATIVE.search(command):
                    self.command(name, step, command)
            elif step["uses"].startswith("actions/upload-artifact@"):
                self.upload(step["with"]["path"])
            elif step["uses"].startswith("actions/download-artifact@"):
                shutil.rmtree(CHECKOUT / "dist", ignore_errors=True)
                shutil.copytree(UPLOADED, CHECKOUT / step["with"]["path"])

    def command(self, job: str, step: dict, command: str):
        print(f"--- {job}: {step.get('name') or command}", flush=True)
        output = Path(self.environment["GITHUB_OUTPUT"])
        output.write_text("")
        own = {key: filled_in(value, self.values) for key, value in step.get("env", {}).items()}
        directory = CHECKOUT / step.get("working-directory", ".")
        # GitHub runs commands in bash with these options.
        subprocess.run(
            ["bash", "-eo", "pipefail", "-c", command], cwd=directory, env=self.environment | own, check=True
        )
        for line in output.read_text().splitlines():
            key, _, value = line.partition("=")
            self.values[f"needs.{job}.outputs.{key}"] = value
        self.n_steps += 1

    def upload(self, pattern: str):
        files = list(CHECKOUT.glob(pattern))
        assert files, f"{pattern} matches nothing to upload"
        for file in files:
            assert not (UPLOADED / file.name).exists(), f"two jobs upload {file.name}"
            shutil.move(file, UPLOADED)


def check_archive(path: Path, target: str, version: str, image: str):
    """Checks that an archive has a static binary, the README and the license, with fixed attributes."""
    top = f"{NAME}-{version}-{target}"
    with tarfile.open(path) as tar:
        members = {member.name: member for member in tar}
        content = {
            name: tar.extractfile(member).read() for name, member in members.items() if member.isfile()
        }
    assert sorted(content) == [f"{top}/LICENSE", f"{top}/README.md", f"{top}/{NAME}"], sorted(members)
    assert all((member.uid, member.gid) == (0, 0) for member in members.values()), "files are root's"
    assert len({member.mtime for member in members.values()}) == 1, "all have the commit's time"
    assert content[f"{top}/README.md"] == (CHECKOUT / "README.md").read_bytes()
    binary = content[f"{top}/{NAME}"]
    assert binary[:4] == b"\x7fELF" and struct.unpack_from("<H", binary, 18)[0] == MACHINES[target]
    assert members[f"{top}/{NAME}"].mode == 0o755
    assert image.encode() in binary, f"{path.name} does not name the image of the release"
    if MACHINES[target] == OWN_MACHINE:
        program = REHEARSAL / NAME
        program.write_bytes(binary)
        program.chmod(0o755)
        said = subprocess.check_output([program, "--version"], text=True)
        commit = git("rev-parse", "--short=12", "HEAD")
        expected = f"{NAME} {version} (revision {commit}, {target.replace('unknown-', '')})\n"
        assert said == expected, f"{said!r}, but expected {expected!r}"
        manifest = subprocess.check_output([program, "--print", "manifest"], text=True)
        assert f'image: "{image}"\n' in manifest


def check_sbom(path: Path, version: str):
    """Checks that an SBOM is for this version, and lists exactly the crates that the binary contains."""
    sbom = json.loads(path.read_text())
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.5")
    assert sbom["metadata"]["component"]["version"] == version
    linked = {component["name"] for component in sbom["components"]}
    assert {"containerd-client", "tonic", "rustix"} <= linked and "yaml-rust2" not in linked, sorted(linked)


def check_files(version: str, image: str):
    dist = CHECKOUT / "dist"
    names = {f"{NAME}-{version}-{target}" for target in MACHINES}
    expected = {f"{name}.{ending}" for name in names for ending in ("tar.gz", "cdx.json")} | {"SHA256SUMS"}
    assert {file.name for file in dist.iterdir()} == expected, sorted(file.name for file in dist.iterdir())
    sums = {
        f"{hashlib.sha256((dist / name).read_bytes()).hexdigest()}  {name}"
        for name in expected - {"SHA256SUMS"}
    }
    assert set((dist / "SHA256SUMS").read_text().splitlines()) == sums
    for target in MACHINES:
        check_archive(dist / f"{NAME}-{version}-{target}.tar.gz", target, version, image)
        check_sbom(dist / f"{NAME}-{version}-{target}.cdx.json", version)
    for file in sorted(dist.iterdir()):
        print(f"  {file.stat().st_size:9} {file.name}")


def main():
    jobs = WORKFLOW["jobs"]
    steps = {step.get("name") for job in jobs.values() for step in job["steps"]}
    unknown = (JOBS_ELSEWHERE - jobs.keys()) | (STEPS_ELSEWHERE - steps)
    assert not unknown, f"the workflow has no {', '.join(sorted(unknown))}"
    shutil.rmtree(UPLOADED, ignore_errors=True)
    UPLOADED.mkdir(parents=True)
    version = tomllib.loads(git("show", "HEAD:Cargo.toml"))["package"]["version"]
    run = Run(version)
    # The workflow lists each job after the jobs that it needs.
    for name, job in jobs.items():
        if name not in JOBS_ELSEWHERE:
            for matrix in job.get("strategy", {}).get("matrix", {}).get("include", [{}]):
                run.job(name, matrix)
    check_files(version, run.values["needs.version.outputs.image"])
    print(
        f"{run.n_steps} steps of the release workflow passed; it would upload what is in {CHECKOUT / 'dist'}"
    )


if __name__ == "__main__":
    sys.exit(main())
