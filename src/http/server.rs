//! The HTTP server: one thread that waits for all its connections at once, and bounds on everything.
//!
//! `tiny_http` prints the responses' heads. Its own server is not used, because one client can stop version
//! 0.12, the newest: its accept loop ends at the first EMFILE, and neither connections, nor heads, nor the time
//! of reading and writing are bounded.
//!
//! A connection that is ready has its turn: one read, one request, one write. Each state has a deadline. What
//! this costs is charged to the [`Throttle`]; without credit, requests wait in the kernel's queues and
//! responses wait here.

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
use super::throttle::{Account, Throttle};
use crate::demand::Demand;
use crate::errors::plain;

/// How many connections the kernel holds until they are accepted; accepting takes 0.1 ms.
const BACKLOG: i32 = 1024;

/// The thread needs 16 KiB in a release build, 72 KiB in a debug build, gzip included.
const STACK_BYTES: usize = 128 << 10;

/// How many connections are accepted between two rounds of turns.
const MAX_ACCEPTS: usize = 16;

/// After a failed accept: file descriptors do not come back at once, and failing again costs a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the kernel takes of a response before its client reads. It doubles this and adds up to one packet of
/// 64 KiB: at most 116 KiB were measured. With 32 KiB, loopback's delayed ACKs would allow 2 MB/s; with 40 KiB
/// they allow 1 GB/s.
const SEND_BUFFER_BYTES: usize = 40 << 10;

/// A listening socket that nothing is accepted from yet.
pub struct Server {
    listener: TcpListener,
    addr: SocketAddr,
    limits: Limits,
}

impl Server {
    /// Listens on `:PORT` (all interfaces, IPv4 and IPv6), `HOST:PORT` or `[IPV6]:PORT`; port 0 is any free
    /// one. Fails with one line for the user.
    pub fn bind(addr: &str) -> Result<Server, String> {
        let bind = || -> io::Result<Server> {
            let listener = match addr.strip_prefix(':') {
                // A socket on [::] takes IPv4 too, where the kernel has IPv6 at all.
                Some(port) => TcpListener::bind(format!("[::]:{port}")).or_else(|e| match e.kind() {
                    ErrorKind::AddrInUse | ErrorKind::PermissionDenied | ErrorKind::InvalidInput => Err(e),
                    _ => TcpListener::bind(format!("0.0.0.0:{port}")),
                })?,
                None => TcpListener::bind(addr)?,
            };
            // The standard library's 128 are too few for a burst of clients: the next client would have to
            // try again a second later.
            rustix::net::listen(&listener, BACKLOG)?;
            // Accepted sockets inherit it. By default the kernel may hold 4 MiB for each stopped reader, which
            // count against the container's memory limit.
            rustix::net::sockopt::set_socket_send_buffer_size(&listener, SEND_BUFFER_BYTES)?;
            let addr = listener.local_addr()?;
            Ok(Server { listener, addr, limits: LIMITS })
        };
        bind().map_err(|cause| format!("cannot listen on {addr:?}: {}", plain(&cause)))
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
            compressor: Default::default(),
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
            let (mut ready, can_accept) = wait(&connections, &acceptor, site, &throttle);
            let now = Instant::now();
            connections.sort_by_turn(&mut ready);
            // The cost of the loop itself is charged to no address.
            throttle.charge(Account::Responses);
            for i in ready {
                // A request that has arrived can be answered at once.
                for account in [Account::Requests, Account::Responses] {
                    let connection = &mut connections.open[i];
                    let has_credit = throttle.has_credit(account) || !connection.needs_credit();
                    if connection.account() == account && has_credit {
                        connection.turn(site, now);
                        connections.charge(i, throttle.charge(account));
                    }
                }
            }
            connections.expire(now);
            // Accepting comes after the turns, which end connections and tell which requests have arrived.
            if can_accept {
                acceptor.accept(&mut connections, now);
                throttle.charge(Account::Requests);
            }
        }
    }
}

/// Waits until a connection is ready, a new one comes, a scrape ends, or a deadline passes. Returns the
/// connections that are ready, and whether a new one has come.
fn wait(
    connections: &Connections,
    acceptor: &Acceptor<'_>,
    site: &Site,
    throttle: &Throttle,
) -> (Vec<usize>, bool) {
    let now = Instant::now();
    let resume_at = acceptor.resume_at().filter(|&at| at > now);
    let open = &connections.open;
    let has_credit = throttle.has_credit(Account::Responses);
    // A connection that needs credit is not polled without it: its events would end every wait.
    let (active, paused): (Vec<_>, Vec<_>) =
        (0..open.len()).partition(|&i| has_credit || !open[i].needs_credit());
    let mut fds: Vec<_> = active.iter().map(|&i| PollFd::new(&open[i], open[i].interest())).collect();
    fds.push(PollFd::new(site.demand.done(), PollFlags::IN));
    if resume_at.is_none() {
        fds.push(PollFd::new(acceptor.listener, PollFlags::IN));
    }
    let pause = (!paused.is_empty()).then(|| now + throttle.pause());
    let deadline = [connections.deadline(), resume_at, pause].into_iter().flatten().min();
    let timeout = match deadline {
        _ if active.iter().any(|&i| open[i].has_turn(site, now)) => Some(Duration::ZERO),
        Some(at) => Some(at.saturating_duration_since(now)),
        None => None,
    };
    let timeout = timeout
        .map(|timeout| Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() });
    // It fails when a signal interrupts it; then nothing is ready.
    let _ = poll(&mut fds, timeout.as_ref());
    let is_ready = |i: usize| fds.get(i).is_some_and(|fd| !fd.revents().is_empty());
    if is_ready(active.len()) {
        site.demand.done().clear();
    }
    let now = Instant::now();
    let ready = active.iter().enumerate().filter(|&(n, &i)| is_ready(n) || open[i].has_turn(site, now));
    (ready.map(|(_, &i)| i).collect(), is_ready(active.len() + 1))
}

