//! Applies the result of a read: stores the new values of the process, decides when and how the process is
//! read next, and counts the read.

use log::debug;

use super::finding::{Finding, Memory};
use super::outcome::{Outcome, outcome};
use super::scheduler::{Node, Reads};
use crate::exposition::self_metrics::{ReadErrors, Reads as ReadCounts};
use crate::node::processes::job::{Detail, Job};
use crate::node::processes::last_read::Content;
use crate::node::processes::process::Process;
use crate::procfs::Entry;
use crate::procfs::errors::ReadError;
use crate::totals::snapshot::{self, Snapshot};

/// Applies the result of a read. The result of a detached read, which the scrape no longer waited for, is
/// applied in a later scrape.
pub fn apply_read(
    reads: &mut Reads,
    node: &mut Node<'_>,
    snapshot: &mut Snapshot,
    job: &Job,
    finding: &Finding<'_>,
) {
    if !reads.end(job) {
        return;
    }
    reads.errors_mut().exec += finding.n_execs;
    let entry = Entry { pid: job.pid, inode: job.inode };
    let Some(i) = node.processes.position(entry) else { return };
    let process = node.processes.at(i);
    if let Some(container) = process.container() {
        reads.charge(container.id, process.last().at().is_none(), finding.cost.cpu_time);
    }
    let outcome = outcome(job, finding, process);
    process.end_read(reads.has_detached(entry));
    if outcome == Outcome::Outdated {
        return;
    }
    match &finding.result {
        Ok(found) => process.identity_mut().set_inode(found.inode),
        Err(error) => {
            debug!("cannot read process {} in {:?}: {error}", job.pid, node.proc.path());
            count_error(reads.errors_mut(), error);
        }
    }
    if let Some(memory) = apply_outcome(reads, node, i, job, finding, outcome) {
        keep_values(reads, node.processes.at(i), snapshot, job, finding, &memory);
    }
}

/// Applies an outcome to the process. Returns the result of the read if its values must be stored as the new
/// values of the process.
fn apply_outcome<'f>(
    reads: &mut Reads,
    node: &mut Node<'_>,
    i: usize,
    job: &Job,
    finding: &Finding<'f>,
    outcome: Outcome,
) -> Option<Memory<'f>> {
    let process = node.processes.at(i);
    let found = finding.result.as_ref().ok();
    match outcome {
        Outcome::Outdated => {}
        Outcome::Torn => {
            process.note_torn(&finding.cost, finding.was_slow, reads.interval());
            reads.keep(node, i);
        }
        Outcome::Failed => {
            process.note_failed(&finding.cost, matches!(finding.result, Err(ReadError::Denied)));
            if job.detail != Detail::Stat {
                node.processes.refresh(i, node.proc, node.discovery);
            }
        }
        Outcome::Replaced => {
            process.identity_mut().forget();
            process.deselect();
        }
        Outcome::Identified => process.identify(found.and_then(|found| found.stat)),
        Outcome::Checked { has_executed, shows_program } => {
            if has_executed {
                process.start_over();
            }
            if has_executed && !process.state().is_detached() {
                reads.repeat(i);
            } else if !shows_program {
                node.processes.refresh(i, node.proc, node.discovery); // without stat, the name decides
            }
        }
        Outcome::Read { has_executed, needs_mappings } => {
            if has_executed {
                process.start_over();
            }
            let memory = found.and_then(|found| found.memory)?;
            let is_repeated = is_repeated(node, i, &memory) || needs_mappings;
            if !node.processes.at(i).is_selected() {
                return None;
            }
            if !is_repeated {
                return Some(memory);
            }
            reads.repeat(i);
        }
    }
    None
}

/// Takes over the name and the cgroups that a read of the process has returned. Returns whether the read must
/// be repeated. It must be repeated if the process has a new name. It must also be repeated if it found that
/// the old values are still correct, but they have just been dropped, for example because the process has
/// moved to another container.
fn is_repeated(node: &mut Node<'_>, i: usize, memory: &Memory<'_>) -> bool {
    let is_renamed = node.processes.relocate(i, memory.comm, memory.cgroups, node.discovery);
    let process = node.processes.at(i);
    if !process.is_selected() {
        return false;
    }
    let has_lost_values = memory.read.content == Content::Unchanged && !process.last().has_values();
    process.repeats_for_name(is_renamed) || has_lost_values
}

/// Stores the result of a read. If the read returned values, they replace the values of the process. If the
/// read found that nothing has changed, the process keeps its values.
fn keep_values(
    reads: &mut Reads,
    process: &mut Process,
    snapshot: &mut Snapshot,
    job: &Job,
    finding: &Finding<'_>,
    memory: &Memory<'_>,
) {
    reads.errors_mut().slow += u64::from(memory.read.content == Content::SumOfSlow);
    process.note_read(job.detail, &memory.read, &finding.cost, reads.interval());
    count_read(reads.counts_mut(), job.detail, memory.read.content);
    if memory.read.content == Content::Unchanged {
        return;
    }
    if memory.process_sums.is_empty() {
        process.identity_mut().note_zombie(finding.result.as_ref().ok().and_then(|found| found.stat));
        return process.drop_reading();
    }
    let Some(container) = process.container().cloned() else { return };
    snapshot.register(container.id.key(), &container.labels);
    let (reading, comm) = process.values_mut();
    let of = snapshot::Process { container: container.id.key(), comm, pid: job.pid };
    snapshot.record(of, memory.process_sums, reading);
}

