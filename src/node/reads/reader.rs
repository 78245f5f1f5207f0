//! Reads one process. The memory is read first, and then the name and the cgroups, so that the memory is not
//! attributed to an earlier program or container. There is one exception: the change check reads the name
//! from `stat` first. If the check then finds that the memory is unchanged, this name is used.
//!
//! A read depends only on its job, and returns what it has found. The module `outcome` decides what that
//! means for the process. Some files of a process can block their reader forever. These files are opened only
//! here, so that a scrape can go on while a read does not return:
//!
//! - Reading `smaps`, `smaps_rollup` or `maps` can block on the memory-map lock. Before that, it can block on
//!   `exec_update_lock`, which the kernel holds while the process executes another program.
//! - Reading `stat` can block on `exec_update_lock`, too. Linux 6.18 takes this lock to decide what `stat`
//!   may show.
//! - Reading `comm`, `cgroup` or `status`, or listing proc or `task`, cannot block, because the kernel never
//!   waits for memory while it holds the locks of these files.

use std::time::{Duration, Instant};

use super::attempts::Attempts;
use super::finding::{Finding, Found, Memory};
use crate::anonymous::parts::Parts;
use crate::node::processes::change_check::{Check, Fingerprint};
use crate::node::processes::job::{Detail, Job};
use crate::node::processes::last_read::{Content, Cost, MemoryRead};
use crate::procfs::cgroup::Cgroups;
use crate::procfs::errors::ReadError;
use crate::procfs::memory::MemoryReader;
use crate::procfs::stat::Stat;
use crate::procfs::this_process::thread_cpu_time;
use crate::procfs::{Buffers, Proc, ProcessDir};
use crate::smaps::place::PlaceText;
use crate::smaps::scanner::Mapping;
use crate::totals::process_sums::ProcessSums;

/// A read that takes longer than this is cancelled. In this time, the kernel prints hundreds of megabytes.
/// Text of that length consists mostly of the paths of mapped files, which a workload can make very long.
pub(super) const MAX_READ: Duration = Duration::from_secs(10);

/// A read that has taken at least this long always reads `stat`, too, which shows the program that the values
/// belong to. Reading `stat` takes 7 us. That is only 0.7% of 1 ms, but a larger part of a shorter read.
const MIN_READ_WITH_STAT: Duration = Duration::from_millis(1);

/// Reads processes, one after the other, into buffers that are reused.
#[derive(Debug)]
pub struct Reader {
    memory: MemoryReader,
    buffers: Buffers,
    /// Splits anonymous memory into parts; `None` if anonymous memory is not split.
    parts: Option<Parts>,
    process_sums: ProcessSums,
    comm: Vec<u8>,
    cgroups: Cgroups,
    /// The CPU time that the thread had used when its last read ended.
    cpu_clock: Duration,
}

impl Reader {
    /// Creates a reader for the calling thread. The reader measures the CPU time of this thread. The snapshot
    /// that gets the values may use at most `max_bytes` of memory. `anon_parts` says whether the reader
    /// splits anonymous memory.
    pub fn new(anon_parts: bool, max_bytes: usize) -> Self {
        Self {
            parts: anon_parts.then(Parts::default),
            memory: MemoryReader::default(),
            buffers: Buffers::default(),
            process_sums: ProcessSums::new(max_bytes),
            comm: Vec::new(),
            cgroups: Cgroups::default(),
            cpu_clock: thread_cpu_time(),
        }
    }

