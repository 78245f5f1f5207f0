//! The memory that is charged to the cgroups of containers, of pods and of the node, and the kernel's OOM
//! kills in these cgroups.

mod account;
mod accounts;
mod counters;
pub mod growth;
pub mod kill_counts;
mod ledger;
mod limit_watch;
mod mapped_shmem;
pub mod moment;
pub mod oom;
pub mod oom_watch;
mod pace;
mod pods;
pub mod usage;
