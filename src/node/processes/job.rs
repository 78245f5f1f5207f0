//! A read to be done: of which process, and how much of it.

use super::change_check::Check;

/// A read of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// The pid.
    pub pid: u32,
    /// The inode number of the process's directory, as it was listed.
    pub inode: u64,
    /// What to read.
    pub detail: Detail,
    /// Whether `stat` is read in any case: the values may be kept for longer than a scrape, so another program must be
    /// noticed.
    pub with_stat: bool,
}

/// How much is read of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// `stat` and nothing else: when the process started; later, whether it still runs the program whose values are kept.
    Stat,
    /// Every mapping, from smaps, unless the check shows that none has changed.
    Mappings(Check),
    /// The sum of the mappings, from smaps_rollup where the kernel has it, else from smaps.
    Rollup {
        /// The number of mappings, if they need not be counted.
        known_count: Option<u64>,
    },
    /// The kernel's sum, shown as `[other]` in place of mappings that take too long to print.
    Other {
        /// How many mappings were printed before the read was cancelled. The sum stands for at least this many.
        n_printed: u64,
    },
}
