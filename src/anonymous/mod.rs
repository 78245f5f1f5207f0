//! Infers from the layout of a process's anonymous mappings what they are used for. Pure.
//!
//! The kernel names few of them, but most can be distinguished by address, permissions, five flags and
//! adjacency. Each of the [`rules`] claims single mappings for a part, and each rule in [`runs`] claims
//! adjacent mappings that belong together. A mapping that no rule claims stays `[anon]`. [`parts`] sums the
//! mappings of a process by part.
//!
//! A false claim is worse than none. In the snapshots of `fixtures/anonymous`, more than 99% of the bytes
//! that a rule claims have the use that it infers, and no rule claims anything in an unknown layout. The
//! comment of each rule has its figures for the 80 snapshots that the rules were made from: precision (the
//! share of the claimed bytes that have the use) and recall (the share of the bytes with that use that are
//! claimed).

pub mod parts;
mod rules;
mod runs;
