//! Linux's proc file system, or a recording of one. This module knows nothing of containers.
//!
//! While a process is read, a descriptor of its directory is open. The kernel ties the descriptor to the
//! process and not to its pid. So all files that are read through the descriptor belong to one process.
//!
//! Between scrapes, a process is identified by its pid and start time. The start time is read only if the
//! inode number of the process's directory is new, because a new process always has a new number. After a
//! shortage of memory, a process that still runs may get a new number, too.

pub mod cgroup;
pub mod errors;
pub mod files;
pub mod memory;
pub mod mounts;
pub mod node_memory;
pub mod permissions;
mod raw;
pub mod scan;
pub mod stat;
pub mod status;
pub mod this_process;

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use cgroup::Cgroups;
use errors::ReadError;
use files::{Entries, open_directory, open_file, open_listable, read_file};
use stat::{Stat, Work};
use status::{Status, is_zombie, state_of};

/// The file with vm.max_map_count. The path is relative to proc.
pub const MAX_MAP_COUNT: &str = "sys/vm/max_map_count";
/// The kernel's default for vm.max_map_count. If vm.max_map_count is now below its default, the default is
/// the limit, because a process may have started before vm.max_map_count was lowered.
const DEFAULT_MAX_MAPPINGS: usize = 65_530;
/// The number of mappings that are accepted in addition to vm.max_map_count. The kernel's own mappings do not
/// count toward that value, and a process may add mappings while it is read.
const SPARE_MAPPINGS: usize = 4096;

/// A proc file system, or a recording of one.
#[derive(Debug)]
pub struct Proc {
    path: PathBuf,
    root: OwnedFd,
    /// The maximum number of mappings. A read that finds more mappings fails, because the kernel does not
    /// allow a process to have more.
    max_mappings: usize,
}

/// A process's entry in a listing of proc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The pid of the process.
    pub pid: u32,
    /// The inode number of the process's directory.
    pub inode: u64,
}

/// Buffers for small files, names and listings. Reusing them means that reads allocate nothing.
#[derive(Debug, Default)]
pub struct Buffers {
    name: String,
    text: Vec<u8>,
    entries: Entries,
    /// The thread ids of the last listing of threads.
    tids: Vec<u32>,
}

