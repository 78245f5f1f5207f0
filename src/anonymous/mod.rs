//! Infers what a process uses its anonymous memory for, from the layout of its mappings. This does no I/O.
//!
//! The kernel gives names to only a few anonymous mappings. The use of most others shows in their address,
//! their permissions, five flags, and the mappings next to them. A part is the memory with one use, such as
//! thread stacks. Each of the [`rules`] looks at a single mapping, and may claim the mapping for a part. Each
//! rule in [`runs`] claims adjacent mappings that belong together. A mapping that no rule claims stays
//! `[anon]`. [`parts`] sums the mappings of a process by part.
//!
//! A wrong claim is worse than no claim. In the snapshots of processes in `fixtures/anonymous`, more than 99%
//! of the bytes that a rule claims have the use that the rule infers, and no rule claims anything in an
//! unknown layout. The rules themselves were made from 80 snapshots, which are called recorded processes in
//! the comments of the rules. These comments state how much of the memory that a rule claims really has the
//! use (the precision), and how much of the memory with this use the rule finds (the recall).

pub mod parts;
mod rules;
mod runs;
