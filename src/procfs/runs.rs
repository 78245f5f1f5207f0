//! Reads `/proc/<pid>/schedstat`, which shows how often a thread has run
//! (Documentation/scheduler/sched-stats.rst).

use super::files::read_file;
use super::{Buffers, ProcessDir};

/// What the scheduler has counted for the first thread of a process: the time on a CPU and the time in a run
/// queue, both in nanoseconds, and how often the thread began to run. If all three are the same as before,
/// the thread has not run in between. The time on a CPU alone would not show that, because the kernel adds to
/// it only at clock ticks and when the thread stops running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runs([u64; 3]);

impl Runs {
    /// Parses the text of a `schedstat` file. Returns `None` if the text is malformed. Also returns `None` if
    /// the thread never began to run, because then the kernel does not count.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let mut numbers = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
        let mut next = || numbers.next()?.parse::<u64>().ok();
        let runs = [next()?, next()?, next()?];
        (runs[2] > 0).then_some(Self(runs))
    }
}

impl ProcessDir {
    /// Returns how often the first thread has run, according to `schedstat`; `None` if the kernel does not
    /// show it. Reading `schedstat` cannot block.
    pub fn runs(&self, buffers: &mut Buffers) -> Option<Runs> {
        Runs::parse(read_file(self.as_fd(), "schedstat", &mut buffers.text).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_is_parsed() {
        assert_eq!(Runs::parse(b"1245634 897727 2\n"), Some(Runs([1_245_634, 897_727, 2])));
        for text in ["", "0 0 0\n", "5 0 0\n", "1 2", "1 2 x\n", "-1 2 3\n"] {
            assert_eq!(Runs::parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
