//! Decides what the result of a read means for its process. This module does no I/O.

use super::finding::Finding;
use crate::node::processes::job::{Detail, Job};
use crate::node::processes::process::Process;
use crate::procfs::errors::ReadError;

/// What the result of a read means for its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The read was stuck for most of its duration, so its values may be out of date. They are not used.
    Outdated,
    /// The mappings overlapped in two attempts in a row. The previous values are kept.
    Torn,
    /// The read failed. The process has no values any more.
    Failed,
    /// The pid now belongs to another process.
    Replaced,
    /// The `stat` of a new process was read.
    Identified,
    /// The process kept its values in this scrape, because its memory was not read. Its `stat` was read
    /// instead, to find out whether the values still belong to the program that the process runs.
    Checked {
        /// Whether the process has executed another program since the values were read.
        has_executed: bool,
        /// Whether the kernel shows which program the process runs.
        shows_program: bool,
    },
    /// The memory was read.
    Read {
        /// Whether the process has executed another program since the previous read.
        has_executed: bool,
        /// Whether the process must be read again, to get each of its mappings. The kernel took too long to
        /// print the mappings of the program that the process ran before, so only their sum was read. The
        /// mappings of the program that it runs now may take less time.
        needs_mappings: bool,
    },
}

/// Returns what the result of a read means. `process` is in the state before the result is applied.
pub fn outcome(job: &Job, finding: &Finding<'_>, process: &Process) -> Outcome {
    // A read uses almost no CPU time while it is stuck. If the CPU time of this read is less than a tenth of
    // its duration, the read was stuck for most of that time, and its values may be out of date. Otherwise,
    // it was stuck only briefly, and its values are used.
    if process.state().is_stuck() && finding.cost.cpu_time * 10 < finding.cost.elapsed {
        return Outcome::Outdated;
    }
    let found = match &finding.result {
        Ok(found) => found,
        Err(ReadError::Torn) if finding.n_execs == 0 => return Outcome::Torn,
        Err(_) => return Outcome::Failed,
    };
    let identity = process.identity();
    let is_new = job.detail == Detail::Stat && identity.start_time().is_none();
    // After a shortage of memory, the kernel may give a new inode number to the directory of a process that
    // still runs. An unchanged start time shows that it is still the same process.
    let is_same = || found.stat.is_some_and(|stat| Some(stat.start_time) == identity.start_time());
    if found.inode != identity.entry().inode && !is_new && !is_same() {
        return Outcome::Replaced;
    }
    if is_new {
        return Outcome::Identified;
    }
    let program = found.program();
    let has_executed = process.has_executed(program);
    match found.memory {
        None => Outcome::Checked { has_executed, shows_program: program.is_some() },
        Some(_) => {
            let needs_mappings = has_executed && matches!(job.detail, Detail::Other { .. });
            Outcome::Read { has_executed, needs_mappings }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::finding::{Found, Memory};
    use super::*;
    use crate::node::processes::change_check::Check;
    use crate::node::processes::last_read::{Content, Cost, MemoryRead, Program};
    use crate::node::processes::process::tests::{process, stat};
    use crate::procfs::stat::{Stat, Work};
    use crate::totals::process_sums::ProcessSums;

    const INODE: u64 = 70;
    const PROGRAM: Program = [10, 20];
    const OTHER_PROGRAM: Program = [30, 40];
    const MAPPINGS: Detail = Detail::Mappings(Check::ReadAll);
    const SLOW: Detail = Detail::Other { n_printed: 1 };

    /// The result of a read in these tests: an error, or the inode number, `stat`, and (if memory was read)
    /// the program.
    type Returned = Result<(u64, Option<Stat>, Option<Option<Program>>), ReadError>;

    fn cost(cpu_ms: u64) -> Cost {
        let cpu_time = Duration::from_millis(cpu_ms);
        Cost { began_at: Instant::now(), elapsed: Duration::from_millis(100), cpu_time }
    }

    fn memory_read(program: Option<Program>) -> MemoryRead {
        MemoryRead { content: Content::Mappings, n_mappings: 1, fingerprint: None, program }
    }

    fn run(process: &Process, detail: Detail, n_execs: u64, cpu_ms: u64, returned: Returned) -> Outcome {
        let process_sums = ProcessSums::new(usize::MAX);
        let found = |(inode, stat, memory): (u64, Option<Stat>, Option<Option<Program>>)| {
            let memory = memory.map(|program| {
                let read = memory_read(program);
                Memory { read, process_sums: &process_sums, comm: b"x", cgroups: None }
            });
            Found { inode, stat, memory }
        };
        let result = returned.map(found);
        let finding = Finding { cost: cost(cpu_ms), n_execs, was_slow: false, result };
        outcome(&Job { pid: 7, inode: INODE, detail, with_stat: false }, &finding, process)
    }

    /// Returns a process that started at time 5 and has values from the program [`PROGRAM`].
    fn known() -> Process {
        let mut process = process(INODE);
        process.identify(stat(5));
        process.note_read(MAPPINGS, &memory_read(Some(PROGRAM)), &cost(1), Duration::from_secs(1));
        process
    }

    fn running(program: Program) -> Option<Stat> {
        let work = Work { program, ..Work::default() };
        Some(Stat { start_time: 5, work, ..Stat::default() })
    }

    #[test]
    fn outcomes_of_a_known_process() {
        let read = |has_executed, needs_mappings| Outcome::Read { has_executed, needs_mappings };
        let checked = |has_executed, shows_program| Outcome::Checked { has_executed, shows_program };
        let cases: [(&str, Detail, u64, Returned, Outcome); 15] = [
            ("memory", MAPPINGS, 0, Ok((INODE, None, Some(None))), read(false, false)),
            ("the same program", MAPPINGS, 0, Ok((INODE, None, Some(Some(PROGRAM)))), read(false, false)),
            ("another program", MAPPINGS, 0, Ok((INODE, None, Some(Some(OTHER_PROGRAM)))), read(true, false)),
            ("a slow one, summed", SLOW, 0, Ok((INODE, None, Some(Some(PROGRAM)))), read(false, false)),
            ("after a slow one", SLOW, 0, Ok((INODE, None, Some(Some(OTHER_PROGRAM)))), read(true, true)),
            ("stat", Detail::Stat, 0, Ok((INODE, running(PROGRAM), None)), checked(false, true)),
            ("stat: exec", Detail::Stat, 0, Ok((INODE, running(OTHER_PROGRAM), None)), checked(true, true)),
            ("stat: hidden", Detail::Stat, 0, Ok((INODE, stat(5), None)), checked(false, false)),
            ("a new inode", MAPPINGS, 0, Ok((71, stat(5), Some(None))), read(false, false)),
            ("another process", MAPPINGS, 0, Ok((71, stat(6), Some(None))), Outcome::Replaced),
            ("another inode, no stat", Detail::Stat, 0, Ok((71, None, None)), Outcome::Replaced),
            ("torn", MAPPINGS, 0, Err(ReadError::Torn), Outcome::Torn),
            ("torn after exec", MAPPINGS, 1, Err(ReadError::Torn), Outcome::Failed),
            ("denied", MAPPINGS, 0, Err(ReadError::Denied), Outcome::Failed),
            ("gone", Detail::Stat, 0, Err(ReadError::Gone), Outcome::Failed),
        ];
        for (what, detail, n_execs, returned, expected) in cases {
            assert_eq!(run(&known(), detail, n_execs, 50, returned), expected, "{what}");
        }
    }

    #[test]
    fn the_first_stat_identifies_a_process() {
        for (inode, stat) in [(INODE, stat(5)), (71, stat(5)), (INODE, None)] {
            let outcome = run(&process(INODE), Detail::Stat, 0, 1, Ok((inode, stat, None)));
            assert_eq!(outcome, Outcome::Identified);
        }
    }

    #[test]
    fn the_result_of_a_stuck_read_is_outdated_unless_it_used_cpu_time() {
        for (cpu_ms, expected) in
            [(9, Outcome::Outdated), (10, Outcome::Read { has_executed: false, needs_mappings: false })]
        {
            let mut process = known();
            process.detach_read();
            assert!(process.report_stuck());
            assert_eq!(run(&process, MAPPINGS, 0, cpu_ms, Ok((INODE, None, Some(None)))), expected);
        }
    }
}
