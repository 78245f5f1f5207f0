//! Pure: the mappings of processes become sums, a series each.
//!
//! A [`tally`] sums one process while it is read; [`reading`] keeps what it gave, packed; a [`snapshot`] is the sum over the readings of
//! the processes that live. Of that the smallest paths are dropped to keep within a number of [bytes](memory), and [folded](fold) to keep
//! within a number of samples; [`largest`] tells what a container is full of.

mod fold;
pub mod grouping;
pub mod labels;
pub mod largest;
mod memory;
pub mod reading;
mod slab;
pub mod snapshot;
pub mod tally;
