//! The command line: options become a configuration.

pub mod args;
pub mod build_info;
pub mod duration;
