//! One process of the node: who it is, whose it is, and what it gave when it was read last.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{debug, info};

use super::discovery::Discovery;
use super::ladder::{Ladder, Look};
use super::owners::Container;
use super::reader::{Detail, Job, Reader};
use crate::procfs::cgroup::Cgroups;
use crate::procfs::errors::ReadError;
use crate::procfs::stat::Stat;
use crate::procfs::{Buffers, Entry, Proc};
use crate::sources;
use crate::totals::labels;
use crate::totals::reading::ReadingId;

/// Of a read that takes long, so many times its length passes before the next: a process's memory map is held 1% of the time at most.
const REST: u32 = 100;

/// A count of mappings serves for so many sums: the kernel's sum does not say how many they are, and counting them costs half as much again.
const MAX_COUNT_USES: u32 = 9;

/// A process of the node.
#[derive(Debug)]
pub struct Process {
    pub(super) entry: Entry,
    /// In the kernel's clock ticks since boot; in a recording, the inode number of its directory. None until it was asked.
    pub(super) start_time: Option<u64>,
    /// Who had its pid, but another inode number: the kernel gives an old process a new one when it was short of memory. The same
    /// start time will tell.
    pub(super) formerly: Option<Box<Process>>,
    /// It has no memory of its own and stays where it is.
    pub(super) is_kernel_thread: bool,
    pub(super) cgroups: Cgroups,
    /// Whose it is, as far as the claims are known that were looked at last.
    pub(super) container: Option<Arc<Container>>,
    /// Its container may be another than `container` says.
    pub(super) is_unattributed: bool,
    /// A filter selects it.
    pub(super) is_selected: bool,
    /// The log says why none does.
    pub(super) is_explained: bool,
    /// As the kernel printed it, without the newline at its end; of a selected process only.
    pub(super) comm: Vec<u8>,
    /// When a listing showed it for the first time.
    pub(super) found_at: Instant,
    /// When it was read last, or tried to; its values are as old.
    pub(super) read_at: Option<Instant>,
    /// How long that took.
    pub(super) read_took: Duration,
    /// It is read no sooner than this.
    pub(super) rests_until: Option<Instant>,
    /// Its mappings took too long to print: until then its sum is read instead; it stands for at least so many mappings.
    pub(super) is_summed_until: Option<(Instant, u64)>,
    /// How often in a row its read was refused, and how many scrapes it is left alone for now: each refusal may be an audit record.
    pub(super) n_refusals: u32,
    pub(super) n_scrapes_off: u32,
    /// The scrape goes on without the read that is under way.
    pub(super) is_away: bool,
    /// That read does not return, or one would not.
    pub(super) is_stuck: bool,
    /// It looked stuck and was not tried, since then.
    pub(super) skipped_since: Option<Instant>,
    /// Its last read ended with another name than it had before, and is made again.
    pub(super) has_new_name: bool,
    pub(super) count: MappingCount,
    pub(super) ladder: Ladder,
    /// The program that ran when the values were read, if that is known (see [`Reader::program`]).
    pub(super) program: Option<[u64; 2]>,
    /// When its mappings overlapped in the last read: until the next one its turn counts from here, and its values are older.
    pub(super) torn_at: Option<Instant>,
    /// What its last read returned, unless it maps nothing.
    pub(super) reading: Option<ReadingId>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MappingCount {
    n_mappings: u64,
    n_uses_left: u32,
}

impl Process {
    /// A process that a listing shows for the first time; `None` if it has ended since, or says no cgroup.
    pub(super) fn find(
        entry: Entry,
        proc: &Proc,
        buffers: &mut Buffers,
        scratch: &mut Cgroups,
    ) -> Option<Self> {
        // Zombies are found again by each listing: for them nothing is kept.
        proc.cgroups(entry.pid, buffers, scratch).ok()?;
        Some(Self::new(entry, scratch.clone()))
    }

