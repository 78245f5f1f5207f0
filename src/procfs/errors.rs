//! Why a read of a process failed, and which errno means what.

use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::errors::plain;

/// Why a read of a process returned no values.
#[derive(Debug)]
pub enum ReadError {
    /// This program may not open the smaps of the process (`EACCES`, `EPERM`).
    Denied,
    /// The process executed another program during the read. The mappings belong to an address space that no
    /// longer exists.
    Exec,
    /// The process has ended (`ENOENT`, `ESRCH`).
    Gone,
    /// Two mappings overlap. The process changed its mappings during the read, so the two mappings never
    /// existed at the same time.
    Torn,
    /// The read was cancelled, because the kernel took too long to print everything.
    Slow,
    /// Any other error.
    Io(io::Error),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied => f.write_str("permission denied"),
            Self::Exec => f.write_str("it executed another program during the read"),
            Self::Gone => f.write_str("it has ended"),
            Self::Torn => f.write_str("its mappings changed during the read"),
            Self::Slow => f.write_str("the read took too long"),
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
    fn each_errno_has_its_error() {
        for (errno, text) in [
            (Errno::ACCESS, "permission denied"),
            (Errno::PERM, "permission denied"),
            (Errno::NOENT, "it has ended"),
            (Errno::SRCH, "it has ended"),
            (Errno::MFILE, "too many open files"),
        ] {
            assert_eq!(ReadError::from(errno).to_string(), text);
            assert_eq!(ReadError::from(io::Error::from(errno)).to_string(), text);
        }
        assert_eq!(ReadError::from(io::Error::other("odd")).to_string(), "odd");
    }
}
