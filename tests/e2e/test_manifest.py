"""The manifests against the schemas that Kubernetes publishes."""

import re
import subprocess

import kubernetes_validate
import pytest
import yaml

from exporter import REPOSITORY

NEWEST = kubernetes_validate.latest_version()


def manifest(target: str) -> list[dict]:
    done = subprocess.run(["make", "-s", target], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("version", ["1.28", "1.30", "1.33", NEWEST])
@pytest.mark.parametrize("target", ["manifest", "manifest-without-socket"])
def test_kubernetes_takes_the_manifest(target, version):
    documents = manifest(target)
    assert [document["kind"] for document in documents] == ["Namespace", "DaemonSet", "NetworkPolicy"]
    for document in documents:
        if version == "1.28" and document["kind"] == "DaemonSet":
            # younger than 1.28, which drops it when the manifest is applied; the README names the annotation that does instead
            del document["spec"]["template"]["spec"]["securityContext"]["appArmorProfile"]
        kubernetes_validate.validate(document, version, strict=True)


def test_a_wrong_manifest_is_refused():
    _, daemon_set, _ = manifest("manifest")
    daemon_set["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(daemon_set, NEWEST, strict=True)


def test_without_a_socket_there_is_none_and_no_right_to_write():
    _, daemon_set, _ = manifest("manifest-without-socket")
    text = yaml.safe_dump(daemon_set)
    assert not re.search(r"containerd|\.sock|SYS_PTRACE", text)
    [container] = daemon_set["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["PERFMON"]}
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    # it differs in what the README says, and in nothing else
    with_socket, without = ({line.strip() for line in yaml_lines(target)} for target in ("manifest", "manifest-without-socket"))
    different = without - with_socket
    assert len(different) == 4
    assert sum("/var/log/containers" in line for line in different) == 3 and sum("PERFMON" in line for line in different) == 1


def yaml_lines(target: str) -> list[str]:
    return subprocess.run(["make", "-s", target], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