impl Proc {
    /// Opens the proc file system at `path`.
    ///
    /// Fails with the system's error if `path` is not a directory, or cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let root =
            rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut proc = Self { path: path.to_owned(), root, max_mappings: usize::MAX };
        if let Some(limit) = proc.max_map_count(&mut Buffers::default()) {
            proc.max_mappings = limit.max(DEFAULT_MAX_MAPPINGS) + SPARE_MAPPINGS;
        }
        Ok(proc)
    }

    /// Returns the node's current vm.max_map_count; `None` if it cannot be read, as in an old recording.
    pub fn max_map_count(&self, buffers: &mut Buffers) -> Option<usize> {
        read_file(self.root.as_fd(), MAX_MAP_COUNT, &mut buffers.text).ok().and_then(number)
    }

    /// Returns the path of the file system.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether `path` now leads to a directory other than the open one, such as a newer recording.
    pub fn is_replaced(&self) -> bool {
        let id = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        let (held, now) = (rustix::fs::fstat(&self.root), rustix::fs::stat(&self.path));
        now.is_ok_and(|now| held.map(id) != Ok(id(now)))
    }

    /// Whether this kernel provides smaps. Returns `true` if this is unknown.
    pub fn has_smaps(&self) -> bool {
        let exists = |name| {
            rustix::fs::accessat(&self.root, name, rustix::fs::Access::EXISTS, rustix::fs::AtFlags::empty())
        };
        exists("self/smaps") != Err(Errno::NOENT) || exists("self/status").is_err()
    }

    /// Replaces `processes` with all processes, sorted by pid.
    ///
    /// Fails if the directory cannot be read.
    pub fn list(&self, buffers: &mut Buffers, processes: &mut Vec<Entry>) -> io::Result<()> {
        processes.clear();
        buffers.entries.list(self.root.as_fd(), |name, inode| {
            processes.extend(pid_of(name).map(|pid| Entry { pid, inode }));
        })?;
        processes.sort_unstable_by_key(|entry| entry.pid);
        processes.shrink_to(2 * processes.len());
        Ok(())
    }

    /// Opens the directory of process `pid`.
    pub fn process(&self, pid: u32, buffers: &mut Buffers) -> Result<ProcessDir, ReadError> {
        buffers.name.clear();
        let _ = write!(buffers.name, "{pid}"); // writing to a String cannot fail
        let dir = open_directory(self.root.as_fd(), &buffers.name)?;
        Ok(ProcessDir { dir, max_mappings: self.max_mappings })
    }

    /// Returns the command name of process `pid`, without the final newline. The name may contain any bytes.
    pub fn comm<'a>(&self, pid: u32, buffers: &'a mut Buffers) -> Result<&'a [u8], ReadError> {
        Ok(without_newline(self.file_of(pid, "comm", buffers)?))
    }

    /// Replaces `cgroups` with the cgroups of process `pid` (see [`ProcessDir::cgroups`]).
    pub fn cgroups(&self, pid: u32, buffers: &mut Buffers, cgroups: &mut Cgroups) -> Result<(), ReadError> {
        // Most processes are outside containers, and no other file of these processes is read. So this file
        // is opened by its path, without opening the directory first.
        if !cgroups.parse(self.file_of(pid, "cgroup", buffers)?) {
            return Err(Errno::INVAL.into());
        }
        if cgroups.may_hide() {
            return self.process(pid, buffers)?.cgroups(buffers, cgroups);
        }
        Ok(())
    }

    /// Whether process `pid` is a zombie without other threads, according to its `status`. Reading that file
    /// cannot block.
    pub fn is_zombie(&self, pid: u32, buffers: &mut Buffers) -> bool {
        self.file_of(pid, "status", buffers).is_ok_and(is_zombie)
    }

    /// Returns what the `status` of process `pid` shows. Reading that file cannot block. The read does not
    /// delay an exit: if the process ends during the read, the kernel can still free the memory of the
    /// process.
    pub fn status(&self, pid: u32, buffers: &mut Buffers) -> Result<Status, ReadError> {
        Ok(Status::parse(self.file_of(pid, "status", buffers)?))
    }

    fn file_of<'a>(&self, pid: u32, file: &str, buffers: &'a mut Buffers) -> Result<&'a [u8], Errno> {
        buffers.name.clear();
        let _ = write!(buffers.name, "{pid}/{file}"); // writing to a String cannot fail
        read_file(self.root.as_fd(), &buffers.name, &mut buffers.text)
    }
}

/// The open directory of a process. Files that are read through this directory belong to that process. Once
/// the process has ended, reading its files fails.
#[derive(Debug)]
pub struct ProcessDir {
    dir: OwnedFd,
    max_mappings: usize,
}

impl ProcessDir {
    /// Returns the inode number of the directory. If it equals [`Entry::inode`], this is still the process
    /// that was listed.
    pub fn inode(&self) -> Result<u64, ReadError> {
        Ok(rustix::fs::fstat(&self.dir)?.st_ino)
    }

    /// Reads the `stat` file, which a recording does not have. The read may block for any length of time
    /// while the process executes another program, because the kernel then holds a lock.
    pub fn stat(&self, buffers: &mut Buffers) -> Result<Stat, ReadError> {
        let text = read_file(self.dir.as_fd(), "stat", &mut buffers.text)?;
        Ok(Stat::parse(text).ok_or(Errno::INVAL)?)
    }

