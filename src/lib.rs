//! Where the memory of containerized processes really is: the totals of `/proc/<pid>/smaps` by container, command and
//! mapped path, as Prometheus text.
//!
//! Data flows one way, in the order of the modules below. The middle, from [`cgroup`] to [`exposition`], does no I/O and cannot fail.
#![forbid(unsafe_code)]

pub mod args;
pub mod build_info;
pub mod duration;
pub mod filter;

pub mod containerd;
pub mod containers;
pub mod recording;

pub mod cgroup;
pub mod procfs;

pub mod fields;
pub mod http;
pub mod published;
pub mod smaps;

pub mod labels;
mod slots;
pub mod snapshot;

pub mod exposition;
pub mod own;
