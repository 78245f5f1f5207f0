//! Sums the mappings of processes into series. Pure: no I/O.
//!
//! [`process_sums`] sums one process while it is read. A [`snapshot`] keeps a packed [`reading`] of each
//! process, and sums the readings into a [`table`] of containers, commands and paths. A [`view`] turns the
//! table into one exposition: [`collect`] finds its [`rows`]. [`memory`] limits the memory of the table and
//! the readings, and [`fold`] limits the samples of a view. For both limits, [`other`] decides what is summed
//! as `[other]`. [`largest`] finds the paths that fill a container.

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
