//! A container as every source lists it.

/// A running container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The runtime's id. Listings are sorted by it.
    pub id: String,
    /// The pid of the container's first process in the node's PID namespace, never 0; `None` if the source
    /// has no pids.
    pub init_pid: Option<u32>,
    /// The label `namespace`.
    pub namespace: String,
    /// The label `pod`; empty for a container outside pods.
    pub pod: String,
    /// The label `container`.
    pub name: String,
}
