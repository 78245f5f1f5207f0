//! What a read of a process returns.

use crate::node::processes::last_read::{Cost, MemoryRead, Program};
use crate::procfs::cgroup::Cgroups;
use crate::procfs::errors::ReadError;
use crate::procfs::stat::Stat;
use crate::totals::process_sums::ProcessSums;

/// The cost and the result of a read.
#[derive(Debug)]
pub struct Finding<'a> {
    /// The cost of the read.
    pub cost: Cost,
    /// How many times the process executed another program during the read.
    pub n_execs: u64,
    /// Whether the kernel took too long to print the mappings.
    pub was_slow: bool,
    /// What the read found, or the reason why it failed.
    pub result: Result<Found<'a>, ReadError>,
}

/// What a successful read found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The inode number of the directory through which the process was read.
    pub inode: u64,
    /// The `stat` file. It is read in three cases: if the job is to read only `stat`, if the process maps
    /// nothing and may thus be a zombie, or if the inode number of the process's directory differs from the
    /// number in the job, so that the pid may belong to another process. A recording has no `stat`.
    pub stat: Option<Stat>,
    /// The memory, unless only `stat` was read.
    pub memory: Option<Memory<'a>>,
}

/// The memory of a process.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'a> {
    /// What the read returned, without the totals.
    pub read: MemoryRead,
    /// The totals by path. They are empty for a zombie or a kernel thread, and if nothing has changed.
    pub process_sums: &'a ProcessSums,
    /// The name of the process at the end of the read.
    pub comm: &'a [u8],
    /// The cgroups of the process at the end of the read; `None` for a zombie with unknown cgroups.
    pub cgroups: Option<&'a Cgroups>,
}

impl Found<'_> {
    /// Returns the program that the process runs. `None` if `stat` was not read, or if the kernel hides the
    /// addresses in `stat` that identify a program.
    pub fn program(&self) -> Option<Program> {
        match self.memory {
            Some(memory) => memory.read.program,
            None => self.stat.and_then(|stat| stat.work.visible_program()),
        }
    }
}
