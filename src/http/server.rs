//! The HTTP server: one thread that waits for all its connections at once, and bounds on everything.
//!
//! `tiny_http` prints the responses' heads. Its own server is not used, for version 0.12's can be stopped by one client: it
//! allocates the Content-Length that a request declares; it waits for a declared body for ever; it waits for a client that
//! does not read for ever; its accept loop ends at the first EMFILE; it panics when a client is gone before it is looked
//! at; and it bounds neither the time nor the length of a head. None of this can be mended in front of it with less than
//! the loop below.
//!
//! A connection that is ready has its turn: one read, one request, one write. Each state has a deadline. When all places
//! are taken, a connection that nothing has arrived on is closed for the new one, and if there is none, the new one is
//! told so. What all this costs is charged to the [`Throttle`]; without credit everybody waits in the kernel's queues.

use std::fmt;
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
use super::limits::{LIMITS, Limits};
use super::publish::{Document, Published};
use super::site::Site;
use super::throttle::Throttle;
use crate::demand::Demand;
use crate::errors::plain;

/// How many connections the kernel holds until they are accepted; accepting takes 0.1 ms.
const BACKLOG: i32 = 1024;

/// The thread needs 16 KiB in a release build, 72 KiB in a debug build, gzip included.
const STACK_BYTES: usize = 128 << 10;

/// How many connections are accepted between two rounds of turns.
const MAX_ACCEPTS: usize = 16;

/// How often the connections that are written to are looked at.
const CUT_INTERVAL: Duration = Duration::from_millis(100);

/// After a failed accept: file descriptors do not come back at once, and failing again costs a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the kernel takes of a response before its client reads; it doubles it for its own needs.
const SEND_BUFFER_BYTES: usize = 256 * 1024;

/// A listening socket that nothing is accepted from yet.
pub struct Server {
    listener: TcpListener,
    addr: SocketAddr,
    limits: Limits,
}

/// Why an address cannot be listened on.
#[derive(Debug)]
pub struct ListenError {
    addr: String,
    cause: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {:?}: {}", self.addr, plain(&self.cause))
    }
}

impl std::error::Error for ListenError {}

impl Server {
    /// Listens on `:PORT` (all interfaces, IPv4 and IPv6), `HOST:PORT` or `[IPV6]:PORT`; port 0 is any free one.
    pub fn bind(addr: &str) -> Result<Server, ListenError> {
        let bind = || {
            let listener = match addr.strip_prefix(':') {
                // A socket on [::] takes IPv4 too, where the kernel has IPv6 at all.
                Some(port) => TcpListener::bind(format!("[::]:{port}")).or_else(|e| match e.kind() {
                    ErrorKind::AddrInUse | ErrorKind::PermissionDenied | ErrorKind::InvalidInput => Err(e),
                    _ => TcpListener::bind(format!("0.0.0.0:{port}")),
                })?,
                None => TcpListener::bind(addr)?,
            };
            // The standard library's 128 are too few for a burst of clients: the next has to try again a second later.
            rustix::net::listen(&listener, BACKLOG)?;
            // Accepted sockets inherit it. Left alone, each stopped reader may fill 4 MiB of the kernel's, on our memory limit.
            rustix::net::sockopt::set_socket_send_buffer_size(&listener, SEND_BUFFER_BYTES)?;
            let addr = listener.local_addr()?;
            Ok(Server { listener, addr, limits: LIMITS })
        };
        bind().map_err(|cause| ListenError { addr: addr.to_owned(), cause })
    }

