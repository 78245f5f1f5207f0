//! The contents of `/proc/<pid>/stat` (man 5 proc_pid_stat).

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

use rustix::time::{ClockId, clock_gettime};

/// The activity of a process since it started, as far as `stat` shows it. A recording has no `stat`. In a
/// recording, the fields contain the size, the inode number and the times of the smaps file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// The numbers of minor and major page faults.
    pub faults: [u64; 2],
    /// The user and system CPU time, in clock ticks of 10 ms. Equal values do not prove that the process did
    /// not run, because less than one tick is not visible.
    pub cpu_ticks: [u64; 2],
    /// The size in bytes, and the number of resident pages.
    pub size: [u64; 2],
    /// The start addresses of code and stack. Different programs have different addresses. Forks of one
    /// program have the same addresses.
    pub program: [u64; 2],
    /// Whether the process is in a recording. The other fields then describe the recorded smaps file. As long
    /// as they stay the same, the mappings in that file are the same, too.
    pub is_recorded: bool,
}

impl Work {
    /// Returns the size, the inode number and the times of a recorded smaps file. Returns `None` if the file
    /// was changed in the last two seconds. File times may be in whole seconds, so another change in the same
    /// second might not show.
    pub fn of_recording(file: &Metadata) -> Option<Self> {
        let now = clock_gettime(ClockId::Realtime);
        let is_settled = [file.mtime(), file.ctime()].iter().all(|&at| at + 1 < now.tv_sec);
        let [modified, changed] = [(file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec())]
            .map(|(seconds, nanoseconds)| [seconds as u64, nanoseconds as u64]);
        let size = [file.len(), file.ino()];
        let work = Self { faults: modified, cpu_ticks: changed, size, program: [0; 2], is_recorded: true };
        is_settled.then_some(work)
    }

    /// Returns the start addresses of code and stack. Returns `None` if the kernel hides the addresses: a
    /// reader that may not trace the process sees 1 and 0 (fs/proc/array.c).
    pub fn visible_program(&self) -> Option<[u64; 2]> {
        self.program.iter().all(|&address| address > 1).then_some(self.program)
    }
}

/// The parts of a `stat` file that the exporter uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// The start time in clock ticks since boot.
    pub start_time: u64,
    /// Whether the process is a kernel thread.
    pub is_kernel_thread: bool,
    /// Whether the process is a zombie without other threads. Such a process maps nothing and never will.
    pub is_zombie: bool,
    /// How active the process has been since it started, and which program it runs.
    pub work: Work,
}

impl Stat {
    /// Parses the text of a `stat` file. Returns `None` if the text is malformed.
    pub fn parse(text: &[u8]) -> Option<Self> {
        // include/linux/sched.h
        const PF_KTHREAD: u64 = 0x20_0000;
        let (_, fields) = split(text)?;
        let mut fields = std::str::from_utf8(fields).ok()?.split_ascii_whitespace();
        let state = fields.next()?;
        let mut fields = fields.skip(9 - 4);
        let mut next = |n_skipped| fields.nth(n_skipped)?.parse::<u64>().ok();
        let flags = next(0)?;
        let faults = [next(0)?, next(1)?]; // skips the children's minor faults
        let cpu_ticks = [next(1)?, next(0)?];
        let n_threads = next(20 - 16)?;
        let start_time = next(22 - 21)?;
        let size = [next(0)?, next(0)?];
        let program = [next(1).unwrap_or_default(), next(1).unwrap_or_default()];
        let work = Work { faults, cpu_ticks, size, program, is_recorded: false };
        let is_zombie = matches!(state, "Z" | "X") && n_threads <= 1;
        Some(Self { start_time, is_kernel_thread: flags & PF_KTHREAD != 0, is_zombie, work })
    }
}

/// Returns the command name in the text of a `stat` file. Returns `None` if the name may contain a newline or
/// a backslash, because `stat` then shows it in another form than `comm`.
pub fn name(text: &[u8]) -> Option<&[u8]> {
    let (name, _) = split(text)?;
    (!name.contains(&b'\\')).then_some(name)
}

/// Returns the name in the text of a `stat` file, and the fields after it. The name is in parentheses, and
/// may itself contain parentheses. So the last `)` in the text ends the name.
fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let begin = text.iter().position(|&b| b == b'(')? + 1;
    let end = text.iter().rposition(|&b| b == b')')?;
    Some((text.get(begin..end)?, &text[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_between_the_outermost_parentheses() {
        for (text, expected) in [
            ("42 (sleep) S 1 42", Some("sleep")),
            ("42 () S 1 42", Some("")),
            ("42 (a) b (c)) S 1 42", Some("a) b (c)")),
            (r"42 (a\nb) S 1 42", None),
            (")(", None),
            ("42", None),
        ] {
            assert_eq!(name(text.as_bytes()), expected.map(str::as_bytes), "{text}");
        }
    }

    #[test]
    fn stat_is_parsed() {
        let stat_of = |name: &str, state: &str, flags: u32, n_threads: u32| {
            let text = format!(
                "42 ({name}) {state} 1 42 42 0 -1 {flags} 10 11 12 13 14 15 16 17 20 0 {n_threads} 0 7788 \
                 2445312 202 184467 26 27 28 29\n"
            );
            Stat::parse(text.as_bytes()).unwrap()
        };
        let stat = |name, flags| stat_of(name, "S", flags, 1);
        for (state, n_threads, expected) in [
            ("Z", 1, true),
            ("Z", 0, true),
            ("X", 0, true),
            ("Z", 2, false),
            ("S", 1, false),
            ("D", 9, false),
        ] {
            assert_eq!(stat_of(") Z 1 (", state, 0, n_threads).is_zombie, expected, "{state} {n_threads}");
        }
        for name in ["sleep", "", "a b", ") Z 0 (", "x) S 1 2 3", "\n"] {
            let work = Work {
                faults: [10, 12],
                cpu_ticks: [14, 15],
                size: [2_445_312, 202],
                program: [26, 28],
                is_recorded: false,
            };
            let plain = Stat { start_time: 7788, is_kernel_thread: false, is_zombie: false, work };
            assert_eq!(stat(name, 0x40_0000), plain, "{name:?}");
            assert_eq!(stat(name, 0x20_8040), Stat { is_kernel_thread: true, ..plain }, "{name:?}");
        }
        for text in [
            "",
            "42 (x) S 1",
            "42 x S 1 42 42 0 -1 0",
            ")",
            "1 (x) S 1 42 42 0 -1 y",
            "42 (x) S 1 42 42 0 -1 1 2 3 4 5 6 7 8 9 20 0 1 0 7788 9",
        ] {
            assert_eq!(Stat::parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