    pub(super) fn new(entry: Entry, cgroups: Cgroups) -> Self {
        Self {
            entry,
            start_time: None,
            formerly: None,
            is_kernel_thread: false,
            cgroups,
            container: None,
            is_unattributed: true,
            is_selected: false,
            is_explained: false,
            comm: Vec::new(),
            found_at: Instant::now(),
            read_at: None,
            read_took: Duration::ZERO,
            rests_until: None,
            is_summed_until: None,
            n_refusals: 0,
            n_scrapes_off: 0,
            is_away: false,
            is_stuck: false,
            skipped_since: None,
            has_new_name: false,
            count: MappingCount::default(),
            ladder: Ladder::default(),
            program: None,
            torn_at: None,
            reading: None,
        }
    }

    /// See the field; none for a process that could not be asked yet.
    pub fn start_time(&self) -> Option<u64> {
        self.start_time
    }

    /// The container that it is in, as far as that was looked at.
    pub fn container(&self) -> Option<&Arc<Container>> {
        self.container.as_ref()
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.entry.pid
    }

    /// Whether a filter selects it.
    pub fn is_selected(&self) -> bool {
        self.is_selected
    }

    /// When its values were read, if it has any.
    pub fn values_from(&self) -> Option<Instant> {
        self.read_at.filter(|_| self.is_selected && self.reading.is_some())
    }

    /// The cgroups that the process was last seen in.
    pub fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// Takes what its `stat` says; without one, in a recording, a process is its directory.
    pub(super) fn learn(&mut self, stat: Option<Stat>) {
        let start_time = stat.map_or(self.entry.inode, |stat| stat.start_time);
        self.start_time = Some(start_time);
        self.is_kernel_thread = stat.is_some_and(|stat| stat.is_kernel_thread);
        if let Some(formerly) = self.formerly.take().filter(|before| before.start_time == self.start_time) {
            let entry = self.entry;
            *self = Self { entry, ..*formerly };
        }
    }

    /// Looks where it is. Fails when it has ended.
    pub(super) fn locate(
        &mut self,
        proc: &Proc,
        buffers: &mut Buffers,
        scratch: &mut Cgroups,
    ) -> Result<(), ReadError> {
        proc.cgroups(self.entry.pid, buffers, scratch)?;
        self.move_to(scratch);
        Ok(())
    }

    pub(super) fn move_to(&mut self, cgroups: &Cgroups) {
        if self.cgroups != *cgroups {
            self.cgroups.clone_from(cgroups);
            self.is_unattributed = true;
        }
    }

    /// Decides whose it is. One that has another container has no values there yet.
    pub(super) fn attribute(&mut self, discovery: &Discovery) {
        self.is_unattributed = false;
        let owner = discovery.owners().owner_of(&self.cgroups).map(|place| place.container);
        if owner.map(|owner| &owner.labels) != self.container.as_ref().map(|before| &before.labels) {
            self.deselect();
            self.is_explained = false;
        }
        self.container = owner.cloned();
    }

    /// Decides whether a filter selects it under this name. Under another name it may be another program, so the values go.
    pub(super) fn select(&mut self, comm: &[u8], discovery: &Discovery, scratch: &mut String) {
        if self.is_selected && self.comm == comm {
            return;
        }
        if !self.would_be_selected(comm, discovery, scratch) {
            return self.deselect();
        }
        self.is_selected = true;
        self.forget_values();
        self.comm.clear();
        self.comm.extend_from_slice(comm);
    }

    /// Whether a filter selects it under this name.
    pub(super) fn would_be_selected(&self, comm: &[u8], discovery: &Discovery, scratch: &mut String) -> bool {
        let container = self.container.as_ref();
        container.is_some_and(|container| discovery.selects(container, labels::lossy(comm, scratch)))
    }

