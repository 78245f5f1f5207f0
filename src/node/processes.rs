//! The one table of the node's processes: who each is, whose it is, and what it gave when it was read last.
//!
//! A selected process is identified by its read, which ends by finding its name and cgroup, or else by a probe; everybody else by each
//! listing. That saves 4 us for each selected process, 4% of a scrape of processes of 25 mappings.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::budget::Budget;
use super::discovery::Discovery;
use super::owners::Container;
use super::queue::Queue;
use super::reader::{Detail, Job, Reader};
use crate::procfs::errors::ReadError;
use crate::procfs::{Buffers, Entry, Proc};
use crate::sources::recording::Writer;
use crate::totals::labels;
use crate::totals::reading::Reading;
use crate::totals::snapshot::Snapshot;

/// A process of the node.
#[derive(Debug)]
pub struct Process {
    entry: Entry,
    /// In the kernel's clock ticks since boot; in a recording, the inode number of its directory.
    start_time: u64,
    /// It has no memory of its own and stays where it is.
    is_kernel_thread: bool,
    cgroup: Vec<u8>,
    /// Whose it is, as far as the claims are known that were looked at last.
    container: Option<Arc<Container>>,
    /// Its container or its cgroup may be another than `container` says.
    is_unattributed: bool,
    /// A filter selects it.
    is_selected: bool,
    /// As the kernel printed it, without the newline at its end; of a selected process only.
    comm: Vec<u8>,
    /// When it was read last, or tried to; its values are as old.
    read_at: Option<Instant>,
    count: MappingCount,
    reading: Reading,
}

/// The kernel's sum over the mappings of a process does not say how many they are, and counting them costs half as much again: a
/// count serves for nine more sums.
#[derive(Clone, Copy, Debug, Default)]
struct MappingCount {
    n_mappings: u64,
    n_uses_left: u32,
}

const MAX_COUNT_USES: u32 = 9;

/// The table, by pid.
#[derive(Debug, Default)]
pub struct Processes {
    table: Vec<Process>,
    /// The table of the scrape before, while the next one is made.
    before: Vec<Process>,
    entries: Vec<Entry>,
    queue: Queue,
    /// The position of the process that is being read.
    reading: Option<usize>,
    buffers: Buffers,
    path: Vec<u8>,
    scratch: String,
    counts: ReadCounts,
}

/// Reads by what became of them, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadCounts {
    /// They gave values. Those of zombies do not count, which nobody is refused.
    pub ok: u64,
    /// smaps may not be opened.
    pub denied: u64,
    /// The process executed another program meanwhile.
    pub exec: u64,
    /// The process ended meanwhile.
    pub gone: u64,
    /// Anything else.
    pub io: u64,
}

impl Process {
    /// See the field.
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Its cgroup path.
    pub fn cgroup(&self) -> &[u8] {
        &self.cgroup
    }

    /// A process that a listing shows for the first time; `None` if it has ended since, or says no cgroup.
    fn find(entry: Entry, proc: &Proc, buffers: &mut Buffers) -> Option<Self> {
        let mut cgroup = Vec::new();
        proc.cgroup(entry.pid, buffers, &mut cgroup).ok()?;
        // A recording has no stat.
        let stat = proc.process(entry.pid, buffers).and_then(|process| process.stat(buffers)).ok();
        Some(Self {
            entry,
            start_time: stat.map_or(entry.inode, |stat| stat.start_time),
            is_kernel_thread: stat.is_some_and(|stat| stat.is_kernel_thread),
            cgroup,
            container: None,
            is_unattributed: true,
            is_selected: false,
            comm: Vec::new(),
            read_at: None,
            count: MappingCount::default(),
            reading: Reading::default(),
        })
    }

    /// The process that this listing shows with the pid of this one: itself, or a new one.
    fn follow(self, entry: Entry, proc: &Proc, buffers: &mut Buffers) -> Option<Self> {
        if self.entry == entry {
            return Some(self);
        }
        // The kernel gives an old process another inode number when it was short of memory.
        let found = Self::find(entry, proc, buffers)?;
        let is_same = found.start_time == self.start_time;
        Some(if is_same { Self { entry, ..self } } else { found })
    }

    /// Looks where it is. Fails when it has ended.
    fn locate(&mut self, proc: &Proc, buffers: &mut Buffers, scratch: &mut Vec<u8>) -> Result<(), ReadError> {
        proc.cgroup(self.entry.pid, buffers, scratch)?;
        self.move_to(scratch);
        Ok(())
    }

