//! What `/proc/<pid>/stat` tells (man 5 proc_pid_stat).

/// What is needed of a `stat` file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// In clock ticks since boot.
    pub start_time: u64,
    /// It runs in the kernel only.
    pub is_kernel_thread: bool,
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
        let flags: u64 = fields.next()?.parse().ok()?;
        let start_time = fields.nth(22 - 10)?.parse().ok()?;
        Some(Self { start_time, is_kernel_thread: flags & PF_KTHREAD != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_of_stat() {
        let stat = |name: &str, flags: u32| {
            let text = format!(
                "42 ({name}) S 1 42 42 0 -1 {flags} 90 0 0 0 0 0 0 0 20 0 1 0 7788 2445312 202 184467\n"
            );
            Stat::parse(text.as_bytes()).unwrap()
        };
        for name in ["sleep", "", "a b", ") Z 0 (", "x) S 1 2 3", "\n"] {
            let plain = Stat { start_time: 7788, is_kernel_thread: false };
            assert_eq!(stat(name, 0x40_0000), plain, "{name:?}");
            assert_eq!(stat(name, 0x20_8040), Stat { is_kernel_thread: true, ..plain }, "{name:?}");
        }
        for text in ["", "42 (x) S 1", "42 x S 1 42 42 0 -1 0", ")", "1 (x) S 1 42 42 0 -1 y"] {
            assert_eq!(Stat::parse(text.as_bytes()), None, "{text:?}");
        }
    }
}
