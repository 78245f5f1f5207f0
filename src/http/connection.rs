//! One connection, as a state machine: it takes what its socket has, answers what is whole, and never waits.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::head::{Parsed, parse_head};
use super::limits::Limits;
use super::response::{Response, error_response};
use super::routes::respond;
use super::site::Site;
use super::wait::{Wait, wait};

/// A longer head is refused.
const MAX_HEAD_BYTES: usize = 8 << 10;

/// What is written in one turn, so that no large response holds up others.
const MAX_WRITE_BYTES: usize = 256 << 10;

/// What is read and thrown away after the last response, so that closing does not reset the connection under it.
const MAX_LINGER_BYTES: usize = 256 << 10;

/// What a connection is doing.
pub enum State {
    /// It waits for a request, after one that was answered.
    Idle,
    /// It waits for the rest of a head, or for a first byte.
    ReadingHead,
    /// Its request waits for a scrape.
    Waiting(Wait),
    /// It writes a response, of which so many bytes are written.
    Writing { response: Response, n_written: usize, progress: Instant },
    /// Its last response is written. It is read from for a moment, up to so many bytes: unread ones would make the kernel
    /// reset the connection, and the client might never see its response.
    Closing { n_left: usize },
    /// It is over.
    Ended,
}

/// One client's connection.
pub struct Connection {
    stream: TcpStream,
    /// Who it is.
    pub peer: IpAddr,
    /// The state.
    pub state: State,
    /// When it entered this state; a response's deadline does not move with its progress.
    pub since: Instant,
    /// What was received and not answered yet.
    received: Vec<u8>,
    /// Whether that can be answered.
    has_request: bool,
    /// Whether there was no place for it: it gets one response, and is counted with those that are closing.
    is_refused: bool,
}

impl Connection {
    /// A connection that has just been accepted.
    pub fn new(stream: TcpStream, peer: IpAddr, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        // A response is written at once: there is nothing to gather.
        stream.set_nodelay(true)?;
        // ::ffff:127.0.0.1 is 127.0.0.1.
        let peer = peer.to_canonical();
        Ok(Connection {
            stream,
            peer,
            state: State::ReadingHead,
            since: now,
            received: Vec::new(),
            has_request: false,
            is_refused: false,
        })
    }

    /// Answers without a request that there are too many connections.
    pub fn refuse(&mut self, now: Instant) {
        self.is_refused = true;
        self.respond(error_response(503, "too many connections\n"), now);
    }

    /// Whether it holds no place: all that is left to do is to close it.
    pub fn is_closing(&self) -> bool {
        self.is_refused || matches!(self.state, State::Closing { .. } | State::Ended)
    }

    /// What its socket is waited for.
    pub fn interest(&self) -> PollFlags {
        match self.state {
            State::Writing { .. } => PollFlags::OUT,
            // An error comes unasked.
            State::Waiting(_) => PollFlags::empty(),
            _ => PollFlags::IN,
        }
    }

    /// Whether a request was received that waits for its turn, and for nothing else.
    pub fn has_turn(&self, site: &Site, now: Instant) -> bool {
        match &self.state {
            State::Waiting(wait) => wait.is_over(site, now),
            _ => self.has_request(),
        }
    }

    fn has_request(&self) -> bool {
        self.has_request && matches!(self.state, State::ReadingHead)
    }

    /// When it is over unless something happens.
    pub fn deadline(&self, limits: &Limits) -> Instant {
        self.since
            + match self.state {
                State::Idle => limits.idle,
                State::ReadingHead => limits.head,
                State::Waiting(ref wait) => return wait.deadline,
                State::Writing { .. } => limits.response,
                State::Closing { .. } => limits.linger,
                State::Ended => Duration::ZERO,
            }
    }

    /// Whether its time is up, or what it reads was cut.
    pub fn is_over(&self, now: Instant, limits: &Limits) -> bool {
        match &self.state {
            State::Ended => true,
            // It gets what there is.
            State::Waiting(_) => false,
            State::Writing { response, .. } if response.body.is_cut() => true,
            _ => now >= self.deadline(limits),
        }
    }

    /// Does what its socket is ready for: at most one read, one request, one write.
    pub fn turn(&mut self, site: &Site, now: Instant) {
        if self.try_turn(site, now).is_err() {
            // A client that is gone: there is nobody to tell.
            self.state = State::Ended;
        }
    }

    fn try_turn(&mut self, site: &Site, now: Instant) -> io::Result<()> {
        match self.state {
            State::Idle | State::ReadingHead => {
                if !self.has_request() {
                    self.receive(now)?;
                }
                self.answer(site, now)
            }
            State::Waiting(ref wait) if wait.is_over(site, now) => self.answer(site, now),
            State::Waiting(_) => self.stream.take_error()?.map_or(Ok(()), Err),
            State::Writing { .. } => self.write(now),
            State::Closing { .. } => self.discard(),
            State::Ended => Ok(()),
        }
    }

