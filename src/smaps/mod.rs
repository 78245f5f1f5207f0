//! Pure: bytes of smaps become mappings.

mod field_line;
pub mod fields;
mod header;
mod learned;
mod lines;
pub mod scanner;