    /// Where it listens, with the port that was found for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until the process ends, on a thread of its own. `/healthz` fails when a scrape has been due for
    /// `max_age`. Requests from this machine may also use the host names `allowed_hosts`.
    pub fn start(
        self,
        published: Published,
        ooms: Document,
        demand: Arc<Demand>,
        max_age: Duration,
        allowed_hosts: Vec<String>,
    ) -> io::Result<()> {
        self.listener.set_nonblocking(true)?;
        let node_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let site = Site {
            published,
            ooms,
            demand,
            places: Arc::default(),
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
        let mut throttle = Throttle::new(&self.limits);
        let mut connections = Connections::new(self.limits);
        let mut acceptor = Acceptor { listener: &self.listener, failed_at: None };
        loop {
            throttle.wait();
            let (mut ready, can_accept) = wait(&connections, &acceptor, site);
            let now = Instant::now();
            connections.sort_by_turn(&mut ready);
            // What this loop itself costs is nobody's.
            throttle.charge();
            for i in ready {
                if !throttle.has_credit() {
                    break;
                }
                connections.open[i].turn(site, now);
                connections.charge(i, throttle.charge());
            }
            connections.expire(now);
            // After the turns: who has ended makes room, and whose request has arrived is known.
            if can_accept {
                acceptor.accept(&mut connections, now);
            }
        }
    }
}

/// Waits until a connection is ready, a new one comes, a scrape ends, or a deadline passes. Says which are ready, and whether one comes.
fn wait(connections: &Connections, acceptor: &Acceptor<'_>, site: &Site) -> (Vec<usize>, bool) {
    let now = Instant::now();
    let resume_at = acceptor.resume_at().filter(|&at| at > now);
    let mut fds: Vec<_> =
        connections.open.iter().map(|connection| PollFd::new(connection, connection.interest())).collect();
    fds.push(PollFd::new(site.demand.done(), PollFlags::IN));
    if resume_at.is_none() {
        fds.push(PollFd::new(acceptor.listener, PollFlags::IN));
    }
    let has_turn =
        |now| (0..connections.open.len()).filter(move |&i| connections.open[i].has_turn(site, now));
    let deadline = [connections.deadline(), resume_at].into_iter().flatten().min();
    let timeout = match deadline {
        _ if has_turn(now).next().is_some() => Some(Duration::ZERO),
        // Whether an outdated exposition was cut is looked up: nobody wakes this thread for it.
        Some(at) if connections.is_writing() => Some(at.saturating_duration_since(now).min(CUT_INTERVAL)),
        Some(at) => Some(at.saturating_duration_since(now)),
        None => None,
    };
    let timeout = timeout
        .map(|timeout| Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() });
    // It fails when a signal interrupts it; then nothing is ready.
    let _ = poll(&mut fds, timeout.as_ref());
    let is_ready = |i: usize| !fds[i].revents().is_empty();
    let n_open = connections.open.len();
    let can_accept = fds.len() > n_open + 1 && is_ready(n_open + 1);
    if is_ready(n_open) {
        site.demand.done().clear();
    }
    let now = Instant::now();
    let ready = (0..n_open).filter(|&i| is_ready(i) || connections.open[i].has_turn(site, now)).collect();
    (ready, can_accept)
}

/// The listening socket, and what its failures say.
struct Acceptor<'a> {
    listener: &'a TcpListener,
    failed_at: Option<Instant>,
}

