//! The sources of containers: containerd, any runtime that supports CRI, the kubelet's links to container
//! logs, or a recording.

pub(crate) mod client;
mod connection;
mod container;
pub(crate) mod container_logs;
pub(crate) mod containerd;
pub(crate) mod cri;
pub mod recording;
mod source;

pub use container::Container;
pub use source::{Listing, Source};
