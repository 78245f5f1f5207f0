//! The last moment before an OOM kill: what a container held when it reached its limit.
//!
//! It is read from `memory.stat` and the `status` of each process. Unlike smaps, reading them does not keep
//! the memory of a process that is killed meanwhile: in none of 32 trials did the kernel kill a second
//! process. Reading `status` takes 0.09 ms and shows 97% of the charged memory.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::growth::{UseAndLimit, part_of};
use super::kill_counts::{FoundKill, Limit, Place};
use super::limit_watch::LimitWatch;
use crate::cgroupfs::fields::{CURRENT, INACTIVE_FILE, MAX, Values};
use crate::node::containers::table::ContainerId;
use crate::procfs::status::Status;
use crate::procfs::{Buffers, Proc};

/// A container that stays at its limit is read this often.
const INTERVAL: Duration = Duration::from_millis(100);
/// Processes that have ended at the limit are kept this long. A kill is found sooner.
const KEPT: Duration = Duration::from_secs(2);
/// A moment longer ago does not explain a kill.
const MAX_AGE: Duration = Duration::from_secs(10);

/// A cgroup with more inactive page cache than this many thousandths of its limit is not at its limit: the
/// kernel reclaims the page cache first.
const INACTIVE: u64 = 50;
/// A cgroup that uses less than this many thousandths of its limit is not at its limit any more: a process in
/// it was killed since the event.
const USED: u64 = 850;
/// The maximum number of processes that are read of a container. 64 of them take 6 ms.
const MAX_PROCESSES: usize = 64;

/// A process in a container at its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The pid of the process.
    pub pid: u32,
    /// The name of the process, as `status` prints it.
    pub name: String,
    /// The resident bytes: anonymous, of files, and of shared memory.
    pub rss: [u64; 3],
}

impl Member {
    fn resident(&self) -> u64 {
        self.rss.iter().sum()
    }
}

/// A container at its limit.
#[derive(Clone, Debug, Default)]
pub struct Moment {
    /// The values of the container's cgroup, with the limit that applies.
    pub values: Values,
    /// The use and the limit of the pod.
    pub pod: UseAndLimit,
    /// The processes, the largest first.
    pub members: Vec<Member>,
    /// The processes that ended in the two seconds before, with the memory that they had.
    pub ended: Vec<(Instant, Member)>,
}

/// The circumstances of a kill in a container or a pod.
#[derive(Debug, Default)]
pub struct End {
    /// The container at its limit, and the time at which it was read.
    pub moment: Option<(Instant, Moment)>,
    /// The processes of that moment that have ended since, the largest first.
    pub victims: Vec<Member>,
    /// The use and the limit of the cgroup with the limit that was hit.
    pub hit: UseAndLimit,
    /// Whether the kernel kills all processes of the container at once.
    pub kills_group: Option<bool>,
}

/// A container that may have reached its limit.
#[derive(Debug)]
struct Tried {
    /// When the container was last read.
    at: Instant,
    /// The container when it was last found at its limit, and the time of that.
    moment: Option<(Instant, Moment)>,
}

/// The containers that are or were at their limits.
#[derive(Debug, Default)]
pub struct Moments {
    /// The proc file system; `None` before the watching thread has started.
    proc: Option<Arc<Proc>>,
    /// The processes of the containers, as of the last listing.
    processes: Vec<(ContainerId, u32)>,
    read: BTreeMap<ContainerId, Tried>,
    buffers: Buffers,
    text: Vec<u8>,
}

impl Moments {
    /// Sets the proc file system from which processes are read.
    pub fn set_proc(&mut self, proc: Arc<Proc>) {
        self.proc = Some(proc);
    }

    /// Replaces the processes of the containers with these, and drops containers that were read too long ago.
    /// Leaves the previous processes in `processes`, so that their memory is used again.
    pub fn set_processes(&mut self, processes: &mut Vec<(ContainerId, u32)>, now: Instant) {
        std::mem::swap(&mut self.processes, processes);
        self.processes.sort_unstable();
        self.read.retain(|_, tried| now < tried.at + MAX_AGE);
    }

    /// Reads a container at its limit, unless it was read a short time ago.
    pub fn read(&mut self, id: ContainerId, limit_watch: &LimitWatch, now: Instant) {
        if self.read.get(&id).is_some_and(|tried| now < tried.at + INTERVAL) {
            return;
        }
        let Some((files, pod)) = limit_watch.files_of(id) else { return };
        // The processes are read first, because one of them may be killed at any moment.
        let mut members = self.members(id);
        let mut values = files.values(&mut self.text);
        let own = UseAndLimit { current: values.get(CURRENT), limit: values.get(MAX) };
        values.derive(pod.limit);
        let inactive = values.get(INACTIVE_FILE).unwrap_or(0);
        let is_full = [own, pod].into_iter().any(|of| is_full(of, inactive));
        let tried = self.read.entry(id).or_insert(Tried { at: now, moment: None });
        tried.at = now;
        if is_full {
            let (at, before) = tried.moment.take().unwrap_or((now, Moment::default()));
            let ended = carry_over(&mut members, at, before, now);
            tried.moment = Some((now, Moment { values, pod, members, ended }));
        }
    }

