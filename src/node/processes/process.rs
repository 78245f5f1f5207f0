//! One process of the node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::attribution::{Attribution, Change};
use super::identity::Identity;
use super::job::{Detail, Job};
use super::last_read::{Content, Cost, LastRead, MemoryRead, Program};
use super::read_state::{Pause, ReadState};
use crate::node::containers::cgroup_index::CgroupIndex;
use crate::node::containers::discovery::Discovery;
use crate::node::containers::table::{Container, Seen};
use crate::procfs::cgroup::Cgroups;
use crate::procfs::stat::Stat;
use crate::procfs::{Buffers, Entry, Proc};
use crate::totals::reading::ReadingId;

/// A process of the node.
#[derive(Debug)]
pub struct Process {
    identity: Identity,
    /// The last process with this pid. It is kept until the start time of this process is known, because both
    /// may be the same process: after a shortage of memory, the kernel may give a new inode number to the
    /// directory of a process that still runs.
    previous: Option<Box<Process>>,
    attribution: Attribution,
    state: ReadState,
    pause: Pause,
    last: LastRead,
    /// When a listing of proc first showed the process, or when it began to run another program.
    found_at: Instant,
    /// Whether the last read must be repeated because it found that the process has a new name. The repeated
    /// read is not repeated again, so this is false after it, even if it found another new name.
    has_new_name: bool,
}

impl Process {
    /// Creates a process that a listing of proc shows for the first time. Returns `None` if no file shows the
    /// cgroups of the process, because it is a zombie or has already ended.
    pub fn find(entry: Entry, proc: &Proc, buffers: &mut Buffers, scratch: &mut Cgroups) -> Option<Self> {
        proc.cgroups(entry.pid, buffers, scratch).ok()?;
        Some(Self::new(entry, scratch.clone()))
    }

    /// Creates a process with this entry and these cgroups. Nothing else is known about it yet.
    pub fn new(entry: Entry, cgroups: Cgroups) -> Self {
        Self {
            identity: Identity::new(entry),
            previous: None,
            attribution: Attribution::new(cgroups),
            state: ReadState::Idle,
            pause: Pause::None,
            last: LastRead::default(),
            found_at: Instant::now(),
            has_new_name: false,
        }
    }

    /// Stores the process that had this pid before, until `stat` shows whether both are the same process.
    pub fn set_previous(&mut self, previous: Option<Box<Process>>) {
        self.previous = previous;
    }

    /// Returns the pid of the process.
    pub fn pid(&self) -> u32 {
        self.identity.entry().pid
    }

    /// Returns the identity of the process.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns a mutable reference to the identity of the process.
    pub fn identity_mut(&mut self) -> &mut Identity {
        &mut self.identity
    }

