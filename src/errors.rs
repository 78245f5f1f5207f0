//! Turns errors of the operating system into text for one-line messages.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the sandbox is on. In the sandbox, a system call that is not on the sandbox's list fails with
/// `EPERM`.
static IS_SANDBOXED: AtomicBool = AtomicBool::new(false);

/// From this call on, the text of every `EPERM` error says that the sandbox may be the reason.
pub(crate) fn blame_sandbox() {
    IS_SANDBOXED.store(true, Ordering::Relaxed);
}

/// The error number that `EPERM` stands for, which is the same on every system.
const EPERM: i32 = 1;

/// Returns the text of a system error in lower case and without the error's number. For example, std writes
/// `No such file or directory (os error 2)`, and this function returns `no such file or directory`. The text
/// of other errors is not changed.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(number) => {
            let text = text.trim_end_matches(&format!(" (os error {number})")).to_lowercase();
            // The sandbox may have refused the system call with EPERM. The system's error text does not show
            // this.
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
