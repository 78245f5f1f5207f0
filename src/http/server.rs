//! The HTTP server: a thread a connection, none of which can be held up by another, and bounds on everything.
//!
//! `tiny_http` prints the answers' heads. Its own server is not used, for version 0.12's can be stopped by one client: it
//! allocates the Content-Length that a request declares; it waits for a declared body for ever; it waits for a client that
//! does not read for ever; its accept loop ends at the first EMFILE; it panics when a client is gone before it is looked
//! at; and it bounds neither the time nor the length of a head. None of this can be mended in front of it with less than
//! the accept loop below.
//!
//! A connection waits for its client in one of three ways, each with a deadline that socket timeouts enforce: between
//! requests, in a head, in an answer. When all places are taken, the connection that has waited the longest is closed for
//! the newcomer; those between requests go first, and an answer only once it has made no progress for a while.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use super::head::{Parsed, parse_head};
use super::response::{Answer, Body, answer, refusal};
use crate::errors::plain;
use crate::http::publish::{Published, lock};

/// A longer head is refused.
const MAX_HEAD_BYTES: usize = 8 << 10;

/// What is written at once. A client that takes less than this in [`Limits::stalled`] makes no progress.
const CHUNK_BYTES: usize = 64 << 10;

/// What is read and thrown away after the last answer, so that closing does not reset the connection under it.
const MAX_LEFTOVER_BYTES: usize = 256 << 10;

/// How many connections the kernel holds until they are accepted; accepting takes 0.1 ms.
const BACKLOG: i32 = 1024;

/// A connection's thread needs 16 KiB in a release build, 72 KiB in a debug build, gzip included.
const STACK_BYTES: usize = 128 << 10;

/// After a failed accept: file descriptors do not come back at once, and failing again costs a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a newcomer's place may take to become free after its connection was shut down.
const EVICTION_TIME: Duration = Duration::from_millis(100);

#[derive(Clone, Copy)]
struct Limits {
    n_connections: usize,
    head: Duration,
    idle: Duration,
    answer: Duration,
    stalled: Duration,
    leftover: Duration,
}

const LIMITS: Limits = Limits {
    n_connections: 64,
    head: Duration::from_secs(5),
    idle: Duration::from_secs(120),
    answer: Duration::from_secs(30),
    stalled: Duration::from_secs(1),
    leftover: Duration::from_secs(1),
};

/// What the kernel takes of an answer before its client reads; it doubles it for its own needs.
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

    /// Serves until the process ends, on threads of its own. Scrapes older than `max_age` are unhealthy.
    pub fn start(self, published: Published, max_age: Duration) -> io::Result<()> {
        let connections = Arc::new(Connections::default());
        let accept = move || self.accept(&connections, &published, max_age);
        thread::Builder::new().name("http".to_owned()).stack_size(STACK_BYTES).spawn(accept)?;
        Ok(())
    }

    fn accept(&self, connections: &Arc<Connections>, published: &Published, max_age: Duration) {
        let mut is_failing = false;
        loop {
            let (stream, peer) = match self.listener.accept() {
                Ok(accepted) => accepted,
                // The client was gone before it was accepted.
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {
                    continue;
                }
                Err(e) => {
                    if !is_failing {
                        warn!("cannot accept connections: {e}");
                    }
                    is_failing = true;
                    // Most likely there are too few file descriptors: one that just waits is given up for it.
                    connections.evict(&self.limits);
                    thread::sleep(ACCEPT_PAUSE);
                    continue;
                }
            };
            if is_failing {
                info!("accepting connections again");
                is_failing = false;
            }
            let Some(connection) = connections.admit(Arc::new(stream), &self.limits) else {
                debug!("refused a connection from {peer}: {} are open", self.limits.n_connections);
                continue;
            };
            let serve = {
                let (connections, connection) = (connections.clone(), connection.clone());
                let (published, limits) = (published.clone(), self.limits);
                move || {
                    // An error is a client that is gone or out of time: there is nobody to tell.
                    let _ = connection.serve(&published, max_age, &limits);
                    connections.remove(&connection);
                }
            };
            let thread = thread::Builder::new().name("connection".to_owned()).stack_size(STACK_BYTES);
            if let Err(e) = thread.spawn(serve) {
                debug!("refused a connection from {peer}: no thread: {e}");
                connections.remove(&connection);
            }
        }
    }
}

