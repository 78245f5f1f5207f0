//! What one series stands for: a path, a kind of mapping, or a whole process.

/// What one series stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupBy {
    /// One mapped path of one command.
    #[default]
    Path,
    /// One kind of mapping (file, anonymous, heap, ...) of one command.
    Kind,
    /// All mappings of one command.
    Process,
}

/// A path is cut here. No call takes a longer one than 4,096 bytes, of which the kernel prints each newline as four; but directories
/// can be nested to any depth step by step, and then it prints all of it, on every line that we export.
const MAX_PATH_LEN: usize = 4 * 4096;

impl GroupBy {
    /// The value that a mapping with this path, as the kernel prints it, is grouped by; the label's value, but for bytes that are
    /// not UTF-8.
    pub fn value(self, path: &[u8]) -> &[u8] {
        match (self, path) {
            (Self::Process, _) => b"",
            (Self::Kind, path) => kind(path).as_bytes(),
            (Self::Path, b"") => b"[anon]",
            (Self::Path, path) => &path[..path.len().min(MAX_PATH_LEN)],
        }
    }
}

/// The kind of mapping that a path stands for, the value of the label `kind`.
pub fn kind(path: &[u8]) -> &'static str {
    let begins = |beginnings: &[&str]| beginnings.iter().any(|b| path.starts_with(b.as_bytes()));
    match path {
        b"" | b"[anon]" => "anon",
        b"[heap]" => "heap",
        b"/dev/zero (deleted)" => "shm",
        _ if begins(&["[anon:"]) => "anon",
        _ if begins(&["[stack"]) => "stack",
        _ if begins(&["/dev/shm/", "/memfd:", "/SYSV", "[anon_shmem:"]) => "shm",
        _ if begins(&["/"]) => "file",
        _ => "special",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        for (path, expected) in [
            ("", "anon"),
            ("[anon]", "anon"),
            ("[anon:glibc: malloc]", "anon"),
            ("[anonymous]", "special"),
            ("[heap]", "heap"),
            ("[stack]", "stack"),
            ("[stack:42]", "stack"),
            ("/dev/shm/x", "shm"),
            ("/dev/shm", "file"),
            ("/memfd:x (deleted)", "shm"),
            ("/SYSV00000000 (deleted)", "shm"),
            ("/dev/zero (deleted)", "shm"),
            ("/dev/zero", "file"),
            ("[anon_shmem:x]", "shm"),
            ("/usr/bin/x", "file"),
            ("[vdso]", "special"),
            ("anon_inode:[perf_event]", "special"),
            ("socket:[1]", "special"),
        ] {
            assert_eq!(kind(path.as_bytes()), expected, "{path:?}");
        }
    }

    #[test]
    fn what_a_mapping_is_grouped_by() {
        assert_eq!(GroupBy::Path.value(b""), b"[anon]");
        assert_eq!(GroupBy::Path.value(b"/a\xff"), b"/a\xff");
        assert_eq!(GroupBy::Path.value(&[b'/'; 20_000]), [b'/'; 16_384]);
        assert_eq!(GroupBy::Kind.value(b"/a"), b"file");
        assert_eq!(GroupBy::Process.value(b"/a"), b"");
    }
}
