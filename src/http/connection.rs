//! One connection, as a state machine. A turn takes what has arrived or writes a part of a response, and
//! never waits.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::head::{Parsed, parse_head};
use super::limits::Limits;
use super::pending::{MAX_PATIENCE, Pending};
use super::response::{Response, error_response};
use super::routes::{Reply, reply};
use super::site::Site;
use super::throttle::Account;

/// A longer head is refused.
const MAX_HEAD_BYTES: usize = 8 << 10;

/// What is written in one turn, so that a large response does not delay other connections.
const MAX_WRITE_BYTES: usize = 256 << 10;

/// What is read and discarded after the last response.
const MAX_LINGER_BYTES: usize = 256 << 10;

/// What a connection is doing.
pub enum State {
    /// It waits for a request, after one that was answered.
    Idle,
    /// It waits for the rest of a head, or for a first byte.
    ReadingHead,
    /// Its request waits for a scrape, for compression, or for credit.
    Pending(Pending),
    /// It sends a response, of which `n_written` bytes are written.
    Writing { response: Response, n_written: usize, progress: Instant },
    /// Its last response is written. Up to `n_left` bytes are still read: unread ones would make the kernel
    /// reset the connection, and the client might never see its response.
    Closing { n_left: usize },
    /// It is over.
    Ended,
}

/// One client's connection.
pub struct Connection {
    stream: TcpStream,
    /// The client's address.
    pub peer: IpAddr,
    /// Whether the client runs on this machine: it is on loopback, or has the address that it connects to.
    is_local: bool,
    /// Whether it got one of the slots. Without one it gets one answer: to a probe, or that there are too
    /// many connections.
    pub has_slot: bool,
    /// The state.
    pub state: State,
    /// When it entered this state; a response's deadline does not move with its progress.
    pub since: Instant,
    /// What was received and not parsed yet.
    received: Vec<u8>,
    /// Whether a request may have been received since the last attempt to parse one.
    has_news: bool,
}

impl Connection {
    /// Takes over a stream that has just been accepted.
    pub fn new(stream: TcpStream, peer: IpAddr, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        // A response is written at once: there is nothing to gather.
        stream.set_nodelay(true)?;
        // ::ffff:127.0.0.1 is 127.0.0.1.
        let peer = peer.to_canonical();
        let is_local = peer.is_loopback() || stream.local_addr()?.ip().to_canonical() == peer;
        Ok(Self {
            stream,
            peer,
            is_local,
            has_slot: true,
            state: State::ReadingHead,
            since: now,
            received: Vec::new(),
            has_news: false,
        })
    }

    /// Whether it takes one of the slots. While it waits for a scrape it does not: that costs nothing.
    pub fn takes_slot(&self) -> bool {
        let is_scraping = matches!(&self.state, State::Pending(pending) if pending.is_scraping());
        !self.is_surplus() && !is_scraping
    }

    /// Whether all that is left to do is to close it, perhaps after one answer.
    pub fn is_surplus(&self) -> bool {
        !self.has_slot || matches!(self.state, State::Closing { .. } | State::Ended)
    }

    /// Returns what its next turn is charged to.
    pub fn account(&self) -> Account {
        match self.state {
            State::Pending(_) | State::Writing { .. } => Account::Responses,
            _ => Account::Requests,
        }
    }

    /// Whether its next turn needs credit for responses.
    pub fn needs_credit(&self) -> bool {
        let is_compressing = matches!(&self.state, State::Pending(pending) if pending.is_compressing());
        self.account() == Account::Responses && !is_compressing
    }

    /// Returns the events on its socket that give it a turn.
    pub fn interest(&self) -> PollFlags {
        match self.state {
            State::Writing { .. } => PollFlags::OUT,
            // Errors are reported in any case.
            State::Pending(_) => PollFlags::empty(),
            _ => PollFlags::IN,
        }
    }

    /// Whether it can have a turn without an event.
    pub fn has_turn(&self, site: &Site, now: Instant) -> bool {
        match &self.state {
            State::Pending(pending) => pending.is_ready(site, now),
            State::ReadingHead => self.has_news,
            _ => false,
        }
    }

    /// Returns when something happens to it without an event.
    pub fn deadline(&self, limits: &Limits) -> Instant {
        match &self.state {
            State::Pending(pending) => pending.deadline().unwrap_or(self.end(limits)),
            _ => self.end(limits),
        }
    }

    /// Returns when its time is up.
    pub fn end(&self, limits: &Limits) -> Instant {
        self.since
            + match self.state {
                State::Idle => limits.idle,
                State::ReadingHead => limits.head,
                State::Pending(_) => MAX_PATIENCE + limits.response,
                State::Writing { .. } => limits.response,
                State::Closing { .. } => limits.linger,
                State::Ended => Duration::ZERO,
            }
    }

