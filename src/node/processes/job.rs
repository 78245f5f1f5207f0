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
    /// Whether to read `stat` as well. A later scrape that keeps the values needs `stat`, to find out whether
    /// the process has executed another program since.
    pub with_stat: bool,
}

/// What to read of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Only `stat`. For a new process, `stat` shows the start time. If the process is not read in full, and
    /// the values of an earlier read are kept, `stat` shows whether the process still runs the same program.
    Stat,
    /// Every mapping, from smaps. The mappings are not read if the change check shows that nothing has
    /// changed.
    Mappings(Check),
    /// The sum over all mappings, from smaps_rollup if the kernel has that file, and otherwise from smaps.
    Rollup {
        /// The number of mappings, if it is known and need not be counted.
        known_count: Option<u64>,
    },
    /// Only the kernel's sum over all mappings, which is exported as `[other]`. The sum is read instead of
    /// the mappings if the kernel takes too long to print the mappings.
    Other {
        /// The number of mappings that the kernel had printed when the slow read was cancelled. The process
        /// has at least this many mappings.
        n_printed: u64,
    },
}