    /// Takes what has arrived.
    fn receive(&mut self, now: Instant) -> io::Result<()> {
        let mut bytes = [0; MAX_HEAD_BYTES];
        let n_free = MAX_HEAD_BYTES - self.received.len();
        match (&self.stream).read(&mut bytes[..n_free]) {
            Ok(0) if n_free > 0 => self.enter(State::Ended, now),
            Ok(n) => {
                self.received.extend_from_slice(&bytes[..n]);
                self.has_request = self.can_answer();
                if matches!(self.state, State::Idle) {
                    self.enter(State::ReadingHead, now);
                }
            }
            Err(e) if is_temporary(&e) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Answers the first request that was received, if it is whole.
    fn answer(&mut self, site: &Site, now: Instant) -> io::Result<()> {
        let (response, n_used) = match parse_head(&self.received) {
            Parsed::Complete(head, n_used) => {
                let has_waited = matches!(self.state, State::Waiting(_));
                if !has_waited && let Some(wait) = wait(site, &head, self.peer, now) {
                    self.enter(State::Waiting(wait), now);
                    return Ok(());
                }
                (respond(site, &head, self.peer), n_used)
            }
            Parsed::Malformed => {
                (error_response(400, "this is not an HTTP/1 request\n"), self.received.len())
            }
            Parsed::Incomplete if self.received.len() >= MAX_HEAD_BYTES => {
                (error_response(431, "a request's head may be 8 KiB long\n"), self.received.len())
            }
            Parsed::Incomplete => return Ok(()),
        };
        self.received.drain(..n_used);
        if self.received.is_empty() {
            self.received = Vec::new();
        }
        self.has_request = self.can_answer();
        self.respond(response, now);
        self.write(now)
    }

    fn can_answer(&self) -> bool {
        self.received.len() >= MAX_HEAD_BYTES || !matches!(parse_head(&self.received), Parsed::Incomplete)
    }

    fn respond(&mut self, response: Response, now: Instant) {
        self.enter(State::Writing { response, n_written: 0, progress: now }, now);
    }

    fn write(&mut self, now: Instant) -> io::Result<()> {
        let State::Writing { response, n_written, progress } = &mut self.state else { return Ok(()) };
        let parts = [&response.head[..], response.body.bytes(), &response.tail];
        let (mut n_skipped, mut n_left) = (*n_written, MAX_WRITE_BYTES);
        let left = parts.map(|part| {
            let start = n_skipped.min(part.len());
            n_skipped -= start;
            let end = part.len().min(start + n_left);
            n_left -= end - start;
            IoSlice::new(&part[start..end])
        });
        match (&self.stream).write_vectored(&left) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => (*n_written, *progress) = (*n_written + n, now),
            Err(e) if is_temporary(&e) => {}
            Err(e) => return Err(e),
        }
        if *n_written < parts.iter().map(|part| part.len()).sum() {
            return Ok(());
        }
        if !response.keep_alive {
            self.stream.shutdown(Shutdown::Write)?;
            self.enter(State::Closing { n_left: MAX_LINGER_BYTES }, now);
        } else if self.received.is_empty() {
            self.enter(State::Idle, now);
        } else {
            self.enter(State::ReadingHead, now);
        }
        Ok(())
    }

    /// Throws away what a client sends after its last response.
    fn discard(&mut self) -> io::Result<()> {
        let State::Closing { n_left } = &mut self.state else { return Ok(()) };
        match (&self.stream).read(&mut [0; 4096]) {
            Ok(n) if n == 0 || n >= *n_left => self.state = State::Ended,
            Ok(n) => *n_left -= n,
            Err(e) if is_temporary(&e) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Whether it may be closed for a new connection: no request of it has arrived, or its response makes no progress.
    pub fn can_be_evicted(&mut self, now: Instant, limits: &Limits) -> bool {
        match self.state {
            State::Idle | State::ReadingHead => {
                // It may lie in the socket still.
                if !self.has_request() && self.receive(now).is_err() {
                    return true;
                }
                !self.has_request()
            }
            State::Waiting(_) => false,
            State::Writing { progress, .. } => now.duration_since(progress) >= limits.stalled,
            State::Closing { .. } | State::Ended => true,
        }
    }

    fn enter(&mut self, state: State, now: Instant) {
        (self.state, self.since) = (state, now);
    }
}

impl std::os::fd::AsFd for Connection {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A socket that is not ready is asked again once it is; a signal means nothing.
pub fn is_temporary(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