    /// Tells the log once why it is not selected.
    pub(super) fn explain(&mut self, comm: &[u8]) {
        self.is_explained = true;
        let (pid, comm) = (self.entry.pid, String::from_utf8_lossy(comm));
        match &self.container {
            None => {
                let cgroup = self.cgroups.main().or(self.cgroups.paths().next()).unwrap_or_default();
                let cgroup = String::from_utf8_lossy(cgroup);
                debug!("process {pid}, {comm:?}, is not exported: {cgroup:?} is no container's cgroup");
            }
            Some(container) => {
                let sources::Container { namespace, pod, name, .. } = &container.listed;
                debug!("process {pid} is not exported: no filter selects {namespace}/{pod}/{name}/{comm}");
            }
        }
    }

    pub(super) fn deselect(&mut self) {
        self.is_selected = false;
        (self.read_at, self.torn_at) = (None, None);
        self.forget_values();
    }

    pub(super) fn forget_values(&mut self) {
        self.count = MappingCount::default();
        self.ladder.forget();
        self.reading = None;
    }

    /// Whether `program`, or what is known of it, shows that it has executed another program since its values were read.
    pub(super) fn has_executed(&self, program: Option<[u64; 2]>) -> bool {
        matches!((self.program, program), (Some(before), Some(now)) if before != now)
    }

    /// Whether it has values, or rests because its last read was long. One that is stuck has none.
    pub(super) fn keeps_values(&self) -> bool {
        !self.is_stuck && (self.reading.is_some() || self.rests_until.is_some())
    }

    /// Starts over with a process that has executed another program: what its reads cost says nothing about this one.
    pub(super) fn start_over(&mut self) {
        self.forget_values();
        (self.program, self.read_at, self.torn_at) = (None, None, None);
        (self.rests_until, self.is_summed_until) = (None, None);
        self.found_at = Instant::now();
    }

    /// Since when it has not been read, or could not be read whole.
    pub(super) fn due_since(&self) -> Instant {
        self.read_at.max(self.torn_at).unwrap_or(self.found_at)
    }

    /// Whose account is charged for reading it.
    pub(super) fn account(&self) -> usize {
        self.container.as_ref().map_or(0, |container| Arc::as_ptr(container) as usize)
    }

    pub(super) fn can_be_selected(&self) -> bool {
        self.container.as_ref().is_some_and(|container| container.is_selected)
    }

    /// What to read of it now.
    pub(super) fn job(&mut self, with_rollup: bool, always_reads: bool, now: Instant) -> Job {
        let detail = match self.is_summed_until {
            Some((until, n_printed)) if now < until => Detail::Other { n_printed },
            _ if with_rollup => {
                let MappingCount { n_mappings, n_uses_left } = self.count;
                self.count.n_uses_left = n_uses_left.saturating_sub(1);
                Detail::Rollup { known_count: (n_uses_left > 0).then_some(n_mappings) }
            }
            _ if always_reads => Detail::Mappings(Look::Away),
            _ => Detail::Mappings(self.ladder.look(now)),
        };
        Job { pid: self.entry.pid, inode: self.entry.inode, detail, with_stat: false }
    }

    /// Remembers what its read has cost it, and when the next may come: one that took over a hundredth of `interval` makes it rest.
    pub(super) fn note_read(&mut self, job: &Job, reader: &Reader, interval: Duration) {
        self.read_at = Some(reader.began_at);
        self.program = reader.program;
        match job.detail {
            Detail::Mappings(_) if reader.is_unchanged => self.ladder.confirm(reader.cpu_time),
            Detail::Mappings(look) => self.ladder.read(look, reader.marks, reader.cpu_time, reader.began_at),
            _ => self.ladder.forget(),
        }
        if !reader.is_unchanged {
            self.read_took = reader.elapsed;
        }
        self.rest_after(reader, interval);
        if reader.was_slow {
            self.is_summed_until = self.rests_until.take().map(|until| (until, reader.n_mappings));
        }
        if job.detail == (Detail::Rollup { known_count: None }) {
            self.count = MappingCount { n_mappings: reader.n_mappings, n_uses_left: MAX_COUNT_USES };
        }
    }

