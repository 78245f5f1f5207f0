//! A container as every source lists it.

/// A running container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The runtime's id. Containers are listed in the order of their ids.
    pub id: String,
    /// The pid of the container's first process in the node's PID namespace, never 0; `None` if the source
    /// has no pids.
    pub init_pid: Option<u32>,
    /// The label `namespace`.
    pub namespace: String,
    /// The label `pod`; empty for a container that is in no pod.
    pub pod: String,
    /// The label `container`.
    pub name: String,
}
