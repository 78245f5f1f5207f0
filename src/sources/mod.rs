//! Where containers come from: containerd or a recording.

mod answers;
mod container;
pub mod containerd;
mod lifeline;
pub mod recording;
mod source;

pub use container::Container;
pub use source::{Listing, Source};