    fn move_to(&mut self, cgroup: &[u8]) {
        if self.cgroup != cgroup {
            self.cgroup.clear();
            self.cgroup.extend_from_slice(cgroup);
            self.is_unattributed = true;
        }
    }

    /// Decides whose it is. One that has another container has no values there yet.
    fn attribute(&mut self, discovery: &Discovery) {
        self.is_unattributed = false;
        let owner = discovery.owners().owner_of(&self.cgroup);
        if owner.map(|owner| &owner.labels) != self.container.as_ref().map(|before| &before.labels) {
            self.deselect();
        }
        self.container = owner.cloned();
    }

    /// Decides whether a filter selects it under this name. One that has another name has no values under it yet.
    fn select(&mut self, comm: &[u8], discovery: &Discovery, scratch: &mut String) {
        if self.is_selected && self.comm == comm {
            return;
        }
        self.deselect();
        if let Some(container) = &self.container
            && discovery.selects(container, labels::lossy(comm, scratch))
        {
            self.is_selected = true;
            self.comm.clear();
            self.comm.extend_from_slice(comm);
        }
    }

    fn deselect(&mut self) {
        self.is_selected = false;
        self.read_at = None;
        self.count = MappingCount::default();
        self.reading.clear();
    }

    fn can_be_selected(&self) -> bool {
        self.container.as_ref().is_some_and(|container| container.is_selected)
    }
}

impl Processes {
    /// Lists proc: processes that are gone go with their values, new ones come.
    ///
    /// Fails when the directory cannot be read.
    pub fn list(&mut self, proc: &Proc) -> io::Result<()> {
        let Self { table, before, entries, buffers, path, .. } = self;
        proc.list(buffers, entries)?;
        std::mem::swap(table, before);
        let mut known = before.drain(..).peekable();
        for &entry in entries.iter() {
            while known.next_if(|process| process.entry.pid < entry.pid).is_some() {}
            let process = match known.next_if(|process| process.entry.pid == entry.pid) {
                None => Process::find(entry, proc, buffers),
                Some(known) => known.follow(entry, proc, buffers).and_then(|mut process| {
                    let is_settled = process.is_selected || process.is_kernel_thread;
                    (is_settled || process.locate(proc, buffers, path).is_ok()).then_some(process)
                }),
            };
            table.extend(process);
        }
        drop(known);
        before.shrink_to(2 * table.len());
        table.shrink_to(2 * table.len());
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
    }

    /// Queues the selected processes.
    pub fn queue(&mut self) {
        let selected = self.table.iter().enumerate().filter(|(_, process)| process.is_selected);
        self.queue.fill(selected.map(|(i, process)| (i as u32, process.read_at)));
        self.reading = None;
    }

    /// The next process to read, while the budget lasts; `None` when no more is read. Whoever is left out is probed: its values stay if it
    /// still is who it was.
    pub fn next(
        &mut self,
        proc: &Proc,
        discovery: &Discovery,
        budget: &Budget,
        with_rollup: bool,
    ) -> Option<Job> {
        while let Some(i) = self.queue.pop() {
            if !budget.allows() {
                self.probe(i, proc, discovery);
                continue;
            }
            self.reading = Some(i);
            let process = &mut self.table[i];
            process.read_at = Some(Instant::now());
            let MappingCount { n_mappings, n_uses_left } = process.count;
            process.count.n_uses_left = n_uses_left.saturating_sub(1);
            let detail = match with_rollup {
                true => Detail::Rollup { known_count: (n_uses_left > 0).then_some(n_mappings) },
                false => Detail::Mappings,
            };
            return Some(Job { pid: process.entry.pid, detail });
        }
        None
    }

