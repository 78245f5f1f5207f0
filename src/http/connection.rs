//! Handles one connection as a state machine. In one turn, a connection receives the bytes that have arrived,
//! or writes a part of a response. A turn never waits.

use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::head::{Parsed, parse_head};
use super::pending::{MAX_PATIENCE, Pending};
use super::response::{Form, PLAIN, Response};
use super::routes::{Client, Reply, reply};
use super::site::Site;
use super::throttle::Account;

/// The maximum length of a request's head in bytes. Longer heads are refused.
const MAX_HEAD_BYTES: usize = 8 << 10;

/// How long a connection may be idle between requests.
pub const IDLE: Duration = Duration::from_secs(120);
/// How long the head of a request may take to arrive.
pub const HEAD: Duration = Duration::from_secs(5);
/// How long sending a response may take.
pub const RESPONSE: Duration = Duration::from_secs(30);
/// How long a response may make no progress before its connection may be closed, to make room for a new
/// connection. A slow client still makes progress: if it reads 20 KB/s, TCP lets the server send 64 KiB every
/// 3 s.
pub const STALLED: Duration = Duration::from_secs(5);
/// How long a closing connection still receives and discards what the client sends.
const LINGER: Duration = Duration::from_secs(1);

/// The state of a connection.
pub enum State {
    /// A request was answered, and the connection waits for the next request.
    Idle,
    /// The connection waits for the head of a request to arrive completely.
    ReadingHead,
    /// The request waits for a scrape, for compression, or until CPU time may be spent on responses.
    Pending(Pending),
    /// A response is being sent. `progress` is the time of the last successful write.
    Writing { response: Response, progress: Instant },
    /// The last response on this connection is written. Bytes that the client still sends are received and
    /// discarded. If they were not received, the kernel would reset the connection, and the client might lose
    /// the response.
    Closing,
    /// The connection is closed.
    Ended,
}

/// One client's connection.
pub struct Connection {
    stream: TcpStream,
    /// The client's address.
    pub peer: IpAddr,
    /// Whether the client is local, and whether the connection has one of the slots for open connections.
    pub client: Client,
    /// The current state.
    pub state: State,
    /// When the connection entered its current state. Writing a part of a response does not change this time,
    /// so it does not move the deadline.
    pub since: Instant,
    /// The received bytes that are not parsed yet.
    received: Vec<u8>,
    /// Whether `received` may hold a complete request, so that parsing it is worthwhile.
    may_hold_request: bool,
}

