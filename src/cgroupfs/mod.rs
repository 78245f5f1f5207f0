//! Linux's cgroup file system, version 2 or version 1's hierarchies, or a recording of one. Knows cgroups and nothing of containers.

pub mod account;
pub mod events;
mod field;
mod field_table;
pub mod fields;
pub mod files;
pub mod memory_fs;
mod namespace;
pub mod node;
pub mod pod;
pub mod use_files;