    /// Returns how active the process has been, according to `stat`. Writes the name of the process to
    /// `comm`, or empties `comm` if `stat` does not show the exact name. A recording has no `stat`. In this
    /// case, empties `comm` and returns the result of [`Work::of_recording`], which may be `None`.
    pub fn work(&self, buffers: &mut Buffers, comm: &mut Vec<u8>) -> Result<Option<Work>, ReadError> {
        comm.clear();
        match read_file(self.dir.as_fd(), "stat", &mut buffers.text).map_err(ReadError::from) {
            Ok(text) => {
                comm.extend_from_slice(stat::name(text).unwrap_or_default());
                Ok(Some(Stat::parse(text).ok_or(Errno::INVAL)?.work))
            }
            Err(ReadError::Gone) => {
                let smaps = File::from(open_file(self.dir.as_fd(), "smaps")?);
                Ok(Work::of_recording(&smaps.metadata()?))
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the command name, without the final newline. The name may contain any bytes.
    pub fn comm<'a>(&self, buffers: &'a mut Buffers) -> Result<&'a [u8], ReadError> {
        Ok(without_newline(read_file(self.dir.as_fd(), "comm", &mut buffers.text)?))
    }

    /// Replaces `cgroups` with the cgroups of the process. If its first thread has exited, the cgroups of
    /// another thread are used.
    ///
    /// For a thread that has exited, a version 1 hierarchy prints `/` (kernel/cgroup/cgroup.c,
    /// `proc_cgroup_show`). If that path were used, a container with a zombie as its init process would get
    /// the memory of the whole node.
    ///
    /// Fails with [`ReadError::Gone`] if no thread shows where the process is.
    pub fn cgroups(&self, buffers: &mut Buffers, cgroups: &mut Cgroups) -> Result<(), ReadError> {
        if !cgroups.parse(read_file(self.dir.as_fd(), "cgroup", &mut buffers.text)?) {
            return Err(Errno::INVAL.into());
        }
        if !cgroups.may_hide() || !self.leader_has_exited(buffers) {
            return Ok(());
        }
        let tasks = self.threads(buffers)?;
        for i in 0..buffers.tids.len() {
            buffers.name.clear();
            let _ = write!(buffers.name, "{}/cgroup", buffers.tids[i]); // writing to a String cannot fail
            let text = read_file(tasks.as_fd(), &buffers.name, &mut buffers.text).unwrap_or_default();
            if cgroups.parse(text) && !cgroups.may_hide() {
                return Ok(());
            }
        }
        // No thread shows a version 1 path other than `/`, so the version 1 paths may be wrong. Only the path
        // in the `0::` line is certain. It names the cgroup, unless it is `/` or missing. In these two cases,
        // only the version 1 paths could name the cgroup, so the cgroup is unknown.
        if cgroups.paths().any(|path| path != b"/") { Ok(()) } else { Err(ReadError::Gone) }
    }

    /// Whether the first thread has exited, so that the cgroup file of the process may be wrong. The process
    /// then continues in other threads, or is a zombie. In a recording, which has no `status`, the result is
    /// false, because a recorded cgroup file is always correct.
    fn leader_has_exited(&self, buffers: &mut Buffers) -> bool {
        read_file(self.dir.as_fd(), "status", &mut buffers.text)
            .is_ok_and(|text| state_of(text) == Some(b'Z'))
    }

    /// Whether a thread of the process is in state D. Threads that wait for a memory-map lock are in state D.
    pub fn has_waiting_thread(&self, buffers: &mut Buffers) -> bool {
        let Ok(tasks) = self.threads(buffers) else { return false };
        std::mem::take(&mut buffers.tids).into_iter().any(|tid| {
            let text = read_file(tasks.as_fd(), format!("{tid}/status"), &mut buffers.text);
            text.is_ok_and(|text| state_of(text) == Some(b'D'))
        })
    }

    /// Opens the directory of the process's threads, and lists their ids into `buffers.tids`.
    fn threads(&self, buffers: &mut Buffers) -> Result<OwnedFd, ReadError> {
        let tasks = open_listable(self.dir.as_fd(), "task")?;
        let Buffers { entries, tids, .. } = buffers;
        tids.clear();
        entries.list(tasks.as_fd(), |name, _| tids.extend(pid_of(name)))?;
        tids.shrink_to(1024);
        Ok(tasks)
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

fn without_newline(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\n").unwrap_or(text)
}

/// Returns the pid that a directory has as its name, or `None` for any other name.
fn pid_of(name: &[u8]) -> Option<u32> {
    // This excludes most names that are not pids. It also excludes `+1` and `01`, which would parse as 1.
    if !matches!(name.first()?, b'1'..=b'9') {
        return None;
    }
    std::str::from_utf8(name).ok()?.parse().ok()
}

/// Parses the text of a file that contains only a number.
fn number(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.trim_ascii().parse().ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn directory_names_of_processes_are_pids() {
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

    /// Real processes that a test starts.
    #[cfg(target_os = "linux")]
    pub(crate) mod live {
        use super::super::*;
        use std::process::{Child, Command};

        /// A process that runs `sleep 1000`. Dropping this ends the process.
        pub(crate) struct Sleep(pub Child);

        impl Sleep {
            pub(crate) fn new() -> Self {
                let child = Self(Command::new("sleep").arg("1000").spawn().unwrap());
                // spawn() returns before the child has its new name and has mapped its libraries. Once the
                // child sleeps, it has both the name and the libraries.
                let stat = || std::fs::read_to_string(format!("/proc/{}/stat", child.pid())).unwrap();
                while !stat().contains("(sleep) S ") {
                    std::thread::yield_now();
                }
                child
            }

            pub(crate) fn pid(&self) -> u32 {
                self.0.id()
            }
        }

        impl Drop for Sleep {
            fn drop(&mut self) {
                let _ = self.0.kill();
                let _ = self.0.wait();
            }
        }

        pub(crate) fn proc() -> Proc {
            Proc::open(Path::new("/proc")).unwrap()
        }

        #[test]
        fn process_is_listed_while_it_exists() {
            let (proc, mut buffers, mut listed) = (proc(), Buffers::default(), Vec::new());
            let child = Sleep::new();
            let pid = child.pid();
            proc.list(&mut buffers, &mut listed).unwrap();
            assert!(listed.is_sorted_by(|a, b| a.pid < b.pid));
            let entry = *listed.iter().find(|entry| entry.pid == pid).unwrap();
            let dir = proc.process(pid, &mut buffers).unwrap();
            assert_eq!(dir.inode().unwrap(), entry.inode);
            assert_eq!(dir.comm(&mut buffers).unwrap(), b"sleep");
            assert_eq!(proc.comm(pid, &mut buffers).unwrap(), b"sleep");
            let own = proc.process(std::process::id(), &mut buffers).unwrap();
            let [own_stat, stat] = [&own, &dir].map(|dir| dir.stat(&mut buffers).unwrap());
            assert!(own_stat.start_time <= stat.start_time && !stat.is_kernel_thread);
            let [mut of_own, mut of_child, mut in_one_step] = [(); 3].map(|()| Cgroups::default());
            own.cgroups(&mut buffers, &mut of_own).unwrap();
            dir.cgroups(&mut buffers, &mut of_child).unwrap();
            proc.cgroups(pid, &mut buffers, &mut in_one_step).unwrap();
            assert_eq!((&of_own, &of_own), (&of_child, &in_one_step), "a child is where its parent is");
            drop(child);
            proc.list(&mut buffers, &mut listed).unwrap();
            assert!(listed.iter().all(|entry| entry.pid != pid));
            assert!(matches!(dir.comm(&mut buffers), Err(ReadError::Gone)));
            assert!(matches!(dir.stat(&mut buffers), Err(ReadError::Gone)));
            assert!(matches!(proc.process(pid, &mut buffers), Err(ReadError::Gone)));
        }

        #[test]
        fn kernel_thread_is_recognized() {
            let (proc, mut buffers) = (proc(), Buffers::default());
            // Process 2 is kthreadd. It is hidden if the test runs in a container.
            if proc.comm(2, &mut buffers).is_ok_and(|comm| comm == b"kthreadd") {
                let dir = proc.process(2, &mut buffers).unwrap();
                assert!(dir.stat(&mut buffers).unwrap().is_kernel_thread);
                let mut cgroups = Cgroups::default();
                dir.cgroups(&mut buffers, &mut cgroups).unwrap();
                assert_eq!(cgroups.main(), Some(&b"/"[..]));
            }
        }
    }
}
