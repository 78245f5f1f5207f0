//! The processes of the node: which program each is, which container it is in, and what its last read returned.

mod attribution;
pub mod change_check;
mod identity;
pub mod job;
pub mod last_read;
pub mod process;
pub mod read_state;
pub mod table;
