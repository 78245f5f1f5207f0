//! What bounds the server: connections, their time, and its CPU time.

use std::time::Duration;

/// Maximum number of requests waiting for a scrape. Further requests get the last exposition.
pub const MAX_WAITING: usize = 64;

/// The server's limits; tests shorten them.
#[derive(Clone, Copy)]
pub struct Limits {
    /// The number of slots: connections that may be open except those that wait for a scrape, are closing,
    /// or have no slot.
    pub n_slots: usize,
    /// Maximum number of connections that are closing or have no slot. Beyond it the oldest is removed,
    /// which looks like an error to a client that has not read its response yet.
    pub n_others: usize,
    /// How long a head may take to arrive.
    pub head: Duration,
    /// How long a connection may be idle between requests.
    pub idle: Duration,
    /// How long sending a response may take.
    pub response: Duration,
    /// A response that has made no progress for this long makes room for a new connection. A client that
    /// reads 20 KB/s makes progress every 3 s: TCP reopens a closed window by 64 KiB at once.
    pub stalled: Duration,
    /// How long a closing connection is read from.
    pub linger: Duration,
    /// The maximum average fractions of a core for requests and for responses.
    pub requests_cpu: f64,
    pub responses_cpu: f64,
    /// The CPU time that may be spent at once after a time without requests, for each of the two.
    pub cpu_burst: Duration,
}

/// The limits that the server works with.
pub const LIMITS: Limits = Limits {
    n_slots: 64,
    n_others: 192,
    head: Duration::from_secs(5),
    idle: Duration::from_secs(120),
    response: Duration::from_secs(30),
    stalled: Duration::from_secs(5),
    linger: Duration::from_secs(1),
    requests_cpu: 0.03,
    responses_cpu: 0.08,
    // One response of 20 MB, gzipped.
    cpu_burst: Duration::from_millis(100),
};
