//! The node's proc: one pass that lists every process with its cgroup, and the reading of one process.
//!
//! A process is held by the handle of its directory while it is read. The kernel ties that handle to the process and not to
//! the number, so smaps, comm and cgroup read through it are those of one process, however fast pids are reused.
//! Between passes a process is known by its pid and its start time. That is asked only when the inode number of its directory is
//! new: no new process has an old one, but the kernel gives an old process a new one when it is short of memory.
//!
//! A read ends with a look at name and cgroup. The next pass need not look as well: it assumes that both are as they were, the next read shows
//! whether they are, and who does not read asks ([`Proc::ask`]).

pub mod cgroup;
pub mod permissions;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::smaps::scanner::{Mapping, Scanner};

/// As much of smaps as is scanned at a time: about ten reads, and still in the first cache when it is scanned.
const CHUNK: usize = 32 * 1024;
/// A read asks for a page less this. The kernel prints mappings into one page until it is full or holds what was asked for (fs/seq_file.c);
/// one that no longer fits is thrown away and printed anew by the next read. Most take 700 to 850 bytes: asked for less, it stops in time.
const LAST_MAPPING: usize = 768;

/// The mapping that the kernel prints behind all others on x86-64, unless it was told not to have it: whoever has read it has read all.
const LAST_PATH: &[u8] = b"[vsyscall]";

/// The kernel's own default of vm.max_map_count: a process may have been started before that was lowered to less.
const DEFAULT_MAX_MAPPINGS: usize = 65_530;
/// Mappings that do not count there (the kernel's own), and what comes and goes in a read that is not endless.
const SPARE_MAPPINGS: usize = 4096;

/// A proc file system, or a recording of one.
#[derive(Debug)]
pub struct Proc {
    path: PathBuf,
    root: OwnedFd,
    name: String,
    text: Vec<u8>,
    chunk: Vec<u8>,
    entries: Entries,
    /// So many mappings the kernel lets a process have.
    max_mappings: usize,
}

/// A process that a pass has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its number.
    pub pid: u32,
    /// When it began, in the kernel's ticks: another time is another process. In a recording, the inode number of its directory.
    pub started: u64,
    /// Its cgroup was not asked in this pass: it is what it was in the one before, and its name should be, too.
    pub is_assumed: bool,
    /// Since this pass its cgroup and its name were found to be the same.
    is_confirmed: bool,
    inode: u64,
    /// Where its cgroup path stands in [`Pass::cgroups`].
    cgroup: Range<u32>,
    /// Its path reads as `/`, but perhaps only because its first thread has ended.
    is_doubtful: bool,
    /// It has no memory of its own, and is where it is for good: even if it was the beginning of a program that the kernel starts.
    is_kernel_thread: bool,
}

impl Seen {
    fn new(pid: u32, inode: u64) -> Self {
        Self {
            pid,
            started: inode,
            is_assumed: false,
            is_confirmed: false,
            inode,
            cgroup: 0..0,
            is_doubtful: false,
            is_kernel_thread: false,
        }
    }
}

/// What one pass over proc has seen: every process, by pid.
#[derive(Debug, Default)]
pub struct Pass {
    /// The processes, by ascending pid.
    pub processes: Vec<Seen>,
    cgroups: Vec<u8>,
    /// The pass before, while the next one is made.
    processes_before: Vec<Seen>,
    cgroups_before: Vec<u8>,
}

impl Pass {
    /// The cgroup path of a process of this pass (see [`cgroup::path_of`]).
    pub fn cgroup(&self, process: &Seen) -> &[u8] {
        &self.cgroups[process.cgroup.start as usize..process.cgroup.end as usize]
    }

    /// The process with this pid.
    pub fn find(&self, pid: u32) -> Option<&Seen> {
        let at = self.processes.binary_search_by_key(&pid, |process| process.pid).ok()?;
        Some(&self.processes[at])
    }

    /// Says that the process at this position was found to have the cgroup and the name that this pass gives it.
    pub fn confirm(&mut self, at: usize) {
        self.processes[at].is_confirmed = true;
    }

    /// A pass that has seen these: pid, start time and cgroup path, by ascending pid.
    #[cfg(test)]
    pub fn of(processes: &[(u32, u64, &str)]) -> Self {
        let mut pass = Self::default();
        for &(pid, started, path) in processes {
            let cgroup = Self::push_cgroup(&mut pass.cgroups, path.as_bytes());
            pass.processes.push(Seen { cgroup, ..Seen::new(pid, started) });
        }
        pass
    }

