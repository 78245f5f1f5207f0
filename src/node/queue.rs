//! Whose turn it is to be read. Pure.
//!
//! Turns are paid with what reads cost. Containers that want to be read have equal shares (start-time fair queueing), so that none can starve
//! another. Of a container's share whoever is new gets at most half while others wait, so that a workload which forks faster than the
//! budget allows does not keep the rest from ever being read again. Both come by age, the oldest first.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;
use std::time::{Duration, Instant};

/// A process that is due.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// Its position in the table.
    pub position: u32,
    /// Which container is charged for it.
    pub container: usize,
    /// It was never read, and since when it has waited for that; or since when it has not been read.
    pub is_new: bool,
    pub since: Instant,
}

/// The order in which processes are read.
#[derive(Debug, Default)]
pub struct Queue {
    due: Vec<Due>,
    groups: Vec<Group>,
    /// Groups with somebody to read, by their containers' tags.
    waiting: BinaryHeap<Reverse<(Duration, usize)>>,
    /// The group that was served last, and whom of it to serve once more.
    served: Option<usize>,
    again: Option<u32>,
    accounts: HashMap<usize, Account>,
    clock: Duration,
}

/// What is due of a container: parts of all that is.
#[derive(Debug)]
struct Group {
    container: usize,
    old: Range<usize>,
    new: Range<usize>,
}

/// What a container has spent.
#[derive(Debug, Default)]
struct Account {
    /// On the clock of all containers: the one with the lowest tag is served.
    tag: Duration,
    /// On processes that had been read before, and on others, since one of them was 0.
    old: Duration,
    new: Duration,
    is_due: bool,
}

impl Queue {
    /// Queues what is due now.
    pub fn fill(&mut self, due: impl Iterator<Item = Due>) {
        let Self { due: all, groups, waiting, accounts, .. } = self;
        all.clear();
        all.extend(due);
        all.sort_unstable_by_key(|due| (due.container, due.is_new, due.since, due.position));
        groups.clear();
        waiting.clear();
        (self.served, self.again) = (None, None);
        accounts.values_mut().for_each(|account| account.is_due = false);
        let mut start = 0;
        while let Some(&Due { container, .. }) = all.get(start) {
            let end = start + all[start..].partition_point(|due| due.container == container);
            let middle = start + all[start..end].partition_point(|due| !due.is_new);
            let account = accounts.entry(container).or_default();
            account.is_due = true;
            account.tag = account.tag.max(self.clock);
            let both = account.old.min(account.new);
            (account.old, account.new) = (account.old - both, account.new - both);
            waiting.push(Reverse((account.tag, groups.len())));
            groups.push(Group { container, old: start..middle, new: middle..end });
            start = end;
        }
        accounts.retain(|_, account| account.is_due);
        all.shrink_to(2 * all.len());
    }

    /// The one that was given last comes once more, at once.
    pub fn again(&mut self, position: usize) {
        self.again = Some(position as u32);
    }

    /// Charges a container with what the read of a process has cost.
    pub fn charge(&mut self, container: usize, is_new: bool, cost: Duration) {
        if let Some(account) = self.accounts.get_mut(&container) {
            account.tag += cost;
            *(if is_new { &mut account.new } else { &mut account.old }) += cost;
        }
    }

    /// The position of the next one.
    pub fn pop(&mut self) -> Option<usize> {
        if let Some(position) = self.again.take() {
            return Some(position as usize);
        }
        if let Some(group) = self.served.take() {
            let account = &self.accounts[&self.groups[group].container];
            self.waiting.push(Reverse((account.tag, group)));
        }
        while let Some(Reverse((tag, i))) = self.waiting.pop() {
            let Group { container, old, new } = &mut self.groups[i];
            let account = &self.accounts[container];
            let first = if account.new <= account.old { [new, old] } else { [old, new] };
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

    /// A process, and what its read costs.
    #[derive(Clone, Copy)]
    struct Process {
        container: usize,
        cost: Duration,
        /// It is new in each scrape, as one that executes or is followed by another.
        is_new: bool,
        read_at: Option<Instant>,
        n_reads: u32,
    }

    fn process(container: usize, cost: u64) -> Process {
        Process { container, cost: ms(cost), is_new: false, read_at: None, n_reads: 0 }
    }

    /// Scrapes each second, and reads for `budget` in each. Says for how long each process waited at most, in scrapes.
    fn run(processes: &mut [Process], budget: Duration, n_scrapes: u32) -> Vec<u32> {
        let (mut queue, start) = (Queue::default(), Instant::now());
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
            queue.fill(due);
            let mut left = budget;
            while left > Duration::ZERO
                && let Some(i) = queue.pop()
            {
                let process = &mut processes[i];
                queue.charge(process.container, process.is_new || process.read_at.is_none(), process.cost);
                left = left.saturating_sub(process.cost);
                (process.read_at, process.n_reads) = (Some(now), process.n_reads + 1);
                waits[i] = waits[i].max(scrape - read_in[i]);
                read_in[i] = scrape;
            }
        }
        (0..processes.len()).map(|i| waits[i].max(n_scrapes - read_in[i])).collect()
    }

    /// What the processes of a container have cost.
    fn spent(processes: &[Process], container: usize) -> Duration {
        processes.iter().filter(|p| p.container == container).map(|p| p.cost * p.n_reads).sum()
    }

    #[test]
    fn everybody_is_served_when_there_is_enough() {
        let mut processes: Vec<Process> = (0..100).map(|i| process(i % 7, 1)).collect();
        assert_eq!(run(&mut processes, ms(1000), 5), [1; 100]);
        let mut queue = Queue::default();
        queue.fill(std::iter::empty());
        assert_eq!(queue.pop(), None);
    }

    /// Four processes that cost 200 ms each and are new each time, beside 400 others: the others are read as if nobody else were there,
    /// with half of what there is.
    #[test]
    fn containers_have_equal_shares() {
        let mut processes = vec![Process { is_new: true, ..process(0, 200) }; 4];
        processes.extend((0..400).map(|i| process(1 + i % 40, 1)));
        let waits = run(&mut processes, ms(250), 200);
        assert!(waits[4..].iter().all(|&wait| wait <= 4), "{:?}", waits[4..].iter().max());
        let share = spent(&processes, 0).as_secs_f64() / (0.25 * 200.0);
        assert!(share < 0.3, "{share}");
        // Two that both want more than their half.
        let mut processes: Vec<Process> = (0..20).map(|i| process(i % 2, [10, 50][i % 2])).collect();
        run(&mut processes, ms(100), 1000);
        let ratio = spent(&processes, 0).as_secs_f64() / spent(&processes, 1).as_secs_f64();
        assert!((0.95..1.05).contains(&ratio), "{ratio}");
    }

    #[test]
    fn who_is_new_has_at_most_half() {
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
    fn one_comes_again_at_once() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let due = |position| Due { position, container: 1, is_new: false, since: now };
        queue.fill([due(0), due(1)].into_iter());
        let first = queue.pop().unwrap();
        queue.again(first);
        assert_eq!(queue.pop(), Some(first));
        assert_eq!(queue.pop(), Some(1 - first));
        assert_eq!(queue.pop(), None);
    }
}
