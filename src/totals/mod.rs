//! Pure: mappings are summed into series.

pub mod grouping;
pub mod labels;
mod slab;
pub mod snapshot;
