//! The identity of a process: its pid and start time.

use crate::procfs::Entry;
use crate::procfs::stat::Stat;

/// Identifies a process of the node.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    entry: Entry,
    /// The start time in the kernel's clock ticks since boot. `None` until `stat` is read. In a recording,
    /// the inode number of the directory `<pid>` is used instead.
    start_time: Option<u64>,
    /// Whether the process is a kernel thread. A kernel thread has no memory of its own and never changes its
    /// cgroup.
    is_kernel_thread: bool,
    /// Whether the process is a zombie. A zombie maps nothing, and never will again.
    is_zombie: bool,
}

impl Identity {
    /// Creates the identity of the process with this pid and directory in proc. `stat` has not been read yet.
    pub fn new(entry: Entry) -> Self {
        Self { entry, start_time: None, is_kernel_thread: false, is_zombie: false }
    }

    /// Returns the pid of the process, and the inode number of its directory in proc.
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

    /// Stores whether `stat` shows that the process is a zombie.
    pub fn note_zombie(&mut self, stat: Option<Stat>) {
        self.is_zombie = stat.is_some_and(|stat| stat.is_zombie);
    }

    /// Sets the start time from `stat`. A recording has no `stat`, so the inode number of the process's
    /// directory is used instead.
    pub fn learn(&mut self, stat: Option<Stat>) {
        self.start_time = Some(stat.map_or(self.entry.inode, |stat| stat.start_time));
        self.is_kernel_thread = stat.is_some_and(|stat| stat.is_kernel_thread);
        self.note_zombie(stat);
    }

    /// Sets the inode number of the process's directory in proc. After a shortage of memory, the kernel may
    /// give the directory a new inode number while the process still runs.
    pub fn set_inode(&mut self, inode: u64) {
        self.entry.inode = inode;
    }

    /// Drops the start time, because the pid now belongs to another process.
    pub fn forget(&mut self) {
        self.start_time = None;
    }
}
