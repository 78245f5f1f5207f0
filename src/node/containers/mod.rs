//! Which containers run on the node, which cgroups belong to them, and which of their processes are selected.

pub mod cgroup_index;
pub mod cgroup_path;
mod cut_ids;
pub mod discovery;
pub mod filter;
mod listings;
mod schedule;
pub mod selection;
mod shared_pods;
pub mod table;
mod unknown_cgroups;
