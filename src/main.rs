//! The program: turns what [`smaps_container_exporter`] returns into an exit code.
#![forbid(unsafe_code)]

fn main() {}
