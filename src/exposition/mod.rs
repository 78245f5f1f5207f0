//! Pure: a snapshot and the exporter's own figures become Prometheus text.

pub mod self_metrics;
pub mod text;
