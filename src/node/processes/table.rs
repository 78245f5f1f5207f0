//! The table of the node's processes.
//!
//! The name and the cgroups of a selected process are read together with its memory, not when proc is listed.
//! That saves 4 us for each process, which is 4% of a scrape of processes with 25 mappings. If a scrape does
//! not read the memory, [`ProcessTable::refresh`] reads the name and the cgroups.
//!
//! The cgroups of processes that are not selected are read when proc is listed, because the cgroups show in
//! which container a process is. If a filter matches that container, the name is read, too, because the
//! process is selected only if such a filter also matches its name.

use std::io;
use std::time::{Duration, Instant};

use log::warn;

use super::process::Process;
use crate::node::containers::discovery::Discovery;
use crate::node::containers::table::{Container, Seen};
use crate::procfs::cgroup::Cgroups;
use crate::procfs::{Buffers, Entry, MAX_MAP_COUNT, Proc};
use crate::sources::recording::Writer;
use crate::totals::reading::ReadingId;
use crate::totals::snapshot::Snapshot;

/// Checks of memory use between scrapes also read the cgroups of processes that are not selected, because
/// such a process may have moved to another cgroup. A new process soon leaves the cgroup in which it was
/// forked. So every check reads the cgroups of the processes that were found less than [`SETTLING`] ago. The
/// cgroups of an older process are read in only one of every [`N_CHECKS`] checks, because reading the cgroups
/// of 120 processes in every check took a third of the check's time.
const SETTLING: Duration = Duration::from_secs(10);
const N_CHECKS: u32 = 8;

/// The processes of the node, sorted by pid.
#[derive(Debug, Default)]
#[expect(
    clippy::vec_box,
    reason = "a process is 500 bytes, and two tables would each have room for twice as many as there are"
)]
pub struct ProcessTable {
    table: Vec<Box<Process>>,
    /// The table of the previous scrape. It is empty except while the new table is built.
    before: Vec<Box<Process>>,
    entries: Vec<Entry>,
    /// The zombies, sorted by pid. Their files are not read again, because with 20,000 zombies, that took 18%
    /// of a core.
    zombies: Vec<Entry>,
    /// The zombies of the previous scrape. The list is empty except while the new list is built.
    zombies_before: Vec<Entry>,
    /// The number of checks so far. It wraps around.
    n_checks: u32,
    buffers: Buffers,
    /// A buffer that is reused.
    cgroups: Cgroups,
    lossy: String,
}

impl ProcessTable {
    /// Lists proc. Processes that have ended are dropped together with their values, and new processes are
    /// added. The cgroups of processes that are not selected are read again, because such a process may have
    /// moved to another container. The cgroups of a selected process are read later, together with its
    /// memory. A check of memory use between scrapes (`is_check`) reads the cgroups of only some of the
    /// processes that are not selected, to save CPU time.
    ///
    /// Fails if the directory cannot be read.
    pub fn list(&mut self, proc: &Proc, is_check: bool, now: Instant) -> io::Result<()> {
        self.n_checks = self.n_checks.wrapping_add(u32::from(is_check));
        let n_checks = self.n_checks;
        let may_skip = |process: &Process| {
            let is_turn = (process.pid() ^ n_checks).is_multiple_of(N_CHECKS);
            is_check && !is_turn && now > process.found_at() + SETTLING
        };
        let Self { table, before, entries, zombies, zombies_before, buffers, cgroups, .. } = self;
        proc.list(buffers, entries)?;
        std::mem::swap(table, before);
        std::mem::swap(zombies, zombies_before);
        let mut known = before.drain(..).peekable();
        let mut known_zombies = zombies_before.drain(..).peekable();
        for &entry in entries.iter() {
            while known_zombies.next_if(|zombie| zombie.pid < entry.pid).is_some() {}
            if known_zombies.next_if_eq(&entry).is_some() {
                zombies.push(entry);
                continue;
            }
            while known.next_if(|process| process.pid() < entry.pid).is_some() {}
            let process = match known.next_if(|process| process.pid() == entry.pid) {
                Some(process) if process.identity().is_zombie() && process.identity().entry() == entry => {
                    zombies.push(entry);
                    continue;
                }
                Some(mut process) if process.identity().entry() == entry => {
                    let is_settled =
                        process.is_selected() || process.identity().is_kernel_thread() || may_skip(&process);
                    (is_settled || locate(&mut process, proc, buffers, cgroups)).then_some(process)
                }
                previous => Process::find(entry, proc, buffers, cgroups).map(|mut process| {
                    process.set_previous(previous);
                    Box::new(process)
                }),
            };
            // With cgroup version 1, no file shows the cgroups of a zombie, so `process` is `None` for a
            // zombie. The zombie is added only to the list of zombies.
            if process.is_none() && proc.is_zombie(entry.pid, buffers) {
                zombies.push(entry);
            }
            table.extend(process);
        }
        drop((known, known_zombies));
        zombies_before.shrink_to(2 * zombies.len());
        zombies.shrink_to(2 * zombies.len());
        before.shrink_to(2 * table.len());
        table.shrink_to(2 * table.len());
        Ok(())
    }