    /// Does what its socket is ready for: at most one read, one request, one write.
    pub fn turn(&mut self, site: &Site, now: Instant) {
        // An error means that the client has closed the connection, or that its response was taken away.
        if self.try_turn(site, now).is_err() {
            self.state = State::Ended;
        }
    }

    fn try_turn(&mut self, site: &Site, now: Instant) -> io::Result<()> {
        match &mut self.state {
            State::Idle | State::ReadingHead => {
                if !self.has_news {
                    self.receive(now)?;
                }
                self.parse(site, now)
            }
            State::Pending(pending) if pending.is_ready(site, now) => match pending.advance(site, now) {
                Some(response) => self.respond(response, now),
                None => Ok(()),
            },
            State::Pending(_) => self.stream.take_error()?.map_or(Ok(()), Err),
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
                self.has_news = true;
                if matches!(self.state, State::Idle) {
                    self.enter(State::ReadingHead, now);
                }
            }
            Err(e) if is_temporary(&e) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Parses the first request that was received, if it is complete. Probes are answered immediately.
    fn parse(&mut self, site: &Site, now: Instant) -> io::Result<()> {
        self.has_news = false;
        let refuse = |status, text| (Reply::Response(error_response(status, text)), self.received.len());
        let (reply, n_used) = match parse_head(&self.received) {
            Parsed::Complete(head, n_used) => (reply(site, &head, self.is_local), n_used),
            Parsed::Incomplete if self.received.len() < MAX_HEAD_BYTES => return Ok(()),
            Parsed::Malformed => refuse(400, "this is not an HTTP/1 request\n"),
            Parsed::Incomplete | Parsed::TooLong => {
                refuse(431, "a request's head may have 8 KiB and 100 lines\n")
            }
        };
        self.received.drain(..n_used);
        if self.received.is_empty() {
            self.received = Vec::new();
        }
        match reply {
            Reply::Probe(response) => return self.respond(response, now),
            _ if !self.has_slot => self.enter_writing(error_response(503, "too many connections\n"), now),
            Reply::Response(response) => self.enter_writing(response, now),
            Reply::Exposition(pending) => self.enter(State::Pending(pending), now),
        }
        Ok(())
    }

    fn respond(&mut self, response: Response, now: Instant) -> io::Result<()> {
        self.enter_writing(response, now);
        self.write(now)
    }

    fn enter_writing(&mut self, response: Response, now: Instant) {
        self.enter(State::Writing { response, n_written: 0, progress: now }, now);
    }

    fn write(&mut self, now: Instant) -> io::Result<()> {
        let State::Writing { response, n_written, progress } = &mut self.state else { return Ok(()) };
        let n_bytes = response.head.len() + response.body.n_bytes() + response.tail.len();
        let written = response.body.with_bytes(|body| {
            let (mut n_skipped, mut n_left) = (*n_written, MAX_WRITE_BYTES);
            let left = [&response.head[..], body, &response.tail].map(|part| {
                let start = n_skipped.min(part.len());
                n_skipped -= start;
                let end = part.len().min(start + n_left);
                n_left -= end - start;
                IoSlice::new(&part[start..end])
            });
            (&self.stream).write_vectored(&left)
        });
        match written {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => (*n_written, *progress) = (*n_written + n, now),
            Err(e) if is_temporary(&e) => {}
            Err(e) => return Err(e),
        }
        if *n_written < n_bytes {
            return Ok(());
        }
        if !response.keep_alive || !self.has_slot {
            self.stream.shutdown(Shutdown::Write)?;
            self.enter(State::Closing { n_left: MAX_LINGER_BYTES }, now);
        } else if self.received.is_empty() {
            self.enter(State::Idle, now);
        } else {
            self.has_news = true;
            self.enter(State::ReadingHead, now);
        }
        Ok(())
    }

    /// Discards what a client sends after its last response.
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

    /// Whether it may be closed for a new connection: no complete request has arrived, or its response makes
    /// no progress.
    pub fn can_be_evicted(&mut self, now: Instant, limits: &Limits) -> bool {
        match self.state {
            State::Idle | State::ReadingHead => {
                // The request may still be in the socket.
                let is_gone = !self.has_news && self.receive(now).is_err();
                is_gone || matches!(parse_head(&self.received), Parsed::Incomplete)
            }
            State::Pending(_) => false,
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

/// Whether a socket was not ready, or a signal interrupted the call.
pub fn is_temporary(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
