//! A container as the scrape sees it, wherever it comes from.

/// A container that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its id; containers are listed in the order of their ids.
    pub id: String,
    /// The pid of its first process in the node's PID namespace, where the source tells it; never 0.
    pub init_pid: Option<u32>,
    /// The label `namespace`.
    pub namespace: String,
    /// The label `pod`; empty for a container that is in none.
    pub pod: String,
    /// The label `container`.
    pub name: String,
}
