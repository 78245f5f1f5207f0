//! Infers what a process uses its anonymous memory for, from the layout of its mappings. This does no I/O.
//!
//! The kernel gives names to only a few anonymous mappings. The use of most others shows in their address,
//! their permissions, five flags, and the mappings next to them. Each rule recognizes one use, such as thread
//! stacks. A rule claims a mapping if it infers that the mapping has this use. The rules in [`rules`] look at
//! a single mapping. The rules in [`runs`] look at several adjacent mappings that belong together. A mapping
//! that no rule claims stays `[anon]`. [`parts`] sums the mappings of a process by their use.
//!
//! A wrong claim is worse than no claim. In the test data in `fixtures/anonymous`, more than 99% of the bytes
//! that a rule claims have the use that the rule infers. A test also removes the flags from this data, or
//! moves the mappings to addresses that no known kernel uses. The rules that depend on these flags or
//! addresses then claim nothing.
//!
//! The rules were made from the mappings of 80 processes, which the comments of the rules call recorded
//! processes. The comments say how much of the memory that a rule claims really has the use (the precision),
//! and how much of the memory with this use the rule finds (the recall).

pub mod parts;
mod rules;
mod runs;
