"""What the README and src/kubernetes tell users to apply, and the pod that the kubelet would make of it."""

import re

import yaml

from exporter import REPOSITORY
from lab import Container, Lab, cri

TEXT = (REPOSITORY / "README.md").read_text()
KUBERNETES = REPOSITORY / "src/kubernetes"


def blocks(language: str) -> list[str]:
    """The fenced blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def block_with(key: str) -> str:
    """The YAML block that has this top-level key."""
    [found] = [block for block in blocks("yaml") if re.search(rf"^{key}:", block, re.MULTILINE)]
    return found


def queries() -> list[tuple[str, str]]:
    """The queries, each one line below a comment that may name the grouping it is for."""
    return re.findall(r"^# (.*)\n([^#].*)$", "".join(blocks("promql")), re.MULTILINE)


def rules() -> list[dict]:
    """The alerts."""
    groups = yaml.safe_load((KUBERNETES / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def daemon_set() -> dict:
    """The pod that the DaemonSet makes."""
    documents = yaml.safe_load_all((KUBERNETES / "daemonset.yaml").read_text())
    [found] = [document for document in documents if document["kind"] == "DaemonSet"]
    return found["spec"]["template"]["spec"]


def sidecar() -> dict:
    """The sidecar's container."""
    [block] = [block for block in blocks("yaml") if "$(POD)" in block]
    [container] = yaml.safe_load(block)["spec"]["containers"]
    return container


def exporter_container(
    lab: Lab,
    address: str,
    capabilities: list[str] | None = None,
    sidecar_of: tuple[str, str] | None = None,
    arguments: tuple[str, ...] = (),
) -> Container:
    """The DaemonSet's container, as the kubelet asks CRI for it; or the sidecar's, which has the same rights and mounts.

    The node's /run/containerd is the lab's directory, and the address is of the test's choosing, for the lab's pods share the
    machine's network. `capabilities` replace those that the manifest adds; `arguments` replace its own of the same name.
    """
    pod = daemon_set()
    [container] = pod["containers"]
    name, args = container["name"], container["args"]
    if sidecar_of:
        name = sidecar()["name"]
        namespace, pod_name = sidecar_of
        args = [arg.replace("$(NAMESPACE)", namespace).replace("$(POD)", pod_name) for arg in sidecar()["args"]]
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
            seccomp=cri.SecurityProfile(profile_type=profile.Value(pod["securityContext"]["seccompProfile"]["type"])),
            apparmor=cri.SecurityProfile(profile_type=profile.Value(pod["securityContext"]["appArmorProfile"]["type"])),
        ),
        memory_limit_bytes=int(container["resources"]["limits"]["memory"].removesuffix("Mi")) << 20,
    )
