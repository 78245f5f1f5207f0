//! One connection, as a state machine. A turn takes what has arrived or writes a part of a response, and
//! never waits.

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

/// A longer head is refused.
const MAX_HEAD_BYTES: usize = 8 << 10;

/// How long a connection may be idle between requests.
pub const IDLE: Duration = Duration::from_secs(120);
/// How long a head may take to arrive.
pub const HEAD: Duration = Duration::from_secs(5);
/// How long sending a response may take.
pub const RESPONSE: Duration = Duration::from_secs(30);
/// A response that has made no progress for this long makes room for a new connection. A client that reads
/// 20 KB/s makes progress every 3 s: TCP reopens a closed window by 64 KiB at once.
pub const STALLED: Duration = Duration::from_secs(5);
/// How long a closing connection is read from.
const LINGER: Duration = Duration::from_secs(1);

/// What a connection is doing.
pub enum State {
    /// It waits for a request, after one that was answered.
    Idle,
    /// It waits for the rest of a head, or for a first byte.
    ReadingHead,
    /// Its request waits for a scrape, for compression, or for credit.
    Pending(Pending),
    /// It sends a response, of which something was written at the time of `progress`.
    Writing { response: Response, progress: Instant },
    /// Its last response is written. What the client still sends is read: unread bytes would make the kernel
    /// reset the connection, and the client might never see its response.
    Closing,
    /// It is over.
    Ended,
}

/// One client's connection.
pub struct Connection {
    stream: TcpStream,
    /// The client's address.
    pub peer: IpAddr,
    /// What else is known of the client.
    pub client: Client,
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
        let client = Client { is_local, has_slot: true };
        let (state, received) = (State::ReadingHead, Vec::new());
        Ok(Self { stream, peer, client, state, since: now, received, has_news: false })
    }

    /// Whether it takes one of the slots. While it waits for a scrape it does not: that costs nothing.
    pub fn takes_slot(&self) -> bool {
        let is_scraping = matches!(&self.state, State::Pending(pending) if pending.is_scraping());
        !self.is_surplus() && !is_scraping
    }

    /// Whether all that is left to do is to close it, perhaps after one answer.
    pub fn is_surplus(&self) -> bool {
        !self.client.has_slot || matches!(self.state, State::Closing | State::Ended)
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

    /// Returns when it has a turn without an event, which may be in the past, or else its end.
    pub fn next_turn(&self, site: &Site) -> Instant {
        match &self.state {
            State::Pending(pending) => pending.waits_until(site).unwrap_or(self.since),
            State::ReadingHead if self.has_news => self.since,
            _ => self.end(),
        }
    }

    /// Returns when its time is up.
    pub fn end(&self) -> Instant {
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

    /// Does what its socket is ready for: at most one read, one request, one write.
    pub fn turn(&mut self, site: &Site, now: Instant) {
        // An error means that the client has closed the connection, or that its response was taken away.
        if self.try_turn(site, now).is_err() {
            self.state = State::Ended;
        }
    }

    fn try_turn(&mut self, site: &Site, now: Instant) -> io::Result<()> {
        let is_due = self.next_turn(site) <= now;
        match &mut self.state {
            State::Idle | State::ReadingHead => {
                if !self.has_news {
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

    /// Takes what has arrived.
    fn receive(&mut self, now: Instant) -> io::Result<()> {
        let mut bytes = [0; MAX_HEAD_BYTES];
        let n_free = MAX_HEAD_BYTES - self.received.len();
        match (&self.stream).read(&mut bytes[..n_free]) {
            Ok(0) if n_free > 0 => return Err(ErrorKind::UnexpectedEof.into()),
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
            self.has_news = true;
            self.enter(State::ReadingHead, now);
        }
        Ok(())
    }

    /// Discards what a client sends after its last response.
    fn discard(&self) -> io::Result<()> {
        match (&self.stream).read(&mut [0; 4096]) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Err(e) if !is_temporary(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// Whether it may be closed for a new connection: no complete request has arrived, or its response makes
    /// no progress.
    pub fn can_be_evicted(&mut self, now: Instant) -> bool {
        match self.state {
            State::Idle | State::ReadingHead => {
                // The request may still be in the socket.
                let is_gone = !self.has_news && self.receive(now).is_err();
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

/// Whether a socket was not ready, or a signal interrupted the call.
fn is_temporary(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
