//! The job that describes one read of a process.

use super::change_check::Check;

/// A job: which process to read, and what to read of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// The pid of the process.
    pub pid: u32,
    /// The inode number of the process's directory in the last listing of proc.
    pub inode: u64,
    /// What to read.
    pub detail: Detail,
    /// Whether to read `stat` as well, so that a later scrape can find out whether the process has executed
    /// another program.
    pub with_stat: bool,
}

/// What to read of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Only `stat`. It shows the start time of a new process, and whether a process that keeps its values
    /// runs another program.
    Stat,
    /// Every mapping, from smaps. The mappings are not read if the change check shows that nothing has
    /// changed.
    Mappings(Check),
    /// The sum over all mappings, from smaps_rollup if the kernel has that file, and otherwise from smaps.
    Rollup {
        /// The number of mappings, if it is known and need not be counted.
        known_count: Option<u64>,
    },
    /// Only the kernel's sum over all mappings, exported as `[other]`, because the kernel takes too long to
    /// print the mappings.
    Other {
        /// The number of mappings printed before the slow read was cancelled, which is a lower bound.
        n_printed: u64,
    },
}
