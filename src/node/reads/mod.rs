//! The reads of processes: which process is read next, the read itself, and what its result changes.

pub mod apply;
mod attempts;
pub mod budget;
pub mod detached;
pub mod finding;
mod outcome;
mod plan;
pub mod reader;
pub mod scheduler;
