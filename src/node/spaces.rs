//! Processes that share one address space: it counts for one of them.
//!
//! Threads under another process number (`CLONE_VM` without `CLONE_THREAD`) and the child of a vfork that has not executed yet would show
//! their memory once more each. Asked are only those that run the same program: its code and its stack begin at the same addresses. The
//! order in which `kcmp` puts address spaces is kept, so that a newcomer among thousands is found a place with a dozen questions.

use std::cmp::Ordering;

use super::process::Process;
use super::processes::Processes;
use crate::procfs::Proc;
use crate::procfs::kcmp::compare_memory;

/// A process among those that run the same program.
#[derive(Clone, Copy, Debug)]
struct Member {
    pid: u32,
    /// Its place among them, if it is known.
    rank: Option<u32>,
    position: usize,
}

/// What [`Processes::find_shared`] needs, from one scrape to the next: so that nothing is allocated.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Account, program and position of those that are asked.
    asked: Vec<(usize, Option<[u64; 2]>, usize)>,
    members: Vec<Member>,
    newcomers: Vec<Member>,
    /// Positions of those that share, and the pids of those with whom.
    found: Vec<(usize, u32)>,
    ended: Vec<usize>,
}

/// Finds a place for each newcomer, in the order that `compare` tells, and says which members share with which: the one with the lowest
/// pid. Whoever cannot be compared is left out.
fn place(
    members: &mut Vec<Member>,
    newcomers: &mut Vec<Member>,
    mut compare: impl FnMut(u32, u32) -> Option<Ordering>,
    mut shares: impl FnMut(Member, Member),
) {
    members.sort_unstable_by_key(|member| (member.rank.is_none(), member.rank, member.pid));
    let n_known = members.partition_point(|member| member.rank.is_some());
    newcomers.clear();
    newcomers.extend(members.drain(n_known..));
    for &newcomer in newcomers.iter() {
        let mut is_comparable = true;
        let found = members.binary_search_by(|member| {
            compare(member.pid, newcomer.pid).unwrap_or_else(|| {
                is_comparable = false;
                Ordering::Equal
            })
        });
        match found {
            _ if !is_comparable => {}
            Ok(place) if members[place].pid > newcomer.pid => {
                shares(members[place], newcomer);
                members[place] = newcomer;
            }
            Ok(place) => shares(newcomer, members[place]),
            Err(place) => members.insert(place, newcomer),
        }
    }
}

impl Processes {
    /// Finds the processes that share the memory of another, and takes their values away.
    pub fn find_shared(&mut self, proc: &Proc) {
        if !proc.has_own_pids() {
            return;
        }
        let is_asked = |process: &Process| {
            process.is_selected
                && !process.reading.is_empty()
                && process.shares_with.is_none()
                && process.program.is_some()
        };
        let has_newcomers =
            self.table.iter().any(|process| is_asked(process) && process.space_rank.is_none());
        if !has_newcomers {
            return;
        }
        let mut scratch = std::mem::take(&mut self.spaces);
        let Scratch { asked, members, newcomers, found, ended } = &mut scratch;
        asked.clear();
        let processes = (0..).zip(&self.table).filter(|(_, process)| is_asked(process));
        asked.extend(processes.map(|(i, process)| (process.account(), process.program, i)));
        asked.sort_unstable();
        for group in asked.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let member = |&(_, _, i): &(_, _, usize)| {
                let process = &self.table[i];
                Member { pid: process.entry.pid, rank: process.space_rank, position: i }
            };
            members.clear();
            members.extend(group.iter().map(member));
            if members.len() < 2 || members.iter().all(|member| member.rank.is_some()) {
                continue;
            }
            // One that has ended since it was read counts no longer: another may go on with its memory.
            ended.extend(
                members
                    .extract_if(.., |member| proc.comm(member.pid, &mut self.buffers).is_err())
                    .map(|member| member.position),
            );
            place(members, newcomers, compare_memory, |member, with| found.push((member.position, with.pid)));
            for (rank, member) in (0..).zip(members.iter()) {
                self.table[member.position].space_rank = Some(rank);
            }
        }
        for position in ended.drain(..) {
            self.table[position].forget_values();
        }
        for (position, with) in found.drain(..) {
            let process = &mut self.table[position];
            process.shares_with = Some(with);
            process.space_rank = None;
            process.ladder.forget();
            process.reading.count_only();
        }
        asked.shrink_to(2 * self.table.len());
        members.shrink_to(2 * self.table.len());
        newcomers.shrink_to(2 * self.table.len());
        self.spaces = scratch;
    }

    /// Whether a process still shares the memory of the one that it is known to share with: then it need not be read.
    pub(super) fn still_shares(&mut self, i: usize) -> bool {
        let process = &self.table[i];
        let Some(with) = process.shares_with else { return false };
        let shown = self.find(with).filter(|other| {
            other.is_selected && other.shares_with.is_none() && other.account() == process.account()
        });
        let is_same = shown.is_some() && compare_memory(process.entry.pid, with) == Some(Ordering::Equal);
        if !is_same {
            let process = &mut self.table[i];
            process.shares_with = None;
            process.reading.clear();
        }
        is_same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places members by their addresses; says who shares with whom, and how often was asked.
    fn run(members: &mut Vec<Member>, address: impl Fn(u32) -> Option<u32>) -> (Vec<(u32, u32)>, usize) {
        let (mut shared, mut n_asked) = (Vec::new(), 0);
        let compare = |a: u32, b: u32| {
            n_asked += 1;
            Some(address(a)?.cmp(&address(b)?))
        };
        place(members, &mut Vec::new(), compare, |member, with| shared.push((member.pid, with.pid)));
        for (rank, member) in (0..).zip(members) {
            member.rank = Some(rank);
        }
        (shared, n_asked)
    }

    fn member(pid: u32) -> Member {
        Member { pid, rank: None, position: 0 }
    }

    #[test]
    fn those_that_share_count_for_the_lowest_pid() {
        let mut members: Vec<Member> = [9, 3, 7, 5, 4].map(member).into();
        // 3, 7 and 9 share; 5 has ended.
        let address = |pid| match pid {
            3 | 7 | 9 => Some(50),
            4 => Some(10),
            _ => None,
        };
        let (mut shared, _) = run(&mut members, address);
        shared.sort_unstable();
        assert_eq!(shared, [(7, 3), (9, 3)]);
        assert_eq!(members.iter().map(|member| member.pid).collect::<Vec<_>>(), [4, 3]);
    }

    #[test]
    fn a_newcomer_among_thousands_is_asked_a_dozen_questions() {
        let address = |pid: u32| Some(pid.wrapping_mul(2_654_435_761) % 1_000_003);
        let mut members: Vec<Member> = (1..4000).map(member).collect();
        let (shared, _) = run(&mut members, address);
        assert!(shared.is_empty() && members.len() == 3999);
        members.push(member(5000));
        let (shared, n_asked) = run(&mut members, address);
        assert!(shared.is_empty() && members.len() == 4000);
        assert!(n_asked <= 13, "{n_asked}");
        // The child of a vfork, with a lower pid after they have wrapped around.
        members.retain(|member| member.pid != 1);
        members.push(member(1));
        let (shared, _) = run(&mut members, |pid| if pid == 1 { address(5000) } else { address(pid) });
        assert_eq!(shared, [(5000, 1)]);
    }
}
