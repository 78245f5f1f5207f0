//! Decides the order in which processes are read. This module does no I/O.
//!
//! All containers with processes to read get equal shares of the read time (start-time fair queueing), so
//! that no container can starve another. Some processes of a container were read before, and some were not.
//! While processes of both kinds wait, each kind gets half of the container's share. Otherwise a workload
//! that forks faster than the budget allows could use up the share with its new processes, and the processes
//! that were read before would never be read again. Of two processes of the same kind in a container, the
//! process that has waited longer is read first.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::node::containers::table::ContainerId;

/// A process that is to be read.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// The position of the process in the table of processes.
    pub position: u32,
    /// The container of the process. The CPU time of the read counts towards the share of this container.
    pub container: ContainerId,
    /// Whether the process has not been read before.
    pub is_new: bool,
    /// The time since which the process has been waiting for a read.
    pub since: Instant,
}

/// The processes to read, by container.
#[derive(Debug, Default)]
pub struct Plan {
    due: Vec<Due>,
    groups: Vec<Group>,
    /// The containers that still have processes to read. Each entry consists of the container's
    /// [`Share::tag`] and its position in `groups`. The heap returns the container with the lowest `tag`
    /// first.
    waiting: BinaryHeap<Reverse<(Duration, usize)>>,
    /// The position in `groups` of the group from which [`pop`](Self::pop) last took a process.
    served: Option<usize>,
    /// The process to pop next, before all others, if there is such a process.
    repeated: Option<u32>,
    shares: HashMap<ContainerId, Share>,
    clock: Duration,
}

/// The processes of one container, as two ranges in the list of all processes to read: processes that were
/// read before (`old`), and processes that were not read before (`new`).
#[derive(Debug)]
struct Group {
    container: ContainerId,
    old: Range<usize>,
    new: Range<usize>,
}

/// How much read time a container has used.
#[derive(Debug, Default)]
struct Share {
    /// Each read of one of the container's processes adds the CPU time of the read to `tag`. The container
    /// with the lowest `tag` is served next.
    tag: Duration,
    /// The CPU time spent on processes that were read before (`old`), and on processes that were not read
    /// before (`new`). Only the difference matters, so each scrape subtracts the smaller of `old` and `new`
    /// from both.
    old: Duration,
    new: Duration,
    is_due: bool,
}

impl Plan {
    /// Replaces the list of processes to read.
    pub fn fill(&mut self, due: impl Iterator<Item = Due>) {
        let Self { due: all, groups, waiting, shares, .. } = self;
        all.clear();
        all.extend(due);
        all.sort_unstable_by_key(|due| (due.container, due.is_new, due.since, due.position));
        groups.clear();
        waiting.clear();
        (self.served, self.repeated) = (None, None);
        shares.values_mut().for_each(|share| share.is_due = false);
        let mut start = 0;
        while let Some(&Due { container, .. }) = all.get(start) {
            let end = start + all[start..].partition_point(|due| due.container == container);
            let middle = start + all[start..end].partition_point(|due| !due.is_new);
            let share = shares.entry(container).or_default();
            share.is_due = true;
            share.tag = share.tag.max(self.clock);
            let both = share.old.min(share.new);
            (share.old, share.new) = (share.old - both, share.new - both);
            waiting.push(Reverse((share.tag, groups.len())));
            groups.push(Group { container, old: start..middle, new: middle..end });
            start = end;
        }
        shares.retain(|_, share| share.is_due);
        all.shrink_to(2 * all.len());
    }

    /// Makes the next call of [`Self::pop`] return `position`, a position in the table of processes.
    pub fn repeat(&mut self, position: usize) {
        self.repeated = Some(position as u32);
    }

    /// Charges the CPU time of a read to `container`, the container of the process that was read. `is_new`
    /// says that this was the first read of the process.
    pub fn charge(&mut self, container: ContainerId, is_new: bool, cost: Duration) {
        if let Some(share) = self.shares.get_mut(&container) {
            share.tag += cost;
            *(if is_new { &mut share.new } else { &mut share.old }) += cost;
        }
    }

