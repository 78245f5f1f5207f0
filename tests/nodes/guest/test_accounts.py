"""What is exported of a container's cgroup is what the kernel's files say: both versions, both drivers."""

from cgroups import IS_V2, MIB, WORK, assert_same, works
from lab import Container


def test_an_account_is_the_files(node, record_property):
    app = Container("app", ["sh", "-c", WORK], memory_limit_bytes=64 * MIB)
    pod = node.run_pod("accounts", "limit-0", [app])
    try:
        cgroup = works(node, app)
        node.limit_pod(pod, 48 * MIB)
        with cgroup.frozen():
            values = assert_same(node, cgroup, "accounts", "limit-0", "app")
    finally:
        node.remove_pod(pod)
    record_property("fields of a cgroup compared", len(values))
    assert (values["memory_max_bytes"], values["memory_limit_bytes"]) == (64 * MIB, 48 * MIB)
    assert values["memory_stat_shmem_bytes"] >= 5 * MIB and len(values) >= (30 if IS_V2 else 24), values
