//! Containers as the sources list them.

/// A running container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The id that the runtime has given to the container. Listings are sorted by this id.
    pub id: String,
    /// The pid of the container's first process, in the node's PID namespace. It is never 0. `None` if the
    /// source has no pids.
    pub init_pid: Option<u32>,
    /// The value of the label `namespace`.
    pub namespace: String,
    /// The value of the label `pod`. It is empty if the container is in no pod.
    pub pod: String,
    /// The value of the label `container`.
    pub name: String,
}