    /// Returns the position, in the table of processes, of the process to read next.
    pub fn pop(&mut self) -> Option<usize> {
        if let Some(position) = self.repeated.take() {
            return Some(position as usize);
        }
        if let Some(group) = self.served.take() {
            let share = &self.shares[&self.groups[group].container];
            self.waiting.push(Reverse((share.tag, group)));
        }
        while let Some(Reverse((tag, i))) = self.waiting.pop() {
            let Group { container, old, new } = &mut self.groups[i];
            let share = &self.shares[container];
            let first = if share.new <= share.old { [new, old] } else { [old, new] };
            let Some(next) = first.into_iter().find_map(Iterator::next) else { continue };
            self.clock = tag;
            self.served = Some(i);
            return Some(self.due[next].position as usize);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A simulated process, and the CPU time of reading it.
    #[derive(Clone, Copy)]
    struct Process {
        container: ContainerId,
        cost: Duration,
        /// Whether every scrape counts the process as new. Such a process executes another program, or is
        /// replaced by another process, before each scrape.
        is_new: bool,
        read_at: Option<Instant>,
        n_reads: u32,
    }

    fn process(container: u32, cost: u64) -> Process {
        Process {
            container: ContainerId(container),
            cost: ms(cost),
            is_new: false,
            read_at: None,
            n_reads: 0,
        }
    }

    /// Runs one scrape per second. Each scrape spends `budget` on reads. Returns, for each process, the
    /// largest number of scrapes between two reads.
    fn run(processes: &mut [Process], budget: Duration, n_scrapes: u32) -> Vec<u32> {
        let (mut plan, start) = (Plan::default(), Instant::now());
        let (mut waits, mut read_in) = (vec![0; processes.len()], vec![0; processes.len()]);
        for scrape in 1..=n_scrapes {
            let now = start + Duration::from_secs(scrape.into());
            let due = processes.iter().enumerate().map(|(i, process)| Due {
                position: i as u32,
                container: process.container,
                is_new: process.is_new || process.read_at.is_none(),
                since: process.read_at.filter(|_| !process.is_new).unwrap_or(if process.is_new {
                    now
                } else {
                    start
                }),
            });
            plan.fill(due);
            let mut left = budget;
            while left > Duration::ZERO
                && let Some(i) = plan.pop()
            {
                let process = &mut processes[i];
                plan.charge(process.container, process.is_new || process.read_at.is_none(), process.cost);
                left = left.saturating_sub(process.cost);
                (process.read_at, process.n_reads) = (Some(now), process.n_reads + 1);
                waits[i] = waits[i].max(scrape - read_in[i]);
                read_in[i] = scrape;
            }
        }
        (0..processes.len()).map(|i| waits[i].max(n_scrapes - read_in[i])).collect()
    }

    /// Returns the CPU time that all reads of a container's processes have used.
    fn spent(processes: &[Process], container: u32) -> Duration {
        processes.iter().filter(|p| p.container == ContainerId(container)).map(|p| p.cost * p.n_reads).sum()
    }

    #[test]
    fn all_processes_are_read_when_there_is_time() {
        let mut processes: Vec<Process> = (0..100).map(|i| process(i % 7, 1)).collect();
        assert_eq!(run(&mut processes, ms(1000), 5), [1; 100]);
        let mut plan = Plan::default();
        plan.fill(std::iter::empty());
        assert_eq!(plan.pop(), None);
    }

    /// In the first container, four processes are new in every scrape, and reading each of them takes 200 ms.
    /// In each of 40 other containers, there are ten processes, and reading each of them takes 1 ms. Those
    /// 400 processes must each be read at least every four scrapes.
    #[test]
    fn containers_have_equal_shares() {
        let mut processes = vec![Process { is_new: true, ..process(0, 200) }; 4];
        processes.extend((0..400).map(|i| process(1 + i % 40, 1)));
        let waits = run(&mut processes, ms(250), 200);
        assert!(waits[4..].iter().all(|&wait| wait <= 4), "{:?}", waits[4..].iter().max());
        let share = spent(&processes, 0).as_secs_f64() / (0.25 * 200.0);
        assert!(share < 0.3, "{share}");
        // Each of two containers has ten processes. Reading all ten takes 100 ms of CPU time in one
        // container, and 500 ms in the other. A scrape may spend only 100 ms, so each container must get half
        // of that time.
        let mut processes: Vec<Process> = (0..20).map(|i| process(i % 2, [10, 50][i as usize % 2])).collect();
        run(&mut processes, ms(100), 1000);
        let ratio = spent(&processes, 0).as_secs_f64() / spent(&processes, 1).as_secs_f64();
        assert!((0.95..1.05).contains(&ratio), "{ratio}");
    }

    #[test]
    fn new_processes_get_at_most_half() {
        let mut processes = vec![Process { is_new: true, ..process(0, 5) }; 200];
        processes.extend([process(0, 5); 40]);
        let waits = run(&mut processes, ms(100), 200);
        let new: Duration = processes[..200].iter().map(|process| process.cost * process.n_reads).sum();
        let share = new.as_secs_f64() / spent(&processes, 0).as_secs_f64();
        assert!((0.45..0.55).contains(&share), "{share}");
        assert!(waits[200..].iter().all(|&wait| wait <= 5), "{waits:?}");
    }

    #[test]
    fn the_processes_of_a_container_are_read_in_rotation() {
        let known = Process { read_at: Some(Instant::now()), ..process(0, 10) };
        let mut processes = vec![known; 50];
        assert_eq!(run(&mut processes, ms(100), 500), [5; 50], "a rotation takes five scrapes");
    }

    #[test]
    fn a_repeated_process_comes_next() {
        let (mut plan, now) = (Plan::default(), Instant::now());
        let due = |position| Due { position, container: ContainerId(1), is_new: false, since: now };
        plan.fill([due(0), due(1)].into_iter());
        let first = plan.pop().unwrap();
        plan.repeat(first);
        assert_eq!(plan.pop(), Some(first));
        assert_eq!(plan.pop(), Some(1 - first));
        assert_eq!(plan.pop(), None);
    }
}