    /// Returns what discovery needs to know about the process.
    pub fn seen(&self) -> Seen<'_> {
        Seen { pid: self.pid(), start_time: self.identity.start_time(), cgroups: self.attribution.cgroups() }
    }

    /// Returns the container of the process, according to the last look-up.
    pub fn container(&self) -> Option<&Arc<Container>> {
        self.attribution.container()
    }

    /// Returns the attribution of the process.
    pub fn attribution(&self) -> &Attribution {
        &self.attribution
    }

    /// Whether a filter selects the process.
    pub fn is_selected(&self) -> bool {
        self.attribution.is_selected()
    }

    /// Returns the cgroups that the process was last seen in.
    pub fn cgroups(&self) -> &Cgroups {
        self.attribution.cgroups()
    }

    /// Returns the state of the process's reads.
    pub fn state(&self) -> ReadState {
        self.state
    }

    /// Whether the kernel refused the last read of the process.
    pub fn is_refused(&self) -> bool {
        matches!(self.pause, Pause::Refused { .. })
    }

    /// Returns the last read of the process.
    pub fn last(&self) -> &LastRead {
        &self.last
    }

    /// Returns the time at which the values of the process were read; `None` if the process has no values or
    /// is not selected.
    pub fn values_read_at(&self) -> Option<Instant> {
        self.last.at().filter(|_| self.is_selected() && self.last.has_values())
    }

    /// Returns the time at which the process was found, or began to run another program.
    pub fn found_at(&self) -> Instant {
        self.found_at
    }

    /// Returns the ids of the readings that must be kept. A reading is the stored result of a read. The flag
    /// says whether the sums over all processes include the reading.
    ///
    /// If there is an older entry for the same pid, its reading is also kept until `stat` shows whether both
    /// entries are the same process. The sums do not include the reading of the older entry.
    pub fn readings(&self) -> impl Iterator<Item = (&ReadingId, bool)> {
        let entries = std::iter::successors(Some((self, true)), |(process, _)| {
            Some((process.previous.as_deref()?, false))
        });
        entries.filter_map(|(process, counts)| Some((process.last.reading()?, counts)))
    }

    /// Describes the process for the log.
    pub fn describe(&self) -> String {
        self.attribution.describe(self.pid())
    }

    /// Stores the start time that `stat` shows. If the process that had this pid before has the same start
    /// time, both are the same process. In that case, everything that was stored for the process is kept.
    pub fn identify(&mut self, stat: Option<Stat>) {
        self.identity.learn(stat);
        let start_time = self.identity.start_time();
        if let Some(previous) = self.previous.take()
            && previous.identity.start_time() == start_time
        {
            let inode = self.identity.entry().inode;
            *self = *previous;
            self.identity.set_inode(inode);
            self.identity.note_zombie(stat);
            self.state = ReadState::Idle;
        }
    }

    /// Stores the cgroups that the process is in now.
    pub fn move_to(&mut self, cgroups: &Cgroups) {
        self.attribution.move_to(cgroups);
    }

    /// Looks up the container of the process. If the process is now in another container than before, the
    /// values are dropped.
    pub fn look_up(&mut self, index: &CgroupIndex) {
        if self.attribution.look_up(index) {
            self.last.forget();
        }
    }

    /// Decides whether a filter selects the process, which now has the name `comm`. The memory values of the
    /// last read are dropped if no filter selects the process. They are also dropped if its name has changed,
    /// because the process may then run another program.
    pub fn select(&mut self, comm: &[u8], discovery: &Discovery, scratch: &mut String) {
        match self.attribution.select(comm, discovery, scratch) {
            Change::None => {}
            Change::Selected => self.last.forget_values(),
            Change::Deselected => self.last.forget(),
        }
    }

    /// Notes that the process is not selected at the moment.
    pub fn deselect(&mut self) {
        self.attribution.deselect();
        self.last.forget();
    }

    /// Logs once why no filter selects the process.
    pub fn log_unselected(&mut self, comm: &[u8]) {
        self.attribution.log_unselected(self.identity.entry().pid, comm);
    }

    /// Whether `program` shows that the process has executed another program since its values were read.
    pub fn has_executed(&self, program: Option<Program>) -> bool {
        matches!((self.last.program(), program), (Some(before), Some(now)) if before != now)
    }

    /// Drops the results of earlier reads, because the process has executed another program. Also ends the
    /// pause after a long read, if there is one.
    pub fn start_over(&mut self) {
        self.last.start_over();
        self.pause.end_rest();
        self.found_at = Instant::now();
    }

    /// Whether the process has values, or is in the pause after a long read. If so, a scrape that does not
    /// read the memory of the process checks whether the process has executed another program. In that case,
    /// the values are dropped and the pause ends. The result is always false while the process counts as
    /// stuck.
    pub fn keeps_values(&self) -> bool {
        let rests = matches!(self.pause, Pause::Resting { .. });
        !self.state.is_stuck() && (self.last.has_values() || rests)
    }

    /// Returns the time since which the process has been waiting for a read.
    pub fn due_since(&self) -> Instant {
        self.last.due_since().unwrap_or(self.found_at)
    }

    /// Whether the next read of the process may begin in this scrape. This must be called once per scrape,
    /// because a pause after a refused read is counted in scrapes, and each call counts one.
    pub fn can_begin_read(&mut self, now: Instant) -> bool {
        !self.state.is_detached() && self.pause.ends(now)
    }

    /// Returns the job that reads the process's memory next.
    pub fn memory_job(
        &mut self,
        with_rollup: bool,
        always_reads: bool,
        with_stat: bool,
        now: Instant,
    ) -> Job {
        let Entry { pid, inode } = self.identity.entry();
        Job { pid, inode, detail: self.last.next(with_rollup, always_reads, now), with_stat }
    }

    /// Returns a job that reads only `stat`.
    pub fn stat_job(&self) -> Job {
        let Entry { pid, inode } = self.identity.entry();
        Job { pid, inode, detail: Detail::Stat, with_stat: true }
    }

    /// Skips the process, because a read of its memory would probably not return. Returns whether the process
    /// counts as stuck from now on. A process outside the selected containers, such as a kernel thread, never
    /// counts as stuck.
    pub fn skip(&mut self, now: Instant) -> bool {
        self.state.skip(now) && self.attribution.can_be_selected() && self.report_stuck()
    }

    /// Stops skipping the process, because it may be read again.
    pub fn end_skipping(&mut self) {
        if self.state.end_skipping() {
            info!("{} is read again", self.describe());
        }
    }

    /// Notes that a read of the process is now detached, which means that the scrape no longer waits for it.
    pub fn detach_read(&mut self) {
        self.state = ReadState::Detached;
    }

    /// Marks the process as stuck, and drops its values. Returns whether the process was not stuck before.
    pub fn report_stuck(&mut self) -> bool {
        self.last.forget_values();
        let is_new = self.state.report_stuck();
        if is_new {
            warn!(
                "cannot read {}: blocked on its memory-map lock; skipping it until the lock is released",
                self.describe()
            );
        }
        is_new
    }

    /// Notes that a read of the process has returned. `is_detached` says that another read of the process is
    /// still detached: it has not returned, and the scrape no longer waits for it.
    pub fn end_read(&mut self, is_detached: bool) {
        let was_stuck = self.state.is_stuck();
        self.state.end_read(is_detached);
        if was_stuck {
            info!("{} is readable again", self.describe());
        }
    }

    /// Returns whether a read must be repeated because the process has a new name. A new name may mean that
    /// the process has executed a program during the read. A process that was created by vfork uses the
    /// memory of its parent before it executes a program, so the read may have returned the parent's memory.
    /// A repeated read is not repeated again.
    pub fn repeats_for_name(&mut self, is_renamed: bool) -> bool {
        self.has_new_name = is_renamed && !self.has_new_name;
        self.has_new_name
    }

    /// Notes that a read of the memory succeeded.
    pub fn note_read(&mut self, detail: Detail, read: &MemoryRead, cost: &Cost, interval: Duration) {
        if read.content == Content::SumOfSlow && !self.last.was_slow() {
            warn!("{} takes too long to read: its mappings are summed as [other]", self.describe());
        }
        self.pause = self.last.note(detail, read, cost, interval);
    }

    /// Notes that a read found overlapping mappings. The previous values are kept.
    pub fn note_torn(&mut self, cost: &Cost, was_slow: bool, interval: Duration) {
        self.pause = self.last.note_torn(cost, was_slow, interval);
    }

    /// Notes that a read failed. The values are dropped.
    pub fn note_failed(&mut self, cost: &Cost, is_refused: bool) {
        if is_refused {
            self.pause.note_refusal();
        }
        self.last.note_failed(cost);
    }

    /// Drops the values, because the process maps nothing.
    pub fn drop_reading(&mut self) {
        self.last.drop_reading();
    }

    /// Returns a mutable reference to the id of the stored values, and the name of the process.
    pub fn values_mut(&mut self) -> (&mut Option<ReadingId>, &[u8]) {
        (self.last.reading_mut(), self.attribution.comm())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn process(inode: u64) -> Process {
        Process::new(Entry { pid: 7, inode }, Cgroups::from("0::/a\n"))
    }

    pub(crate) fn stat(start_time: u64) -> Option<Stat> {
        Some(Stat { start_time, ..Stat::default() })
    }

    #[test]
    fn equal_start_time_identifies_a_process_with_a_new_inode() {
        for (start_time, is_same) in [(5, true), (6, false)] {
            let mut before = process(70);
            before.identify(stat(5));
            before.pause = Pause::Refused { n_in_a_row: 1, n_scrapes_left: 0 };
            before.state = ReadState::Detached;
            let mut now = process(71);
            now.set_previous(Some(Box::new(before)));
            assert_eq!(now.identity.start_time(), None);
            now.identify(stat(start_time));
            assert_eq!(now.identity.start_time(), Some(start_time));
            assert_eq!((now.identity.entry().inode, now.is_refused()), (71, is_same));
            assert!(now.previous.is_none() && now.state == ReadState::Idle);
        }
        let mut recorded = process(70);
        recorded.identify(None);
        assert_eq!(recorded.identity.start_time(), Some(70), "in a recording it is its directory");
    }

    #[test]
    fn a_process_in_no_container_is_skipped_without_a_report() {
        let (mut process, start) = (process(70), Instant::now());
        for seconds in 0..10 {
            assert!(!process.skip(start + Duration::from_secs(seconds)));
        }
        assert!(!process.state.is_stuck());
    }

    #[test]
    fn exec_of_another_program_drops_what_was_known() {
        let (mut process, now) = (process(70), Instant::now());
        let cost = Cost { began_at: now, elapsed: Duration::ZERO, cpu_time: Duration::ZERO };
        let content = Content::SumOfSlow;
        let read = MemoryRead { content, n_mappings: 1, fingerprint: None, program: Some([2, 3]) };
        process.note_read(Detail::Stat, &read, &cost, Duration::from_secs(1));
        for (program, expected) in [(None, false), (Some([2, 3]), false), (Some([2, 4]), true)] {
            assert_eq!(process.has_executed(program), expected, "{program:?}");
        }
        process.start_over();
        assert_eq!((process.last.at(), process.last.program(), process.last.was_slow()), (None, None, false));
        assert!(!process.has_executed(Some([2, 4])), "nothing is known about the program before");
    }

    #[test]
    fn a_new_name_repeats_the_read_once() {
        let mut process = process(70);
        let renamed = [false, true, true, true, false, true];
        let repeats = renamed.map(|is_renamed| process.repeats_for_name(is_renamed));
        assert_eq!(repeats, [false, true, false, true, false, true]);
    }
}
