"""Pods of every kind, and their processes."""

import os
from pathlib import Path

import kernel
from lab import CONTAINER, NODE, POD, Container, cri, until
from node import MEMORY_IMAGE, Node, command, settled

FOREVER = "1000000"
TWO_SLEEPS = ["sh", "-c", f"sleep {FOREVER} & sleep {FOREVER} & wait"]
PROFILES = cri.SecurityProfile.ProfileType
UNCONFINED = cri.SecurityProfile(profile_type=PROFILES.Value("Unconfined"))
RUNTIME_DEFAULT = cri.SecurityProfile(profile_type=PROFILES.Value("RuntimeDefault"))
KERNEL_MEMORY = Path("/sys/kernel/mm")
# A program with many libraries, which it shares with a child process.
PYTHON = "import ssl, sqlite3, json, ctypes, decimal, os, time\nos.fork()\nwhile 1: time.sleep(1000)"

# The number of processes of each (namespace, pod, container, comm).
PROCESSES = {
    ("default", "web-1", "app", "sh"): 1,
    ("default", "web-1", "app", "sleep"): 2,
    ("default", "web-1", "app", "tail"): 1,  # started as by kubectl exec
    ("default", "web-1", "sidecar", "sleep"): 1,
    # This pod is in the PID namespace of the node (`pid: NODE`), and has no AppArmor profile.
    ("kube-system", "agent-0", "agent", "sh"): 1,
    ("kube-system", "agent-0", "agent", "sleep"): 2,
    # The containers of this pod share one PID namespace (`pid: POD`).
    ("shop", "cart-0", "cart", "sleep"): 1,
    ("shop", "cart-0", "logs", "tail"): 1,
    ("shop", "cart-0", "logs", "sleep"): 1,  # started as by kubectl exec
    # This container does not run as root.
    ("batch", "job-0", "unprivileged", "sh"): 1,
    ("batch", "job-0", "unprivileged", "sleep"): 2,
    ("memory", "memory-0", "memory", "memory"): 2,
    ("python", "python-0", "python", "python3"): 2,
}
I386 = os.uname().machine == "x86_64"
if I386:
    PROCESSES["memory", "i386-0", "i386", "i386"] = 1


def run(node: Node):
    """Runs all pods. Waits until they use all their memory and the kernel has merged equal pages."""
    app = Container("app", TWO_SLEEPS)
    node.run_pod("default", "web-1", [app, Container("sidecar", ["sleep", FOREVER])], CONTAINER)
    host = cri.LinuxContainerSecurityContext(apparmor=UNCONFINED)
    node.run_pod("kube-system", "agent-0", [Container("agent", TWO_SLEEPS, security=host)], NODE)
    run_cart(node)
    user = cri.LinuxContainerSecurityContext(run_as_user=cri.Int64Value(value=65534), seccomp=RUNTIME_DEFAULT)
    node.run_pod("batch", "job-0", [Container("unprivileged", TWO_SLEEPS, security=user)])
    memory = node.run_pod("memory", "memory-0", [Container("memory", ["/memory"], image=MEMORY_IMAGE)])
    if I386:
        node.run_pod("memory", "i386-0", [Container("i386", ["/i386"], image=MEMORY_IMAGE)])
    libraries = [
        cri.Mount(container_path=path, host_path=path, readonly=True)
        for path in ("/usr", "/lib", "/lib64")
        if Path(path).exists()
    ]
    python = Container("python", ["/usr/bin/python3", "-c", PYTHON], mounts=libraries)
    node.run_pod("python", "python-0", [python])
    node.exec(app, ["tail", "-f", "/dev/null"])
    settled(lambda: kernel.counts(node), lambda: PROCESSES, 120)
    until(lambda: node.log_of(memory, "memory").count(" ready\n") == 2, 120, "the workload has its memory")
    # Wait until the kernel has merged most of the 8 MiB of equal pages: more than 7 MiB.
    n_equal = (7 << 20) // os.sysconf("SC_PAGE_SIZE")
    merged = KERNEL_MEMORY / "ksm/pages_sharing"
    until(lambda: int(merged.read_text()) > n_equal, 120, "the kernel has merged the workload's equal pages")
    (KERNEL_MEMORY / "ksm/run").write_text("0\n")


def run_cart(node: Node):
    """Runs the pod whose containers share one PID namespace."""
    logs = Container("logs", ["tail", "-f", "/dev/null"])
    pod = node.run_pod("shop", "cart-0", [Container("cart", ["sleep", FOREVER]), logs], POD)
    node.exec(logs, ["sleep", FOREVER])
    return pod


def prepare_memory():
    """Turns on swap and huge pages, and lets the kernel merge equal pages."""
    Path("/proc/sys/vm/nr_hugepages").write_text("16\n")
    swap = Path("/swapfile")
    swap.write_bytes(bytes(256 << 20))
    swap.chmod(0o600)
    command("mkswap", swap)
    command("swapon", swap)
    for name, value in (
        ("ksm/pages_to_scan", 20000),
        ("ksm/sleep_millisecs", 20),
        ("ksm/run", 1),
        ("transparent_hugepage/shmem_enabled", "advise"),
        ("transparent_hugepage/khugepaged/defrag", 0),
    ):
        (KERNEL_MEMORY / name).write_text(f"{value}\n")
