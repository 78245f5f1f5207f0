//! The cgroups of the containers: how much memory each uses, and the kernel's OOM kills.

mod account;
mod accounts;
mod kills;
mod mapped_shmem;
pub mod oom;
pub mod usage;
