//! The HTTP server. One thread serves all connections. Everything that clients can use up has a limit.
//!
//! This program uses `tiny_http` only to print the heads of responses. The server of `tiny_http` (0.12, the
//! newest version) is not used, because a single client can stop it. It stops accepting connections after the
//! first EMFILE. It does not limit the number of connections, the size of heads, or the time of reading and
//! writing.
//!
//! A connection that is ready makes one step, which is called its turn. In one turn, a connection makes at
//! most one read, handles at most one request, and makes at most one write. Each state of a connection has a
//! deadline. The [`Throttle`] limits the CPU time of the turns. When no CPU time may be spent, requests wait
//! in the kernel's queues, and responses wait in this program.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::connection::Connection;
use super::connections::Connections;
use super::hosts::Hosts;
use super::publish::{Document, Published};
use super::site::Site;
use super::throttle::{Account, Throttle};
use super::views::Views;
use crate::demand::Demand;
use crate::errors::plain;

/// How many new connections the kernel keeps in its queue until the server accepts them. Accepting all
/// connections of a full queue takes about 0.1 s, because one connection takes 0.1 ms.
const BACKLOG: i32 = 1024;

/// The size of the HTTP thread's stack in bytes. The thread, which also compresses, needs 16 KiB in a release
/// build and 72 KiB in a debug build.
const STACK_BYTES: usize = 128 << 10;

/// How many new connections are accepted before the open connections make their next steps.
const MAX_ACCEPTS: usize = 16;

/// How long the server pauses after it has failed to accept a connection. File descriptors do not become free
/// at once, and each failure may write a log line.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The size of a connection's send buffer, in which the kernel keeps bytes of a response until the client
/// reads them. The kernel doubles this size to 80 KiB, and the last packet may exceed the doubled size. In
/// measurements, the kernel kept at most 116 KiB. With 40 KiB, the speed on loopback is 1 GB/s. With 32 KiB,
/// delayed ACKs limit the speed to 2 MB/s.
const SEND_BUFFER_BYTES: usize = 40 << 10;

/// A listening socket that has accepted no connection yet.
pub struct Server {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Server {
    /// Listens on `:PORT` (all interfaces, IPv4 and IPv6), `HOST:PORT` or `[IPV6]:PORT`. Port 0 stands for
    /// any free port. The error is a one-line message for the user.
    pub fn bind(addr: &str) -> Result<Server, String> {
        let bind = || -> io::Result<Server> {
            let listener = match addr.strip_prefix(':') {
                // If the kernel has IPv6, a socket on [::] also accepts IPv4 connections.
                Some(port) => TcpListener::bind(format!("[::]:{port}")).or_else(|e| match e.kind() {
                    ErrorKind::AddrInUse | ErrorKind::PermissionDenied | ErrorKind::InvalidInput => Err(e),
                    _ => TcpListener::bind(format!("0.0.0.0:{port}")),
                })?,
                None => TcpListener::bind(addr)?,
            };
            // Rust's standard library sets a backlog of 128, which is too small for a burst of clients. If
            // the backlog is full, the kernel ignores the attempt of the next client to connect. The client's
            // TCP repeats the attempt only after a second.
            rustix::net::listen(&listener, BACKLOG)?;
            // Accepted sockets inherit this size. With the default size, the kernel may hold 4 MiB for each
            // client that stops reading, and this memory is charged to the container.
            rustix::net::sockopt::set_socket_send_buffer_size(&listener, SEND_BUFFER_BYTES)?;
            let addr = listener.local_addr()?;
            Ok(Server { listener, addr })
        };
        bind().map_err(|cause| format!("cannot listen on {addr:?}: {}", plain(&cause)))
    }

    /// Returns the address that the server listens on. If port 0 was requested, the address has the port that
    /// the kernel chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts a thread that serves until the process ends. `/healthz` fails if a scrape has not ended within
    /// `max_age` after it was due. Requests from this machine may also use the host names in `allowed_hosts`.
    pub fn start(
        self,
        published: Published,
        ooms: Document,
        views: Arc<Views>,
        demand: Arc<Demand>,
        max_age: Duration,
        allowed_hosts: Vec<String>,
    ) -> io::Result<()> {
        self.listener.set_nonblocking(true)?;
        let node_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let site = Site {
            published,
            compressor: Default::default(),
            ooms,
            views,
            demand,
            wait_slots: Arc::default(),
            max_age,
            hosts: Hosts::new(node_name, allowed_hosts),
        };
        thread::Builder::new()
            .name("http".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || self.serve(&site))?;
        Ok(())
    }

