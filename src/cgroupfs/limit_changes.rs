//! Notices writes to the limits of cgroups, so that a limit is read only after a write.
//!
//! inotify reports each write to a file of a cgroup, and needs no right to write it. A file may not be watched
//! if a security policy forbids it, or if too many files are watched (`fs.inotify.max_user_watches`).

use std::os::fd::BorrowedFd;
#[cfg(target_os = "linux")]
use std::os::fd::{AsRawFd as _, OwnedFd};

#[cfg(target_os = "linux")]
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

/// Names a watched file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched(i32);

/// The files that were written since the last look.
#[derive(Debug, Default)]
pub struct Written {
    files: Vec<i32>,
    /// Whether other files may have been written, too.
    is_incomplete: bool,
}

impl Written {
    /// Whether the file may have been written. That is so for a file that is not watched.
    pub fn includes(&self, file: Option<Watched>) -> bool {
        self.is_incomplete || file.is_none_or(|Watched(number)| self.files.contains(&number))
    }
}

/// Watches files until it is dropped.
#[derive(Debug)]
#[cfg(target_os = "linux")]
pub struct LimitChanges(Option<OwnedFd>);

#[cfg(target_os = "linux")]
impl LimitChanges {
    /// Watches nothing yet. If the kernel allows no watching, nothing is watched later.
    pub fn new() -> Self {
        Self(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok())
    }

    /// Watches a file. Returns `None` if it cannot be watched.
    pub fn watch(&self, file: BorrowedFd<'_>) -> Option<Watched> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        inotify::add_watch(self.0.as_ref()?, path, WatchFlags::MODIFY).ok().map(Watched)
    }

    /// Ends the watch of a file, which would outlive the file's descriptor.
    pub fn forget(&self, Watched(number): Watched) {
        if let Some(inotify) = &self.0 {
            // It fails if the kernel has ended the watch.
            _ = inotify::remove_watch(inotify, number);
        }
    }

    /// Ends all watches.
    pub fn stop(&mut self) {
        self.0 = None;
    }

    /// Returns the files that were written since the last call.
    pub fn take(&mut self) -> Written {
        let mut written = Written { files: Vec::new(), is_incomplete: self.0.is_none() };
        let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 1024];
        if let Some(inotify) = &self.0 {
            let mut events = Reader::new(inotify, &mut buffer);
            while let Ok(event) = events.next() {
                written.is_incomplete |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                // The end of a watch is reported, too.
                if event.events().contains(ReadFlags::MODIFY) {
                    written.files.push(event.wd());
                }
            }
        }
        written
    }
}

/// On other systems only recordings are read, and nothing is watched.
#[derive(Debug)]
#[cfg(not(target_os = "linux"))]
pub struct LimitChanges;

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unused_self, reason = "as on Linux")]
impl LimitChanges {
    /// Watches nothing.
    pub fn new() -> Self {
        Self
    }

    /// Returns `None`, because the file is not watched.
    pub fn watch(&self, _: BorrowedFd<'_>) -> Option<Watched> {
        None
    }

    /// Does nothing.
    pub fn forget(&self, _: Watched) {}

    /// Does nothing.
    pub fn stop(&mut self) {}

    /// Returns that each file may have been written.
    pub fn take(&mut self) -> Written {
        Written { files: Vec::new(), is_incomplete: true }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd as _;

    #[test]
    fn a_file_that_is_written_is_included_once() {
        let path = |name: &str| std::env::temp_dir().join(format!("smaps-limit-{name}-{}", std::process::id()));
        let mut changes = LimitChanges::new();
        let [written, other, forgotten] = ["written", "other", "forgotten"].map(|name| {
            fs::write(path(name), "1\n").unwrap();
            let file = fs::File::open(path(name)).unwrap();
            let watched = changes.watch(file.as_fd()).unwrap();
            (path(name), file, watched)
        });
        assert!(!changes.take().includes(Some(written.2)), "nothing was written since");
        changes.forget(forgotten.2);
        for (path, ..) in [&written, &forgotten] {
            fs::write(path, "2\n").unwrap();
        }
        let taken = changes.take();
        assert!(taken.includes(Some(written.2)) && !taken.includes(Some(other.2)));
        assert!(taken.includes(None) && !taken.includes(Some(forgotten.2)));
        assert!(!changes.take().includes(Some(written.2)));
        changes.stop();
        assert!(changes.take().includes(Some(other.2)) && changes.watch(other.1.as_fd()).is_none());
        [written, other, forgotten].iter().for_each(|(path, ..)| fs::remove_file(path).unwrap());
    }
}
