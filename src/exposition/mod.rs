//! Writes metrics as Prometheus text, and records of OOM kills as JSON. This does no I/O.

pub mod cgroups;
pub mod node;
pub mod ooms;
pub mod pods;
pub mod self_metrics;
pub mod text;
