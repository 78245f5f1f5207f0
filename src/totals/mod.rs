//! Sums the mappings of processes into series. Pure: no I/O.
//!
//! A [`tally`] sums one process while it is read. A [`snapshot`] keeps the packed [`reading`] of each process
//! and sums the readings into a [`table`] of containers, commands and series. [`memory`] keeps their memory
//! within a limit, and [`fold`] keeps the exported samples within a limit; [`other`] decides for both what is
//! summed as `[other]`. [`largest`] finds what fills a container.

pub mod anon_part;
mod fair_share;
mod fold;
pub mod grouping;
pub mod labels;
pub mod largest;
pub mod mapped_files;
mod memory;
mod other;
mod part;
pub mod reading;
pub mod shape;
mod slab;
pub mod snapshot;
pub mod sums;
pub mod table;
pub mod tally;
