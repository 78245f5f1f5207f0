//! Containers and processes on the node: discovery, attribution, read scheduling, and the memory that cgroups use.
//!
//! Four rooms, whose arrows point one way: `containers <- processes <- reads`, and `cgroups -> containers, processes`. The state
//! of the reads of a process is kept with the process, so that it is dropped with it: a table of its own would be
//! matched with the processes at each listing.

pub mod cgroups;
pub mod containers;
pub mod processes;
pub mod reads;
