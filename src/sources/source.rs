//! The interface of every source of containers.

use std::fmt;
use std::time::Instant;

use crate::demand::Wake;
use crate::sources::Container;

/// The result of a listing.
#[derive(Debug, Default)]
pub struct Listing {
    /// The running containers by id, without sandboxes. The kubelet's links may also name containers that are
    /// gone.
    pub containers: Vec<Container>,
    /// A container was created and is not running yet: list again soon.
    pub more_to_come: bool,
    /// Containers like these of which only the first digits of the id are known.
    pub cut: Vec<Container>,
    /// Names that no container could be read from; `None` where containers are not listed by names.
    pub n_unclear: Option<u64>,
}

/// Lists containers, and makes the caller wait only when it says so.
pub trait Source: fmt::Debug + Send {
    /// Returns the name of what lists the containers, for the log; `None` for a recording, which is always
    /// there.
    fn lister(&self) -> Option<&'static str>;

    /// Describes for the log where containers come from.
    fn describe(&self) -> String;

    /// Whether it may list containers that have ended or have not begun. Then those with a process are
    /// running.
    fn lists_ended_containers(&self) -> bool {
        false
    }

    /// Begins a listing, unless one is in progress.
    fn begin_listing(&mut self);

    /// Whether a listing is in progress.
    fn is_listing(&self) -> bool;

    /// Takes the result of a listing that has ended since the last call. An error is one line.
    fn take_listing(&mut self) -> Option<Result<Listing, String>>;

    /// Whether the runtime has ended or restarted since the last listing began. Makes no call that it must
    /// answer.
    fn has_runtime_ended(&mut self) -> bool;

    /// Lets the listing go on until it ends, or until `deadline`.
    fn wait_for_listing(&mut self, deadline: Instant);

    /// Lets the listing go on until `wake` reports a change, or until `deadline`.
    fn wait_until(&mut self, deadline: Instant, wake: &Wake);
}
