//! What the result of a read changes: the values of its process, when it is read next, and the counters.

use log::debug;

use super::outcome::{Outcome, outcome};
use super::reader::{Finding, Memory};
use super::scheduler::{Node, Reads};
use crate::exposition::self_metrics::{ReadErrors, Reads as ReadCounts};
use crate::node::processes::job::{Detail, Job};
use crate::node::processes::last_read::Content;
use crate::node::processes::process::Process;
use crate::procfs::Entry;
use crate::procfs::errors::ReadError;
use crate::totals::snapshot::{self, Snapshot};

/// Applies the result of a read, in the scrape that began it or, if the read was detached, in a later one.
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
    match &finding.result {
        _ if outcome == Outcome::Outdated => {}
        Ok(found) => process.identity_mut().set_inode(found.inode),
        Err(error) => {
            debug!("cannot read process {} in {:?}: {error}", job.pid, node.proc.path());
            count_error(reads.errors_mut(), error);
        }
    }
    match outcome {
        Outcome::Outdated => {}
        Outcome::Torn => {
            process.note_torn(&finding.cost, finding.was_slow, reads.interval());
            reads.keep(node, i);
        }
        Outcome::Failed => {
            process.note_failed(&finding.cost, matches!(finding.result, Err(ReadError::Denied)));
            if job.detail != Detail::Stat {
                node.processes.probe(i, node.proc, node.discovery);
            }
        }
        Outcome::Replaced => {
            process.identity_mut().forget();
            process.deselect();
        }
        Outcome::Identified => process.identify(finding.result.as_ref().ok().and_then(|found| found.stat)),
        Outcome::Checked { has_executed, shows_program } => {
            if has_executed {
                process.start_over();
            }
            if has_executed && !process.state().is_detached() {
                reads.repeat(i);
            } else if !shows_program {
                node.processes.probe(i, node.proc, node.discovery); // without stat the name decides
            }
        }
        Outcome::Read { has_executed, needs_mappings } => {
            if has_executed {
                process.start_over();
            }
            let memory = finding.result.as_ref().ok().and_then(|found| found.memory);
            let memory = memory.expect("the outcome of reading memory");
            let is_repeated = is_repeated(node, i, &memory) || needs_mappings;
            if !node.processes.at(i).is_selected() {
                return;
            }
            if is_repeated {
                return reads.repeat(i);
            }
            keep_values(reads, node.processes.at(i), snapshot, job, finding, &memory);
        }
    }
}

/// Takes the name and the cgroups that a read ended with. Returns whether the read must be repeated, because it has no values
/// for the name or the container that the process has now.
fn is_repeated(node: &mut Node<'_>, i: usize, memory: &Memory<'_>) -> bool {
    let is_renamed = node.processes.relocate(i, memory.comm, memory.cgroups, node.discovery);
    let process = node.processes.at(i);
    if !process.is_selected() {
        return false;
    }
    let has_lost_values = memory.read.content == Content::Unchanged && !process.last().has_values();
    process.repeats_for_name(is_renamed) || has_lost_values
}

/// Replaces the values of a process by those of its read, unless nothing has changed.
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
    let Some(container) = process.container().cloned() else { return };
    let (reading, comm) = process.values_mut();
    if memory.tally.is_empty() {
        *reading = None; // a zombie
        return;
    }
    snapshot.register(container.id.key(), &container.labels);
    let of = snapshot::Process { container: container.id.key(), comm, pid: job.pid };
    snapshot.record(of, memory.tally, reading);
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
