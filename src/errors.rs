//! Turns the system's errors into text for messages of one line.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the sandbox is on: then system calls that it does not list fail with `EPERM`.
static IS_SANDBOXED: AtomicBool = AtomicBool::new(false);

/// Makes later errors say that a missing permission may be due to the sandbox.
pub(crate) fn blame_sandbox() {
    IS_SANDBOXED.store(true, Ordering::Relaxed);
}

/// The number of EPERM, which is the same on every system.
const EPERM: i32 = 1;

/// Returns the system's text in lower case and without its number. For example, std writes `No such file or
/// directory (os error 2)`, and this returns `no such file or directory`. Other errors keep their text.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(number) => {
            let text = text.trim_end_matches(&format!(" (os error {number})")).to_lowercase();
            // The sandbox makes unlisted system calls fail with this error. Without this hint, nothing would
            // point to the sandbox.
            if number == EPERM && IS_SANDBOXED.load(Ordering::Relaxed) {
                return text + " (or not allowed by the sandbox: see --sandbox)";
            }
            text
        }
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_numbers_are_removed() {
        let cases = [
            (io::Error::from_raw_os_error(2), "no such file or directory"),
            (io::Error::from_raw_os_error(13), "permission denied"),
            (io::Error::other("line 1 holds \"A\" (os error 2)"), "line 1 holds \"A\" (os error 2)"),
        ];
        for (error, text) in cases {
            assert_eq!(plain(&error), text);
        }
    }
}
