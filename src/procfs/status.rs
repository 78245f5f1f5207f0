//! Parses what the exporter needs from `/proc/<pid>/status` and from the `status` of a thread (man 5
//! proc_pid_status).

/// Returns the state of a process or thread, given the text of its `status` file. `Z` is a zombie, and `D` is
/// an uninterruptible wait.
pub fn state_of(status: &[u8]) -> Option<u8> {
    let line = status.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"State:\t"))?;
    line.first().copied()
}

/// What `status` shows about a process that runs, or that has just ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The name of the process, with `\n` for a newline and `\\` for a backslash.
    pub name: String,
    /// The resident bytes of anonymous memory, of files, and of shared memory. `None` if the process has
    /// released its memory. Before Linux 4.5, the kernel prints only the sum. The whole sum is then given as
    /// anonymous memory.
    pub rss: Option<[u64; 3]>,
    /// Whether the process was sent SIGKILL, but has not ended yet.
    pub is_killed: bool,
}

impl Status {
    /// Parses the text of a `status` file.
    pub fn parse(text: &[u8]) -> Self {
        let mut status = Self::default();
        let (mut sum, mut parts) = (None, [None; 3]);
        for line in text.split(|&b| b == b'\n') {
            let Some(colon) = line.iter().position(|&b| b == b':') else { continue };
            let value = line[colon + 1..].trim_ascii();
            match &line[..colon] {
                b"Name" => status.name = String::from_utf8_lossy(value).into_owned(),
                b"VmRSS" => sum = kib(value),
                b"RssAnon" => parts[0] = kib(value),
                b"RssFile" => parts[1] = kib(value),
                b"RssShmem" => parts[2] = kib(value),
                b"SigPnd" | b"ShdPnd" => {
                    // Signal 9 is bit 8 of the mask, which is hexadecimal.
                    let mask = str::from_utf8(value).ok().and_then(|mask| u64::from_str_radix(mask, 16).ok());
                    status.is_killed |= mask.unwrap_or_default() & 1 << 8 != 0;
                }
                _ => {}
            }
        }
        status.rss = match parts {
            [None, None, None] => sum.map(|sum| [sum, 0, 0]),
            parts => Some(parts.map(Option::unwrap_or_default)),
        };
        status
    }

    /// Returns all resident bytes.
    pub fn resident(&self) -> u64 {
        self.rss.iter().flatten().sum()
    }
}

/// Parses a number of KiB, and returns the number of bytes.
fn kib(value: &[u8]) -> Option<u64> {
    let number = value.strip_suffix(b" kB")?.trim_ascii();
    std::str::from_utf8(number).ok()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Whether this text of a `status` file is that of a zombie without other threads.
pub fn is_zombie(status: &[u8]) -> bool {
    let mut lines = status.split(|&b| b == b'\n');
    state_of(status) == Some(b'Z') && lines.any(|line| matches!(line, b"Threads:\t1" | b"Threads:\t0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_of_a_task_is_found() {
        for (status, state) in [
            ("Name:\tx\nUmask:\t0022\nState:\tZ (zombie)\nTgid:\t1\n", Some(b'Z')),
            ("Name:\tState:\nState:\tD (disk sleep)\n", Some(b'D')),
            ("Name:\tx\n", None),
            ("State:\t", None),
            ("", None),
        ] {
            assert_eq!(state_of(status.as_bytes()), state, "{status:?}");
        }
    }

    #[test]
    fn status_shows_memory_and_sigkill() {
        let status = |name: &str, rss, is_killed| Status { name: name.to_owned(), rss, is_killed };
        let alive = "Name:\ta:b\\nc\nState:\tR (running)\nVmRSS:\t      70 kB\nRssAnon:\t      40 \
            kB\nRssFile:\t      20 kB\nRssShmem:\t      10 \
            kB\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000004000\n";
        for (text, expected, resident) in [
            (alive.to_owned(), status("a:b\\nc", Some([40, 20, 10].map(|kib| kib << 10)), false), 70 << 10),
            (
                alive.replace("4000", "0100"),
                status("a:b\\nc", Some([40, 20, 10].map(|kib| kib << 10)), true),
                70 << 10,
            ),
            (
                "Name:\tx\nVmRSS:\t5 kB\nSigPnd:\t0000000000000300\n".into(),
                status("x", Some([5 << 10, 0, 0]), true),
                5 << 10,
            ),
            ("Name:\tx\nState:\tZ (zombie)\nShdPnd:\t0000000000000200\n".into(), status("x", None, false), 0),
            ("SigPnd:\t0000000000000a00\n".into(), status("", None, false), 0),
            ("SigPnd:\t0000000000000b00\n".into(), status("", None, true), 0),
            ("VmRSS:\tx kB\nSigPnd:\t1\n".into(), status("", None, false), 0),
        ] {
            let found = Status::parse(text.as_bytes());
            assert_eq!((&found, found.resident()), (&expected, resident), "{text:?}");
        }
    }

    #[test]
    fn zombie_leader_with_other_threads_is_no_zombie() {
        for (status, expected) in [
            ("State:\tZ (zombie)\nThreads:\t1\n", true),
            ("State:\tZ (zombie)\nThreads:\t0\n", true),
            ("State:\tZ (zombie)\nThreads:\t10\n", false),
            ("State:\tS (sleeping)\nThreads:\t1\n", false),
            ("State:\tZ (zombie)\n", false),
        ] {
            assert_eq!(is_zombie(status.as_bytes()), expected, "{status:?}");
        }
    }
}
