//! Infers what a process uses its anonymous memory for, from the layout of its mappings. This does no I/O.
//!
//! Each rule claims mappings for one use, such as thread stacks. A wrong claim is worse than none, so a
//! doubtful mapping stays `[anon]`.

pub mod parts;
// The figures in the comments of the rules come from 80 recorded processes, from which the rules were made.
mod rules;
mod runs;
