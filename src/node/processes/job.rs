//! A read to be done: the process, and what to read of it.

use super::change_check::Check;

/// A read of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// The pid of the process.
    pub pid: u32,
    /// The inode number of the process's directory, as it was listed.
    pub inode: u64,
    /// What to read.
    pub detail: Detail,
    /// Whether `stat` is read in any case: the values may be kept for longer than a scrape, so the execution
    /// of another program must be noticed.
    pub with_stat: bool,
}

/// What is read of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Only `stat`: first to learn the start time, later to learn whether the process still runs the program
    /// that the kept values belong to.
    Stat,
    /// Every mapping, from smaps, unless the check shows that none has changed.
    Mappings(Check),
    /// The sum of the mappings, from smaps_rollup if the kernel has that file, else from smaps.
    Rollup {
        /// The number of mappings, if it is known and need not be counted.
        known_count: Option<u64>,
    },
    /// The kernel's sum, shown as `[other]` in place of mappings that take too long to print.
    Other {
        /// How many mappings were printed before the read was cancelled. The sum stands for at least this
        /// many mappings.
        n_printed: u64,
    },
}
