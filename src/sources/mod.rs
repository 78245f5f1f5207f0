//! Where containers come from: containerd or a recording.

mod container;
pub mod containerd;
pub mod recording;
mod source;

pub use container::Container;
pub use source::{Listing, Source};
