//! Containers and processes on the node: discovery, attribution, read scheduling, and the memory that cgroups
//! use.
//!
//! There are four modules, and their dependencies point one way: `containers <- processes <- reads`, and
//! `cgroups -> containers, processes`. The state of the reads of a process is stored with the process, and is
//! dropped together with it. A separate table of this state would have to be matched with the processes at
//! each listing of proc.

pub mod cgroups;
pub mod containers;
pub mod processes;
pub mod reads;
