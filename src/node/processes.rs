//! The processes that are exported: which they are, what each gave last, and whose turn it is to be read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::exposition::self_metrics::ReadErrors;
use crate::node::budget::Budget;
use crate::node::discovery::Discovery;
use crate::node::filter::Filter;
use crate::procfs::{Detail, Failure, Pass, Proc};
use crate::smaps::scanner::Scanner;
use crate::sources::recording::Writer;
use crate::totals::labels;
use crate::totals::snapshot::{Reading, Snapshot};

/// A process that a filter takes.
#[derive(Debug)]
struct Process {
    pid: u32,
    /// See [`Seen::started`](crate::procfs::Seen::started).
    started: u64,
    /// Its position in [`Pass::processes`], and its container's in [`Discovery::containers`], as of the last pass.
    seen: usize,
    container: u32,
    labels: Arc<str>,
    /// As the kernel printed it, without the newline at its end.
    comm: Vec<u8>,
    /// When it was read last, or tried to.
    read_at: Option<Instant>,
    /// Since when its values are what they are; only of use while `reading` holds any.
    values_of: Instant,
    /// How many mappings it had when they were counted last, and for how many more sums that serves.
    count: u64,
    n_counted_reads: u32,
    reading: Reading,
}

/// The kernel's sum over the mappings of a process does not say how many they are, and counting them costs as much again:
/// a count serves for so many sums after it.
const COUNTED_READS: u32 = 9;

/// The table of processes, by pid.
#[derive(Debug, Default)]
pub struct Processes {
    table: Vec<Process>,
    /// The table of the pass before, while the next one is made.
    before: Vec<Process>,
    by_age: Vec<u32>,
    turns: Vec<u32>,
    scanner: Scanner,
    scratch: String,
    /// Reads that came to nothing, ever.
    pub errors: ReadErrors,
    /// CPU time that reading took, ever.
    pub read_time: Duration,
}

/// What became of the reads of one cycle.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Reads that gave values: not those of zombies, which nobody is refused.
    pub n_read: u64,
    /// Reads that were refused.
    pub n_denied: u64,
}

/// The node in one cycle.
#[derive(Debug)]
pub struct Node<'a> {
    /// Where processes are read.
    pub proc: &'a mut Proc,
    /// What the pass of this cycle has seen.
    pub pass: &'a mut Pass,
    /// Whose each process is.
    pub discovery: &'a Discovery,
    /// What is exported.
    pub filters: &'a [Filter],
}

/// Who a process of a pass is.
enum Who {
    /// The one that is known, in the container at this position.
    Same(u32),
    /// Another one: a new one, or it has changed its name or its container.
    Other(Process),
    /// One that no filter takes, or that has ended.
    Nobody,
}

impl Node<'_> {
    /// Says who the process at this position of the pass is, given who was known by its pid.
    fn identify(&mut self, seen: usize, known: Option<&Process>, scratch: &mut String) -> Who {
        let process = &self.pass.processes[seen];
        let Some(container) = self.discovery.owner_of(self.pass.cgroup(process)) else { return Who::Nobody };
        let tracked = &self.discovery.containers()[container as usize];
        if !tracked.is_wanted {
            return Who::Nobody;
        }
        let known = known.filter(|known| known.started == process.started && known.labels == tracked.labels);
        if process.is_assumed && known.is_some() {
            return Who::Same(container);
        }
        let Ok(comm) = self.proc.comm(process.pid) else { return Who::Nobody };
        if known.is_some_and(|known| known.comm == comm) {
            return Who::Same(container);
        }
        let text = labels::lossy(comm, scratch);
        let (namespace, pod, name) =
            (&tracked.container.namespace, &tracked.container.pod, &tracked.container.name);
        if !self.filters.iter().any(|filter| filter.matches(namespace, pod, name, text)) {
            return Who::Nobody;
        }
        Who::Other(Process {
            pid: process.pid,
            started: process.started,
            seen,
            container,
            labels: tracked.labels.clone(),
            comm: comm.to_vec(),
            read_at: None,
            values_of: Instant::now(),
            count: 0,
            n_counted_reads: 0,
            reading: Reading::default(),
        })
    }
}

