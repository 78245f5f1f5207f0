//! Logs conditions that may last for several scrapes. A line is written when a condition begins or ends, not
//! in every scrape.

use log::{Level, info, log, warn};

use crate::node::containers::selection::Selection;
use crate::procfs::permissions;

/// The conditions that are logged.
#[derive(Debug)]
pub struct StateLog {
    selection: SelectionLog,
    refusals: Problem,
    over_limit: Problem,
    /// Whether the program makes a recording. Such a program fails with an error message if there is nothing
    /// to record. The reason is then logged at debug level, not as a warning.
    is_recording: bool,
}

impl StateLog {
    /// Creates the state in which no condition has been logged yet.
    pub fn new(is_recording: bool) -> Self {
        Self {
            selection: SelectionLog::Nothing,
            refusals: Problem::default(),
            over_limit: Problem::default(),
            is_recording,
        }
    }

    /// Returns whether [`log_selection`](Self::log_selection) must be called after the next listing, because
    /// the log does not yet show what the filters select.
    pub fn needs_selection(&self) -> bool {
        self.selection != SelectionLog::Selection
    }

    /// Logs once what the filters select, because filters are the usual reason why no process is exported. If
    /// there are no containers yet, first logs once that there are none.
    pub fn log_selection(&mut self, selection: &Selection<'_>) {
        if self.selection.advance(selection.n_containers) {
            let level = match selection.n_selected {
                0 if self.is_recording => Level::Debug,
                0 => Level::Warn,
                _ => Level::Info,
            };
            log!(level, "{selection}");
        }
    }

    /// Logs that processes cannot be read, and which permission is missing. When all processes can be read
    /// again, logs this as well.
    pub fn log_refusals(&mut self, n_refused: usize, n_selected: usize) {
        match self.refusals.update(n_refused > 0) {
            Some(Change::Begun) => {
                let is_failure = self.is_recording && n_refused == n_selected;
                let level = if is_failure { Level::Debug } else { Level::Warn };
                log!(level, "{}", refused(n_refused, n_selected));
            }
            Some(Change::Ended) => info!("all processes can be read"),
            None => {}
        }
    }

    /// Logs once that there are more samples than `max_samples`, although the smallest series were summed
    /// into `[other]`. This can happen because at least one command of each container is kept.
    pub fn log_over_limit(&mut self, n_samples: u64, max_samples: u64) {
        let is_over = max_samples > 0 && n_samples > max_samples;
        if is_over && self.over_limit.update(true).is_some() {
            warn!(
                "exporting {n_samples} samples, over --max-samples {max_samples}: one command per container \
                 is always kept"
            );
        }
    }
}

/// Returns a line that says how many processes cannot be read, and which permission is missing.
pub fn refused(n_refused: usize, n_selected: usize) -> String {
    format!("cannot read {n_refused} of {n_selected} processes: {}", permissions::missing())
}

/// What was logged about the containers that the filters select.
#[derive(Debug, PartialEq, Eq)]
enum SelectionLog {
    Nothing,
    /// A line that says that there are no containers.
    NoContainers,
    /// A line that describes which processes the filters select.
    Selection,
}

impl SelectionLog {
    /// Returns whether a line about the selected containers must be logged now. The first call returns true.
    /// If there were no containers at that time, the first call with containers also returns true.
    /// `n_containers` is the current number of containers.
    fn advance(&mut self, n_containers: usize) -> bool {
        let next = if n_containers > 0 { Self::Selection } else { Self::NoContainers };
        let is_news = match self {
            Self::Nothing => true,
            Self::NoContainers => next == Self::Selection,
            Self::Selection => false,
        };
        if is_news {
            *self = next;
        }
        is_news
    }
}

/// A problem that may last for several scrapes.
#[derive(Debug, Default)]
struct Problem {
    is_present: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Begun,
    Ended,
}

impl Problem {
    fn update(&mut self, is_present: bool) -> Option<Change> {
        match (std::mem::replace(&mut self.is_present, is_present), is_present) {
            (false, true) => Some(Change::Begun),
            (true, false) => Some(Change::Ended),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_is_logged_once_and_so_is_an_empty_node() {
        for (n_containers, is_logged) in [
            (&[0, 0, 0][..], &[true, false, false][..]),
            (&[0, 0, 3, 3, 0], &[true, false, true, false, false]),
            (&[3, 0, 4], &[true, false, false]),
        ] {
            let mut log = SelectionLog::Nothing;
            let logged: Vec<bool> = n_containers.iter().map(|&n| log.advance(n)).collect();
            assert_eq!(logged, is_logged, "{n_containers:?}");
        }
    }

    #[test]
    fn a_problem_is_logged_when_it_begins_and_when_it_ends() {
        let mut problem = Problem::default();
        for (is_present, change) in [
            (false, None),
            (true, Some(Change::Begun)),
            (true, None),
            (false, Some(Change::Ended)),
            (false, None),
            (true, Some(Change::Begun)),
        ] {
            assert_eq!(problem.update(is_present), change);
        }
    }
}