/// The open connections, one for each thread.
#[derive(Default)]
struct Connections {
    open: Mutex<Vec<Arc<Connection>>>,
    /// Notified when one of them is removed.
    removed: Condvar,
}

impl Connections {
    /// Takes a connection in, closing another for it if need be; none when it had to be refused.
    fn admit(&self, stream: Arc<TcpStream>, limits: &Limits) -> Option<Arc<Connection>> {
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
        let connection = Arc::new(Connection { stream, waiting: Mutex::new((Wait::Head, Instant::now())) });
        open.push(connection.clone());
        Some(connection)
    }

    fn evict(&self, limits: &Limits) {
        evict_one(&lock(&self.open), limits);
    }

    fn remove(&self, connection: &Arc<Connection>) {
        lock(&self.open).retain(|open| !Arc::ptr_eq(open, connection));
        self.removed.notify_all();
    }
}

/// Shuts down the connection that can best be done without; its thread will see that and remove it.
fn evict_one(open: &[Arc<Connection>], limits: &Limits) -> bool {
    let now = Instant::now();
    let waits = open.iter().map(|connection| (*lock(&connection.waiting), connection));
    let best = waits
        .filter(|((wait, since), _)| match wait {
            Wait::Idle | Wait::Head => true,
            Wait::Answer => now.duration_since(*since) >= limits.stalled,
            Wait::Evicted => false,
        })
        .min_by_key(|(waiting, _)| *waiting);
    if let Some((_, connection)) = best {
        connection.wait(Wait::Evicted, now);
        let _ = connection.stream.shutdown(Shutdown::Both);
    }
    best.is_some()
}

/// Answers a connection that there is no place for, without waiting for anything.
fn refuse(stream: &TcpStream) {
    let answer = refusal(503, "too many connections\n");
    let mut bytes = answer.head;
    bytes.extend_from_slice(answer.body.bytes());
    let _ = stream.set_nonblocking(true);
    // A request that is here already and was not read would reset the connection before the answer is seen.
    let _ = (&*stream).read(&mut [0; 4096]);
    let _ = (&*stream).write(&bytes);
}

/// What a connection waits for, in the order in which connections make room for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wait {
    /// A request, after one that was answered.
    Idle,
    /// The rest of a head, or a first byte.
    Head,
    /// The client to read its answer.
    Answer,
    /// Its own end: it was shut down.
    Evicted,
}

struct Connection {
    stream: Arc<TcpStream>,
    /// What for, and since when.
    waiting: Mutex<(Wait, Instant)>,
}

impl Connection {
    fn wait(&self, wait: Wait, since: Instant) {
        *lock(&self.waiting) = (wait, since);
    }

