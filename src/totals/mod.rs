//! Sums the mappings of processes into series. Pure: no I/O.
//!
//! [`process_sums`] sums one process while it is read. A [`snapshot`] keeps the packed [`reading`] of each
//! process and sums the readings into a [`table`] of containers, commands and paths, whatever is exported. A
//! [`view`] of them is one exposition: [`collect`] finds its [`rows`]. [`memory`] keeps the memory of the
//! table and the readings within a limit, and [`fold`] keeps the samples of a view within a limit; [`other`]
//! decides for both what is summed as `[other]`. [`largest`] finds what fills a container.

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
