//! Reads Linux's cgroup file system: version 2, the hierarchies of version 1, or a recording of either
//! version. This module does not use the modules that describe containers, which are `sources` and `node`.

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
