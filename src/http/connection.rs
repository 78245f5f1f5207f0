//! One connection: reads heads, writes responses, and never waits for its client beyond a deadline.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::head::{Parsed, parse_head};
use super::limits::Limits;
use super::publish::{Published, lock};
use super::response::{Body, Response, error_response, respond};

/// A longer head is refused.
const MAX_HEAD_BYTES: usize = 8 << 10;

/// What is written at once. A client that takes less than this in [`Limits::stalled`] makes no progress.
const CHUNK_BYTES: usize = 64 << 10;

/// What is read and thrown away after the last response, so that closing does not reset the connection under it.
const MAX_LINGER_BYTES: usize = 256 << 10;

/// What a connection waits for, in the order in which connections make room for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// A request, after one that was answered.
    Idle,
    /// The rest of a head, or a first byte.
    ReadingHead,
    /// The client to read its response.
    Writing,
    /// Its own end: it was shut down.
    Evicted,
}

/// One client's connection.
pub struct Connection {
    pub(super) stream: Arc<TcpStream>,
    /// The state, and since when.
    pub(super) state: Mutex<(State, Instant)>,
}

impl Connection {
    /// A connection that has just been accepted.
    pub fn new(stream: Arc<TcpStream>) -> Self {
        Connection { stream, state: Mutex::new((State::ReadingHead, Instant::now())) }
    }

    /// Enters a state that it has been in since then.
    pub fn enter(&self, state: State, since: Instant) {
        *lock(&self.state) = (state, since);
    }

    /// Answers requests one after the other until there are no more.
    pub fn serve(&self, published: &Published, max_age: Duration, limits: &Limits) -> io::Result<()> {
        // A response is written at once: there is nothing to gather.
        self.stream.set_nodelay(true)?;
        let mut buffer = vec![0; MAX_HEAD_BYTES];
        let mut len = 0;
        let mut state = (State::ReadingHead, Instant::now());
        loop {
            let (response, n_used) = match parse_head(&buffer[..len]) {
                Parsed::Complete(head, n_used) => {
                    // From here on the client waits for us.
                    self.enter(State::Writing, Instant::now());
                    (respond(&head, published, max_age), n_used)
                }
                Parsed::Malformed => (error_response(400, "this is not an HTTP/1 request\n"), len),
                Parsed::Incomplete if len == buffer.len() => {
                    (error_response(431, "a request's head may be 8 KiB long\n"), len)
                }
                Parsed::Incomplete => {
                    self.enter(state.0, state.1);
                    let limit = if state.0 == State::Idle { limits.idle } else { limits.head };
                    match self.read(&mut buffer[len..], state.1 + limit)? {
                        0 => return Ok(()),
                        n => len += n,
                    }
                    if state.0 == State::Idle {
                        state = (State::ReadingHead, Instant::now());
                    }
                    continue;
                }
            };
            self.write(&response, limits)?;
            if !response.keep_alive {
                return self.close(limits);
            }
            buffer.copy_within(n_used..len, 0);
            len -= n_used;
            state = (if len == 0 { State::Idle } else { State::ReadingHead }, Instant::now());
        }
    }

    /// Reads what there is, waiting for it until the deadline.
    fn read(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        loop {
            self.stream.set_read_timeout(Some(time_left(deadline)?))?;
            match (&*self.stream).read(buffer) {
                Err(e) if is_temporary(&e) => {}
                result => return result,
            }
        }
    }

    fn write(&self, response: &Response, limits: &Limits) -> io::Result<()> {
        let write = || self.write_by(&response.head, response.body.bytes(), Instant::now() + limits.response);
        match &response.body {
            Body::Plain(exposition) | Body::Gzip(exposition) => exposition.read_by(&self.stream, write),
            Body::Bytes(_) => write(),
        }
    }

    fn write_by(&self, head: &[u8], body: &[u8], deadline: Instant) -> io::Result<()> {
        let mut n_written = 0;
        while n_written < head.len() + body.len() {
            let head_left = &head[n_written.min(head.len())..];
            let body_left = &body[n_written.saturating_sub(head.len())..];
            let body_left = &body_left[..body_left.len().min(CHUNK_BYTES)];
            self.enter(State::Writing, Instant::now());
            self.stream.set_write_timeout(Some(time_left(deadline)?))?;
            match (&*self.stream).write_vectored(&[IoSlice::new(head_left), IoSlice::new(body_left)]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => n_written += n,
                Err(e) if is_temporary(&e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Ends the connection. What the client still sends is read for a moment: unread bytes would make the kernel reset the
    /// connection, and the client might never see its response.
    fn close(&self, limits: &Limits) -> io::Result<()> {
        let now = Instant::now();
        self.enter(State::Idle, now);
        self.stream.shutdown(Shutdown::Write)?;
        let mut buffer = [0; 4096];
        let mut n_left = MAX_LINGER_BYTES;
        while n_left > 0 {
            match self.read(&mut buffer, now + limits.linger)? {
                0 => break,
                n => n_left = n_left.saturating_sub(n),
            }
        }
        Ok(())
    }
}

/// The time until the deadline: an error when there is none left, and never the zero that would mean for ever.
fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// A timeout is for the deadline to judge; a signal means nothing.
pub fn is_temporary(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
