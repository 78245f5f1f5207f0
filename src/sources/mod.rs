//! Where containers come from: containerd or a recording.

mod answers;
mod container;
pub mod containerd;
mod lifeline;
pub mod recording;

pub use container::Container;
