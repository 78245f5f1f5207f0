//! The one table of the node's processes.
//!
//! A selected process is identified by its read, which ends by finding its name and cgroup, or else by a probe; everybody else by each
//! listing. That saves 4 us for each selected process, 4% of a scrape of processes of 25 mappings.

use std::io;
use std::time::{Duration, Instant};

use log::warn;

use super::away::Away;
use super::discovery::Discovery;
use super::owners::Container;
use super::process::Process;
use super::queue::Queue;
use super::reader::Job;
use crate::exposition::self_metrics::{ReadErrors, Reads};
use crate::procfs::cgroup::Cgroups;
use crate::procfs::{Buffers, Entry, Proc};
use crate::sources::recording::Writer;
use crate::totals::reading::ReadingId;
use crate::totals::snapshot::Snapshot;

/// The table, by pid.
#[derive(Debug)]
#[expect(
    clippy::vec_box,
    reason = "a process is 400 bytes, and two tables would each have room for twice as many as there are"
)]
pub struct Processes {
    pub(super) table: Vec<Box<Process>>,
    /// The table of the scrape before, while the next one is made.
    before: Vec<Box<Process>>,
    entries: Vec<Entry>,
    pub(super) queue: Queue,
    /// The read that the scrape waits for, its thread, and when it began.
    pub(super) under_way: Option<(Job, u32, Instant)>,
    pub(super) away: Away,
    /// Processes whose values are kept without a read in this scrape: whether they still run the same program is checked last.
    pub(super) kept: Vec<u32>,
    /// When the budget left out a process last.
    pub(super) left_out_at: Option<Instant>,
    /// Up to here the table was looked through for processes that are not known yet.
    pub(super) n_known: usize,
    pub(super) interval: Duration,
    /// Everything is read in each scrape, whatever looks unchanged.
    pub always_reads: bool,
    pub(super) buffers: Buffers,
    cgroups: Cgroups,
    pub(super) scratch: String,
    pub(super) read_errors: ReadErrors,
    pub(super) reads: Reads,
}

impl Processes {
    /// An empty table, for scrapes at this interval.
    pub fn new(interval: Duration) -> Self {
        Self {
            table: Vec::new(),
            before: Vec::new(),
            entries: Vec::new(),
            queue: Queue::default(),
            under_way: None,
            away: Away::default(),
            kept: Vec::new(),
            left_out_at: None,
            n_known: 0,
            interval,
            always_reads: false,
            buffers: Buffers::default(),
            cgroups: Cgroups::default(),
            scratch: String::new(),
            read_errors: ReadErrors::default(),
            reads: Reads::default(),
        }
    }

    /// Lists proc: processes that are gone go with their values, new ones come.
    ///
    /// Fails when the directory cannot be read.
    pub fn list(&mut self, proc: &Proc) -> io::Result<()> {
        let Self { table, before, entries, buffers, cgroups, .. } = self;
        proc.list(buffers, entries)?;
        std::mem::swap(table, before);
        let mut known = before.drain(..).peekable();
        for &entry in entries.iter() {
            while known.next_if(|process| process.entry.pid < entry.pid).is_some() {}
            let process = match known.next_if(|process| process.entry.pid == entry.pid) {
                Some(mut process) if process.entry == entry => {
                    let is_settled = process.is_selected || process.is_kernel_thread;
                    (is_settled || process.locate(proc, buffers, cgroups).is_ok()).then_some(process)
                }
                formerly => Process::find(entry, proc, buffers, cgroups)
                    .map(|process| Box::new(Process { formerly, ..process })),
            };
            table.extend(process);
        }
        drop(known);
        before.shrink_to(2 * table.len());
        table.shrink_to(2 * table.len());
        self.n_known = 0;
        self.review_away();
        Ok(())
    }

    /// Decides whose each process is, and which are selected; with `has_new_claims`, a cgroup may have another owner than before.
    pub fn identify(&mut self, proc: &Proc, discovery: &Discovery, has_new_claims: bool) {
        for process in &mut self.table {
            if has_new_claims || process.is_unattributed {
                process.attribute(discovery);
            }
            if !process.can_be_selected() {
                process.deselect();
            } else if !process.is_selected
                && let Ok(comm) = proc.comm(process.entry.pid, &mut self.buffers)
            {
                process.select(comm, discovery, &mut self.scratch);
            }
        }
        if log::log_enabled!(log::Level::Debug) && discovery.has_listed() {
            let of_interest = |process: &&mut Box<Process>| {
                !(process.is_selected || process.is_explained || process.is_kernel_thread)
            };
            for process in self.table.iter_mut().filter(of_interest) {
                if let Ok(comm) = proc.comm(process.entry.pid, &mut self.buffers) {
                    process.explain(comm);
                }
            }
        }
    }