    /// Decides which container each process is in, and which processes are selected. `has_changed` says that
    /// the index of the cgroups has changed. If so, the container of every process is looked up again.
    pub fn identify(&mut self, proc: &Proc, discovery: &Discovery, has_changed: bool) {
        for process in &mut self.table {
            if has_changed || process.attribution().is_outdated() {
                process.look_up(discovery.index());
            }
            if !process.attribution().can_be_selected() || process.identity().is_zombie() {
                process.deselect();
            } else if !process.is_selected()
                && let Ok(comm) = proc.comm(process.pid(), &mut self.buffers)
            {
                process.select(comm, discovery, &mut self.lossy);
            }
        }
        if log::log_enabled!(log::Level::Debug) && discovery.has_listed() {
            let needs_explaining = |process: &&mut Box<Process>| {
                let is_kernel_thread = process.identity().is_kernel_thread();
                !(process.is_selected() || process.attribution().is_logged() || is_kernel_thread)
            };
            for process in self.table.iter_mut().filter(needs_explaining) {
                if let Ok(comm) = proc.comm(process.pid(), &mut self.buffers) {
                    process.log_unselected(comm);
                }
            }
        }
    }

    /// Returns, for each process in a container, the container and whether a filter selects the process.
    pub fn attributed(&self) -> impl Iterator<Item = (&Container, bool)> {
        self.iter().filter_map(|process| Some((&**process.container()?, process.is_selected())))
    }

    /// Reads the name and the cgroups of a process, but not its memory. Reading these files cannot block.
    pub fn refresh(&mut self, i: usize, proc: &Proc, discovery: &Discovery) {
        let Self { table, buffers, cgroups, lossy, .. } = self;
        let process = &mut table[i];
        let is_there = locate(process, proc, buffers, cgroups);
        if process.attribution().is_outdated() {
            process.look_up(discovery.index());
        }
        match proc.comm(process.pid(), buffers) {
            Ok(comm) if is_there => process.select(comm, discovery, lossy),
            _ => process.deselect(), // the process has ended
        }
    }

    /// Reads the name and the cgroups of a process that is not read in this scrape. Drops its values if the
    /// process is in another container, or if no filter selects its new name.
    ///
    /// If a filter selects the new name, the values are kept until `stat` shows whether the process runs
    /// another program. If a new name dropped the values at once, a process could hide its memory by renaming
    /// itself. `stat` is not read here, because reading it can block. If `stat` did not identify the program
    /// at the last read, programs cannot be compared, so a new name drops the values at once.
    pub fn refresh_kept(&mut self, i: usize, proc: &Proc, discovery: &Discovery) {
        let Self { table, buffers, cgroups, lossy, .. } = self;
        let process = &mut table[i];
        let has_stayed = locate(process, proc, buffers, cgroups) && !process.attribution().is_outdated();
        let comm = proc.comm(process.pid(), buffers).unwrap_or_default();
        let waits_for_stat = process.is_selected()
            && process.last().program().is_some()
            && process.attribution().would_be_selected(comm, discovery, lossy);
        if !has_stayed || process.attribution().comm() != comm && !waits_for_stat {
            self.refresh(i, proc, discovery);
        }
    }