fn count_read(counts: &mut ReadCounts, detail: Detail, content: Content) {
    match (detail, content) {
        (_, Content::Unchanged) => counts.unchanged += 1,
        (Detail::Mappings(_), Content::Mappings) => counts.smaps += 1,
        _ => counts.rollup += 1,
    }
}

fn count_error(errors: &mut ReadErrors, error: &ReadError) {
    match error {
        ReadError::Denied => errors.denied += 1,
        ReadError::Exec => errors.exec += 1,
        ReadError::Gone => errors.gone += 1,
        ReadError::Torn => errors.torn += 1,
        ReadError::Slow => errors.slow += 1,
        ReadError::Io(_) => errors.io += 1,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    use super::super::budget::Budget;
    use super::super::reader::Reader;
    use super::super::scheduler::Bounds;
    use super::*;
    use crate::node::containers::discovery::Discovery;
    use crate::node::containers::filter::Filter;
    use crate::node::processes::table::ProcessTable;
    use crate::procfs::Proc;
    use crate::sources::recording::Recording;

    const PID: u32 = 7;
    const SMAPS: &str =
        "55d8a1c00000-55d8a1c22000 r--p 00000000 08:01 42 /bin/x\nRss:                   8 kB\n";

    /// A recorded node with one container and one process, and the state that its scrapes share.
    struct Recorded {
        directory: PathBuf,
        proc: Proc,
        discovery: Discovery,
        processes: ProcessTable,
        reads: Reads,
        snapshot: Snapshot,
        /// How long it takes until the container reaches its limit.
        time_left: Option<Duration>,
    }

    impl Recorded {
        fn new(name: &str) -> Self {
            let directory = std::env::temp_dir().join(format!("smaps-apply-{}-{name}", std::process::id()));
            fs::create_dir_all(directory.join(format!("proc/{PID}"))).unwrap();
            let text = format!("id\tinit_pid\tnamespace\tpod\tcontainer\nc1\t{PID}\tshop\tcart\tapp\n");
            fs::write(directory.join("containers.tsv"), text).unwrap();
            let proc = Proc::open(&directory.join("proc")).unwrap();
            let filters = [Filter::parse("shop/*/*/*").unwrap()];
            let mut discovery = Discovery::new(Box::new(Recording::new(&directory)), &filters);
            discovery.list_first(Instant::now()).unwrap();
            let reads = Reads::new(Duration::from_secs(1));
            let (processes, snapshot) = (ProcessTable::default(), Snapshot::new(usize::MAX, 0));
            let time_left = None;
            let recorded = Self { directory, proc, discovery, processes, reads, snapshot, time_left };
            for (file, text) in [("comm", "x\n"), ("cgroup", "0::/c1\n"), ("smaps", SMAPS)] {
                recorded.write(file, text);
            }
            recorded
        }

        fn write(&self, file: &str, text: &str) {
            fs::write(self.directory.join(format!("proc/{PID}/{file}")), text).unwrap();
        }

        fn remove(&self, file: &str) {
            fs::remove_file(self.directory.join(format!("proc/{PID}/{file}"))).unwrap();
        }

        /// Lists the processes and queues their reads. Then runs `change`, and after that the reads. Returns
        /// how many reads there were.
        fn scrape(&mut self, change: impl FnOnce(&PathBuf)) -> u32 {
            let Self { directory, proc, discovery, processes, reads, snapshot, time_left } = self;
            let mut reader = Reader::new(true, usize::MAX);
            processes.list(proc, false, Instant::now()).unwrap();
            reads.begin(processes, false);
            while let Some(job) = reads.next_unknown(&mut Node { processes, proc, discovery }, 0) {
                let finding = reader.read(proc, job);
                apply_read(reads, &mut Node { processes, proc, discovery }, snapshot, &job, &finding);
            }
            let has_changed = discovery.observe(processes.seen(), Instant::now());
            processes.identify(proc, discovery, has_changed);
            reads.queue(&mut Node { processes, proc, discovery }, Instant::now(), |_| true);
            change(directory);
            let (budget, mut n_reads) = (Budget::new(0.0), 0);
            let bounds = Bounds { budget: &budget, time_to_limit: &|_| *time_left };
            while let Some(job) = reads.next(&mut Node { processes, proc, discovery }, &bounds, snapshot, 0) {
                n_reads += 1;
                let finding = reader.read(proc, job);
                apply_read(reads, &mut Node { processes, proc, discovery }, snapshot, &job, &finding);
                // The result of this read has been applied already. Applying it again changes nothing.
                apply_read(reads, &mut Node { processes, proc, discovery }, snapshot, &job, &finding);
            }
            n_reads
        }

        /// Returns the number of processes with values, and the total number of mappings.
        fn values(&mut self) -> (u64, u64) {
            self.snapshot.sum(self.processes.readings());
            let table = self.snapshot.table();
            let n_mappings = table.series().map(|series| series.totals.n_mappings).sum();
            (table.n_processes(), n_mappings)
        }
    }

    impl Drop for Recorded {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.directory).unwrap();
        }
    }

    #[test]
    fn read_replaces_previous_values() {
        let mut node = Recorded::new("values");
        assert_eq!((node.scrape(|_| {}), node.values()), (1, (1, 1)));
        node.write("smaps", &format!("{SMAPS}{}", SMAPS.replace("55d8a1c", "66d8a1c")));
        assert_eq!((node.scrape(|_| {}), node.values()), (1, (1, 2)));
        assert_eq!(node.reads.counts(), ReadCounts { smaps: 2, ..ReadCounts::default() });
        node.write("smaps", "");
        assert_eq!((node.scrape(|_| {}), node.values()), (1, (0, 0)), "it maps nothing");
        assert_eq!(node.reads.errors(), ReadErrors::default());
    }

    /// A read is deferred if the limit may be reached within three times the expected duration of the read.
    /// The first read is expected to take 2.3 ms: 1.3 ms for 90 MiB of resident memory, and 1 ms for the
    /// mappings. So it is deferred if 6 ms are left, but not if 7 ms are left. The process then grows to
    /// 900 MiB. So its second read is expected to take 14.2 ms, although the first read was short. The second
    /// read is deferred if 42 ms are left, but not if 43 ms are left.
    #[test]
    fn read_is_deferred_if_the_limit_may_be_reached_before_it_ends() {
        let mut node = Recorded::new("deferred");
        node.write("status", "Name:\tx\nVmRSS:\t   92160 kB\n");
        for (ms, n_deferred) in [(6, 1), (7, 1)] {
            node.time_left = Some(Duration::from_millis(ms));
            assert_eq!(node.scrape(|_| {}), u32::from(ms == 7), "{ms}");
            let expected = ReadCounts { smaps: ms - 6, deferred: n_deferred, ..ReadCounts::default() };
            assert_eq!((node.reads.counts(), node.values().0), (expected, ms - 6), "{ms}");
        }
        node.write("status", "Name:\tx\nVmRSS:\t   921600 kB\n");
        node.write("smaps", &format!("{SMAPS}{}", SMAPS.replace("55d8a1c", "66d8a1c")));
        for (ms, n_mappings) in [(0, 1), (42, 1), (43, 2)] {
            node.time_left = Some(Duration::from_millis(ms));
            assert_eq!(
                (node.scrape(|_| {}), node.values()),
                (n_mappings - 1, (1, n_mappings.into())),
                "{ms}"
            );
        }
    }

    #[test]
    fn a_read_that_fails_leaves_no_values() {
        let mut node = Recorded::new("fails");
        node.scrape(|_| {});
        node.remove("smaps");
        assert_eq!((node.scrape(|_| {}), node.values()), (1, (0, 0)));
        assert_eq!(node.reads.errors(), ReadErrors { gone: 1, ..ReadErrors::default() });
        node.write("smaps", SMAPS);
        assert_eq!((node.scrape(|_| {}), node.values()), (1, (1, 1)), "it is read again");
    }

    #[test]
    fn a_read_that_ends_with_a_new_name_is_repeated() {
        let mut node = Recorded::new("renamed");
        node.scrape(|_| {});
        let n_reads = node.scrape(|directory| {
            fs::write(directory.join(format!("proc/{PID}/comm")), "y\n").unwrap();
        });
        assert_eq!((n_reads, node.values()), (2, (1, 1)));
        assert_eq!(node.processes.get(0).unwrap().attribution().comm(), b"y");
        assert_eq!(node.reads.counts().smaps, 2, "one of the three reads does not count");
    }

    #[test]
    fn process_that_moves_during_its_read_does_not_count() {
        let mut node = Recorded::new("moves");
        node.scrape(|_| {});
        node.write("comm", "x\n");
        let n_reads = node.scrape(|directory| {
            fs::write(directory.join(format!("proc/{PID}/cgroup")), "0::/elsewhere\n").unwrap();
        });
        assert_eq!((n_reads, node.values()), (1, (0, 0)));
        assert!(!node.processes.get(0).unwrap().is_selected());
    }

    #[test]
    fn errors_are_counted_by_reason() {
        let mut errors = ReadErrors::default();
        let io = std::io::Error::other("odd");
        let (denied, gone) = (ReadError::Denied, ReadError::Gone);
        for error in [denied, ReadError::Exec, gone, ReadError::Torn, ReadError::Slow, ReadError::Io(io)] {
            count_error(&mut errors, &error);
        }
        let expected = ReadErrors { denied: 1, exec: 1, gone: 1, torn: 1, slow: 1, stuck: 0, io: 1 };
        assert_eq!(errors, expected);
    }
}
