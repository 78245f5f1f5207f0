//! The identity of a process: its pid and start time.

use crate::procfs::Entry;
use crate::procfs::stat::Stat;

/// Identifies the process behind an entry of proc.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    entry: Entry,
    /// The start time in the kernel's clock ticks since boot; in a recording, the inode number of the
    /// directory. `None` until `stat` is read.
    start_time: Option<u64>,
    /// Whether it is a kernel thread, which has no memory of its own and never changes its cgroup.
    is_kernel_thread: bool,
    /// Whether it is a zombie, which maps nothing and never will.
    is_zombie: bool,
}

impl Identity {
    /// Creates the identity of an entry with a `stat` that is not read yet.
    pub fn new(entry: Entry) -> Self {
        Self { entry, start_time: None, is_kernel_thread: false, is_zombie: false }
    }

    /// Returns the entry of the process in the last listing of proc.
    pub fn entry(&self) -> Entry {
        self.entry
    }

    /// Returns the start time of the process, once it is known.
    pub fn start_time(&self) -> Option<u64> {
        self.start_time
    }

    /// Whether the process is a kernel thread.
    pub fn is_kernel_thread(&self) -> bool {
        self.is_kernel_thread
    }

    /// Whether the process is a zombie.
    pub fn is_zombie(&self) -> bool {
        self.is_zombie
    }

    /// Notes whether `stat` shows that the process is a zombie.
    pub fn note_zombie(&mut self, stat: Option<Stat>) {
        self.is_zombie = stat.is_some_and(|stat| stat.is_zombie);
    }

    /// Sets the start time from `stat`. A recording has no `stat`; there the inode number of the directory
    /// takes its place.
    pub fn learn(&mut self, stat: Option<Stat>) {
        self.start_time = Some(stat.map_or(self.entry.inode, |stat| stat.start_time));
        self.is_kernel_thread = stat.is_some_and(|stat| stat.is_kernel_thread);
        self.note_zombie(stat);
    }

    /// Sets another inode number, which the kernel gives to a running process after a shortage of memory.
    pub fn set_inode(&mut self, inode: u64) {
        self.entry.inode = inode;
    }

    /// Drops the start time, because the pid now belongs to another process.
    pub fn forget(&mut self) {
        self.start_time = None;
    }
}
