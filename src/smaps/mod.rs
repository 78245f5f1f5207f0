//! Pure: bytes of smaps become mappings.

pub mod fields;
pub mod scanner;
