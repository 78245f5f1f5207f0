//! Where containers come from: containerd or a recording.

mod container;
pub mod containerd;
pub mod recording;

pub use container::Container;