impl Acceptor<'_> {
    /// Before this it is not tried again.
    fn resume_at(&self) -> Option<Instant> {
        self.failed_at.map(|at| at + ACCEPT_PAUSE)
    }

    /// Accepts what has come, up to as many as it may serve.
    fn accept(&mut self, connections: &mut Connections, now: Instant) {
        for _ in 0..MAX_ACCEPTS {
            let (stream, peer) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                // The client was gone before it was accepted.
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {
                    continue;
                }
                Err(e) => {
                    if self.failed_at.is_none() {
                        warn!("cannot accept connections: {}", plain(&e));
                    }
                    self.failed_at = Some(now);
                    // Most likely there are too few file descriptors: a connection that just waits is given up for it.
                    connections.evict(now);
                    return;
                }
            };
            if self.failed_at.take().is_some() {
                info!("accepting connections again");
            }
            let Ok(connection) = Connection::new(stream, peer.ip(), now) else { continue };
            if !connections.admit(connection, now) {
                debug!("no place for a connection from {peer}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::connection::is_temporary;
    use super::super::publish::publisher;
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A server whose deadlines are a minute but for those that the test shortens.
    fn serve(shorten: impl FnOnce(&mut Limits)) -> SocketAddr {
        let (mut publisher, published) = publisher();
        publisher.buffer().extend_from_slice(&b"x 1\n".repeat(4 << 20));
        publisher.publish(None);
        let mut server = Server::bind("127.0.0.1:0").unwrap();
        let addr = server.local_addr();
        server.limits = Limits {
            n_connections: 2,
            n_closing: 2,
            head: MINUTE,
            idle: MINUTE,
            response: MINUTE,
            stalled: MINUTE,
            linger: MINUTE,
            cpu: 1.0,
            cpu_burst: MINUTE,
        };
        shorten(&mut server.limits);
        let now = Instant::now();
        let demand = Arc::new(Demand::new(MINUTE, now).unwrap());
        demand.begin(now);
        demand.end(true, None, now);
        server.start(published, Document::default(), demand, MINUTE, Vec::new()).unwrap();
        addr
    }

    fn send(addr: SocketAddr, bytes: &str) -> TcpStream {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(MINUTE / 2)).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
        stream
    }

    /// What comes until the server closes the connection.
    fn rest(mut stream: TcpStream) -> String {
        let mut bytes = Vec::new();
        match stream.read_to_end(&mut bytes) {
            Err(e) if is_temporary(&e) => panic!("the connection stays open"),
            _ => String::from_utf8(bytes).unwrap(),
        }
    }

    /// Whether a small request is answered, on a connection of its own.
    fn is_answered(addr: SocketAddr) -> bool {
        rest(send(addr, "GET /readyz HTTP/1.0\r\n\r\n")).ends_with("\r\n\r\nok\n")
    }

    fn wait_for_answer(addr: SocketAddr) {
        let deadline = Instant::now() + MINUTE / 2;
        while !is_answered(addr) {
            assert!(Instant::now() < deadline, "there is still no place");
        }
    }

    const SHORT: Duration = Duration::from_millis(100);

    #[test]
    fn a_head_that_does_not_end_is_cut() {
        let addr = serve(|limits| limits.head = SHORT);
        assert_eq!(rest(send(addr, "")), "");
        assert_eq!(rest(send(addr, "GET / HT")), "");
        let second_head = rest(send(addr, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT"));
        assert_eq!(second_head.matches("HTTP/1.1 ").count(), 1, "{second_head}");
    }

    #[test]
    fn an_idle_connection_is_closed() {
        let addr = serve(|limits| limits.idle = SHORT);
        let answers = rest(send(addr, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert!(answers.contains("Connection: keep-alive") && answers.ends_with("\r\n\r\nok\n"), "{answers}");
    }

    #[test]
    fn an_answer_that_is_not_read_is_cut() {
        let addr = serve(|limits| limits.response = SHORT);
        let clients = [(); 2].map(|()| send(addr, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        // Both places are taken, and nobody can be evicted: only the deadline frees them.
        wait_for_answer(addr);
        drop(clients);
    }

    #[test]
    fn a_stalled_answer_makes_room() {
        let addr = serve(|limits| limits.stalled = SHORT);
        let clients = [(); 2].map(|()| send(addr, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        wait_for_answer(addr);
        drop(clients);
    }

    #[test]
    fn idle_connections_make_room() {
        let addr = serve(|_| {});
        let idle = [(); 2].map(|()| {
            let mut idle = send(addr, "HEAD /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert!(idle.read(&mut [0; 1024]).unwrap() > 0);
            idle
        });
        wait_for_answer(addr);
        let is_closed = |mut idle: TcpStream| {
            idle.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            !idle.read(&mut [0]).is_err_and(|e| is_temporary(&e))
        };
        assert!(idle.map(is_closed).contains(&true));
    }

    #[test]
    fn a_full_house_refuses_at_once() {
        let addr = serve(|_| {});
        let clients = [(); 2].map(|()| {
            let mut client = send(addr, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
            client.read_exact(&mut [0]).unwrap();
            client
        });
        assert!(
            rest(send(addr, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")).starts_with("HTTP/1.1 503 ")
        );
        drop(clients);
        wait_for_answer(addr);
    }

    #[test]
    fn addresses() {
        for addr in ["127.0.0.1:0", "localhost:0", ":0"] {
            let server = Server::bind(addr).unwrap();
            assert_ne!(server.local_addr().port(), 0, "{addr}");
        }
        let all = Server::bind(":0").unwrap().local_addr();
        assert!(all.ip().is_unspecified(), "{all}");
    }

    #[test]
    fn addresses_that_do_not_work() {
        let server = Server::bind(":0").unwrap();
        let taken = server.local_addr().port();
        let error = Server::bind(&format!(":{taken}")).err().unwrap().to_string();
        assert_eq!(error, format!("cannot listen on \":{taken}\": address already in use"));
        let error = Server::bind("192.0.2.1:0").err().unwrap().to_string();
        assert!(error.starts_with("cannot listen on \"192.0.2.1:0\": "), "{error}");
        assert!(!error.contains("os error"), "{error}");
    }
}
