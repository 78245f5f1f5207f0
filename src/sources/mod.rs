//! Where containers come from: containerd, any runtime that speaks CRI, the kubelet's links, or a recording.

mod answers;
mod client;
mod connection;
mod container;
mod container_logs;
mod containerd;
mod cri;
mod lifeline;
mod open;
mod protobuf;
pub mod recording;
mod source;

pub use container::Container;
pub use open::open;
pub use source::{Listing, Source};
