//! The identity of a process: its pid and start time.

use crate::procfs::Entry;
use crate::procfs::stat::Stat;

/// Which process an entry of proc stands for.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    entry: Entry,
    /// In the kernel's clock ticks since boot; in a recording, the inode number of its directory. `None` until its `stat`
    /// is read.
    start_time: Option<u64>,
    /// A kernel thread has no memory of its own and never changes its cgroup.
    is_kernel_thread: bool,
}

impl Identity {
    /// Creates the identity of an entry whose `stat` is not read yet.
    pub fn new(entry: Entry) -> Self {
        Self { entry, start_time: None, is_kernel_thread: false }
    }

    /// Returns its entry in the last listing of proc.
    pub fn entry(&self) -> Entry {
        self.entry
    }

    /// Returns its start time, once that is known.
    pub fn start_time(&self) -> Option<u64> {
        self.start_time
    }

    /// Whether it is a kernel thread.
    pub fn is_kernel_thread(&self) -> bool {
        self.is_kernel_thread
    }

    /// Takes the start time from `stat`. A recording has none, so there a process is its directory.
    pub fn learn(&mut self, stat: Option<Stat>) {
        self.start_time = Some(stat.map_or(self.entry.inode, |stat| stat.start_time));
        self.is_kernel_thread = stat.is_some_and(|stat| stat.is_kernel_thread);
    }

    /// Takes another inode number, which the kernel gives to an old process when memory was short.
    pub fn set_inode(&mut self, inode: u64) {
        self.entry.inode = inode;
    }

    /// Forgets the start time, because the pid now belongs to another process.
    pub fn forget(&mut self) {
        self.start_time = None;
    }
}
