//! The memory event counters of one cgroup, read from files that stay open.
//!
//! An open file can be polled: the kernel signals a new event by `POLLPRI`. Each open file takes 5 KB of
//! kernel memory, and each read takes 2 microseconds. Reads fail once the cgroup is removed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::fields::number;

/// The memory event counters of a cgroup since it was created. A counter that the kernel does not print is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// How often the cgroup, or a cgroup below it, has reached its limit.
    pub max: u64,
    /// How often the cgroup, or a cgroup below it, was at its limit and the kernel could free no memory.
    pub oom: u64,
    /// How often the cgroup itself was at its limit and the kernel could free no memory.
    pub own_oom: u64,
    /// How many processes the kernel has killed in the cgroup and below it. When the kernel kills all
    /// processes of a cgroup at once (`memory.oom.group`), it counts the first one twice.
    pub kills: u64,
}

/// The open files with the counters of one cgroup.
#[derive(Debug)]
pub struct EventFiles {
    /// The file `memory.events`, which includes the events of the cgroups below. On version 1, the file is
    /// `memory.oom_control`.
    all: OwnedFd,
    /// The file `memory.events.local`, which does not include the events of the cgroups below.
    own: Option<OwnedFd>,
}

impl EventFiles {
    /// Creates a reader of two open files. `all` counts the events of the cgroup and of the cgroups below it,
    /// and `own` counts the events of the cgroup alone.
    pub fn new(all: OwnedFd, own: Option<OwnedFd>) -> Self {
        Self { all, own }
    }

    /// Reads the counters. Returns `None` if the cgroup is gone.
    pub fn read(&self) -> Option<EventCounts> {
        let mut counts = EventCounts::default();
        read(&self.all, |key, count| match key {
            b"max" => counts.max = count,
            b"oom" => counts.oom = count,
            b"oom_kill" => counts.kills = count,
            _ => {}
        })?;
        if let Some(own) = &self.own {
            read(own, |key, count| {
                if key == b"oom" {
                    counts.own_oom = count;
                }
            })?;
        }
        Some(counts)
    }
}

/// The descriptor to poll for events.
impl AsFd for EventFiles {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.all.as_fd()
    }
}

/// Calls `each` with every key and count in a file. Returns `None` if the file cannot be read.
fn read(file: &OwnedFd, mut each: impl FnMut(&[u8], u64)) -> Option<()> {
    let mut text = [0; 512];
    let n_bytes = rustix::io::pread(file, &mut text, 0).ok()?;
    for line in text[..n_bytes].split(|&b| b == b'\n') {
        let Some(space) = line.iter().position(|&b| b == b' ') else { continue };
        if let Some(count) = number(&line[space + 1..]) {
            each(&line[..space], count);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn counters_are_read_in_both_versions() {
        let path = std::env::temp_dir().join(format!("smaps-events-{}", std::process::id()));
        let open = |text: &str| {
            fs::write(&path, text).unwrap();
            OwnedFd::from(fs::File::open(&path).unwrap())
        };
        let counts = |max, oom, own_oom, kills| EventCounts { max, oom, own_oom, kills };
        for (text, expected) in [
            ("low 0\nhigh 1\nmax 22\noom 3\noom_kill 4\noom_group_kill 1\n", counts(22, 3, 0, 4)),
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", counts(0, 0, 0, 7)),
            ("oom_kill_disable 0\nunder_oom 0\n", counts(0, 0, 0, 0)),
            ("oom_kill\noom_kill x\n\n", counts(0, 0, 0, 0)),
        ] {
            assert_eq!(EventFiles::new(open(text), None).read(), Some(expected), "{text:?}");
        }
        fs::remove_file(&path).unwrap();
        let all = open("oom 5\noom_kill 6\n");
        fs::remove_file(&path).unwrap();
        let own = open("oom 2\noom_kill 0\n");
        assert_eq!(EventFiles::new(all, Some(own)).read(), Some(counts(0, 5, 2, 6)));
        let directory = OwnedFd::from(fs::File::open(std::env::temp_dir()).unwrap());
        assert_eq!(EventFiles::new(directory, None).read(), None, "a file that cannot be read");
        fs::remove_file(&path).unwrap();
    }
}