impl Processes {
    /// Follows a pass: processes that are gone are dropped with their values, new ones that a filter takes are added.
    ///
    /// A process that has changed its name or its container is new.
    pub fn follow(&mut self, node: &mut Node<'_>) {
        std::mem::swap(&mut self.table, &mut self.before);
        let mut before = self.before.drain(..).peekable();
        for seen in 0..node.pass.processes.len() {
            let pid = node.pass.processes[seen].pid;
            while before.next_if(|process| process.pid < pid).is_some() {}
            let known = before.next_if(|process| process.pid == pid);
            match (node.identify(seen, known.as_ref(), &mut self.scratch), known) {
                (Who::Same(container), Some(process)) => {
                    self.table.push(Process { seen, container, ..process });
                }
                (Who::Other(process), _) => self.table.push(process),
                _ => {}
            }
        }
        drop(before);
        self.before.shrink_to(2 * self.table.len());
    }

    /// Reads the processes, those with the oldest values first and new ones between them, while the budget lasts.
    pub fn read(&mut self, node: &mut Node<'_>, snapshot: &mut Snapshot, budget: &mut Budget) -> Outcome {
        self.order();
        let mut outcome = Outcome::default();
        let mut cpu = thread_cpu_time();
        for &i in &self.turns {
            let process = &mut self.table[i as usize];
            if !budget.allows() {
                // Its values stay, if it still is who it was.
                process.ask(node, &mut self.scratch);
                continue;
            }
            let mut result = process.read(node, &mut self.scanner, snapshot);
            if let Err(Failure::Exec) = result {
                match process.ask(node, &mut self.scratch) {
                    Some(false) => self.errors.count(&Failure::Exec),
                    Some(true) => {} // it changed after it was read last, not while it was read
                    None => continue,
                }
                // It may have executed itself anew under the same name: what is there now counts at once.
                result = process.read(node, &mut self.scanner, snapshot);
            }
            match result {
                Ok(()) => outcome.n_read += u64::from(!process.reading.is_empty()),
                Err(failure) => {
                    log::debug!("cannot read process {} in {:?}: {failure}", process.pid, node.proc.path());
                    process.reading.clear();
                    self.errors.count(&failure);
                    outcome.n_denied += u64::from(matches!(failure, Failure::Denied));
                }
            }
            let now = thread_cpu_time();
            budget.spend(now.saturating_sub(cpu));
            self.read_time += now.saturating_sub(cpu);
            cpu = now;
        }
        outcome
    }

    /// Decides whose turn it is: the process with the oldest values, then a new one, and so on. New ones before all others would let a
    /// workload that forks faster than the budget can follow keep the rest from ever being read again.
    fn order(&mut self) {
        self.by_age.clear();
        self.by_age.extend(0..self.table.len() as u32);
        self.by_age.sort_unstable_by_key(|&i| (self.table[i as usize].read_at, i));
        let n_new = self.by_age.partition_point(|&i| self.table[i as usize].read_at.is_none());
        let (new, old) = self.by_age.split_at(n_new);
        self.turns.clear();
        let turns = (0..new.len().max(old.len())).flat_map(|turn| [old.get(turn), new.get(turn)]);
        self.turns.extend(turns.flatten());
        self.by_age.shrink_to(2 * self.table.len());
        self.turns.shrink_to(2 * self.table.len());
    }

    /// Records every process; says how many there were. One that ends meanwhile is left out.
    ///
    /// Fails with one line when a file cannot be written.
    pub fn record(&mut self, proc: &mut Proc, to: &Writer) -> Result<usize, String> {
        let mut n_recorded = 0;
        for Process { pid, .. } in &self.table {
            match proc.raw(*pid) {
                Ok(files) => {
                    for (name, content) in files {
                        to.file(*pid, name, &content)?;
                    }
                    n_recorded += 1;
                }
                Err(failure) => log::warn!("process {pid} is left out: {failure}"),
            }
        }
        Ok(n_recorded)
    }