    /// The container of each process that has one, and whether a filter selects the process.
    pub fn attributed(&self) -> impl Iterator<Item = (&Container, bool)> {
        self.table.iter().filter_map(|process| Some((&**process.container.as_ref()?, process.is_selected)))
    }

    /// Finds out name and container of a process that is not read. Neither file can block.
    pub(super) fn probe(&mut self, i: usize, proc: &Proc, discovery: &Discovery) {
        let Self { table, buffers, cgroups, scratch, .. } = self;
        let process = &mut table[i];
        let located = process.locate(proc, buffers, cgroups);
        if process.is_unattributed {
            process.attribute(discovery);
        }
        match located.and_then(|()| proc.comm(process.entry.pid, buffers)) {
            Ok(comm) => process.select(comm, discovery, scratch),
            Err(_) => process.deselect(), // it has ended
        }
    }

    /// The same for a process whose values are kept. Under another name they stay until `stat`, which can block and is therefore read by a
    /// job (see [`Processes::next_check`]), shows whether it runs another program: no process hides by taking another name.
    pub(super) fn probe_kept(&mut self, i: usize, proc: &Proc, discovery: &Discovery) {
        let Self { table, buffers, cgroups, scratch, .. } = self;
        let process = &mut table[i];
        let is_where_it_was = process.locate(proc, buffers, cgroups).is_ok() && !process.is_unattributed;
        let comm = proc.comm(process.entry.pid, buffers).unwrap_or_default();
        let waits_for_stat = process.is_selected
            && process.program.is_some()
            && process.would_be_selected(comm, discovery, scratch);
        if !is_where_it_was || process.comm != comm && !waits_for_stat {
            self.probe(i, proc, discovery);
        }
    }

    /// Records every selected process that gave values into `to`; says how many there were. One that ends meanwhile is left out, and so
    /// is one that refuses to be read.
    ///
    /// Fails with one line when a file cannot be written.
    pub fn record(&mut self, proc: &Proc, to: &mut Writer) -> Result<usize, String> {
        let mut n_recorded = 0;
        let may_be_read =
            |process: &Process| process.is_selected && !process.is_stuck && process.n_refusals == 0;
        for process in self.table.iter().filter(|process| may_be_read(process)) {
            let pid = process.entry.pid;
            match proc.process(pid, &mut self.buffers).and_then(|dir| dir.raw(&mut self.buffers)) {
                Ok(files) => {
                    for (name, content) in files {
                        to.file(pid, name, &content)?;
                    }
                    let mounts = proc.raw_mounts(pid, &mut self.buffers).unwrap_or_default();
                    if !mounts.is_empty() {
                        to.file(pid, "mountinfo", &mounts)?;
                    }
                    n_recorded += 1;
                }
                Err(error) => warn!("process {pid} is left out: {error}"),
            }
        }
        Ok(n_recorded)
    }

    /// Every process, by pid.
    pub fn iter(&self) -> impl Iterator<Item = &Process> {
        self.table.iter().map(|process| &**process)
    }

    /// The process with this pid.
    pub fn find(&self, pid: u32) -> Option<&Process> {
        Some(&self.table[self.position(pid)?])
    }

    pub(super) fn position(&self, pid: u32) -> Option<usize> {
        self.table.binary_search_by_key(&pid, |process| process.entry.pid).ok()
    }

    /// Every reading that a process owns, and whether it counts. A process that had this pid, which may be the same
    /// one, keeps its reading until that is known.
    pub fn readings(&self) -> impl Iterator<Item = (&ReadingId, bool)> {
        let with_former = self.table.iter().flat_map(|process| {
            std::iter::successors(Some((&**process, true)), |(process, _)| {
                Some((process.formerly.as_deref()?, false))
            })
        });
        with_former.filter_map(|(process, counts)| Some((process.reading.as_ref()?, counts)))
    }

