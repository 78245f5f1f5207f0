//! The interface of every source of containers.

use std::fmt;
use std::time::Instant;

use crate::demand::Wake;
use crate::sources::Container;

/// The result of a listing.
#[derive(Debug, Default)]
pub struct Listing {
    /// The running containers by id, without sandboxes. The kubelet's links may also name containers that
    /// have ended.
    pub containers: Vec<Container>,
    /// Whether a container was created and is not running yet, so that the next listing should come soon.
    pub more_to_come: bool,
    /// Further containers, of which only the first digits of the ids are known.
    pub cut: Vec<Container>,
    /// The number of names that could not be read as containers; `None` where containers are not listed by
    /// name.
    pub n_unrecognized: Option<u64>,
}

/// Lists containers. Calls block only where this is stated.
pub trait Source: fmt::Debug + Send {
    /// Returns the name of the runtime that lists the containers, for the log; `None` for a recording, which
    /// is always available.
    fn lister(&self) -> Option<&'static str>;

    /// Describes the source of the containers for the log.
    fn describe(&self) -> String;

    /// Whether a listing may name containers that have ended or not started. The running ones are then those
    /// with a process.
    fn lists_ended_containers(&self) -> bool {
        false
    }

    /// Begins a listing, unless one is in progress.
    fn begin_listing(&mut self);

    /// Whether a listing is in progress.
    fn is_listing(&self) -> bool;

    /// Takes the result of a listing that has ended since the last call. The error is one line.
    fn take_listing(&mut self) -> Option<Result<Listing, String>>;

    /// Whether the runtime has ended or restarted since the last listing began. This does not wait for the
    /// runtime.
    fn has_runtime_ended(&mut self) -> bool;

    /// Continues the listing until it ends, or until `deadline`. Blocks.
    fn wait_for_listing(&mut self, deadline: Instant);

    /// Continues the listing until `wake` reports a change, or until `deadline`. Blocks.
    fn wait_until(&mut self, deadline: Instant, wake: &Wake);
}
