//! Renders the exposition as Prometheus text: a snapshot, the memory of cgroups and the exporter's own
//! metrics. Renders OOM records as JSON. Pure.

pub mod cgroups;
pub mod node;
pub mod ooms;
pub mod pods;
pub mod self_metrics;
pub mod text;