    fn serve(&self, site: &Site) {
        let mut throttle = Throttle::new();
        let mut connections = Connections::new();
        let mut resume_at = None;
        loop {
            throttle.wait();
            let (mut ready, can_accept) = wait(&connections, &self.listener, resume_at, site, &throttle);
            let now = Instant::now();
            connections.sort_by_turn(&mut ready);
            for i in ready {
                // This loop gives a connection up to two turns. The first turn may receive a request, and
                // counts as CPU time for requests. Then the second turn can answer this request at once, and
                // counts as CPU time for responses.
                for account in [Account::Requests, Account::Responses] {
                    let connection = &mut connections.open[i];
                    let has_credit = !connection.needs_credit() || throttle.has_credit(account);
                    if connection.account() == account && has_credit {
                        connection.turn(site, now);
                        throttle.charge(account);
                    }
                }
            }
            connections.expire(now);
            // New connections are accepted after the turns, which are the next steps of the open connections.
            // There are two reasons for this order. A turn may end a connection, which frees a slot for a new
            // connection. A turn may also complete the request of a connection, and a connection with a
            // complete request is rarely closed to make room.
            if can_accept {
                resume_at = self.accept(&mut connections, resume_at, now);
                throttle.charge(Account::Requests);
            }
        }
    }

    /// Accepts up to [`MAX_ACCEPTS`] waiting connections. After a failure, returns the time until which no
    /// connections are accepted. `paused` is what the last call returned. If the last call failed, too, the
    /// failure is not logged again.
    fn accept(
        &self,
        connections: &mut Connections,
        paused: Option<Instant>,
        now: Instant,
    ) -> Option<Instant> {
        let mut has_failed = paused.is_some();
        for _ in 0..MAX_ACCEPTS {
            let (stream, peer) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                // The client closed the connection before it was accepted, or a signal interrupted the call.
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {
                    continue;
                }
                Err(e) => {
                    if !has_failed {
                        warn!("cannot accept connections: {}", plain(&e));
                    }
                    // Most likely no file descriptor is left, so a connection without a request is closed to
                    // free one.
                    connections.evict(None, now);
                    return Some(now + ACCEPT_PAUSE);
                }
            };
            if std::mem::take(&mut has_failed) {
                info!("accepting connections again");
            }
            let Ok(connection) = Connection::new(stream, peer.ip(), now) else { continue };
            if !connections.admit(connection, now) {
                debug!("no slot for a connection from {peer}");
            }
        }
        has_failed.then_some(now)
    }
}

/// Waits until a connection is ready, a new connection arrives, a scrape ends, or a deadline passes. Returns
/// the ready connections, and whether a new connection has arrived.
fn wait(
    connections: &Connections,
    listener: &TcpListener,
    resume_at: Option<Instant>,
    site: &Site,
    throttle: &Throttle,
) -> (Vec<usize>, bool) {
    let open = &connections.open;
    let has_credit = throttle.has_credit(Account::Responses);
    // A connection is not polled while it waits until CPU time may be spent on it. If it were polled while
    // its socket is ready, `poll` would always return at once.
    let active: Vec<_> = (0..open.len()).filter(|&i| has_credit || !open[i].needs_credit()).collect();
    let mut fds: Vec<_> = active.iter().map(|&i| PollFd::new(&open[i], open[i].interest())).collect();
    fds.push(PollFd::new(site.demand.done(), PollFlags::IN));
    let now = Instant::now();
    let resume_at = resume_at.filter(|&at| at > now);
    if resume_at.is_none() {
        fds.push(PollFd::new(listener, PollFlags::IN));
    }
    let pause = (active.len() < open.len()).then(|| now + throttle.pause());
    let next_turns = active.iter().map(|&i| open[i].next_turn(site));
    let deadline = next_turns.chain(pause).chain(resume_at).min();
    let timeout = deadline.and_then(|at| Timespec::try_from(at.saturating_duration_since(now)).ok());
    // The call fails if a signal interrupts it. In this case nothing is ready.
    let _ = poll(&mut fds, timeout.as_ref());
    let is_ready = |i: usize| fds.get(i).is_some_and(|fd| !fd.revents().is_empty());
    if is_ready(active.len()) {
        site.demand.done().clear();
    }
    let now = Instant::now();
    let ready = active.iter().enumerate().filter(|&(n, &i)| is_ready(n) || open[i].next_turn(site) <= now);
    (ready.map(|(_, &i)| i).collect(), is_ready(active.len() + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_listens_on_each_form_of_address() {
        for addr in ["127.0.0.1:0", "localhost:0", ":0"] {
            let server = Server::bind(addr).unwrap();
            assert_ne!(server.local_addr().port(), 0, "{addr}");
        }
        let all = Server::bind(":0").unwrap().local_addr();
        assert!(all.ip().is_unspecified(), "{all}");
    }

    #[test]
    fn invalid_and_taken_addresses_are_reported() {
        let server = Server::bind(":0").unwrap();
        let taken = server.local_addr().port();
        let error = Server::bind(&format!(":{taken}")).err().unwrap();
        assert_eq!(error, format!("cannot listen on \":{taken}\": address already in use"));
        let error = Server::bind("192.0.2.1:0").err().unwrap();
        assert!(error.starts_with("cannot listen on \"192.0.2.1:0\": "), "{error}");
        assert!(!error.contains("os error"), "{error}");
    }
}