    /// What each process gave last.
    pub fn readings(&self) -> impl Iterator<Item = &Reading> {
        self.table.iter().map(|process| &process.reading)
    }

    /// How old the oldest values are.
    pub fn oldest(&self, now: Instant) -> Duration {
        let of =
            self.table.iter().filter(|process| !process.reading.is_empty()).map(|process| process.values_of);
        of.min().map_or(Duration::ZERO, |oldest| now.saturating_duration_since(oldest))
    }
}

impl Process {
    /// Asks what the pass has only assumed. Says whether it is another one now, which has no values yet; `None` if it has ended, or
    /// no filter takes it.
    fn ask(&mut self, node: &mut Node<'_>, scratch: &mut String) -> Option<bool> {
        if !node.pass.processes[self.seen].is_assumed {
            return Some(false);
        }
        let who = match node.proc.ask(node.pass, self.seen) {
            Ok(()) => node.identify(self.seen, Some(self), scratch),
            Err(_) => Who::Nobody,
        };
        match who {
            Who::Same(container) => {
                self.container = container;
                Some(false)
            }
            Who::Other(process) => {
                *self = process;
                Some(true)
            }
            Who::Nobody => {
                self.reading.clear();
                None
            }
        }
    }

    fn read(
        &mut self,
        node: &mut Node<'_>,
        scanner: &mut Scanner,
        snapshot: &mut Snapshot,
    ) -> Result<(), Failure> {
        let now = Instant::now();
        self.read_at = Some(now);
        self.values_of = now;
        snapshot.begin(&self.labels, &self.comm, self.pid);
        let detail = match snapshot.shape().is_rollup() {
            true => Detail::Sum { known_count: (self.n_counted_reads > 0).then_some(self.count) },
            false => Detail::Each,
        };
        self.n_counted_reads = self.n_counted_reads.saturating_sub(1);
        let mut count = 0;
        let Node { proc, pass, discovery, .. } = node;
        let path_before = pass.cgroup(&pass.processes[self.seen]);
        let mut has_moved = false;
        let is_owned = |path: &[u8]| {
            has_moved = path != path_before;
            !has_moved || discovery.owner_of(path) == Some(self.container)
        };
        let result = proc.read(self.pid, &self.comm, is_owned, detail, scanner, |mapping| {
            count += mapping.count;
            snapshot.add(mapping);
        });
        if let Err(failure) = result {
            self.n_counted_reads = 0;
            return Err(failure);
        }
        if !has_moved {
            pass.confirm(self.seen);
        }
        if detail == (Detail::Sum { known_count: None }) {
            (self.count, self.n_counted_reads) = (count, COUNTED_READS);
        }
        snapshot.finish(&mut self.reading);
        Ok(())
    }
}

/// The CPU time of this thread, user and system.
fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, read_at: Option<Instant>) -> Process {
        Process {
            pid,
            started: 0,
            seen: 0,
            container: 0,
            labels: "{".into(),
            comm: Vec::new(),
            read_at,
            values_of: Instant::now(),
            count: 0,
            n_counted_reads: 0,
            reading: Reading::default(),
        }
    }

    #[test]
    fn the_oldest_and_the_new_take_turns() {
        let now = Instant::now();
        let at = |ms| Some(now + Duration::from_millis(ms));
        let cases: &[(&[Option<Instant>], &[u32])] = &[
            (&[], &[]),
            (&[None, None, None], &[0, 1, 2]),
            (&[at(3), at(1), at(2)], &[1, 2, 0]),
            (&[at(3), None, at(1), None, at(2)], &[2, 1, 4, 3, 0]),
            (&[None, None, None, at(1)], &[3, 0, 1, 2]),
        ];
        for (read_at, turns) in cases {
            let table = read_at.iter().enumerate().map(|(i, &read_at)| process(i as u32, read_at)).collect();
            let mut processes = Processes { table, ..Processes::default() };
            processes.order();
            assert_eq!(processes.turns, *turns, "{read_at:?}");
        }
    }
}
