//! A crate of the exporter's modules that do no I/O. Because the client of containerd is not included, a fuzz
//! target is built in seconds.
#![allow(dead_code, unused_imports)]

#[path = "../../src/cgroupfs/field.rs"]
mod field;
#[path = "../../src/cgroupfs/field_table.rs"]
mod field_table;
#[path = "../../src/cgroupfs/fields.rs"]
pub mod cgroup_fields;
#[path = "../../src/cli/mod.rs"]
pub mod cli;
#[path = "../../src/errors.rs"]
mod errors;
#[path = "../../src/smaps/mod.rs"]
pub mod smaps;
#[path = "../../src/totals/mod.rs"]
pub mod totals;

#[path = "../../src/procfs/cgroup.rs"]
pub mod cgroup;
#[path = "../../src/node/containers/cgroup_index.rs"]
pub mod cgroup_index;
#[path = "../../src/node/containers/cgroup_path.rs"]
pub mod cgroup_path;
#[path = "../../src/node/containers/filter.rs"]
pub mod filter;
#[path = "../../src/node/containers/table.rs"]
pub mod table;
#[path = "../../src/http/head.rs"]
pub mod head;
#[path = "../../src/http/hosts.rs"]
mod hosts;
#[path = "../../src/sources/container.rs"]
pub mod container;
#[path = "../../src/sources/recording.rs"]
pub mod recording;
#[path = "../../src/sources/source.rs"]
pub mod source;

pub mod cgroupfs {
    pub use crate::cgroup_fields as fields;
}
/// Takes the place of the exporter's module `demand`, which does I/O. A fuzz target has nothing to wait for.
pub mod demand {
    pub struct Wake;
    impl Wake {
        pub fn wait_until(&self, _: std::time::Instant) {}
    }
}
pub mod http {
    pub use crate::hosts::is_host_name;
}
pub mod node {
    pub mod containers {
        pub use crate::{cgroup_index, cgroup_path, filter, table};
    }
}
pub mod procfs {
    pub use crate::cgroup;
}
pub mod sources {
    pub use crate::container::Container;
    pub use crate::recording;
    pub use crate::source::{Listing, Source};
}
