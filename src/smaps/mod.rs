//! Parses the bytes of smaps into mappings. This does no I/O.

mod field_line;
pub mod fields;
mod header;
mod learned;
mod lines;
pub mod place;
pub mod scanner;