    /// Reads a process.
    pub fn read(&mut self, proc: &Proc, job: Job) -> Finding<'_> {
        let began_at = Instant::now();
        self.memory.deadline = Some(began_at + MAX_READ);
        self.process_sums.clear();
        let mut attempts = Attempts::default();
        let result = self.read_process(proc, job, began_at, &mut attempts);
        self.memory.close();
        let cpu_clock = thread_cpu_time();
        let cpu_time = cpu_clock.saturating_sub(self.cpu_clock);
        self.cpu_clock = cpu_clock;
        let found = |(inode, stat, read): (u64, Option<Stat>, Option<MemoryRead>)| Found {
            inode,
            stat,
            memory: read.map(|read| Memory {
                read,
                process_sums: &self.process_sums,
                comm: &self.comm,
                cgroups: (!self.cgroups.is_empty()).then_some(&self.cgroups),
            }),
        };
        Finding {
            cost: Cost { began_at, elapsed: began_at.elapsed(), cpu_time },
            n_execs: attempts.n_execs,
            was_slow: attempts.was_slow,
            result: result.map(found),
        }
    }

    fn read_process(
        &mut self,
        proc: &Proc,
        job: Job,
        began_at: Instant,
        attempts: &mut Attempts,
    ) -> Result<(u64, Option<Stat>, Option<MemoryRead>), ReadError> {
        let process = proc.process(job.pid, &mut self.buffers)?;
        let inode = process.inode()?;
        // If the inode number is new, this may be another process. The start time in `stat` shows which
        // process it is.
        let needs_stat = job.detail == Detail::Stat || inode != job.inode;
        let stat = needs_stat.then(|| process.stat(&mut self.buffers).ok()).flatten();
        if job.detail == Detail::Stat {
            return Ok((inode, stat, None));
        }
        let mut detail = job.detail;
        loop {
            let with_stat = |fingerprint: Option<Fingerprint>| {
                job.with_stat || fingerprint.is_some() || began_at.elapsed() >= MIN_READ_WITH_STAT
            };
            let mut n_mappings = 0;
            match self.read_memory(&process, detail, with_stat, &mut n_mappings) {
                Ok(mut read) => {
                    if attempts.was_slow {
                        read.content = Content::SumOfSlow;
                    }
                    // If the process maps nothing, `stat` shows whether it is a zombie.
                    let maps_nothing = self.process_sums.is_empty() && read.content != Content::Unchanged;
                    let stat = if maps_nothing { process.stat(&mut self.buffers).ok() } else { stat };
                    return Ok((inode, stat, Some(read)));
                }
                Err(error) => detail = attempts.next(detail, error, n_mappings)?,
            }
        }
    }

    fn read_memory(
        &mut self,
        process: &ProcessDir,
        detail: Detail,
        with_stat: impl Fn(Option<Fingerprint>) -> bool,
        n_mappings: &mut u64,
    ) -> Result<MemoryRead, ReadError> {
        self.process_sums.clear();
        let sum = self.read_sum(process, detail, n_mappings)?;
        let (content, fingerprint) = match sum {
            Some(content) => (content, None),
            None => self.read_mappings(process, detail, n_mappings)?,
        };
        let program = match fingerprint {
            _ if !with_stat(fingerprint) => None,
            Some(fingerprint) => fingerprint.work.visible_program(),
            None => process.stat(&mut self.buffers).ok().and_then(|stat| stat.work.visible_program()),
        };
        let is_sum = sum.is_some();
        // The process may execute another program after its memory is read and before its name is read. If
        // the mappings were read, `ensure_alive` detects this below. If only the kernel's sum was read,
        // `self.comm` still contains the name from before that read. If the current name differs from it, the
        // process runs another program.
        if is_sum && process.comm(&mut self.buffers)? != self.comm {
            return Err(ReadError::Exec);
        }
        self.read_name_and_cgroups(process, content)?;
        if !is_sum {
            self.memory.ensure_alive(process)?;
        }
        Ok(MemoryRead { content, n_mappings: *n_mappings, fingerprint, program })
    }

    /// Reads the kernel's sum over all mappings. Returns `None` if `detail` does not require the sum, or if
    /// the kernel does not print it.
    fn read_sum(
        &mut self,
        process: &ProcessDir,
        detail: Detail,
        n_mappings: &mut u64,
    ) -> Result<Option<Content>, ReadError> {
        let Self { memory, buffers, process_sums, comm, .. } = self;
        if !matches!(detail, Detail::Mappings(_)) {
            comm.clear();
            comm.extend_from_slice(process.comm(buffers)?);
        }
        let has_sum = match detail {
            Detail::Rollup { known_count } => {
                let count = known_count.map_or_else(|| memory.count(process), Ok)?;
                *n_mappings = count;
                memory.rollup(process, &mut |sum| process_sums.add_other(&Mapping { count, ..sum }))?
            }
            Detail::Other { n_printed } => {
                *n_mappings = n_printed;
                memory.rollup(process, &mut |sum| {
                    process_sums.add_other(&Mapping { count: n_printed, ..sum })
                })?;
                true
            }
            Detail::Mappings(_) | Detail::Stat => false,
        };
        Ok(has_sum.then_some(Content::Sum))
    }

    /// Reads every mapping, unless the change check finds that nothing has changed since the last read.
    fn read_mappings(
        &mut self,
        process: &ProcessDir,
        detail: Detail,
        n_mappings: &mut u64,
    ) -> Result<(Content, Option<Fingerprint>), ReadError> {
        let Self { memory, buffers, parts, process_sums, comm, .. } = self;
        let (is_unchanged, mut fingerprint) = match detail {
            Detail::Mappings(Check::CompareWith(before)) => compare(process, before, memory, buffers, comm)?,
            _ => (false, None),
        };
        if is_unchanged {
            return Ok((Content::Unchanged, fingerprint));
        }
        let has_hashes = fingerprint.is_some_and(|fingerprint| fingerprint.hashes.is_some());
        let sums = has_hashes.then(|| memory.sums());
        *n_mappings = 0; // the check may have counted them in `maps`
        parts.iter_mut().for_each(|parts| *parts = Parts::default());
        memory.mappings(process, buffers, &mut |mapping| {
            *n_mappings += 1;
            if !parts.as_mut().is_some_and(|parts| parts.add(&mapping)) {
                process_sums.add(&mapping);
            }
        })?;
        if let Some(parts) = parts {
            let place = PlaceText::default();
            parts.finish(|path, totals| {
                let (path, values, count) = (path.as_bytes(), &totals.values, totals.n_mappings);
                process_sums.add(&Mapping { path, values, place, count });
            });
        }
        if let (Some(fingerprint), Some(sums)) = (&mut fingerprint, sums)
            && !process_sums.adds_up_to(&sums)
        {
            fingerprint.hashes = None;
        }
        Ok((Content::Mappings, fingerprint))
    }

    fn read_name_and_cgroups(&mut self, process: &ProcessDir, content: Content) -> Result<(), ReadError> {
        // If the change check has found no change, `comm` usually has the name that the check read from
        // `stat`. This name is still that of the program in memory, so it is not read again. If `comm` is
        // empty, `stat` did not show the exact name.
        if content != Content::Unchanged || self.comm.is_empty() {
            self.comm.clear();
            self.comm.extend_from_slice(process.comm(&mut self.buffers)?);
        }
        match process.cgroups(&mut self.buffers, &mut self.cgroups) {
            // The process maps nothing, and its cgroups cannot be read, so it is probably a zombie. The read
            // succeeds without the cgroups, because there is no memory to attribute to a container.
            Err(ReadError::Gone) if self.process_sums.is_empty() && content != Content::Unchanged => {
                self.cgroups.clear();
                Ok(())
            }
            result => result,
        }
    }

    /// Starts to measure the CPU time of the next read. What the thread has used so far is not included.
    pub fn restart_clock(&mut self) {
        self.cpu_clock = thread_cpu_time();
    }

    /// Frees the memory that no read has needed since the last call.
    pub fn shrink(&mut self) {
        self.process_sums.clear();
        self.process_sums.shrink();
    }
}

