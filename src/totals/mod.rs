//! Sums the mappings of processes into series. Pure: no I/O.
//!
//! - [`process_sums`]: the sums of one process, while it is read
//! - [`snapshot`]: a packed [`reading`] of each process, and their sums in a [`table`]
//! - [`view`]: one exposition of the table; [`collect`] finds its [`rows`]
//! - [`memory`], [`fold`], [`other`]: limits of memory and samples
//! - [`largest`]: the paths that fill a container

pub mod anon_part;
mod collect;
mod container_fold;
mod fair_share;
mod fold;
pub mod grouping;
pub mod labels;
pub mod largest;
pub mod mapped_files;
mod memory;
pub mod other;
pub mod process_sums;
pub mod reading;
mod row;
pub mod rows;
pub mod shape;
mod slab;
pub mod snapshot;
pub mod sums;
pub mod table;
pub mod view;