    /// Registers the container of each process that has values. A listing may have replaced it by another one with
    /// the same labels, and then the values stay.
    pub fn register_containers(&self, snapshot: &mut Snapshot) {
        let mut last = None;
        for process in self.table.iter().filter(|process| process.reading.is_some()) {
            if let Some(container) = process.container()
                && last.replace(container.key) != Some(container.key)
            {
                snapshot.register(container.key, &container.labels);
            }
        }
    }

    /// Returns how many reads failed since the start, by reason.
    pub fn read_errors(&self) -> ReadErrors {
        self.read_errors
    }

    /// Returns how many reads succeeded since the start, by what was read.
    pub fn reads(&self) -> Reads {
        self.reads
    }

    /// How many processes are stuck.
    pub fn n_stuck(&self) -> usize {
        self.table.iter().filter(|process| process.is_stuck).count()
    }

    /// How many selected processes refuse to be read, and how many selected ones there are.
    pub fn refusals(&self) -> (usize, usize) {
        let selected = || self.table.iter().filter(|process| process.is_selected);
        (selected().filter(|process| process.n_refusals > 0).count(), selected().count())
    }

    /// How long the longest read took, of those that gave the values there are.
    pub fn longest_read(&self) -> Duration {
        let with_values = self.table.iter().filter(|process| process.reading.is_some());
        with_values.map(|process| process.read_took).max().unwrap_or_default()
    }

    /// When the oldest values were read.
    pub fn oldest(&self) -> Option<Instant> {
        let with_values = self.table.iter().filter(|process| process.reading.is_some());
        with_values.filter_map(|process| process.read_at).min()
    }

    /// A table of these, by ascending pid: pid, start time, and the text of the cgroup file, or the path on version 2.
    #[cfg(test)]
    pub(crate) fn of(processes: &[(u32, u64, &str)]) -> Self {
        let cgroups = |text: &str| match text.starts_with('/') {
            true => Cgroups::from(format!("0::{text}").as_str()),
            false => Cgroups::from(text),
        };
        let process = |&(pid, start_time, path): &(u32, u64, &str)| Process {
            start_time: Some(start_time),
            ..Process::new(Entry { pid, inode: start_time }, cgroups(path))
        };
        let table = processes.iter().map(process).map(Box::new).collect();
        Self { table, ..Self::new(Duration::from_secs(1)) }
    }

    /// Decides whose each is.
    #[cfg(test)]
    pub(crate) fn attribute_all(&mut self, discovery: &Discovery) {
        self.table.iter_mut().for_each(|process| process.attribute(discovery));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::smaps::fields::values;
    use crate::smaps::scanner::Mapping;
    use crate::sources;
    use crate::totals::largest::Largest;
    use crate::totals::snapshot;
    use crate::totals::tally::Tally;

    #[test]
    fn values_stay_when_a_container_is_replaced_by_one_with_the_same_labels() {
        let container = || {
            let listed = sources::Container {
                id: "c1".into(),
                namespace: "shop".into(),
                pod: "web-0".into(),
                name: "app".into(),
                init_pid: None,
            };
            Arc::new(Container::new(listed, true))
        };
        let (before, after) = (container(), container());
        let mut processes = Processes::of(&[(1, 100, "/c1")]);
        let mut snapshot = Snapshot::default();
        let mut tally = Tally::new(snapshot.shape().group_by, 0);
        tally.add(&Mapping { path: b"/x", values: &values(&[("pss", 7)]), count: 1 });
        snapshot.register(before.key, &before.labels);
        let process = snapshot::Process { container: before.key, comm: b"a", pid: 1 };
        snapshot.record(process, &tally, &mut processes.table[0].reading);
        let mut pss = |processes: &Processes, container: &Container| {
            snapshot.sum(processes.readings());
            let mut largest = Largest::default();
            largest.find(snapshot.table(), container.key, &mut Vec::new()).then_some(largest.pss)
        };
        assert_eq!((pss(&processes, &before), pss(&processes, &after)), (Some(7), None));
        processes.table[0].container = Some(after.clone());
        processes.register_containers(&mut snapshot);
        let mut largest = Largest::default();
        assert!(largest.find(snapshot.table(), after.key, &mut Vec::new()));
        assert_eq!(largest.pss, 7);
    }
}
