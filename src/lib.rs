//! Where the memory of containerized processes really is: the totals of `/proc/<pid>/smaps` by container, command and
//! mapped path, as Prometheus text.
#![forbid(unsafe_code)]
pub mod fields;
pub mod http;
pub mod published;
pub mod smaps;