    /// Answers requests, one after the other, until there are no more.
    fn serve(&self, published: &Published, max_age: Duration, limits: &Limits) -> io::Result<()> {
        // An answer is written at once; there is nothing to gather.
        self.stream.set_nodelay(true)?;
        let mut buffer = vec![0; MAX_HEAD_BYTES];
        let mut len = 0;
        let mut waiting = (Wait::Head, Instant::now());
        loop {
            let (answer, n_used) = match parse_head(&buffer[..len]) {
                Parsed::Complete(head, n_used) => {
                    // From here on the client waits for us.
                    self.wait(Wait::Answer, Instant::now());
                    (answer(&head, published, max_age), n_used)
                }
                Parsed::Malformed => (refusal(400, "this is not an HTTP/1 request\n"), len),
                Parsed::Incomplete if len == buffer.len() => {
                    (refusal(431, "a request's head may be 8 KiB long\n"), len)
                }
                Parsed::Incomplete => {
                    self.wait(waiting.0, waiting.1);
                    let limit = if waiting.0 == Wait::Idle { limits.idle } else { limits.head };
                    match self.read(&mut buffer[len..], waiting.1 + limit)? {
                        0 => return Ok(()),
                        n => len += n,
                    }
                    if waiting.0 == Wait::Idle {
                        waiting = (Wait::Head, Instant::now());
                    }
                    continue;
                }
            };
            self.write(&answer, limits)?;
            if !answer.keep_alive {
                return self.close(limits);
            }
            buffer.copy_within(n_used..len, 0);
            len -= n_used;
            waiting = (if len == 0 { Wait::Idle } else { Wait::Head }, Instant::now());
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

    fn write(&self, answer: &Answer, limits: &Limits) -> io::Result<()> {
        let write = || self.write_by(&answer.head, answer.body.bytes(), Instant::now() + limits.answer);
        match &answer.body {
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
            self.wait(Wait::Answer, Instant::now());
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
    /// connection, and the client might never see its answer.
    fn close(&self, limits: &Limits) -> io::Result<()> {
        let now = Instant::now();
        self.wait(Wait::Idle, now);
        self.stream.shutdown(Shutdown::Write)?;
        let mut buffer = [0; 4096];
        let mut n_left = MAX_LEFTOVER_BYTES;
        while n_left > 0 {
            match self.read(&mut buffer, now + limits.leftover)? {
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
fn is_temporary(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::publish::publisher;

    const MINUTE: Duration = Duration::from_secs(60);

    /// A server whose deadlines are a minute but for those that the test shortens.
    fn serve(shorten: impl FnOnce(&mut Limits)) -> SocketAddr {
        let (mut publisher, published) = publisher();
        publisher.buffer().extend_from_slice(&b"x 1\n".repeat(4 << 20));
        publisher.publish();
        let mut server = Server::bind("127.0.0.1:0").unwrap();
        let addr = server.local_addr();
        server.limits = Limits {
            n_connections: 2,
            head: MINUTE,
            idle: MINUTE,
            answer: MINUTE,
            stalled: MINUTE,
            leftover: MINUTE,
        };
        shorten(&mut server.limits);
        server.start(published, MINUTE).unwrap();
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
        let second_head = rest(send(addr, "GET /readyz HTTP/1.1\r\n\r\nGET / HT"));
        assert_eq!(second_head.matches("HTTP/1.1 ").count(), 1, "{second_head}");
    }

    #[test]
    fn an_idle_connection_is_closed() {
        let addr = serve(|limits| limits.idle = SHORT);
        let answers = rest(send(addr, "GET /readyz HTTP/1.1\r\n\r\n"));
        assert!(answers.contains("Connection: keep-alive") && answers.ends_with("\r\n\r\nok\n"), "{answers}");
    }

    #[test]
    fn an_answer_that_is_not_read_is_cut() {
        let addr = serve(|limits| limits.answer = SHORT);
        let clients = [(); 2].map(|()| send(addr, "GET /metrics HTTP/1.1\r\n\r\n"));
        // Both places are taken, and nobody can be evicted: only the deadline frees them.
        wait_for_answer(addr);
        drop(clients);
    }

    #[test]
    fn a_stalled_answer_makes_room() {
        let addr = serve(|limits| limits.stalled = SHORT);
        let clients = [(); 2].map(|()| send(addr, "GET /metrics HTTP/1.1\r\n\r\n"));
        wait_for_answer(addr);
        drop(clients);
    }

    #[test]
    fn those_who_wait_between_requests_make_room_first() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (now, limits) = (Instant::now(), Limits { stalled: MINUTE, ..LIMITS });
        let connection = |(wait, age)| {
            let stream = Arc::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            Arc::new(Connection { stream, waiting: Mutex::new((wait, now - age)) })
        };
        let (new, old) = (Duration::ZERO, MINUTE / 2);
        let open = [
            (Wait::Answer, old),
            (Wait::Head, new),
            (Wait::Head, old),
            (Wait::Idle, new),
            (Wait::Answer, 2 * MINUTE),
            (Wait::Idle, old),
        ]
        .map(connection);
        for next in [5, 3, 2, 1, 4] {
            assert!(evict_one(&open, &limits));
            let evicted = |connection: &Connection| lock(&connection.waiting).0 == Wait::Evicted;
            assert!(evicted(&open[next]), "{next} is not the next");
            assert_eq!((&*open[next].stream).read(&mut [0]).unwrap(), 0, "it is closed");
        }
        assert!(!evict_one(&open, &limits), "who is being answered stays");
    }

    #[test]
    fn idle_connections_make_room() {
        let addr = serve(|_| {});
        let idle = [(); 2].map(|()| {
            let mut idle = send(addr, "HEAD /readyz HTTP/1.1\r\n\r\n");
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
            let mut client = send(addr, "GET /metrics HTTP/1.1\r\n\r\n");
            client.read_exact(&mut [0]).unwrap();
            client
        });
        assert!(rest(send(addr, "GET /readyz HTTP/1.1\r\n\r\n")).starts_with("HTTP/1.1 503 "));
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
