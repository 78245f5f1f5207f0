//! Parses the command line into the program's options.

pub mod args;
pub(crate) mod build_info;
mod duration;
mod exclusive;
pub mod help;
pub mod options;
pub mod parameters;
mod print;
mod spec;
mod suggestion;
mod table;
pub mod usage_error;
mod values;
