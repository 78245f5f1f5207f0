//! Containers and processes on the node: discovery, attribution, read scheduling, and the memory that cgroups
//! use.
//!
//! There are four modules, and their dependencies point one way: `containers <- processes <- reads`, and
//! `cgroups -> containers, processes`. What is known about the reads of a process is kept with the process,
//! so that both are dropped together. If it were in a separate table, it would have to be matched with the
//! processes at each listing of proc.

pub mod cgroups;
pub mod containers;
pub mod processes;
pub mod reads;
