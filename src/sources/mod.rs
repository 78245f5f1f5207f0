//! Containers as the scrape sees them, wherever they come from: containerd or a recording.

mod answers;
pub mod containerd;
mod lifeline;
pub mod recording;

use crate::totals::labels;

/// A container that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its id; containers are listed in the order of their ids.
    pub id: String,
    /// The pid of its first process in the node's PID namespace, never 0.
    pub init_pid: u32,
    /// The label `namespace`.
    pub namespace: String,
    /// The label `pod`; empty for a container that is in none.
    pub pod: String,
    /// The label `container`.
    pub name: String,
}

impl Container {
    /// The beginning of the label text of everything in it (see [`labels::container`]).
    pub fn labels(&self) -> String {
        labels::container(&self.namespace, &self.pod, &self.name)
    }
}