    fn push_cgroup(cgroups: &mut Vec<u8>, path: &[u8]) -> Range<u32> {
        let start = cgroups.len() as u32; // a node's paths are some megabytes at most
        cgroups.extend_from_slice(path);
        start..cgroups.len() as u32
    }
}

/// How much is read of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Each mapping.
    Each,
    /// Their sum, where the kernel has it; else each.
    Sum {
        /// How many mappings there are, if that need not be counted.
        known_count: Option<u64>,
    },
}

/// Why a process gave no values.
#[derive(Debug)]
pub enum Failure {
    /// Its smaps may not be opened.
    Denied,
    /// It executed another program meanwhile, or changed its name or container.
    Exec,
    /// It ended.
    Gone,
    /// Anything else.
    Io(io::Error),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Denied => f.write_str("permission denied"),
            Self::Exec => f.write_str("it executed another program meanwhile"),
            Self::Gone => f.write_str("it ended meanwhile"),
            Self::Io(error) => f.write_str(&crate::errors::plain(error)),
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::NOENT | Errno::SRCH => Self::Gone,
            other => Self::Io(other.into()),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => errno.into(),
            None => Self::Io(error),
        }
    }
}

impl Proc {
    /// Opens the proc file system at `path`.
    ///
    /// Fails with the system's error when it is not a directory that can be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let root =
            rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut text = vec![0; 4096];
        let max_mappings = read_file(root.as_fd(), "sys/vm/max_map_count", &mut text).ok().and_then(number);
        Ok(Self {
            path: path.to_owned(),
            root,
            name: String::new(),
            text,
            chunk: vec![0; CHUNK],
            entries: Entries::default(),
            max_mappings: max_mappings
                .map_or(usize::MAX, |n: usize| n.max(DEFAULT_MAX_MAPPINGS) + SPARE_MAPPINGS),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lists every process with its cgroup path. One that ends meanwhile, or has no readable cgroup, is left out.
    ///
    /// Fails when the directory cannot be read.
    pub fn pass(&mut self, pass: &mut Pass) -> io::Result<()> {
        let Pass { processes, cgroups, processes_before, cgroups_before } = pass;
        std::mem::swap(processes, processes_before);
        std::mem::swap(cgroups, cgroups_before);
        processes.clear();
        cgroups.clear();
        self.entries.each(self.root.as_fd(), |entry, inode| {
            processes.extend(pid_of(entry).map(|pid| Seen::new(pid, inode)));
        })?;
        processes.sort_unstable_by_key(|process| process.pid);
        let mut before = processes_before.iter().peekable();
        processes.retain_mut(|process| {
            while before.next_if(|known| known.pid < process.pid).is_some() {}
            let known =
                before.peek().filter(|known| (known.pid, known.inode) == (process.pid, process.inode));
            let Some(known) = known else { return self.look(process, None, cgroups).is_ok() };
            if !known.is_confirmed && !known.is_kernel_thread {
                return self.look(process, Some(known), cgroups).is_ok();
            }
            let cgroup = &cgroups_before[known.cgroup.start as usize..known.cgroup.end as usize];
            let cgroup = Pass::push_cgroup(cgroups, cgroup);
            *process = Seen { cgroup, is_assumed: true, is_confirmed: false, ..(*known).clone() };
            true
        });
        processes.shrink_to(2 * processes.len());
        processes_before.shrink_to(2 * processes.len());
        cgroups.shrink_to(2 * cgroups.len());
        cgroups_before.shrink_to(2 * cgroups.len());
        Ok(())
    }

    /// Asks what the pass has assumed of the process at this position.
    ///
    /// Fails when it has ended, or has no readable cgroup; then the assumption stands.
    pub fn ask(&mut self, pass: &mut Pass, at: usize) -> Result<(), Failure> {
        let mut process = Seen { is_assumed: false, ..pass.processes[at].clone() };
        self.look(&mut process, Some(&pass.processes[at]), &mut pass.cgroups)?;
        pass.processes[at] = process;
        Ok(())
    }

    /// Asks which cgroup a process is in, and of one that is not yet known what it is.
    fn look(
        &mut self,
        process: &mut Seen,
        known: Option<&Seen>,
        cgroups: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        self.name.clear();
        let _ = write!(self.name, "{}/cgroup", process.pid); // writing to a String cannot fail
        let content = read_file(self.root.as_fd(), self.name.as_str(), &mut self.text)?;
        let path = cgroup::path_of(content).ok_or(Errno::INVAL)?;
        process.is_doubtful = cgroup::may_hide(content);
        process.cgroup = Pass::push_cgroup(cgroups, path);
        if let Some(known) = known {
            process.started = known.started;
            // What stays at the root for good is looked at once.
            if known.is_doubtful || !process.is_doubtful {
                return Ok(());
            }
        }
        let directory = self.open_process(process.pid)?;
        if known.is_none()
            && let Ok(stat) = Stat::read(directory.as_fd(), &mut self.text)
        {
            process.started = stat.started;
            process.is_kernel_thread = stat.is_kernel_thread;
        }
        if process.is_doubtful
            && let Some(path) = self.hidden_cgroup(directory.as_fd())?
        {
            process.cgroup = Pass::push_cgroup(cgroups, &path);
            process.is_doubtful = false; // what the leader says stays so, so ask the threads each time
        }
        Ok(())
    }

    /// The command name of a process, without the newline that ends it: any bytes.
    pub fn comm(&mut self, pid: u32) -> Result<&[u8], Failure> {
        self.name.clear();
        let _ = write!(self.name, "{pid}/comm");
        let comm = read_file(self.root.as_fd(), self.name.as_str(), &mut self.text)?;
        Ok(comm.strip_suffix(b"\n").unwrap_or(comm))
    }

    fn open_process(&mut self, pid: u32) -> Result<OwnedFd, Errno> {
        self.name.clear();
        let _ = write!(self.name, "{pid}");
        open_directory(self.root.as_fd(), self.name.as_str())
    }

    /// Where a process whose cgroup reads as `/` really is: `None` if it is there, else where its other threads are.
    ///
    /// Of a thread that has ended, a version 1 hierarchy says `/` (kernel/cgroup/cgroup.c, `proc_cgroup_show`). Taken at its word, a
    /// container whose init process is a zombie would own the whole node.
    fn hidden_cgroup(&mut self, process: BorrowedFd<'_>) -> Result<Option<Vec<u8>>, Failure> {
        match Stat::read(process, &mut self.text) {
            Ok(stat) if stat.has_ended => {}
            _ => return Ok(None), // a recording has none
        }
        let (tasks, tids) = self.threads(process)?;
        for tid in tids {
            let Ok(content) = read_file(tasks.as_fd(), &format!("{tid}/cgroup"), &mut self.text) else {
                continue;
            };
            if let Some(path) = cgroup::path_of(content).filter(|path| path != b"/") {
                return Ok(Some(path.to_vec()));
            }
        }
        Err(Failure::Gone)
    }

    /// The text of the cgroup file of a process.
    pub fn cgroup(&mut self, pid: u32) -> Result<&[u8], Failure> {
        self.name.clear();
        let _ = write!(self.name, "{pid}/cgroup");
        Ok(read_file(self.root.as_fd(), self.name.as_str(), &mut self.text)?)
    }

    /// The files of a process that a recording holds, by name, as the kernel printed them.
    ///
    /// Where the first thread has ended, cgroup and smaps are those of another: a recording has no threads.
    pub fn raw(&mut self, pid: u32) -> Result<[(&'static str, Vec<u8>); 3], Failure> {
        let process = self.open_process(pid)?;
        let file = |name: &str| {
            let mut text = Vec::new();
            File::from(open_file(process.as_fd(), name)?).read_to_end(&mut text)?;
            Ok::<_, Failure>(text)
        };
        let comm = file("comm")?;
        let files = |cgroup, smaps| [("comm", comm), ("cgroup", cgroup), ("smaps", smaps)];
        let smaps = match file("smaps") {
            Err(Failure::Gone) => Vec::new(), // see `open_address_space`
            smaps => smaps?,
        };
        if smaps.is_empty()
            && let Ok((_, tids)) = self.threads(process.as_fd())
        {
            for tid in tids {
                if let Ok(smaps) = file(&format!("task/{tid}/smaps"))
                    && !smaps.is_empty()
                {
                    return Ok(files(file(&format!("task/{tid}/cgroup"))?, smaps));
                }
            }
        }
        Ok(files(file("cgroup")?, smaps))
    }

    /// The directory of the threads of a process, and their numbers.
    fn threads(&mut self, process: BorrowedFd<'_>) -> Result<(OwnedFd, Vec<u32>), Failure> {
        let tasks = open_listable(process, "task")?;
        let mut tids = Vec::new();
        self.entries.each(tasks.as_fd(), |entry, _| tids.extend(pid_of(entry)))?;
        Ok((tasks, tids))
    }

    /// Reads the mappings of process `pid` in this detail and gives each, or the one that stands for all, to `mapping`; says how
    /// many it gave.
    ///
    /// The values count only when this returns `Ok`: then they are of one address space, read to its end, of a process
    /// whose name was `comm` before (as the caller knows) and after, and whose cgroup path `is_owned` says is right.
    pub fn read(
        &mut self,
        pid: u32,
        comm: &[u8],
        mut is_owned: impl FnMut(&[u8]) -> bool,
        detail: Detail,
        scanner: &mut Scanner,
        mut mapping: impl FnMut(Mapping<'_>),
    ) -> Result<usize, Failure> {
        let process = self.open_process(pid)?;
        let mut n_given = 0;
        if let Detail::Sum { known_count } = detail {
            n_given = self.rollup(process.as_fd(), known_count, scanner, &mut mapping)?;
        }
        if n_given == 0 {
            n_given = self.mappings(process.as_fd(), "smaps", scanner, &mut mapping)?;
        }
        if n_given == 0 {
            n_given = self.mappings_of_a_thread(process.as_fd(), scanner, &mut mapping)?;
        }
        let now = read_file(process.as_fd(), "comm", &mut self.text)?;
        if now.strip_suffix(b"\n").unwrap_or(now) != comm {
            return Err(Failure::Exec);
        }
        let now = read_file(process.as_fd(), "cgroup", &mut self.text)?;
        if cgroup::path_of(now).is_some_and(&mut is_owned) {
            return Ok(n_given);
        }
        let is_hidden = cgroup::may_hide(now);
        match is_hidden.then(|| self.hidden_cgroup(process.as_fd())).transpose() {
            Ok(Some(Some(path))) if is_owned(&path) => Ok(n_given),
            Ok(_) => Err(Failure::Exec),
            // A zombie has no mappings, so it does not matter where it was.
            Err(Failure::Gone) if n_given == 0 => Ok(0),
            Err(failure) => Err(failure),
        }
    }

    /// Reads one smaps file of a process to its end, and makes sure that it was the end of the address space.
    fn mappings(
        &mut self,
        process: BorrowedFd<'_>,
        name: &str,
        scanner: &mut Scanner,
        mapping: &mut impl FnMut(Mapping<'_>),
    ) -> Result<usize, Failure> {
        let Some(smaps) = open_address_space(process, name)? else { return Ok(0) };
        let mut is_last = false;
        let mut mapping = |found: Mapping<'_>| {
            is_last = found.path == LAST_PATH;
            mapping(found);
        };
        let n_mappings = scan(&smaps, &mut self.chunk, self.max_mappings, scanner, &mut mapping)?;
        if n_mappings > 0 && !is_last {
            ensure_alive(process, name, &smaps)?;
        }
        Ok(n_mappings)
    }

    /// Reads the kernel's own sum over the mappings of a process, which costs it a fifth of printing each; none on old kernels
    /// and in recordings. How many mappings there are only `maps` says, which costs as much again: it is read when `known_count` is none.
    fn rollup(
        &mut self,
        process: BorrowedFd<'_>,
        known_count: Option<u64>,
        scanner: &mut Scanner,
        mapping: &mut impl FnMut(Mapping<'_>),
    ) -> Result<usize, Failure> {
        let maps = match known_count {
            Some(_) => None,
            None => open_address_space(process, "maps")?,
        };
        let Some(rollup) = open_address_space(process, "smaps_rollup")? else { return Ok(0) };
        let count = match (known_count, &maps) {
            (Some(count), _) => count,
            (None, Some(maps)) => self.count_lines(maps)?,
            (None, None) => return Ok(0),
        };
        let mut sum = |sum: Mapping<'_>| mapping(Mapping { count, ..sum });
        match scan(&rollup, &mut self.chunk, self.max_mappings, scanner, &mut sum) {
            // The kernel holds the address space while it sums, so the sum is whole. The count may be that of another.
            Ok(n_given) => match maps.filter(|_| n_given > 0) {
                Some(maps) => ensure_alive(process, "maps", &maps).map(|()| n_given),
                None => Ok(n_given),
            },
            // What exec has left says "no such process", too.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => {
                Err(exec_or_gone(process, "maps"))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn count_lines(&mut self, mut file: &File) -> Result<u64, Failure> {
        let mut count = 0;
        while count <= self.max_mappings {
            match file.read(&mut self.chunk)? {
                0 => return Ok(count as u64),
                n => count += self.chunk[..n].iter().filter(|&&b| b == b'\n').count(),
            }
        }
        Err(endless().into())
    }

    /// The same through any other thread, for a process whose leader has exited while others live on.
    fn mappings_of_a_thread(
        &mut self,
        process: BorrowedFd<'_>,
        scanner: &mut Scanner,
        mapping: &mut impl FnMut(Mapping<'_>),
    ) -> Result<usize, Failure> {
        let (tasks, tids) = match self.threads(process) {
            Err(Failure::Gone) => return Ok(0), // a recording has none
            threads => threads?,
        };
        for tid in tids {
            match self.mappings(tasks.as_fd(), &format!("{tid}/smaps"), scanner, mapping) {
                Ok(0) => {}
                other => return other,
            }
        }
        Ok(0)
    }
}

/// Reads smaps from `file` to its end through `chunk`, gives each mapping to `mapping` and says how many there were. The buffer grows
/// only for a mapping that is larger than all of it.
///
/// Fails when there are more than `max_mappings`: the kernel goes on from the address where it was, so a process that maps
/// ahead of the reader and unmaps behind it would be read for hours.
pub fn scan(
    mut file: impl Read,
    chunk: &mut Vec<u8>,
    max_mappings: usize,
    scanner: &mut Scanner,
    mapping: &mut impl FnMut(Mapping<'_>),
) -> io::Result<usize> {
    let mut n_mappings = 0;
    // Invariant: `chunk[..filled]` is read and not yet scanned.
    let mut filled = 0;
    let mut at_end = false;
    let read_len = rustix::param::page_size() - LAST_MAPPING;
    while !at_end {
        if filled == chunk.len() {
            chunk.resize((2 * filled).max(64), 0);
        }
        while !at_end && filled < chunk.len() {
            let end = chunk.len().min(filled + read_len);
            match file.read(&mut chunk[filled..end])? {
                0 => at_end = true,
                n => filled += n,
            }
        }
        let mut scanned = 0;
        while let Some((found, n_bytes)) = scanner.next(&chunk[scanned..filled], at_end) {
            mapping(found);
            n_mappings += 1;
            scanned += n_bytes;
        }
        chunk.copy_within(scanned..filled, 0);
        filled -= scanned;
        if n_mappings > max_mappings {
            return Err(endless());
        }
    }
    if chunk.len() > CHUNK {
        chunk.truncate(CHUNK);
        chunk.shrink_to_fit();
    }
    Ok(n_mappings)
}

fn endless() -> io::Error {
    io::Error::other("more mappings than a process can have: it changes faster than it can be read")
}

/// Opens a file that shows the address space of a process; `None` if it has none, or no such file.
fn open_address_space(process: BorrowedFd<'_>, name: &str) -> Result<Option<File>, Failure> {
    match open_file(process, name) {
        Ok(file) => Ok(Some(file.into())),
        // No address space: recent kernels say so at once, others by an empty file.
        Err(Errno::SRCH) => Ok(None),
        Err(Errno::NOENT) if name != "smaps" => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes sure that the address space which `file` shows is not gone: then it reads as empty, and the end that was read may
/// not have been its end. The kernel prints a single mapping for this one byte.
fn ensure_alive(process: BorrowedFd<'_>, name: &str, file: &File) -> Result<(), Failure> {
    if rustix::io::pread(file, &mut [0; 1], 0).unwrap_or(0) > 0 {
        return Ok(());
    }
    Err(exec_or_gone(process, name))
}

/// What has become of a process whose address space is gone: it has another one, or none.
fn exec_or_gone(process: BorrowedFd<'_>, name: &str) -> Failure {
    let now = open_file(process, name).and_then(|now| rustix::io::read(now, &mut [0; 1]));
    if now.unwrap_or(0) > 0 { Failure::Exec } else { Failure::Gone }
}

/// The pid that the name of a directory stands for.
fn pid_of(name: &[u8]) -> Option<u32> {
    // The first byte decides for most names that are none, and refuses `+1` and `01`, a second name for the same number.
    if !matches!(name.first()?, b'1'..=b'9') {
        return None;
    }
    std::str::from_utf8(name).ok()?.parse().ok()
}

/// The number that a file consists of.
fn number(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.trim_ascii().parse().ok()
}

/// What is needed of `/proc/<pid>/stat` (man 5 proc_pid_stat).
struct Stat {
    /// In clock ticks since boot.
    started: u64,
    /// The first thread has ended, or is about to.
    has_ended: bool,
    /// It runs in the kernel only.
    is_kernel_thread: bool,
}

impl Stat {
    fn read(process: BorrowedFd<'_>, text: &mut Vec<u8>) -> Result<Self, Errno> {
        Self::parse(read_file(process, "stat", text)?).ok_or(Errno::INVAL)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        // include/linux/sched.h
        const PF_EXITING: u64 = 0x4;
        const PF_KTHREAD: u64 = 0x20_0000;
        // The name in parentheses may hold anything, parentheses too; behind it come numbers, from the third field on.
        let name_end = text.iter().rposition(|&b| b == b')')?;
        let mut fields =
            std::str::from_utf8(&text[name_end + 1..]).ok()?.split_ascii_whitespace().skip(9 - 3);
        let flags: u64 = fields.next()?.parse().ok()?;
        let started = fields.nth(22 - 10)?.parse().ok()?;
        Some(Self { started, has_ended: flags & PF_EXITING != 0, is_kernel_thread: flags & PF_KTHREAD != 0 })
    }
}

/// The whole content of a file of one record (`comm`, `cgroup`, `stat`) below `directory`, read into `text`, which grows as needed.
fn read_file<'a>(directory: BorrowedFd<'_>, name: &str, text: &'a mut Vec<u8>) -> Result<&'a [u8], Errno> {
    let file = open_file(directory, name)?;
    let mut filled = 0;
    loop {
        if filled == text.len() {
            text.resize(2 * filled, 0);
        }
        filled += rustix::io::read(&file, &mut text[filled..])?;
        // The kernel prints such a file in one go (fs/seq_file.c, `single_open`): what leaves room is the end.
        if filled < text.len() {
            return Ok(&text[..filled]);
        }
    }
}

/// Opens a file to read. In a recording that somebody sent there may be a pipe in its place, which nobody writes to, or a device:
/// neither waits here, and neither is read.
fn open_file(directory: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = openat(directory, name, flags, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        _ => Err(Errno::INVAL),
    }
}

fn open_listable(directory: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    openat(directory, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(target_os = "linux")]
fn open_directory(directory: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    openat(directory, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(not(target_os = "linux"))]
fn open_directory(directory: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    openat(directory, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// A buffer for the names in a directory: std's own listing allocates for each.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub struct Entries(Vec<std::mem::MaybeUninit<u8>>);

#[cfg(target_os = "linux")]
impl Default for Entries {
    fn default() -> Self {
        Self(vec![std::mem::MaybeUninit::uninit(); 32 * 1024])
    }
}

#[cfg(target_os = "linux")]
impl Entries {
    /// Gives the name and the inode number of each entry of `directory` to `entry`, from the first on.
    pub fn each(&mut self, directory: BorrowedFd<'_>, mut entry: impl FnMut(&[u8], u64)) -> io::Result<()> {
        rustix::fs::seek(directory, rustix::fs::SeekFrom::Start(0))?;
        let mut listing = rustix::fs::RawDir::new(directory, &mut self.0);
        while let Some(found) = listing.next() {
            let found = found?;
            entry(found.file_name().to_bytes(), found.ino());
        }
        Ok(())
    }
}

/// Where only recordings are read, a listing may allocate.
#[cfg(not(target_os = "linux"))]
#[derive(Debug, Default)]
pub struct Entries;

#[cfg(not(target_os = "linux"))]
impl Entries {
    /// Gives the name and the inode number of each entry of `directory` to `entry`.
    pub fn each(&mut self, directory: BorrowedFd<'_>, mut entry: impl FnMut(&[u8], u64)) -> io::Result<()> {
        for found in rustix::fs::Dir::read_from(directory)? {
            let found = found?;
            entry(found.file_name().to_bytes(), found.ino());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_processes() {
        for (name, pid) in [
            ("1", Some(1)),
            ("4194304", Some(4_194_304)),
            ("", None),
            ("0", None),
            ("01", None),
            ("+1", None),
            ("1 ", None),
            ("1a", None),
            ("self", None),
            ("4294967296", None),
        ] {
            assert_eq!(pid_of(name.as_bytes()), pid, "{name:?}");
        }
    }

    #[test]
    fn what_is_needed_of_stat() {
        let stat = |name: &str, flags: u32| {
            format!("42 ({name}) S 1 42 42 0 -1 {flags} 90 0 0 0 0 0 0 0 20 0 1 0 7788 2445312 202 184467\n")
        };
        for name in ["sleep", "", "a b", ") Z 0 (", "x) S 1 2 3", "\n"] {
            let parsed = Stat::parse(stat(name, 0x40_0000).as_bytes()).unwrap();
            assert_eq!((parsed.started, parsed.has_ended), (7788, false), "{name:?}");
            assert!(Stat::parse(stat(name, 0x40_0004).as_bytes()).unwrap().has_ended, "{name:?}");
            assert!(!parsed.is_kernel_thread, "{name:?}");
            assert!(Stat::parse(stat(name, 0x20_8040).as_bytes()).unwrap().is_kernel_thread, "{name:?}");
        }
        for text in ["", "42 (x) S 1", "42 x S 1 42 42 0 -1 0", ")"] {
            assert!(Stat::parse(text.as_bytes()).is_none(), "{text:?}");
        }
    }

    #[test]
    fn more_mappings_than_there_can_be_are_an_error() {
        let mapping = "5598af1ce000-5598af1d0000 r--p 00000000 00:00 0 \nRss:                   8 kB\n";
        let scan_at_most = |max| {
            let text = mapping.repeat(2000);
            scan(text.as_bytes(), &mut vec![0; 4096], max, &mut Scanner::default(), &mut |_| {})
        };
        assert_eq!(scan_at_most(2000).unwrap(), 2000);
        assert!(scan_at_most(1500).is_err());
        // and it is noticed before the end
        let endless = Forever(mapping.as_bytes(), 0);
        assert!(scan(endless, &mut vec![0; 4096], 10_000, &mut Scanner::default(), &mut |_| {}).is_err());
    }

    /// A text again and again.
    struct Forever<'a>(&'a [u8], usize);

    impl Read for Forever<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            for b in buffer.iter_mut() {
                *b = self.0[self.1];
                self.1 = (self.1 + 1) % self.0.len();
            }
            Ok(buffer.len())
        }
    }

    /// Live processes of the test's own.
    #[cfg(target_os = "linux")]
    mod live {
        use super::super::*;
        use std::process::{Child, Command};

        struct Sleep(Child);

        impl Sleep {
            fn new() -> Self {
                let child = Self(Command::new("sleep").arg("1000").spawn().unwrap());
                // spawn() returns when the child has another address space; its name follows
                while std::fs::read(format!("/proc/{}/comm", child.pid())).unwrap() != b"sleep\n" {
                    std::thread::yield_now();
                }
                child
            }

            fn pid(&self) -> u32 {
                self.0.id()
            }
        }

        impl Drop for Sleep {
            fn drop(&mut self) {
                let _ = self.0.kill();
                let _ = self.0.wait();
            }
        }

        fn proc() -> Proc {
            Proc::open(Path::new("/proc")).unwrap()
        }

        /// Reads a process whose name is thought to be `comm` and which is at home in any cgroup or none.
        fn read(proc: &mut Proc, pid: u32, comm: &str, is_owned: bool) -> Result<(usize, bool), Failure> {
            let mut has_stack = false;
            let n = proc.read(
                pid,
                comm.as_bytes(),
                |_| is_owned,
                Detail::Each,
                &mut Scanner::default(),
                |mapping| {
                    has_stack |= mapping.path == b"[stack]";
                },
            )?;
            Ok((n, has_stack))
        }

        #[test]
        fn a_pass_sees_a_process_from_its_beginning_to_its_end() {
            let (mut proc, mut pass) = (proc(), Pass::default());
            let child = Sleep::new();
            proc.pass(&mut pass).unwrap();
            assert!(pass.processes.is_sorted_by(|a, b| a.pid < b.pid));
            let seen = pass.find(child.pid()).unwrap().clone();
            let own = pass.find(std::process::id()).unwrap();
            assert_eq!(pass.cgroup(&seen), pass.cgroup(own), "a child is where its parent is");
            assert!(own.started <= seen.started);
            proc.pass(&mut pass).unwrap();
            assert_eq!(pass.find(child.pid()).unwrap().started, seen.started);
            // Another directory of the same process: its start time tells.
            pass.processes.iter_mut().for_each(|process| (process.inode, process.started) = (0, 0));
            proc.pass(&mut pass).unwrap();
            assert_eq!(pass.find(child.pid()).unwrap().started, seen.started);
            let pid = child.pid();
            drop(child);
            proc.pass(&mut pass).unwrap();
            assert_eq!(pass.find(pid), None);
        }

        #[test]
        fn what_was_confirmed_is_assumed_until_it_is_asked() {
            let (mut proc, mut pass) = (proc(), Pass::default());
            let child = Sleep::new();
            let at = |pass: &Pass| pass.processes.iter().position(|seen| seen.pid == child.pid()).unwrap();
            let seen = |pass: &Pass| {
                let seen = &pass.processes[at(pass)];
                (seen.is_assumed, seen.started, pass.cgroup(seen).to_vec())
            };
            proc.pass(&mut pass).unwrap();
            let (is_assumed, started, cgroup) = seen(&pass);
            assert!(!is_assumed, "it is new");
            proc.pass(&mut pass).unwrap();
            assert_eq!(seen(&pass), (false, started, cgroup.clone()), "nobody has confirmed it");
            for _ in 0..3 {
                pass.confirm(at(&pass));
                proc.pass(&mut pass).unwrap();
                assert_eq!(seen(&pass), (true, started, cgroup.clone()));
            }
            let i = at(&pass);
            proc.ask(&mut pass, i).unwrap();
            assert_eq!(seen(&pass), (false, started, cgroup.clone()));
            // Another process with its pid would have another directory.
            pass.confirm(i);
            pass.processes[i].inode = 0;
            proc.pass(&mut pass).unwrap();
            assert_eq!(seen(&pass), (false, started, cgroup));
        }

        #[test]
        fn a_process_is_read_whole_or_not_at_all() {
            let mut proc = proc();
            let mut child = Sleep::new();
            let pid = child.pid();
            let (n_mappings, has_stack) = read(&mut proc, pid, "sleep", true).unwrap();
            assert!(n_mappings > 5 && has_stack);
            assert_eq!(proc.comm(pid).unwrap(), b"sleep");
            assert!(matches!(read(&mut proc, pid, "sleeq", true), Err(Failure::Exec)));
            assert!(matches!(read(&mut proc, pid, "sleep", false), Err(Failure::Exec)));
            child.0.kill().unwrap();
            let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            while !stat().contains(") Z ") {
                std::thread::yield_now();
            }
            // A zombie: it has no mappings, and where it was is not always told.
            assert!(matches!(read(&mut proc, pid, "sleep", true), Ok((0, false))));
            child.0.wait().unwrap();
            assert!(matches!(read(&mut proc, pid, "sleep", true), Err(Failure::Gone)));
        }

        #[test]
        fn an_address_space_that_exec_leaves_is_noticed() {
            use std::io::Write as _;
            // The shell waits for a line, then becomes another program.
            let mut shell = Command::new("sh")
                .args(["-c", "read line; exec sleep 1000"])
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut proc = proc();
            let process = proc.open_process(shell.id()).unwrap();
            let smaps = open_address_space(process.as_fd(), "smaps").unwrap().unwrap();
            assert!(ensure_alive(process.as_fd(), "smaps", &smaps).is_ok());
            shell.stdin.take().unwrap().write_all(b"\n").unwrap();
            while proc.comm(shell.id()).unwrap() != b"sleep" {
                std::thread::yield_now();
            }
            assert!(matches!(ensure_alive(process.as_fd(), "smaps", &smaps), Err(Failure::Exec)));
            shell.kill().unwrap();
            shell.wait().unwrap();
            assert!(matches!(ensure_alive(process.as_fd(), "smaps", &smaps), Err(Failure::Gone)));
            assert!(matches!(
                read_file(process.as_fd(), "comm", &mut vec![0; 64]),
                Err(Errno::SRCH | Errno::NOENT)
            ));
        }

        #[test]
        fn a_kernel_thread_has_no_mappings() {
            let mut proc = proc();
            let mut pass = Pass::default();
            proc.pass(&mut pass).unwrap();
            // kthreadd; a container of the test's own may hide it
            if proc.comm(2).is_ok_and(|comm| comm == b"kthreadd") {
                assert!(matches!(
                    read(&mut proc, 2, "kthreadd", true),
                    Ok((0, false)) | Err(Failure::Denied)
                ));
                assert_eq!(pass.cgroup(pass.find(2).unwrap()), b"/");
                proc.pass(&mut pass).unwrap();
                assert!(pass.find(2).unwrap().is_assumed, "it is where it is for good");
                assert_eq!(pass.cgroup(pass.find(2).unwrap()), b"/");
            }
        }
    }
}
