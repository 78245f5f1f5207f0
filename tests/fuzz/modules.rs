//! The exporter's modules that do no I/O, as a crate of their own: so a fuzz target builds in seconds, without containerd's client.
#![allow(dead_code, unused_imports)]

#[path = "../../src/args.rs"]
pub mod args;
#[path = "../../src/build_info.rs"]
pub mod build_info;
#[path = "../../src/cgroup.rs"]
pub mod cgroup;
#[path = "../../src/containers.rs"]
pub mod containers;
#[path = "../../src/duration.rs"]
pub mod duration;
#[path = "../../src/fields.rs"]
pub mod fields;
#[path = "../../src/filter.rs"]
pub mod filter;
#[path = "../../src/http/head.rs"]
pub mod head;
#[path = "../../src/labels.rs"]
pub mod labels;
#[path = "../../src/recording.rs"]
pub mod recording;
#[path = "../../src/smaps.rs"]
pub mod smaps;
