//! What bounds the server: connections, their time, its CPU time.

use std::time::Duration;

/// Maximum number of requests waiting for a scrape. Further requests get the last exposition.
pub const MAX_WAITING: usize = 64;

/// The server's limits; tests shorten them.
#[derive(Clone, Copy)]
pub struct Limits {
    /// How many connections may be open; those that wait for a scrape or are closing are not counted.
    pub n_connections: usize,
    /// How many more may be closing: they only wait for their clients to close as well. Those that were refused are among them, and one that
    /// makes room before its response is read looks broken to its client.
    pub n_closing: usize,
    /// How long a head may take to arrive.
    pub head: Duration,
    /// How long a connection may be idle between requests.
    pub idle: Duration,
    /// How long writing a response may take.
    pub response: Duration,
    /// A response that has made no progress for this long makes room for a new connection.
    pub stalled: Duration,
    /// How long a closing connection is read from.
    pub linger: Duration,
    /// The greatest fraction of a core that goes into answering, averaged.
    pub cpu: f64,
    /// The CPU time that may be spent at once after a time without requests.
    pub cpu_burst: Duration,
}

/// The limits that it serves with.
pub const LIMITS: Limits = Limits {
    n_connections: 64,
    n_closing: 192,
    head: Duration::from_secs(5),
    idle: Duration::from_secs(120),
    response: Duration::from_secs(30),
    stalled: Duration::from_secs(1),
    linger: Duration::from_secs(1),
    cpu: 0.1,
    // One response of 20 MB, gzipped.
    cpu_burst: Duration::from_millis(100),
};
