//! Reports when a limit file of a cgroup is written, and when a cgroup is created. Without these reports, the
//! exporter would have to read all limits and list all cgroups once a second.
//!
//! inotify reports each write to a cgroup's file. Watching a file needs no permission to write it. Watching
//! fails if a security policy forbids it, or if too many files are watched already
//! (`fs.inotify.max_user_watches`).

use std::os::fd::BorrowedFd;
#[cfg(target_os = "linux")]
use std::os::fd::{AsRawFd as _, OwnedFd};

#[cfg(target_os = "linux")]
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

/// Identifies a watched file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched(i32);

/// What has changed since the last call of [`Changes::take`].
#[derive(Debug, Default)]
pub struct Changed {
    written: Vec<i32>,
    has_new: bool,
    /// Whether changes may be missing from `written` and `has_new`, because nothing is watched or because the
    /// kernel has dropped events.
    is_incomplete: bool,
}

impl Changed {
    /// Whether the file may have been written. For a file that is not watched, this is always true.
    pub fn includes(&self, file: Option<Watched>) -> bool {
        self.is_incomplete || file.is_none_or(|Watched(number)| self.written.contains(&number))
    }

    /// Whether a watched directory may contain a new cgroup.
    pub fn has_new(&self) -> bool {
        self.is_incomplete || self.has_new
    }
}

/// Watches files and directories with inotify, until it is dropped.
#[derive(Debug)]
#[cfg(target_os = "linux")]
pub struct Changes(Option<OwnedFd>);

#[cfg(target_os = "linux")]
impl Default for Changes {
    /// Creates a watch that covers no file and no directory yet. If the kernel does not allow inotify,
    /// nothing can be watched later: [`Changes::watch_file`] and [`Changes::watch_directory`] return `None`.
    fn default() -> Self {
        Self(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok())
    }
}

#[cfg(target_os = "linux")]
impl Changes {
    /// Watches a file for writes. If the kernel refuses, returns `None`, and ends the watches on all other
    /// files and directories, too.
    pub fn watch_file(&mut self, file: BorrowedFd<'_>) -> Option<Watched> {
        self.watch(file, WatchFlags::MODIFY)
    }

    /// Watches a directory for new cgroups. If the kernel refuses, returns `None`, and ends the watches on
    /// all other files and directories, too.
    pub fn watch_directory(&mut self, directory: BorrowedFd<'_>) -> Option<Watched> {
        self.watch(directory, WatchFlags::CREATE)
    }

    fn watch(&mut self, file: BorrowedFd<'_>, events: WatchFlags) -> Option<Watched> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let watched = inotify::add_watch(self.0.as_ref()?, path, events);
        if watched.is_err() {
            self.stop();
        }
        watched.ok().map(Watched)
    }

    /// Ends the watch on one file or directory.
    pub fn forget(&self, Watched(number): Watched) {
        if let Some(inotify) = &self.0 {
            // An error means that the kernel has already ended the watch.
            _ = inotify::remove_watch(inotify, number);
        }
    }

    /// Ends all watches.
    pub fn stop(&mut self) {
        self.0 = None;
    }

    /// Returns what has changed since the last call.
    pub fn take(&mut self) -> Changed {
        let mut changed = Changed { is_incomplete: self.0.is_none(), ..Changed::default() };
        let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 1024];
        if let Some(inotify) = &self.0 {
            let mut events = Reader::new(inotify, &mut buffer);
            while let Ok(event) = events.next() {
                // The kernel also reports the end of a watch. That event has none of the flags below, so it
                // is ignored.
                changed.is_incomplete |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                changed.has_new |= event.events().contains(ReadFlags::CREATE);
                if event.events().contains(ReadFlags::MODIFY) {
                    changed.written.push(event.wd());
                }
            }
        }
        changed
    }
}

/// The version of `Changes` for systems other than Linux, where the exporter only reads recordings. It
/// watches nothing.
#[derive(Debug, Default)]
#[cfg(not(target_os = "linux"))]
pub struct Changes;

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unused_self, reason = "as on Linux")]
impl Changes {
    /// Returns `None`: no file can be watched on this system.
    pub fn watch_file(&mut self, _: BorrowedFd<'_>) -> Option<Watched> {
        None
    }

    /// Returns `None`: no directory can be watched on this system.
    pub fn watch_directory(&mut self, _: BorrowedFd<'_>) -> Option<Watched> {
        None
    }

    /// Does nothing.
    pub fn forget(&self, _: Watched) {}

    /// Does nothing.
    pub fn stop(&mut self) {}

    /// Always reports that any file may have been written and that new cgroups may exist, because nothing can
    /// be watched on this system.
    pub fn take(&mut self) -> Changed {
        Changed { is_incomplete: true, ..Changed::default() }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::procfs::files::open_directory;
    use std::fs;
    use std::os::fd::AsFd as _;

    #[test]
    fn a_file_that_is_written_is_included_once() {
        let path =
            |name: &str| std::env::temp_dir().join(format!("smaps-limit-{name}-{}", std::process::id()));
        let mut changes = Changes::default();
        let [written, other, forgotten] = ["written", "other", "forgotten"].map(|name| {
            fs::write(path(name), "1\n").unwrap();
            let file = fs::File::open(path(name)).unwrap();
            let watched = changes.watch_file(file.as_fd()).unwrap();
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
        assert!(changes.take().includes(Some(other.2)) && changes.watch_file(other.1.as_fd()).is_none());
        [written, other, forgotten].iter().for_each(|(path, ..)| fs::remove_file(path).unwrap());
    }

    #[test]
    fn a_new_cgroup_in_a_watched_directory_is_noticed_once() {
        let path = std::env::temp_dir().join(format!("smaps-new-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let directory = open_directory(rustix::fs::CWD, &path).unwrap();
        let mut changes = Changes::default();
        let watched = changes.watch_directory(directory.as_fd());
        assert!(watched.is_some() && !changes.take().has_new());
        fs::create_dir(path.join("pod")).unwrap();
        assert!(changes.take().has_new() && !changes.take().has_new());
        fs::remove_dir_all(&path).unwrap();
        assert!(!changes.take().has_new(), "a removed cgroup is not new");
        changes.stop();
        assert!(changes.take().has_new(), "there may be one");
    }
}
