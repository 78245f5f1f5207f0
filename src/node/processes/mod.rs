//! What is known about each process of the node: its program, its container and its last read.

mod attribution;
pub mod change_check;
mod identity;
pub mod job;
pub mod last_read;
pub mod process;
pub mod read_state;
pub mod table;
