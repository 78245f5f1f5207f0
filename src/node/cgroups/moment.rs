//! The last moment before an OOM kill: what a container held when it reached its limit.
//!
//! A moment is read from `memory.stat` and from the `status` of each process, not from smaps. If a process is
//! killed while its smaps is read, its memory stays charged until the read ends, and the kernel may kill a
//! second process. Reading `memory.stat` and `status` does not have this effect: in none of 32 trials did the
//! kernel kill a second process. Reading one `status` takes 0.09 ms. Together, these files show 97% of the
//! charged memory.

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

/// The time between two reads of a container that stays at its limit.
const INTERVAL: Duration = Duration::from_millis(100);
/// If a process of a container at its limit ends, the kernel may have killed the process. The name and the
/// memory of the process are then kept for this long. This is long enough, because the exporter notices a
/// kill sooner.
const KEPT: Duration = Duration::from_secs(2);
/// The maximum age of the data that is used to explain a kill. Older data about the container is ignored.
const MAX_AGE: Duration = Duration::from_secs(10);

/// If a cgroup's inactive page cache is more than this many thousandths of its limit, the cgroup is not full,
/// because the kernel reclaims this page cache before it kills a process.
const INACTIVE: u64 = 50;
/// If a cgroup uses less than this many thousandths of its limit, the cgroup is not full. This also applies
/// if the kernel has reported that the limit was reached, because a kill may have freed memory since then.
const USED: u64 = 850;
/// The maximum number of processes to read in a container. Reading 64 of them takes 6 ms.
const MAX_PROCESSES: usize = 64;

/// A process in a container at its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The pid of the process.
    pub pid: u32,
    /// The name of the process, as `status` prints it.
    pub name: String,
    /// The resident bytes of anonymous memory, of files, and of shared memory.
    pub rss: [u64; 3],
}

impl Member {
    fn resident(&self) -> u64 {
        self.rss.iter().sum()
    }
}

/// The memory and the processes of a container when the container or its pod was at its memory limit.
#[derive(Clone, Debug, Default)]
pub struct Moment {
    /// The values of the container's cgroup, including the limit that applies.
    pub values: Values,
    /// The memory use and the limit of the pod.
    pub pod: UseAndLimit,
    /// The processes of the container, sorted by resident memory, the largest first.
    pub members: Vec<Member>,
    /// The processes that ended in the two seconds before this moment. Each has the time at which the process
    /// was last read, and the memory that it had at that time.
    pub ended: Vec<(Instant, Member)>,
}

/// Data about a container or a pod in which the kernel has killed a process.
#[derive(Debug, Default)]
pub struct End {
    /// The time at which the container was last found at its limit, and its memory and processes then.
    pub moment: Option<(Instant, Moment)>,
    /// The processes that the kernel has probably killed, because they have ended since the container was at
    /// its limit. They are sorted by resident memory, the largest first. At most one process per kill is
    /// listed.
    pub victims: Vec<Member>,
    /// The limit that was hit, and the memory use of the cgroup with that limit.
    pub hit: UseAndLimit,
    /// Whether an OOM kill in the container kills all processes of the container at once.
    pub kills_group: Option<bool>,
}

#[derive(Debug)]
struct Tried {
    /// When the container was last read.
    at: Instant,
    /// The time at which the container was last found at its limit, and its memory and processes then.
    moment: Option<(Instant, Moment)>,
}

/// The containers that are at their limits, or were a short time ago.
#[derive(Debug, Default)]
pub struct Moments {
    /// The proc file system; `None` until the watching thread has started.
    proc: Option<Arc<Proc>>,
    /// The processes in the last listing of proc: the container and the pid of each process.
    processes: Vec<(ContainerId, u32)>,
    read: BTreeMap<ContainerId, Tried>,
    buffers: Buffers,
    text: Vec<u8>,
}

impl Moments {
    /// Sets the proc file system to read processes from.
    pub fn set_proc(&mut self, proc: Arc<Proc>) {
        self.proc = Some(proc);
    }

    /// Replaces the list of processes by `processes`. The caller gets the previous list back in `processes`,
    /// to reuse its buffer. Also drops each container's stored reading if it is older than [`MAX_AGE`].
    pub fn set_processes(&mut self, processes: &mut Vec<(ContainerId, u32)>, now: Instant) {
        std::mem::swap(&mut self.processes, processes);
        self.processes.sort_unstable();
        self.read.retain(|_, tried| now < tried.at + MAX_AGE);
    }

    /// Reads the memory and the processes of a container that may be at its own limit or at the limit of its
    /// pod. Does nothing if the container was read less than [`INTERVAL`] ago. If the container is at neither
    /// limit, the result is not stored.
    pub fn read(&mut self, id: ContainerId, limit_watch: &LimitWatch, now: Instant) {
        if self.read.get(&id).is_some_and(|tried| now < tried.at + INTERVAL) {
            return;
        }
        let Some((files, pod)) = limit_watch.files_of(id) else { return };
        // The processes are read first, because they may be killed at any moment, and are then gone. The
        // cgroup's files stay.
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

    /// Whether the container or its pod was at its limit when the container was last read, and the kernel
    /// could not make room by dropping page cache.
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
            // A process without memory is ending, perhaps because the kernel has just killed it. The process
            // is listed with 0 bytes, and `carry_over` then restores the memory that the process had before.
            Some(Member { pid, name: status.name, rss: status.rss.unwrap_or_default() })
        };
        let mut members: Vec<_> = own.take(MAX_PROCESSES).filter_map(read).collect();
        members.sort_by_key(|member| Reverse(member.resident()));
        members
    }

    /// Removes and returns what was read about the container in which a process was killed. The data is
    /// removed so that a later kill cannot use it. If only the pod of the killed process is known, only the
    /// field `hit` of the result is set.
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

    /// Returns the processes that the kernel has probably killed: the processes in `moment` that have ended
    /// by now. `moment` was read while the container was at its limit. At most `n_kills` processes are
    /// returned. They are sorted by resident memory, the largest first.
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

/// Returns the processes in `before` that have ended, and were last read at most two seconds ago. `before` is
/// what was read about the container at the time `at`, and `members` are the container's processes now.
///
/// A process that is just ending is still in `members`, but has no memory any more. Its memory in `members`
/// is set to its memory in `before`.
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

/// Whether a cgroup is at its limit, and has so little inactive page cache that the kernel cannot make room.
fn is_full(of: UseAndLimit, inactive: u64) -> bool {
    let (Some(current), Some(limit)) = (of.current, of.limit) else { return false };
    current >= part_of(limit, USED) && inactive <= part_of(limit, INACTIVE)
}

/// Whether a process has ended, or will end because it was sent SIGKILL. If the pid now has another name, the
/// process has ended and its pid was reused.
fn is_gone(member: &Member, proc: Option<&Proc>, buffers: &mut Buffers) -> bool {
    let status = proc.map(|proc| proc.status(member.pid, buffers));
    let is_other = |now: Status| now.is_killed || now.rss.is_none() || now.name != member.name;
    status.is_some_and(|status| status.map_or(true, is_other))
}
