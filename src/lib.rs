//! Where the memory of containerized processes really is: the totals of `/proc/<pid>/smaps` by container, command and
//! mapped path, as Prometheus text.
#![forbid(unsafe_code)]
pub mod args;
pub mod build_info;
pub mod duration;
pub mod fields;
pub mod filter;
pub mod smaps;
pub mod cgroup;
pub mod procfs;
