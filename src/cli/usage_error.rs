//! The error of an invalid command line.

use std::fmt;

/// An error message of one line, which quotes the wrong argument and says what is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError {
    text: String,
}

impl UsageError {
    pub(super) fn new(text: String) -> UsageError {
        UsageError { text }
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for UsageError {}