    /// Takes over the name and the cgroups that a read of the process has returned. `cgroups` is `None` if
    /// they are unknown. Returns whether the name has changed.
    pub fn relocate(
        &mut self,
        i: usize,
        comm: &[u8],
        cgroups: Option<&Cgroups>,
        discovery: &Discovery,
    ) -> bool {
        let process = &mut self.table[i];
        if let Some(cgroups) = cgroups {
            process.move_to(cgroups);
        }
        if process.attribution().is_outdated() {
            process.look_up(discovery.index());
        }
        let is_renamed = process.attribution().comm() != comm;
        process.select(comm, discovery, &mut self.lossy);
        is_renamed
    }

    /// Whether a thread of the process is in an uninterruptible wait (state D). A thread that waits for a
    /// memory-map lock is in that state.
    pub fn has_waiting_thread(&mut self, i: usize, proc: &Proc) -> bool {
        let dir = proc.process(self.table[i].pid(), &mut self.buffers);
        dir.is_ok_and(|dir| dir.has_waiting_thread(&mut self.buffers))
    }

    /// Returns how long a read of the process will probably take. The last read found `resident` bytes of
    /// resident memory, or the process was never read.
    pub fn expected_read(&mut self, i: usize, resident: u64, proc: &Proc) -> Duration {
        let Self { table, buffers, .. } = self;
        let process = &table[i];
        let now = proc.status(process.pid(), buffers).map_or(0, |status| status.resident());
        process.last().expected_duration(resident, now)
    }

    /// Writes the files of the selected processes to the recording `to`. Returns how many processes were
    /// recorded. Processes that cannot be read are skipped.
    ///
    /// Fails with a one-line message if a file cannot be written.
    pub fn record(&mut self, proc: &Proc, to: &mut Writer) -> Result<usize, String> {
        let Self { table, buffers, .. } = self;
        let mut n_recorded = 0;
        for process in table.iter() {
            if !process.is_selected() || process.state().is_stuck() || process.is_refused() {
                continue;
            }
            let pid = process.pid();
            match proc.process(pid, buffers).and_then(|dir| dir.raw(buffers)) {
                Ok(files) => {
                    for (name, content) in files {
                        to.file(pid, name, &content)?;
                    }
                    let mounts = proc.raw_mounts(pid, buffers).unwrap_or_default();
                    if !mounts.is_empty() {
                        to.file(pid, "mountinfo", &mounts)?;
                    }
                    n_recorded += 1;
                }
                Err(error) => warn!("process {pid} is not recorded: {error}"),
            }
        }
        if let Some(limit) = proc.max_map_count(buffers).filter(|_| n_recorded > 0) {
            to.node_file(MAX_MAP_COUNT, format!("{limit}\n").as_bytes())?;
        }
        Ok(n_recorded)
    }

    /// Returns all processes, sorted by pid.
    pub fn iter(&self) -> impl Iterator<Item = &Process> + Clone {
        self.table.iter().map(|process| &**process)
    }

