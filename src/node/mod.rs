//! The node's containers and processes: which there are, whose they are, whose turn it is to be read.

pub mod accounts;
pub mod away;
pub mod budget;
pub mod discovery;
pub mod filter;
pub mod ladder;
pub mod ooms;
pub mod owners;
mod process;
pub mod processes;
mod queue;
pub mod reader;
mod reads;
mod schedule;
pub mod selection;
