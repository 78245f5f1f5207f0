//! Reads Linux's cgroup file system, in version 1 or 2, or a recording of it. Depends on no module about
//! containers.

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
