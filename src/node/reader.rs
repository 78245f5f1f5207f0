//! One read of one process: its memory, then its name and cgroup, which are those of that memory.
//!
//! Needs nothing of what the scrape knows but which process to read, and gives facts. The files of a process that can make their reader
//! wait for ever are opened here and nowhere else, so that the scrape can go on without a read that does not return:
//!
//! | file | may wait | for |
//! | --- | --- | --- |
//! | `smaps`, `smaps_rollup`, `maps` | yes | the memory-map lock; before that, `exec_update_lock` of a process that executes |
//! | `stat` | yes | `exec_update_lock`, to decide what it may show (Linux 6.18) |
//! | `comm`, `cgroup`, `status`, the listings of proc and `task` | no | they take no lock that is held while memory is waited for |

use std::time::{Duration, Instant};

use super::ladder::{Look, Marks};
use crate::procfs::cgroup::Cgroups;
use crate::procfs::errors::ReadError;
use crate::procfs::memory::MemoryReader;
use crate::procfs::stat::Stat;
use crate::procfs::this_process::thread_cpu_time;
use crate::procfs::{Buffers, Proc, ProcessDir};
use crate::smaps::scanner::Mapping;
use crate::totals::grouping::GroupBy;
use crate::totals::tally::Tally;

/// A read that takes longer is given up: by then the kernel has printed hundreds of megabytes, mostly of names.
const MAX_READ: Duration = Duration::from_secs(10);

/// A read that has taken this long also reads `stat`, so that the program whose values are kept is known: that takes 7 us, 0.7% more.
const MIN_READ_WITH_STAT: Duration = Duration::from_millis(1);

/// A process to read, and in which detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its number.
    pub pid: u32,
    /// The inode number of its directory, as it was listed.
    pub inode: u64,
    /// What to read.
    pub detail: Detail,
    /// Its values may be kept for longer than a scrape: `stat` is read in any case, so that another program is noticed.
    pub with_stat: bool,
}

/// How much is read of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// `stat`, nothing else: when the process began; later, whether it still runs the program whose values are kept.
    Stat,
    /// Each mapping, from smaps, unless a look shows that they are as they were.
    Mappings(Look),
    /// Their sum, from smaps_rollup where the kernel has it, else from smaps.
    Rollup {
        /// How many mappings there are, if they need not be counted.
        known_count: Option<u64>,
    },
    /// The kernel's sum in place of mappings that take too long to print: it stands for so many of them at least.
    Other {
        /// As many were printed before it was given up.
        n_printed: u64,
    },
}

/// Reads processes one after the other; what the last read found is in its fields.
#[derive(Debug)]
pub struct Reader {
    memory: MemoryReader,
    buffers: Buffers,
    cpu_clock: Duration,
    /// What it is, if that was asked, or in doubt; a recording does not tell.
    pub stat: Option<Stat>,
    /// What it maps; empty for a zombie or a kernel thread.
    pub tally: Tally,
    /// How many mappings that are.
    pub n_mappings: u64,
    /// The inode number of the directory it was read through.
    pub inode: u64,
    /// Its name when the read ended.
    pub comm: Vec<u8>,
    /// The cgroups of the process when the read ended; empty for a zombie whose cgroup is unknown.
    pub cgroups: Cgroups,
    /// How often it executed another program while it was read.
    pub n_execs: u64,
    /// Nothing was read, for everything is as it was.
    pub is_unchanged: bool,
    /// What it looked like before it was read.
    pub marks: Option<Marks>,
    /// The program whose memory was read (see [`Work::program`](crate::procfs::stat::Work)), if `stat` was read and shows it.
    pub program: Option<[u64; 2]>,
    /// It took too long to print: the tally holds the kernel's sum.
    pub was_slow: bool,
    /// When the read began.
    pub began_at: Instant,
    /// How long it took.
    pub elapsed: Duration,
    /// The CPU time that went into it, and into what its thread did since the read before.
    pub cpu_time: Duration,
}

impl Reader {
    /// A reader that sums by `group_by`, for an exposition of at most so many samples, for the thread that calls this.
    pub fn new(group_by: GroupBy, max_samples: usize) -> Self {
        Self {
            memory: MemoryReader::default(),
            buffers: Buffers::default(),
            cpu_clock: thread_cpu_time(),
            stat: None,
            tally: Tally::new(group_by, max_samples),
            n_mappings: 0,
            inode: 0,
            comm: Vec::new(),
            cgroups: Cgroups::default(),
            n_execs: 0,
            is_unchanged: false,
            marks: None,
            program: None,
            was_slow: false,
            began_at: Instant::now(),
            elapsed: Duration::ZERO,
            cpu_time: Duration::ZERO,
        }
    }

    /// Reads a process.
    ///
    /// Fails when it gave no values; then `n_execs` counts all the same, and what the read has cost.
    pub fn read(&mut self, proc: &Proc, job: Job) -> Result<(), ReadError> {
        self.began_at = Instant::now();
        self.memory.deadline = Some(self.began_at + MAX_READ);
        self.n_execs = 0;
        self.was_slow = false;
        (self.is_unchanged, self.marks, self.program) = (false, None, None);
        let result = self.read_process(proc, job);
        self.memory.close();
        self.elapsed = self.began_at.elapsed();
        let cpu_clock = thread_cpu_time();
        self.cpu_time = cpu_clock.saturating_sub(self.cpu_clock);
        self.cpu_clock = cpu_clock;
        result
    }