impl Connection {
    /// Creates the connection for a stream that was just accepted.
    pub fn new(stream: TcpStream, peer: IpAddr, now: Instant) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        // A response is written as a whole. Nagle's algorithm gathers small writes, so it would only delay
        // the response.
        stream.set_nodelay(true)?;
        // An IPv4 client of an IPv6 socket has an address such as ::ffff:127.0.0.1.
        let peer = peer.to_canonical();
        let is_local = peer.is_loopback() || stream.local_addr()?.ip().to_canonical() == peer;
        let client = Client { is_local, has_slot: true };
        let (state, received) = (State::ReadingHead, Vec::new());
        Ok(Self { stream, peer, client, state, since: now, received, may_hold_request: false })
    }

    /// Whether the connection takes one of the slots, which limit the number of open connections. A
    /// connection that waits for a scrape takes no slot, because waiting uses no CPU time.
    pub fn takes_slot(&self) -> bool {
        let is_scraping = matches!(&self.state, State::Pending(pending) if pending.is_scraping());
        !self.is_surplus() && !is_scraping
    }

    /// Whether the connection is closing, or was accepted although too many connections were open.
    pub fn is_surplus(&self) -> bool {
        !self.client.has_slot || matches!(self.state, State::Closing | State::Ended)
    }

    /// Returns whether the CPU time of the connection's next step counts as time for requests or for
    /// responses. The two have separate limits.
    pub fn account(&self) -> Account {
        match self.state {
            State::Pending(_) | State::Writing { .. } => Account::Responses,
            _ => Account::Requests,
        }
    }

    /// Whether the next step of the connection must wait until CPU time may be spent on responses.
    /// Compression that has begun does not wait.
    pub fn needs_credit(&self) -> bool {
        let is_compressing = matches!(&self.state, State::Pending(pending) if pending.is_compressing());
        self.account() == Account::Responses && !is_compressing
    }

    /// Returns the socket events that the connection waits for. When such an event occurs, the connection
    /// makes its next step.
    pub fn interest(&self) -> PollFlags {
        match self.state {
            State::Writing { .. } => PollFlags::OUT,
            // In this state only errors matter, and the kernel always reports errors.
            State::Pending(_) => PollFlags::empty(),
            _ => PollFlags::IN,
        }
    }

    /// Returns the time at which the connection must make its next step, even if its socket is not ready. A
    /// time in the past means that the step is due now.
    pub fn next_turn(&self, site: &Site) -> Instant {
        match &self.state {
            State::Pending(pending) => pending.waits_until(site).unwrap_or(self.since),
            State::ReadingHead if self.may_hold_request => self.since,
            _ => self.deadline(),
        }
    }

    /// Returns the deadline of the current state.
    pub fn deadline(&self) -> Instant {
        self.since
            + match self.state {
                State::Idle => IDLE,
                State::ReadingHead => HEAD,
                State::Pending(_) => MAX_PATIENCE + RESPONSE,
                State::Writing { .. } => RESPONSE,
                State::Closing => LINGER,
                State::Ended => Duration::ZERO,
            }
    }

    /// Does the next step, for example because the socket is ready. One turn makes at most one read, parses
    /// at most one request, and makes at most one write.
    pub fn turn(&mut self, site: &Site, now: Instant) {
        // A turn fails if the client has closed the connection. It also fails if the bytes of the response
        // were freed to make room for the next scrape.
        if self.try_turn(site, now).is_err() {
            self.state = State::Ended;
        }
    }

    fn try_turn(&mut self, site: &Site, now: Instant) -> io::Result<()> {
        let is_due = self.next_turn(site) <= now;
        match &mut self.state {
            State::Idle | State::ReadingHead => {
                if !self.may_hold_request {
                    self.receive(now)?;
                }
                self.parse(site, now)
            }
            State::Pending(pending) if is_due => match pending.advance(site, now) {
                Some(response) => self.respond(response, now),
                None => Ok(()),
            },
            State::Pending(_) => self.stream.take_error()?.map_or(Ok(()), Err),
            State::Writing { .. } => self.write(now),
            State::Closing => self.discard(),
            State::Ended => Ok(()),
        }
    }

    /// Receives the bytes that have arrived.
    fn receive(&mut self, now: Instant) -> io::Result<()> {
        let mut bytes = [0; MAX_HEAD_BYTES];
        let n_free = MAX_HEAD_BYTES - self.received.len();
        match (&self.stream).read(&mut bytes[..n_free]) {
            Ok(0) if n_free > 0 => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                self.received.extend_from_slice(&bytes[..n]);
                self.may_hold_request = true;
                if matches!(self.state, State::Idle) {
                    self.enter(State::ReadingHead, now);
                }
            }
            Err(e) if is_temporary(&e) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Parses the first request in `received`, if it is complete. The response to a probe, such as a request
    /// to `/healthz`, is written immediately. Other responses are written in a later turn.
    fn parse(&mut self, site: &Site, now: Instant) -> io::Result<()> {
        self.may_hold_request = false;
        let refuse = |status, text: &'static str| {
            let response = Response::new(Form::LAST, status, &[PLAIN], text.as_bytes());
            (Reply::Response(response), self.received.len())
        };
        let (reply, n_used) = match parse_head(&self.received) {
            Parsed::Complete(head, n_used) => (reply(site, &head, self.client, now), n_used),
            Parsed::Incomplete if self.received.len() < MAX_HEAD_BYTES => return Ok(()),
            Parsed::Malformed => refuse(400, "this is not an HTTP/1 request\n"),
            Parsed::Incomplete | Parsed::TooLong => {
                refuse(431, "a request's head may have 8 KiB and 100 lines\n")
            }
        };
        self.received = self.received.split_off(n_used);
        match reply {
            Reply::Probe(response) => return self.respond(response, now),
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
        self.enter(State::Writing { response, progress: now }, now);
    }

    fn write(&mut self, now: Instant) -> io::Result<()> {
        let State::Writing { response, progress } = &mut self.state else { return Ok(()) };
        match response.write(&self.stream) {
            Ok(is_complete) => {
                *progress = now;
                if !is_complete {
                    return Ok(());
                }
            }
            Err(e) if is_temporary(&e) => return Ok(()),
            Err(e) => return Err(e),
        }
        if !response.keep_alive || !self.client.has_slot {
            self.stream.shutdown(Shutdown::Write)?;
            self.enter(State::Closing, now);
        } else if self.received.is_empty() {
            self.enter(State::Idle, now);
        } else {
            self.may_hold_request = true;
            self.enter(State::ReadingHead, now);
        }
        Ok(())
    }

    /// Discards what the client sends after the last response was written.
    fn discard(&self) -> io::Result<()> {
        match (&self.stream).read(&mut [0; 4096]) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Err(e) if !is_temporary(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// Whether the connection may be closed to make room for a new one. This is the case if no complete
    /// request has arrived, or if the response makes no progress.
    pub fn can_be_evicted(&mut self, now: Instant) -> bool {
        match self.state {
            State::Idle | State::ReadingHead => {
                // If `received` holds no complete request, the last bytes of the request may still be in the
                // socket. So the socket is read here. If reading fails, the client has closed the connection.
                let is_gone = !self.may_hold_request && self.receive(now).is_err();
                is_gone || matches!(parse_head(&self.received), Parsed::Incomplete)
            }
            State::Writing { progress, .. } => now.duration_since(progress) >= STALLED,
            State::Pending(_) | State::Closing | State::Ended => false,
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

/// Whether the call may succeed if it is repeated: the socket was not ready, or a signal interrupted the
/// call.
fn is_temporary(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
