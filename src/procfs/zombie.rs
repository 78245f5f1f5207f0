//! Zombies whose `cgroup` file shows nothing.

use super::{Buffers, Proc, state_of};

impl Proc {
    /// Whether process `pid` is a zombie without further threads, by its `status`, which cannot block.
    pub fn is_zombie(&self, pid: u32, buffers: &mut Buffers) -> bool {
        self.file_of(pid, "status", buffers).is_ok_and(|text| {
            let mut lines = text.split(|&b| b == b'\n');
            state_of(text) == Some(b'Z') && lines.any(|line| matches!(line, b"Threads:\t1" | b"Threads:\t0"))
        })
    }
}
