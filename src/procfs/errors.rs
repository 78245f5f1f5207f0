//! Why a read of a process came to nothing: a policy for each errno.

use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::errors::plain;

/// Why a process gave no values.
#[derive(Debug)]
pub enum ReadError {
    /// Its smaps may not be opened (`EACCES`, `EPERM`).
    Denied,
    /// It executed another program while it was read: what was read belongs to no address space any more.
    Exec,
    /// It ended (`ENOENT`, `ESRCH`).
    Gone,
    /// Two mappings overlap: they changed during the read and never existed at the same time.
    Torn,
    /// The kernel had not printed all of it when it was given up.
    Slow,
    /// Anything else.
    Io(io::Error),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied => f.write_str("permission denied"),
            Self::Exec => f.write_str("it executed another program meanwhile"),
            Self::Gone => f.write_str("it ended meanwhile"),
            Self::Torn => f.write_str("its mappings changed while they were read"),
            Self::Slow => f.write_str("it takes too long"),
            Self::Io(error) => f.write_str(&plain(error)),
        }
    }
}

impl From<Errno> for ReadError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::NOENT | Errno::SRCH => Self::Gone,
            other => Self::Io(other.into()),
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => errno.into(),
            None => Self::Io(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_for_each_errno() {
        for (errno, text) in [
            (Errno::ACCESS, "permission denied"),
            (Errno::PERM, "permission denied"),
            (Errno::NOENT, "it ended meanwhile"),
            (Errno::SRCH, "it ended meanwhile"),
            (Errno::MFILE, "too many open files"),
        ] {
            assert_eq!(ReadError::from(errno).to_string(), text);
            assert_eq!(ReadError::from(io::Error::from(errno)).to_string(), text);
        }
        assert_eq!(ReadError::from(io::Error::other("odd")).to_string(), "odd");
    }
}
