"""Runs the image of the exporter in a pod, with the rights of the manifest or with other rights."""

import socket
import urllib.error
from pathlib import Path

import kernel
import readme
from exporter import Client
from lab import Lab, cri, read_proc, until

PLACE = ("smaps-exporter", "smaps-container-exporter-x7k2p", "exporter")
OWN = (*PLACE, "smaps-container")  # comm has at most 15 bytes


class InPod(Client):
    """An exporter in a pod.

    `apparmor` is the name of a profile. `capabilities` replace the capabilities of the manifest. `arguments`
    are added to the arguments of the manifest.
    """

    def __init__(
        self,
        node: Lab,
        capabilities: list[str] | None = None,
        apparmor: str | None = None,
        arguments: tuple[str, ...] = (),
    ):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            super().__init__(f"127.0.0.1:{free.getsockname()[1]}")
        self.node = node
        self.container = readme.exporter_container(node, self.address, arguments=arguments)
        security = self.container.security
        if capabilities is not None:
            del security.capabilities.add_capabilities[:]
            security.capabilities.add_capabilities.extend(capabilities)
        if apparmor:
            security.apparmor.profile_type = cri.SecurityProfile.ProfileType.Value(apparmor)
        self.pod = node.run_pod(*PLACE[:2], [self.container])
        try:
            until(self._ready, 60, "the exporter in the pod is ready")
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _ready(self) -> bool:
        try:
            return self.get("/readyz")[0] == 200
        except (urllib.error.URLError, ConnectionError):
            return False

    def log(self) -> str:
        # `log_of` is not used here, because it would also find pods with the same name that belong to other
        # tests.
        return Path(self.pod.config.log_directory, f"{PLACE[2]}.log").read_text()

    def status(self) -> dict[str, str]:
        """Returns the fields of /proc/<pid>/status for the process of the exporter."""
        [pid] = kernel.processes(self.node)[OWN]
        return dict(line.split(":\t", 1) for line in read_proc(pid, "status").decode().splitlines())

    def close(self):
        print(f"the log of the exporter in its pod:\n{self.log()}")
        self.node.remove_pod(self.pod)