/// The listening socket, and whether accepting has failed.
struct Acceptor<'a> {
    listener: &'a TcpListener,
    failed_at: Option<Instant>,
}

impl Acceptor<'_> {
    /// Returns the end of the pause after a failure.
    fn resume_at(&self) -> Option<Instant> {
        self.failed_at.map(|at| at + ACCEPT_PAUSE)
    }

    /// Accepts the connections that have come, up to [`MAX_ACCEPTS`].
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
                    // Most likely there are too few file descriptors, so a connection without a request is
                    // closed.
                    connections.evict(None, now);
                    return;
                }
            };
            if self.failed_at.take().is_some() {
                info!("accepting connections again");
            }
            let Ok(connection) = Connection::new(stream, peer.ip(), now) else { continue };
            if !connections.admit(connection, now) {
                debug!("no slot for a connection from {peer}");
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

    /// Starts a server with two slots. All deadlines are a minute, except those that the test shortens.
    fn serve(shorten: impl FnOnce(&mut Limits)) -> SocketAddr {
        let (mut publisher, published) = publisher();
        publisher.buffer().extend_from_slice(&b"x 1\n".repeat(4 << 20));
        publisher.publish(None);
        let mut server = Server::bind("127.0.0.1:0").unwrap();
        let addr = server.local_addr();
        server.limits = Limits {
            n_slots: 2,
            n_others: 2,
            head: MINUTE,
            idle: MINUTE,
            response: MINUTE,
            stalled: MINUTE,
            linger: MINUTE,
            requests_cpu: 1.0,
            responses_cpu: 1.0,
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

    /// Returns what arrives until the server closes the connection.
    fn rest(mut stream: TcpStream) -> String {
        let mut bytes = Vec::new();
        match stream.read_to_end(&mut bytes) {
            Err(e) if is_temporary(&e) => panic!("the connection stays open"),
            _ => String::from_utf8(bytes).unwrap(),
        }
    }

    const SHORT: Duration = Duration::from_millis(100);

    #[test]
    fn deadlines_end_heads_and_idle_connections() {
        let addr = serve(|limits| (limits.head, limits.idle) = (SHORT, SHORT));
        assert_eq!(rest(send(addr, "")), "");
        assert_eq!(rest(send(addr, "GET / HT")), "");
        let request = "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let second_head = rest(send(addr, &format!("{request}GET / HT")));
        assert_eq!(second_head.matches("HTTP/1.1 ").count(), 1, "{second_head}");
        let answer = rest(send(addr, request));
        assert!(answer.contains("Connection: keep-alive") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
    }

    #[test]
    fn unread_responses_end_at_their_deadline_or_make_room() {
        for is_stalled in [false, true] {
            let addr =
                serve(|limits| *if is_stalled { &mut limits.stalled } else { &mut limits.response } = SHORT);
            let clients = [(); 2].map(|()| send(addr, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            let deadline = Instant::now() + MINUTE / 2;
            while rest(send(addr, "GET /ooms HTTP/1.0\r\n\r\n")).starts_with("HTTP/1.1 503 ") {
                assert!(Instant::now() < deadline, "both slots are still taken");
            }
            drop(clients);
        }
    }

    #[test]
    fn without_slots_only_probes_are_answered() {
        let addr = serve(|_| {});
        let clients = [(); 2].map(|()| {
            let mut client = send(addr, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
            client.read_exact(&mut [0]).unwrap();
            client
        });
        for _ in 0..3 {
            let refused = rest(send(addr, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            assert!(refused.starts_with("HTTP/1.1 503 ") && refused.ends_with("too many connections\n"));
            for path in ["/healthz", "/readyz"] {
                let probe = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
                assert!(rest(send(addr, &probe)).ends_with("\r\n\r\nok\n"), "{path}");
            }
        }
        drop(clients);
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
        let error = Server::bind(&format!(":{taken}")).err().unwrap();
        assert_eq!(error, format!("cannot listen on \":{taken}\": address already in use"));
        let error = Server::bind("192.0.2.1:0").err().unwrap();
        assert!(error.starts_with("cannot listen on \"192.0.2.1:0\": "), "{error}");
        assert!(!error.contains("os error"), "{error}");
    }
}