/// Takes a new fingerprint of a process, and compares it with the earlier fingerprint `before`. Returns
/// whether the memory is unchanged, and the new fingerprint. Writes the name of the process to `comm`. If
/// `stat` does not show the exact name, or if there is no `stat`, empties `comm` instead. The caller must
/// then read the name from the process's file `comm`.
fn compare(
    process: &ProcessDir,
    before: Option<Fingerprint>,
    memory: &mut MemoryReader,
    buffers: &mut Buffers,
    comm: &mut Vec<u8>,
) -> Result<(bool, Option<Fingerprint>), ReadError> {
    let Some(work) = process.work(buffers, comm)? else { return Ok((false, None)) };
    let busy = Some(Fingerprint { work, hashes: None });
    match before {
        Some(before) if before.work == work && work.is_recorded => Ok((true, busy)),
        Some(before) if before.work == work => {
            let hashes = memory.hashes(process)?;
            Ok((hashes.is_some() && hashes == before.hashes, Some(Fingerprint { work, hashes })))
        }
        _ => Ok((false, busy)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    mod live {
        use super::*;
        use crate::procfs::tests::live::{Sleep, proc};

        fn read(reader: &mut Reader, pid: u32, detail: Detail) -> (Option<MemoryRead>, Vec<u8>, bool) {
            let inode = proc().process(pid, &mut Buffers::default()).unwrap().inode().unwrap();
            let job = Job { pid, inode, detail, with_stat: true };
            let finding = reader.read(&proc(), job);
            assert!(finding.n_execs == 0 && !finding.was_slow);
            let found = finding.result.unwrap();
            assert_eq!((found.inode, found.stat.is_some()), (inode, detail == Detail::Stat));
            let comm = found.memory.map_or_else(Vec::new, |memory| memory.comm.to_vec());
            (found.memory.map(|memory| memory.read), comm, found.program().is_some())
        }

        /// Reads the process four times. Each read compares the process with the fingerprint of the last read
        /// that returned the mappings. The first read has no fingerprint to compare with.
        fn four_reads(reader: &mut Reader, pid: u32) -> [Content; 4] {
            let mut fingerprint = None;
            [(); 4].map(|()| {
                let detail = Detail::Mappings(Check::CompareWith(fingerprint));
                let (memory, comm, _) = read(reader, pid, detail);
                let memory = memory.unwrap();
                assert_eq!(&*comm, b"sleep");
                if memory.content != Content::Unchanged {
                    fingerprint = memory.fingerprint; // kept together with the reading that it confirms
                }
                memory.content
            })
        }

        #[test]
        fn sleeping_process_is_confirmed_from_its_third_read() {
            use Content::{Mappings, Unchanged};
            let (child, mut reader) = (Sleep::new(), Reader::new(true, usize::MAX));
            let deadline = Instant::now() + Duration::from_secs(30);
            loop {
                let contents = four_reads(&mut reader, child.pid());
                if contents == [Mappings, Mappings, Unchanged, Unchanged] {
                    break;
                }
                // The first two reads always return the mappings, because there are no hashes to compare with
                // yet. The third and the fourth read usually find that nothing has changed. But while other
                // tests start and end processes that share libraries with this process, its PSS changes. In
                // that case the test tries again.
                assert_eq!(contents[..2], [Mappings; 2]);
                assert!(Instant::now() < deadline, "{contents:?}");
            }
        }

        #[test]
        fn each_detail_returns_what_it_names() {
            let (child, mut reader) = (Sleep::new(), Reader::new(true, usize::MAX));
            let (memory, ..) = read(&mut reader, child.pid(), Detail::Mappings(Check::ReadAll));
            let n_mappings = memory.unwrap().n_mappings;
            assert!(n_mappings > 5 && memory.unwrap().fingerprint.is_none());
            let (memory, comm, _) = read(&mut reader, child.pid(), Detail::Rollup { known_count: None });
            assert_eq!((memory.unwrap().content, memory.unwrap().n_mappings), (Content::Sum, n_mappings));
            assert_eq!(comm, b"sleep");
            let (memory, ..) = read(&mut reader, child.pid(), Detail::Other { n_printed: 3 });
            assert_eq!((memory.unwrap().content, memory.unwrap().n_mappings), (Content::Sum, 3));
            assert!(read(&mut reader, child.pid(), Detail::Stat).0.is_none());
        }

        #[test]
        fn a_process_that_has_ended_is_gone() {
            let child = Sleep::new();
            let (pid, mut reader) = (child.pid(), Reader::new(true, usize::MAX));
            drop(child);
            for detail in [Detail::Stat, Detail::Mappings(Check::ReadAll)] {
                let job = Job { pid, inode: 1, detail, with_stat: false };
                assert!(matches!(reader.read(&proc(), job).result, Err(ReadError::Gone)));
            }
        }
    }
}
