//! The text of the system's errors, for messages of one line.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this process has a filter that answers unforeseen system calls with `EPERM`.
static IS_SANDBOXED: AtomicBool = AtomicBool::new(false);

/// From now on a missing permission may be the sandbox's doing, and errors say so.
pub(crate) fn blame_sandbox() {
    IS_SANDBOXED.store(true, Ordering::Relaxed);
}

/// The same number everywhere.
const EPERM: i32 = 1;

/// The system's text in lower case and without its number: `no such file or directory`, where std writes
/// `No such file or directory (os error 2)`. An error that is not the system's keeps its text.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(number) => {
            let text = text.trim_end_matches(&format!(" (os error {number})")).to_lowercase();
            // The sandbox's answer to a call that it does not foresee. Nobody but this line would know.
            if number == EPERM && IS_SANDBOXED.load(Ordering::Relaxed) {
                return text + " (or not foreseen by the sandbox: see --sandbox)";
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
    fn no_number_is_shown() {
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
