//! What every source of containers can do.

use std::fmt;
use std::time::Instant;

use crate::demand::Wake;
use crate::sources::Container;

/// What a listing gives.
#[derive(Debug, Default)]
pub struct Listing {
    /// The containers that run, by id; sandboxes left out. The kubelet's links may also name some that are gone.
    pub containers: Vec<Container>,
    /// Some container is created and not started yet: list again soon.
    pub more_to_come: bool,
    /// Labels of these containers that were cut, for they were longer than containerd itself takes.
    pub n_cut_labels: u64,
    /// Containers like these of which only the first digits of the id are known.
    pub cut: Vec<Container>,
    /// Names that no container could be read from; `None` where containers are not listed by names.
    pub n_unclear: Option<u64>,
}

/// Somebody who lists containers and is never waited for unless the caller says so.
pub trait Source: fmt::Debug + Send {
    /// Who answers, for the log; `None` for a recording, which is always there.
    fn runtime(&self) -> Option<&'static str>;

    /// Where containers come from, for the log.
    fn describe(&self) -> String;

    /// Whether it may list containers that have ended, or have not begun: those run that have a process.
    fn lists_what_is_gone(&self) -> bool {
        false
    }

    /// Begins a listing, unless one is under way.
    fn begin(&mut self);

    /// Whether a listing is under way.
    fn is_listing(&self) -> bool;

    /// What the listing gave, if one has ended since this was called last. An error is one line.
    fn take(&mut self) -> Option<Result<Listing, String>>;

    /// Whether the runtime has ended since the last listing that it answered. Asks nothing of it.
    fn is_lost(&mut self) -> bool;

    /// Lets the listing go on until it ends, or until `deadline`.
    fn wait_for_listing(&mut self, deadline: Instant);

    /// Lets a listing go on until `deadline`, or until `wake` says that something has changed, and returns then.
    fn wait_until(&mut self, deadline: Instant, wake: &Wake);
}