    /// Makes it rest after a long read.
    fn rest_after(&mut self, reader: &Reader, interval: Duration) {
        let rest = REST * reader.elapsed;
        let is_long = REST * reader.cpu_time > interval || reader.was_slow;
        self.rests_until = is_long.then(|| reader.began_at + reader.elapsed + rest);
    }

    /// Its mappings overlapped, twice in a row: the values of its last read stay, and age.
    pub(super) fn note_torn(&mut self, reader: &Reader, interval: Duration) {
        self.torn_at = Some(reader.began_at);
        self.rest_after(reader, interval);
    }

    /// Its read is tried again, because it no longer looks stuck or a thread is free.
    pub(super) fn end_skipping(&mut self) {
        if self.skipped_since.take().is_some() && std::mem::take(&mut self.is_stuck) {
            info!("{} is tried again", self.name());
        }
    }

    /// Its read was refused: it is tried again after 1, 2, 4 ... 64 scrapes.
    pub(super) fn note_refusal(&mut self) {
        self.n_scrapes_off = (1 << self.n_refusals.min(6)) - 1;
        self.n_refusals += 1;
    }

    /// Whether it is left alone in this scrape, for its read was refused.
    pub(super) fn is_left_alone(&mut self) -> bool {
        let is_off = self.n_scrapes_off > 0;
        self.n_scrapes_off = self.n_scrapes_off.saturating_sub(1);
        is_off
    }

    /// Whether its read is under way beside the scrape, and gets somewhere.
    pub fn is_awaited(&self) -> bool {
        self.is_away && !self.is_stuck
    }