    /// Takes what the read of the job that [`Processes::next`] gave last has found.
    pub fn take(
        &mut self,
        job: Job,
        result: Result<(), ReadError>,
        reader: &Reader,
        proc: &Proc,
        discovery: &Discovery,
        snapshot: &mut Snapshot,
    ) {
        let Some(i) = self.reading.take() else { return };
        self.counts.exec += reader.n_execs;
        if let Err(error) = result {
            log::debug!("cannot read process {} in {:?}: {error}", job.pid, proc.path());
            match error {
                ReadError::Exec => self.counts.exec += 1,
                ReadError::Denied => self.counts.denied += 1,
                ReadError::Gone => self.counts.gone += 1,
                ReadError::Io(_) => self.counts.io += 1,
            }
            let process = &mut self.table[i];
            process.reading.clear();
            process.count = MappingCount::default();
            return self.probe(i, proc, discovery);
        }
        let process = &mut self.table[i];
        if reader.inode != process.entry.inode {
            // Another process with its pid, or the same one under a new inode number: the next listing tells.
            process.reading.clear();
            return;
        }
        let read_at = process.read_at;
        if !reader.cgroup.is_empty() {
            process.move_to(&reader.cgroup);
        }
        if process.is_unattributed {
            process.attribute(discovery);
        }
        process.select(&reader.comm, discovery, &mut self.scratch);
        let Some(container) = process.container.as_ref().filter(|_| process.is_selected) else { return };
        process.read_at = read_at;
        if reader.tally.is_empty() {
            return process.reading.clear(); // a zombie
        }
        snapshot.record(&container.labels, &process.comm, job.pid, &reader.tally, &mut process.reading);
        if job.detail == (Detail::Rollup { known_count: None }) {
            process.count = MappingCount { n_mappings: reader.n_mappings, n_uses_left: MAX_COUNT_USES };
        }
        self.counts.ok += 1;
    }

    /// Finds out who a process is that is not read, and whose.
    fn probe(&mut self, i: usize, proc: &Proc, discovery: &Discovery) {
        let Self { table, buffers, path, scratch, .. } = self;
        let process = &mut table[i];
        let located = process.locate(proc, buffers, path);
        if process.is_unattributed {
            process.attribute(discovery);
        }
        match located.and_then(|()| proc.comm(process.entry.pid, buffers)) {
            Ok(comm) => process.select(comm, discovery, scratch),
            Err(_) => process.deselect(), // it has ended
        }
    }

    /// Records every selected process into `to`; says how many there were. One that ends meanwhile is left out.
    ///
    /// Fails with one line when a file cannot be written.
    pub fn record(&mut self, proc: &Proc, to: &Writer) -> Result<usize, String> {
        let mut n_recorded = 0;
        for process in self.table.iter().filter(|process| process.is_selected) {
            let pid = process.entry.pid;
            match proc.process(pid, &mut self.buffers).and_then(|dir| dir.raw(&mut self.buffers)) {
                Ok(files) => {
                    for (name, content) in files {
                        to.file(pid, name, &content)?;
                    }
                    n_recorded += 1;
                }
                Err(error) => log::warn!("process {pid} is left out: {error}"),
            }
        }
        Ok(n_recorded)
    }

    /// Every process, by pid.
    pub fn iter(&self) -> impl Iterator<Item = &Process> {
        self.table.iter()
    }

    /// The process with this pid.
    pub fn find(&self, pid: u32) -> Option<&Process> {
        let at = self.table.binary_search_by_key(&pid, |process| process.entry.pid).ok()?;
        Some(&self.table[at])
    }

    /// What each selected process gave last.
    pub fn readings(&self) -> impl Iterator<Item = &Reading> {
        self.table.iter().filter(|process| process.is_selected).map(|process| &process.reading)
    }

    /// What became of all reads.
    pub fn counts(&self) -> &ReadCounts {
        &self.counts
    }

    /// How old the oldest values are.
    pub fn oldest(&self, now: Instant) -> Duration {
        let with_values = self.table.iter().filter(|process| !process.reading.is_empty());
        let oldest = with_values.filter_map(|process| process.read_at).min();
        oldest.map_or(Duration::ZERO, |oldest| now.saturating_duration_since(oldest))
    }

    /// A table of these: pid, start time and cgroup path, by ascending pid.
    #[cfg(test)]
    pub(crate) fn of(processes: &[(u32, u64, &str)]) -> Self {
        let process = |&(pid, start_time, path): &(u32, u64, &str)| Process {
            entry: Entry { pid, inode: start_time },
            start_time,
            is_kernel_thread: false,
            cgroup: path.into(),
            container: None,
            is_unattributed: true,
            is_selected: false,
            comm: Vec::new(),
            read_at: None,
            count: MappingCount::default(),
            reading: Reading::default(),
        };
        Self { table: processes.iter().map(process).collect(), ..Self::default() }
    }
}
