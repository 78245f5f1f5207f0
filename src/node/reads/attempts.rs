//! Decides what happens after a failed attempt at reading the memory of a process.

use crate::node::processes::change_check::Check;
use crate::node::processes::job::Detail;
use crate::procfs::errors::ReadError;

/// The attempts that one read has made so far.
#[derive(Debug, Default)]
pub struct Attempts {
    /// The number of attempts that ended because the process executed another program.
    pub n_execs: u64,
    /// Whether an attempt took too long.
    pub was_slow: bool,
    is_repeated: bool,
}

impl Attempts {
    /// Returns what the next attempt must read, or the error if the failed attempt was the last one.
    /// `n_mappings` is the number of mappings that the failed attempt has read.
    pub fn next(&mut self, detail: Detail, error: ReadError, n_mappings: u64) -> Result<Detail, ReadError> {
        match error {
            // The process now runs another program, so its memory is read again immediately.
            ReadError::Exec if !self.is_repeated => {
                self.is_repeated = true;
                self.n_execs += 1;
                let is_mappings = matches!(detail, Detail::Mappings(_));
                Ok(if is_mappings { Detail::Mappings(Check::ReadAll) } else { detail })
            }
            ReadError::Torn if !self.is_repeated => {
                self.is_repeated = true;
                Ok(detail)
            }
            ReadError::Slow if !self.was_slow => {
                self.was_slow = true;
                Ok(Detail::Other { n_printed: n_mappings })
            }
            error => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_attempt_is_repeated_if_that_helps() {
        let all = Detail::Mappings(Check::ReadAll);
        let check = Detail::Mappings(Check::CompareWith(None));
        let (sum, other) = (Detail::Rollup { known_count: None }, Detail::Other { n_printed: 5 });
        type Case<'a> = (&'a str, Detail, Vec<(ReadError, Option<Detail>)>, (u64, bool));
        let cases: [Case<'_>; 6] = [
            ("exec", check, vec![(ReadError::Exec, Some(all)), (ReadError::Exec, None)], (1, false)),
            ("exec of a sum", sum, vec![(ReadError::Exec, Some(sum))], (1, false)),
            ("torn", check, vec![(ReadError::Torn, Some(check)), (ReadError::Torn, None)], (0, false)),
            (
                "torn after exec",
                check,
                vec![(ReadError::Exec, Some(all)), (ReadError::Torn, None)],
                (1, false),
            ),
            ("slow", all, vec![(ReadError::Slow, Some(other)), (ReadError::Exec, Some(other))], (1, true)),
            ("gone", all, vec![(ReadError::Gone, None)], (0, false)),
        ];
        for (what, mut detail, errors, expected) in cases {
            let mut attempts = Attempts::default();
            for (error, next) in errors {
                let found = attempts.next(detail, error, 5).ok();
                assert_eq!(found, next, "{what}");
                detail = found.unwrap_or(detail);
            }
            assert_eq!((attempts.n_execs, attempts.was_slow), expected, "{what}");
        }
    }
}
