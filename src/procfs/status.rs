//! The contents of `/proc/<pid>/status` and of a thread's (man 5 proc_pid_status), as far as they are used.

/// Returns the state of a task, given the text of its `status` file: `Z` for a zombie, `D` for an
/// uninterruptible wait.
pub fn state_of(status: &[u8]) -> Option<u8> {
    let line = status.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"State:\t"))?;
    line.first().copied()
}

/// Whether this is the `status` of a zombie without further threads.
pub fn is_zombie(status: &[u8]) -> bool {
    let mut lines = status.split(|&b| b == b'\n');
    state_of(status) == Some(b'Z') && lines.any(|line| matches!(line, b"Threads:\t1" | b"Threads:\t0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states() {
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
    fn a_zombie_with_other_threads_is_none() {
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
