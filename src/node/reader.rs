//! One read of one process: its memory, then its name and cgroup, which are those of that memory.
//!
//! Needs nothing of what the scrape knows but which process to read, and gives facts. Files of a process that can make it wait are
//! opened here and nowhere else.

use crate::procfs::errors::ReadError;
use crate::procfs::memory::MemoryReader;
use crate::procfs::{Buffers, Proc, ProcessDir};
use crate::smaps::scanner::Mapping;
use crate::totals::grouping::GroupBy;
use crate::totals::tally::Tally;

/// A process to read, and in which detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its number.
    pub pid: u32,
    /// What to read.
    pub detail: Detail,
}

/// How much is read of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Each mapping, from smaps.
    Mappings,
    /// Their sum, from smaps_rollup where the kernel has it, else from smaps.
    Rollup {
        /// How many mappings there are, if they need not be counted.
        known_count: Option<u64>,
    },
}

/// Reads processes one after the other; what the last read found is in its fields.
#[derive(Debug)]
pub struct Reader {
    memory: MemoryReader,
    buffers: Buffers,
    /// What it maps; empty for a zombie or a kernel thread.
    pub tally: Tally,
    /// How many mappings that are.
    pub n_mappings: u64,
    /// The inode number of the directory it was read through.
    pub inode: u64,
    /// Its name when the read ended.
    pub comm: Vec<u8>,
    /// Its cgroup when the read ended; empty for a zombie whose cgroup cannot be told.
    pub cgroup: Vec<u8>,
    /// How often it executed another program while it was read.
    pub n_execs: u64,
}

impl Reader {
    /// A reader that sums by `group_by`.
    pub fn new(group_by: GroupBy) -> Self {
        Self {
            memory: MemoryReader::default(),
            buffers: Buffers::default(),
            tally: Tally::new(group_by),
            n_mappings: 0,
            inode: 0,
            comm: Vec::new(),
            cgroup: Vec::new(),
            n_execs: 0,
        }
    }

    /// Reads a process.
    ///
    /// Fails when it gave no values; then only `n_execs` counts.
    pub fn read(&mut self, proc: &Proc, job: Job) -> Result<(), ReadError> {
        self.n_execs = 0;
        let process = proc.process(job.pid, &mut self.buffers)?;
        match self.read_once(&process, job.detail) {
            // What it executes now is read at once.
            Err(ReadError::Exec) => {
                self.n_execs += 1;
                self.read_once(&process, job.detail)
            }
            result => result,
        }
    }

    fn read_once(&mut self, process: &ProcessDir, detail: Detail) -> Result<(), ReadError> {
        let Self { memory, buffers, tally, n_mappings, .. } = self;
        tally.clear();
        *n_mappings = 0;
        let has_sum = match detail {
            Detail::Rollup { known_count } => {
                let count = known_count.map_or_else(|| memory.count(process), Ok)?;
                *n_mappings = count;
                memory.rollup(process, &mut |sum| tally.add(&Mapping { count, ..sum }))?
            }
            Detail::Mappings => false,
        };
        if !has_sum {
            let n = memory.mappings(process, buffers, &mut |mapping| tally.add(&mapping))?;
            *n_mappings = n as u64;
        }
        self.identify(process)
    }

    /// Finds name and cgroup.
    fn identify(&mut self, process: &ProcessDir) -> Result<(), ReadError> {
        self.inode = process.inode()?;
        self.comm.clear();
        self.comm.extend_from_slice(process.comm(&mut self.buffers)?);
        match process.cgroup(&mut self.buffers, &mut self.cgroup) {
            // A zombie maps nothing, so it does not matter where it was.
            Err(ReadError::Gone) if self.tally.is_empty() => {
                self.cgroup.clear();
                Ok(())
            }
            result => result,
        }
    }

    /// Gives back the memory that no read since the last call has needed.
    pub fn shrink(&mut self) {
        self.tally.clear();
        self.tally.shrink();
    }
}
