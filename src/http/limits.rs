//! What bounds a connection, and how many there are.

use std::time::Duration;

/// The limits of connections.
#[derive(Clone, Copy)]
pub struct Limits {
    /// How many connections are open at once.
    pub n_connections: usize,
    /// How long a head may take to arrive.
    pub head: Duration,
    /// How long a connection may be idle between requests.
    pub idle: Duration,
    /// How long writing a response may take.
    pub response: Duration,
    /// A response that has made no progress for this long makes room for a new connection.
    pub stalled: Duration,
    /// How long a connection that is closing is read from.
    pub linger: Duration,
}

/// What is served by.
pub const LIMITS: Limits = Limits {
    n_connections: 64,
    head: Duration::from_secs(5),
    idle: Duration::from_secs(120),
    response: Duration::from_secs(30),
    stalled: Duration::from_secs(1),
    linger: Duration::from_secs(1),
};
