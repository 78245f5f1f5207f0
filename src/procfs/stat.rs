//! What `/proc/<pid>/stat` tells (man 5 proc_pid_stat).

/// What a process has done since it began, as far as `stat` tells; in a recording, which state its smaps is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Page faults, minor and major.
    pub faults: [u64; 2],
    /// CPU time, user and system, in clock ticks: 10 ms each, so that none proves nothing.
    pub cpu_ticks: [u64; 2],
    /// Its size in bytes, and its resident pages.
    pub size: [u64; 2],
    /// Where its code and its stack begin: another program's begin elsewhere, and those of its forks do not.
    pub program: [u64; 2],
    /// It is recorded: where nothing has changed here, nothing has changed.
    pub is_recorded: bool,
}

impl Work {
    /// Returns the addresses of code and stack. `None` if the kernel hides them: a reader that may not trace
    /// the process gets 1 and 0 (fs/proc/array.c).
    pub fn visible_program(&self) -> Option<[u64; 2]> {
        self.program.iter().all(|&address| address > 1).then_some(self.program)
    }
}

/// What is needed of a `stat` file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// In clock ticks since boot.
    pub start_time: u64,
    /// It runs in the kernel only.
    pub is_kernel_thread: bool,
    /// What it has done.
    pub work: Work,
}

impl Stat {
    /// Parses the text of a `stat` file; `None` if it is none.
    pub fn parse(text: &[u8]) -> Option<Self> {
        // include/linux/sched.h
        const PF_KTHREAD: u64 = 0x20_0000;
        // The name in parentheses may hold anything, parentheses too; behind it come numbers, from the third field on.
        let name_end = text.iter().rposition(|&b| b == b')')?;
        let mut fields =
            std::str::from_utf8(&text[name_end + 1..]).ok()?.split_ascii_whitespace().skip(9 - 3);
        let mut next = |n_skipped| fields.nth(n_skipped)?.parse::<u64>().ok();
        let flags = next(0)?;
        let faults = [next(0)?, next(1)?]; // the children's between them
        let cpu_ticks = [next(1)?, next(0)?];
        let start_time = next(22 - 16)?;
        let size = [next(0)?, next(0)?];
        let program = [next(1).unwrap_or_default(), next(1).unwrap_or_default()];
        let work = Work { faults, cpu_ticks, size, program, is_recorded: false };
        Some(Self { start_time, is_kernel_thread: flags & PF_KTHREAD != 0, work })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_of_stat() {
        let stat = |name: &str, flags: u32| {
            let text = format!(
                "42 ({name}) S 1 42 42 0 -1 {flags} 10 11 12 13 14 15 16 17 20 0 1 0 7788 2445312 202 184467 26 27 28 29\n"
            );
            Stat::parse(text.as_bytes()).unwrap()
        };
        for name in ["sleep", "", "a b", ") Z 0 (", "x) S 1 2 3", "\n"] {
            let work = Work {
                faults: [10, 12],
                cpu_ticks: [14, 15],
                size: [2_445_312, 202],
                program: [26, 28],
                is_recorded: false,
            };
            let plain = Stat { start_time: 7788, is_kernel_thread: false, work };
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
