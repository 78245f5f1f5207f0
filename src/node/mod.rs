//! Containers and processes on the node: discovery, attribution, read scheduling, and the memory that cgroups
//! use.
//!
//! The state of a process's reads is stored with the process, because a separate table would have to be
//! matched with the processes at each listing.

pub mod cgroups;
pub mod containers;
pub mod processes;
pub mod reads;