    /// Returns an iterator over mutable references to all processes, sorted by pid.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        self.table.iter_mut().map(|process| &mut **process)
    }

    /// Returns what discovery needs to know about every process.
    pub fn seen(&self) -> impl Iterator<Item = Seen<'_>> + Clone {
        self.iter().map(Process::seen)
    }

    /// Returns the process at this position, if there is one.
    pub fn get(&self, i: usize) -> Option<&Process> {
        self.table.get(i).map(|process| &**process)
    }

    /// Returns a mutable reference to the process at this position.
    pub fn at(&mut self, i: usize) -> &mut Process {
        &mut self.table[i]
    }

    /// Returns the position of the process with this entry.
    pub fn position(&self, entry: Entry) -> Option<usize> {
        let i = self.table.binary_search_by_key(&entry.pid, |process| process.pid()).ok()?;
        (self.table[i].identity().entry() == entry).then_some(i)
    }

    /// Returns what [`Process::readings`] returns, for all processes.
    pub fn readings(&self) -> impl Iterator<Item = (&ReadingId, bool)> {
        self.iter().flat_map(Process::readings)
    }

    /// Registers in `snapshot` the container of each process that has values. A new listing may have replaced
    /// a container by another one with the same labels, which `snapshot` does not contain yet.
    pub fn register_containers(&self, snapshot: &mut Snapshot) {
        let mut last = None;
        for process in self.iter().filter(|process| process.last().has_values()) {
            if let Some(container) = process.container()
                && last.replace(container.id) != Some(container.id)
            {
                snapshot.register(container.id.key(), &container.labels);
            }
        }
    }

    /// Returns how many processes are stuck.
    pub fn n_stuck(&self) -> usize {
        self.iter().filter(|process| process.state().is_stuck()).count()
    }

    /// Whether all detached reads have returned, except stuck ones. A detached read is a read that the scrape
    /// no longer waits for. A stuck read does not return, so waiting for it would bring no more values.
    pub fn is_complete(&self) -> bool {
        self.iter().all(|process| process.state().is_stuck() || !process.state().is_detached())
    }

    /// Returns how many selected processes the kernel refuses to let the exporter read, and how many
    /// processes are selected in total.
    pub fn refusals(&self) -> (usize, usize) {
        let selected = self.iter().filter(|process| process.is_selected());
        (selected.clone().filter(|process| process.is_refused()).count(), selected.count())
    }

    /// Returns the duration of the slowest read. Only the reads that returned the current values of the
    /// processes count.
    pub fn longest_read(&self) -> Duration {
        let with_values = self.iter().filter(|process| process.last().has_values());
        with_values.map(|process| process.last().took()).max().unwrap_or_default()
    }

    /// Returns the time at which the oldest of the current values were read.
    pub fn oldest(&self) -> Option<Instant> {
        let with_values = self.iter().filter(|process| process.last().has_values());
        with_values.filter_map(|process| process.last().at()).min()
    }

    /// Creates a table of processes, which must be sorted by pid. Each process has a pid, a start time, and
    /// the text of its `cgroup` file. The text of a version 2 file may be only the path.
    #[cfg(test)]
    pub(crate) fn of(processes: &[(u32, u64, &str)]) -> Self {
        let process = |&(pid, start_time, text): &(u32, u64, &str)| {
            let prefix = if text.starts_with('/') { "0::" } else { "" };
            let cgroups = Cgroups::from(format!("{prefix}{text}").as_str());
            let mut process = Process::new(Entry { pid, inode: start_time }, cgroups);
            process.identify(None); // as in a recording, where the inode number is the start time
            Box::new(process)
        };
        Self { table: processes.iter().map(process).collect(), ..Self::default() }
    }
}

/// Stores the cgroups that a process is in now. Returns whether the process still exists.
fn locate(process: &mut Process, proc: &Proc, buffers: &mut Buffers, scratch: &mut Cgroups) -> bool {
    let is_there = proc.cgroups(process.pid(), buffers, scratch).is_ok();
    if is_there {
        process.move_to(scratch);
    }
    is_there
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_check_reads_the_cgroups_of_one_in_eight_processes_that_are_not_new() {
        let directory = std::env::temp_dir().join(format!("smaps-table-{}", std::process::id()));
        let move_to = |path: &str| {
            for pid in 100..116 {
                let process = directory.join(pid.to_string());
                fs::create_dir_all(&process).unwrap();
                fs::write(process.join("cgroup"), format!("0::{path}\n")).unwrap();
            }
        };
        let mut table = ProcessTable::default();
        move_to("/a");
        let proc = Proc::open(&directory).unwrap();
        let now = Instant::now();
        let mut n_in = |path: &str, is_check, now| {
            table.list(&proc, is_check, now).unwrap();
            table.iter().filter(|process| process.cgroups().main() == Some(path.as_bytes())).count()
        };
        assert_eq!(n_in("/a", false, now), 16);
        move_to("/b");
        assert_eq!(n_in("/b", true, now), 16, "they may still be where they were forked");
        move_to("/c");
        let later = now + 2 * SETTLING;
        let n_moved: Vec<_> = (0..8).map(|_| n_in("/c", true, later)).collect();
        assert_eq!(n_moved, [2, 4, 6, 8, 10, 12, 14, 16]);
        move_to("/d");
        assert_eq!(n_in("/d", false, later), 16, "a scrape reads them all");
        fs::remove_dir_all(&directory).unwrap();
    }
}
