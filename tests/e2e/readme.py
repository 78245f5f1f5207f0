"""Finds the parts of documents and manifests that users apply: scrape jobs, queries, rules and pod specs.

Also builds the container that the kubelet would create for the DaemonSet or for the sidecar.
"""

import re
from pathlib import Path

import yaml

from exporter import REPOSITORY
from lab import Container, Lab, cri

KUBERNETES = REPOSITORY / "src/kubernetes"
FRONT_PAGE = REPOSITORY / "README.md"
KUBERNETES_PAGE = KUBERNETES / "README.md"
QUERIES_PAGE = REPOSITORY / ".github/QUERIES.md"


def blocks(page: Path, language: str) -> list[str]:
    """Returns the fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def scrape_jobs() -> list[dict]:
    """Returns the documented scrape jobs for Prometheus.

    The first job scrapes all pods, grouped by the kind of memory. The second job scrapes one namespace,
    grouped by the path of the mapped files.
    """
    texts = [block for page in (FRONT_PAGE, KUBERNETES_PAGE) for block in blocks(page, "yaml")]
    documents = [yaml.safe_load(text) for text in texts if text.startswith("scrape_configs:")]
    return [job for document in documents for job in document["scrape_configs"]]


def queries() -> list[tuple[str, str]]:
    """Returns (comment, query) pairs.

    If a query may have no result, its comment says in which case. Other queries have no comment.
    """
    pattern = r"^(<!-- empty [^\n]*-->\n)?```promql\n(.*?)^```$"
    return re.findall(pattern, QUERIES_PAGE.read_text(), re.MULTILINE | re.DOTALL)


def without_thresholds(query: str) -> str:
    """Returns the query with lower thresholds and a shorter time range.

    The unchanged query would have no result in a test. A test takes only a few seconds, and its containers
    are not nearly full.
    """
    return query.replace("/ 0.9", "/ 0").replace("[1d:1m]", "[1h:1s]")


def join_with(series: str) -> str:
    """Returns the query that joins the exporter's series with a series of another exporter."""
    [found] = [query for _, query in queries() if series in query]
    return found


def rules() -> list[dict]:
    """Returns the alert rules."""
    groups = yaml.safe_load((KUBERNETES / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def daemon_set() -> dict:
    """Returns the pod spec of the DaemonSet."""
    documents = yaml.safe_load_all((KUBERNETES / "daemonset.yaml").read_text())
    [found] = [document for document in documents if document["kind"] == "DaemonSet"]
    return found["spec"]["template"]["spec"]


def sidecar() -> dict:
    """Returns the container spec of the sidecar."""
    [block] = [block for block in blocks(KUBERNETES_PAGE, "yaml") if "$(POD)" in block]
    [container] = yaml.safe_load(block)["spec"]["containers"]
    return container


def exporter_container(
    lab: Lab,
    address: str,
    capabilities: list[str] | None = None,
    sidecar_of: tuple[str, str] | None = None,
    arguments: tuple[str, ...] = (),
) -> Container:
    """Returns the container that the kubelet would create for the DaemonSet or for the sidecar.

    Both get the rights and mounts of the DaemonSet. The directory of the lab replaces /run/containerd. The
    caller chooses the address, because the lab's pods share the host's network. If `capabilities` are given,
    they replace those of the manifest. Each of the `arguments` replaces the manifest's argument of the same
    name.
    """
    pod = daemon_set()
    [container] = pod["containers"]
    name, args = container["name"], container["args"]
    if sidecar_of:
        name = sidecar()["name"]
        namespace, pod_name = sidecar_of
        args = [
            arg.replace("$(NAMESPACE)", namespace).replace("$(POD)", pod_name) for arg in sidecar()["args"]
        ]
    replaced = {argument.partition("=")[0] for argument in arguments}
    args = [arg.replace("$(NODE)", "lab") for arg in args if arg.partition("=")[0] not in replaced]
    context = container["securityContext"]
    host_paths = {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"]}
    profile = cri.SecurityProfile.ProfileType
    return Container(
        name,
        args=[*args, f"--addr={address}", *arguments],
        image=container["image"],
        mounts=[
            cri.Mount(
                container_path=mount["mountPath"],
                host_path=host_paths[mount["name"]].replace("/run/containerd", str(lab.socket.parent)),
                readonly=mount["readOnly"],
                propagation=cri.PROPAGATION_HOST_TO_CONTAINER
                if mount.get("mountPropagation") == "HostToContainer"
                else cri.PROPAGATION_PRIVATE,
            )
            for mount in container["volumeMounts"]
        ],
        security=cri.LinuxContainerSecurityContext(
            capabilities=cri.Capability(
                add_capabilities=capabilities or context["capabilities"]["add"],
                drop_capabilities=context["capabilities"]["drop"],
            ),
            run_as_user=cri.Int64Value(value=context["runAsUser"]),
            readonly_rootfs=context["readOnlyRootFilesystem"],
            no_new_privs=not context["allowPrivilegeEscalation"],
            seccomp=cri.SecurityProfile(
                profile_type=profile.Value(pod["securityContext"]["seccompProfile"]["type"])
            ),
            apparmor=cri.SecurityProfile(
                profile_type=profile.Value(pod["securityContext"]["appArmorProfile"]["type"])
            ),
        ),
        memory_limit_bytes=int(container["resources"]["limits"]["memory"].removesuffix("Mi")) << 20,
    )
