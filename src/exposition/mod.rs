//! Pure: a snapshot, the containers' accounts and the exporter's own figures become Prometheus text.

pub mod cgroups;
pub mod node;
pub mod ooms;
pub mod pods;
pub mod self_metrics;
pub mod text;