    /// Its name and its container, for the log.
    pub(super) fn name(&self) -> String {
        let comm = self.comm.escape_ascii();
        match &self.container {
            Some(container) => {
                let listed = &container.listed;
                format!(
                    "process {} (\"{comm}\" in {}/{}/{})",
                    self.entry.pid, listed.namespace, listed.pod, listed.name
                )
            }
            None => format!("process {}", self.entry.pid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::totals::grouping::GroupBy;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn process() -> Process {
        Process::new(Entry { pid: 7, inode: 70 }, Cgroups::from("0::/a\n"))
    }

    /// A read that took so many milliseconds, and as much CPU time.
    fn read(began_at: Instant, ms: u64, was_slow: bool) -> Reader {
        let mut reader = Reader::new(GroupBy::Path, 0);
        (reader.began_at, reader.elapsed, reader.was_slow) = (began_at, Duration::from_millis(ms), was_slow);
        (reader.cpu_time, reader.n_mappings) = (reader.elapsed, 500);
        reader
    }

    #[test]
    fn a_refused_process_is_tried_after_ever_more_scrapes() {
        let mut process = Process::new(Entry { pid: 1, inode: 1 }, Cgroups::default());
        let mut tried = Vec::new();
        for scrape in 1..=200 {
            if !process.is_left_alone() {
                process.note_refusal();
                tried.push(scrape);
            }
        }
        assert_eq!(tried, [1, 2, 4, 8, 16, 32, 64, 128, 192]);
    }

    #[test]
    fn a_count_of_mappings_serves_for_nine_sums() {
        let (mut process, now) = (process(), Instant::now());
        for known_count in [None].into_iter().chain([Some(500); 9]).chain([None]) {
            let job = process.job(true, false, now);
            assert_eq!(
                job,
                Job { pid: 7, inode: 70, detail: Detail::Rollup { known_count }, with_stat: false }
            );
            process.note_read(&job, &read(now, 1, false), INTERVAL);
        }
        assert_eq!(process.job(false, false, now).detail, Detail::Mappings(Look::At(None)));
        process.forget_values();
        assert_eq!(process.job(true, false, now).detail, Detail::Rollup { known_count: None });
    }

    #[test]
    fn a_long_read_is_followed_by_a_hundred_times_its_length() {
        let (mut process, now) = (process(), Instant::now());
        let job = process.job(false, false, now);
        process.note_read(&job, &read(now, 100, false), INTERVAL);
        assert_eq!((process.read_at, process.rests_until), (Some(now), None));
        process.note_read(&job, &read(now, 101, false), INTERVAL);
        assert_eq!(process.rests_until, Some(now + Duration::from_millis(101 + 10_100)));
        assert_eq!(process.read_took, Duration::from_millis(101));
        process.note_read(&job, &read(now, 1, false), INTERVAL);
        assert_eq!(process.rests_until, None);
    }

    #[test]
    fn a_torn_read_takes_its_turn_and_its_rest_and_leaves_the_values_their_age() {
        let (mut process, first) = (process(), Instant::now());
        let job = process.job(false, false, first);
        process.note_read(&job, &read(first, 1, false), INTERVAL);
        let second = first + INTERVAL;
        process.note_torn(&read(second, 1, false), INTERVAL);
        assert_eq!((process.read_at, process.due_since(), process.rests_until), (Some(first), second, None));
        process.note_torn(&read(second, 101, false), INTERVAL);
        assert_eq!(process.rests_until, Some(second + Duration::from_millis(101 + 10_100)));
        process.note_read(&job, &read(second + INTERVAL, 1, false), INTERVAL);
        assert_eq!(process.due_since(), second + INTERVAL);
    }

    #[test]
    fn another_program_starts_over() {
        let (mut process, now) = (process(), Instant::now());
        let job = process.job(false, false, now);
        let mut reader = read(now, 1000, true);
        reader.program = Some([2, 3]);
        process.note_read(&job, &reader, INTERVAL);
        for (program, expected) in [(None, false), (Some([2, 3]), false), (Some([2, 4]), true)] {
            assert_eq!(process.has_executed(program), expected, "{program:?}");
        }
        process.start_over();
        assert_eq!((process.read_at, process.program, process.is_summed_until), (None, None, None));
        assert!(!process.has_executed(Some([2, 4])), "nothing is known of the program before");
    }

    #[test]
    fn mappings_that_take_too_long_are_summed_for_a_while() {
        let (mut process, now) = (process(), Instant::now());
        let job = process.job(false, false, now);
        process.note_read(&job, &read(now, 1000, true), INTERVAL);
        assert_eq!(process.rests_until, None, "the sum is cheap");
        let until = now + Duration::from_millis(1000 + 100_000);
        let just_before = until - Duration::from_nanos(1);
        assert_eq!(process.job(false, false, just_before).detail, Detail::Other { n_printed: 500 });
        assert_eq!(process.job(true, false, just_before).detail, Detail::Other { n_printed: 500 });
        assert_eq!(process.job(false, false, until).detail, Detail::Mappings(Look::At(None)));
    }

    #[test]
    fn a_process_with_a_new_inode_number_is_known_by_its_start_time() {
        let stat = |start_time| Some(Stat { start_time, ..Stat::default() });
        for (start_time, is_same) in [(5, true), (6, false)] {
            let mut before = process();
            before.learn(stat(5));
            before.comm = b"known".to_vec();
            let mut now = Process::new(Entry { pid: 7, inode: 71 }, Cgroups::from("0::/a\n"));
            now.formerly = Some(Box::new(before));
            assert_eq!(now.start_time(), None);
            now.learn(stat(start_time));
            assert_eq!(now.start_time(), Some(start_time));
            assert_eq!((now.entry.inode, now.comm == b"known"), (71, is_same));
            assert!(now.formerly.is_none());
        }
        let mut recorded = process();
        recorded.learn(None);
        assert_eq!(recorded.start_time(), Some(70), "in a recording it is its directory");
    }

    #[test]
    fn a_process_is_awaited_while_its_read_gets_somewhere() {
        for (is_away, is_stuck, expected) in
            [(false, false, false), (true, false, true), (true, true, false), (false, true, false)]
        {
            let process = Process { is_away, is_stuck, ..process() };
            assert_eq!(process.is_awaited(), expected);
        }
    }
}