    /// Whether a container was full when it was last read, so that dropping page cache could not prevent a
    /// kill.
    pub fn is_full(&self, id: ContainerId) -> bool {
        let tried = self.read.get(&id);
        tried.is_some_and(|tried| tried.moment.as_ref().is_some_and(|(at, _)| *at == tried.at))
    }

    fn members(&mut self, id: ContainerId) -> Vec<Member> {
        let Self { proc, processes, buffers, .. } = self;
        let start = processes.partition_point(|&(other, _)| other < id);
        let own = processes[start..].iter().take_while(|&&(other, _)| other == id);
        let read = |&(_, pid): &(ContainerId, u32)| {
            let status = proc.as_ref()?.status(pid, buffers).ok()?;
            // A process without memory has ended since the listing, perhaps because it was just killed.
            Some(Member { pid, name: status.name, rss: status.rss.unwrap_or_default() })
        };
        let mut members: Vec<_> = own.take(MAX_PROCESSES).filter_map(read).collect();
        members.sort_by_key(|member| Reverse(member.resident()));
        members
    }

    /// Returns the circumstances of a kill, and drops the moment of its container.
    pub fn end(&mut self, kill: &FoundKill, limit_watch: &LimitWatch) -> End {
        let id = match &kill.place {
            Place::Container(container) => container.id,
            Place::Pod { .. } => {
                let hit = kill.limited.as_deref().map(|path| limit_watch.use_of(path)).unwrap_or_default();
                return End { hit, ..End::default() };
            }
        };
        let moment = self.read.remove(&id).and_then(|tried| tried.moment);
        let moment = moment.filter(|(at, _)| at.elapsed() < MAX_AGE);
        let hit = match (kill.limit, &kill.limited, &moment) {
            (Some(Limit::Container), _, Some((_, Moment { values, .. }))) => {
                UseAndLimit { current: values.get(CURRENT), limit: values.get(MAX) }
            }
            (Some(Limit::Container), ..) => limit_watch.use_of_container(id),
            (Some(Limit::Pod), _, Some((_, moment))) => moment.pod,
            (_, Some(path), _) => limit_watch.use_of(path),
            _ => UseAndLimit::default(),
        };
        let victims =
            moment.as_ref().map(|(_, moment)| self.victims(moment, kill.n_kills)).unwrap_or_default();
        let kills_group = limit_watch.files_of(id).and_then(|(files, _)| files.kills_group(&mut self.text));
        End { moment, victims, hit, kills_group }
    }

    /// Returns the processes of this moment that have ended since, at most `n_kills`, the largest first.
    fn victims(&mut self, moment: &Moment, n_kills: u64) -> Vec<Member> {
        let Self { proc, buffers, .. } = self;
        let gone = moment.members.iter().filter(|member| is_gone(member, proc.as_deref(), buffers));
        let ended = moment.ended.iter().map(|(_, member)| member);
        let mut victims: Vec<_> = gone.chain(ended).cloned().collect();
        victims.sort_by_key(|member| Reverse(member.resident()));
        victims.truncate(usize::try_from(n_kills).unwrap_or(usize::MAX));
        victims
    }
}

/// Returns the processes that have ended since the previous moment, and up to two seconds ago. Sets the
/// memory of those that are ending to what they had before.
fn carry_over(members: &mut [Member], at: Instant, before: Moment, now: Instant) -> Vec<(Instant, Member)> {
    let mut ended = before.ended;
    for old in before.members {
        match members.iter_mut().find(|member| member.pid == old.pid) {
            Some(member) if member.resident() == 0 => member.rss = old.rss,
            Some(_) => {}
            None => ended.push((at, old)),
        }
    }
    ended.retain(|(at, _)| now < *at + KEPT);
    let n_excess = ended.len().saturating_sub(MAX_PROCESSES);
    ended.drain(..n_excess);
    ended
}

/// Whether a cgroup is at its limit and has too little inactive page cache to make room.
fn is_full(of: UseAndLimit, inactive: u64) -> bool {
    let (Some(current), Some(limit)) = (of.current, of.limit) else { return false };
    current >= part_of(limit, USED) && inactive <= part_of(limit, INACTIVE)
}

/// Whether a process has ended, or is about to end because it was sent SIGKILL.
fn is_gone(member: &Member, proc: Option<&Proc>, buffers: &mut Buffers) -> bool {
    let status = proc.map(|proc| proc.status(member.pid, buffers));
    let is_other = |now: Status| now.is_killed || now.rss.is_none() || now.name != member.name;
    status.is_some_and(|status| status.map_or(true, is_other))
}
