//! Reads Linux's cgroup file system: version 2, the hierarchies of version 1, or a recording of either
//! version. This module uses nothing that describes containers.

pub mod account;
pub mod changes;
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
