//! The cgroups of containers, pods and the node: the memory that is charged to each, and the kernel's OOM
//! kills.

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
