//! The open connections: how many there may be, and which one makes room for another.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::connection::{Connection, State};
use super::limits::Limits;
use super::publish::lock;
use super::response::error_response;

/// How long an evicted connection may take to end.
const EVICTION_TIME: Duration = Duration::from_millis(100);

/// The open connections, one for each thread.
#[derive(Default)]
pub struct Connections {
    open: Mutex<Vec<Arc<Connection>>>,
    /// Notified when one of them is removed.
    removed: Condvar,
}

impl Connections {
    /// Takes a connection in, closing another for it if need be; none when it had to be refused.
    pub fn admit(&self, stream: Arc<TcpStream>, limits: &Limits) -> Option<Arc<Connection>> {
        let mut open = lock(&self.open);
        if open.len() >= limits.n_connections && evict_one(&open, limits) {
            let wait =
                self.removed.wait_timeout_while(open, EVICTION_TIME, |o| o.len() >= limits.n_connections);
            open = wait.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        if open.len() >= limits.n_connections {
            drop(open);
            refuse(&stream);
            return None;
        }
        let connection = Arc::new(Connection::new(stream));
        open.push(connection.clone());
        Some(connection)
    }

    /// Closes the connection that can best be done without.
    pub fn evict(&self, limits: &Limits) {
        evict_one(&lock(&self.open), limits);
    }

    /// Forgets a connection that has ended.
    pub fn remove(&self, connection: &Arc<Connection>) {
        lock(&self.open).retain(|open| !Arc::ptr_eq(open, connection));
        self.removed.notify_all();
    }
}

/// Shuts down the connection that can best be done without; its thread will see that and remove it.
fn evict_one(open: &[Arc<Connection>], limits: &Limits) -> bool {
    let now = Instant::now();
    let states = open.iter().map(|connection| (*lock(&connection.state), connection));
    let best = states
        .filter(|((state, since), _)| match state {
            State::Idle | State::ReadingHead => true,
            State::Writing => now.duration_since(*since) >= limits.stalled,
            State::Evicted => false,
        })
        .min_by_key(|(state, _)| *state);
    if let Some((_, connection)) = best {
        connection.enter(State::Evicted, now);
        let _ = connection.stream.shutdown(Shutdown::Both);
    }
    best.is_some()
}

/// Tells a client that there are too many connections, without waiting for anything.
fn refuse(stream: &TcpStream) {
    let response = error_response(503, "too many connections\n");
    let mut bytes = response.head;
    bytes.extend_from_slice(response.body.bytes());
    let _ = stream.set_nonblocking(true);
    // A request that is here already and was not read would reset the connection before the response is seen.
    let _ = (&*stream).read(&mut [0; 4096]);
    let _ = (&*stream).write(&bytes);
}

#[cfg(test)]
mod tests {
    use super::super::limits::LIMITS;
    use super::*;
    use std::net::TcpListener;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn idle_connections_make_room_first() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (now, limits) = (Instant::now(), Limits { stalled: MINUTE, ..LIMITS });
        let connection = |(state, age)| {
            let stream = Arc::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            Arc::new(Connection { stream, state: Mutex::new((state, now - age)) })
        };
        let (new, old) = (Duration::ZERO, MINUTE / 2);
        let open = [
            (State::Writing, old),
            (State::ReadingHead, new),
            (State::ReadingHead, old),
            (State::Idle, new),
            (State::Writing, 2 * MINUTE),
            (State::Idle, old),
        ]
        .map(connection);
        for next in [5, 3, 2, 1, 4] {
            assert!(evict_one(&open, &limits));
            let evicted = |connection: &Connection| lock(&connection.state).0 == State::Evicted;
            assert!(evicted(&open[next]), "{next} is not the next");
            assert_eq!((&*open[next].stream).read(&mut [0]).unwrap(), 0, "it is closed");
        }
        assert!(!evict_one(&open, &limits), "who is being answered stays");
    }
}
