//! The processes of the node: the program, the container and the last read of each.

mod attribution;
pub mod change_check;
mod identity;
pub mod job;
pub mod last_read;
pub mod process;
pub mod read_state;
pub mod table;