    fn read_process(&mut self, proc: &Proc, job: Job) -> Result<(), ReadError> {
        let process = proc.process(job.pid, &mut self.buffers)?;
        self.inode = process.inode()?;
        self.tally.clear();
        // Under another inode number than was listed its start time tells who it is.
        let is_to_be_asked = job.detail == Detail::Stat || self.inode != job.inode;
        self.stat = is_to_be_asked.then(|| process.stat(&mut self.buffers).ok()).flatten();
        if job.detail == Detail::Stat {
            self.program = self.stat.and_then(|stat| stat.work.visible_program());
            return Ok(());
        }
        let mut job = job;
        let mut is_repeated = false;
        loop {
            match self.read_memory(&process, job) {
                // What it executes now is read at once.
                Err(ReadError::Exec) if !is_repeated => {
                    self.n_execs += 1;
                    if let Detail::Mappings(_) = job.detail {
                        job.detail = Detail::Mappings(Look::Away);
                    }
                }
                Err(ReadError::Torn) if !is_repeated => {}
                Err(ReadError::Slow) if !self.was_slow => {
                    self.was_slow = true;
                    job.detail = Detail::Other { n_printed: self.n_mappings };
                    continue;
                }
                result => return result,
            }
            is_repeated = true;
        }
    }

    fn read_memory(&mut self, process: &ProcessDir, job: Job) -> Result<(), ReadError> {
        let detail = job.detail;
        (self.program, self.n_mappings) = (None, 0);
        let Self { memory, buffers, tally, n_mappings, comm, .. } = self;
        tally.clear();
        if !matches!(detail, Detail::Mappings(_)) {
            comm.clear();
            comm.extend_from_slice(process.comm(buffers)?);
        }
        let has_sum = match detail {
            Detail::Rollup { known_count } => {
                let count = known_count.map_or_else(|| memory.count(process), Ok)?;
                *n_mappings = count;
                memory.rollup(process, &mut |sum| tally.add(&Mapping { count, ..sum }))?
            }
            Detail::Other { n_printed } => {
                *n_mappings = n_printed;
                memory.rollup(process, &mut |sum| tally.add_other(&Mapping { count: n_printed, ..sum }))?;
                true
            }
            Detail::Mappings(_) | Detail::Stat => false,
        };
        if !has_sum {
            (self.is_unchanged, self.marks) = match detail {
                Detail::Mappings(Look::At(before)) => look(process, before, memory, buffers)?,
                _ => (false, None),
            };
        }
        if !has_sum && !self.is_unchanged {
            let has_prints = self.marks.is_some_and(|marks| marks.prints.is_some());
            let sums = has_prints.then(|| memory.sums());
            *n_mappings = 0; // `maps` may have counted them
            memory.mappings(process, buffers, &mut |mapping| {
                *n_mappings += 1;
                tally.add(&mapping);
            })?;
            if let (Some(marks), Some(sums)) = (&mut self.marks, sums)
                && !tally.adds_up_to(&sums)
            {
                marks.prints = None;
            }
        }
        if job.with_stat || self.marks.is_some() || self.began_at.elapsed() >= MIN_READ_WITH_STAT {
            self.program = match self.marks {
                Some(marks) => marks.work.visible_program(),
                None => process.stat(&mut self.buffers).ok().and_then(|stat| stat.work.visible_program()),
            };
        }
        let Self { buffers, comm, .. } = self;
        // Between the end of the memory and the name it may have executed another program. The file of the mappings tells; a sum's does
        // not, so there the name is asked before it, too.
        if has_sum && process.comm(buffers)? != comm {
            return Err(ReadError::Exec);
        }
        self.identify(process)?;
        if has_sum { Ok(()) } else { self.memory.ensure_alive(process) }
    }

    /// Finds name and cgroup.
    fn identify(&mut self, process: &ProcessDir) -> Result<(), ReadError> {
        self.comm.clear();
        self.comm.extend_from_slice(process.comm(&mut self.buffers)?);
        match process.cgroups(&mut self.buffers, &mut self.cgroups) {
            // A zombie maps nothing, so it does not matter where it was.
            Err(ReadError::Gone) if self.tally.is_empty() && !self.is_unchanged => {
                self.cgroups.clear();
                Ok(())
            }
            result => result,
        }
    }

    /// What the thread has done up to now is not counted as reading.
    pub fn restart_clock(&mut self) {
        self.cpu_clock = thread_cpu_time();
    }

    /// Gives back the memory that no read since the last call has needed.
    pub fn shrink(&mut self) {
        self.tally.clear();
        self.tally.shrink();
    }
}

/// Looks at a process: says whether it is as it was, and what it looks like now.
fn look(
    process: &ProcessDir,
    before: Option<Marks>,
    memory: &mut MemoryReader,
    buffers: &mut Buffers,
) -> Result<(bool, Option<Marks>), ReadError> {
    let Some(work) = process.work(buffers)? else { return Ok((false, None)) };
    let at_work = Some(Marks { work, prints: None });
    match before {
        Some(before) if before.work == work && work.is_recorded => Ok((true, at_work)),
        Some(before) if before.work == work => {
            let prints = memory.prints(process)?;
            let marks = Some(Marks { work, prints });
            Ok((prints.is_some() && prints == before.prints, marks))
        }
        _ => Ok((false, at_work)),
    }
}
