//! What all sources of containers have in common.

use std::fmt;
use std::time::Instant;

use crate::demand::Wake;
use crate::sources::Container;

/// The result of a listing.
#[derive(Debug, Default)]
pub struct Listing {
    /// The running containers, sorted by id, without sandboxes. If containers are listed by the kubelet's
    /// links to their logs, some of these containers may have ended.
    pub containers: Vec<Container>,
    /// Whether some container was created but is not running yet. If so, the next listing should come soon.
    pub more_to_come: bool,
    /// Further containers. Their ids are cut, so that only the first digits are in the listing.
    pub cut: Vec<Container>,
    /// How many of the kubelet's links to container logs have a name that does not identify a container.
    /// `None` if the source does not list containers by these links.
    pub n_unrecognized: Option<u64>,
}

/// A source of containers. Its methods do not block, unless their comments say so.
pub trait Source: fmt::Debug + Send {
    /// Returns the name of the runtime, for the log. `None` for a recording, which needs no runtime.
    fn lister(&self) -> Option<&'static str>;

    /// Describes the source of the containers for the log.
    fn describe(&self) -> String;

    /// Whether a listing may contain containers that have ended or have not started. If so, only containers
    /// that have a process are taken as running.
    fn lists_ended_containers(&self) -> bool {
        false
    }

    /// Begins a listing, unless one is already running.
    fn begin_listing(&mut self);

    /// Whether a listing is running.
    fn is_listing(&self) -> bool;

    /// Returns the result of a listing that has ended since the last call. The error is a one-line message.
    fn take_listing(&mut self) -> Option<Result<Listing, String>>;

    /// Whether the runtime has ended or restarted since the last listing began. This does not wait for the
    /// runtime.
    fn has_runtime_ended(&mut self) -> bool;

    /// Lets the listing continue until the listing ends, or until `deadline`. Blocks until then.
    fn wait_for_listing(&mut self, deadline: Instant);

    /// Lets the listing continue until another thread wakes this one, or until `deadline`. Blocks until then.
    fn wait_until(&mut self, deadline: Instant, wake: &Wake);
}
