//! Tests the server over real connections, as clients see it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use smaps_container_exporter::cli::args::{self, Command};
use smaps_container_exporter::demand::Demand;
use smaps_container_exporter::http::Server;
use smaps_container_exporter::http::publish::{Age, Document, Publisher, publisher};
use smaps_container_exporter::http::views::Views;

const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// How long a test may wait. Only a test that fails takes this long.
const DEADLINE: Duration = Duration::from_secs(20);

fn serve() -> (Publisher, SocketAddr) {
    serve_for(Vec::new())
}

/// Starts a server. Requests from this machine may use these host names.
fn serve_for(hosts: Vec<String>) -> (Publisher, SocketAddr) {
    let (publisher, addr, _) = serve_on_demand(DEADLINE, hosts);
    (publisher, addr)
}

/// Starts a server. The caller must then publish an exposition. For `interval` from now, requests get this
/// exposition and do not wait for a scrape.
fn serve_on_demand(interval: Duration, hosts: Vec<String>) -> (Publisher, SocketAddr, Arc<Demand>) {
    let (publisher, published) = publisher();
    let server = Server::bind("127.0.0.1:0").unwrap();
    let addr = server.local_addr();
    let now = Instant::now();
    let demand = Arc::new(Demand::new(interval, now).unwrap());
    demand.begin(now);
    demand.end(true, None, now);
    let views = Arc::new(Views::new(Box::new(|_| Ok(None)), 0));
    server.start(published, Document::default(), views, demand.clone(), DEADLINE, hosts).unwrap();
    (publisher, addr, demand)
}

/// Starts a server with an old exposition, so that requests wait for the next scrape.
fn serve_old() -> (Publisher, SocketAddr, Arc<Demand>) {
    let (mut publisher, addr, demand) = serve_on_demand(Duration::from_millis(1), Vec::new());
    publish(&mut publisher, b"old 1\n");
    thread::sleep(Duration::from_millis(2));
    (publisher, addr, demand)
}

/// Runs the scrape that requests wait for, and publishes `text` as its exposition.
fn scrape(publisher: &mut Publisher, demand: &Demand, text: &[u8]) {
    demand.begin(Instant::now());
    publish(publisher, text);
    demand.end(true, None, Instant::now());
}

fn publish(publisher: &mut Publisher, text: &[u8]) {
    publisher.buffer().extend_from_slice(text);
    publisher.publish(None);
}

fn send(addr: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut client = TcpStream::connect(addr).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.write_all(bytes).unwrap();
    client
}

/// Reads one response. Returns its head and its body.
fn receive(client: &mut TcpStream) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.split("\r\nContent-Length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    client.read_exact(&mut body).unwrap();
    (head, body)
}

#[test]
fn requests_for_stale_data_share_the_next_scrape() {
    let (mut publisher, addr, demand) = serve_old();
    let mut clients: Vec<_> = (0..60).map(|_| send(addr, GET)).collect();
    let mut other = send(addr, b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(receive(&mut other).0.starts_with("HTTP/1.1 200 "), "other requests are not delayed");
    let gone = send(addr, GET);
    drop(gone);
    while demand.next_start(Instant::now()).is_none() {
        thread::yield_now();
    }
    for client in &mut clients {
        client.set_nonblocking(true).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "nothing comes yet");
        client.set_nonblocking(false).unwrap();
    }
    scrape(&mut publisher, &demand, b"new 2\n");
    for client in &mut clients {
        assert_eq!(receive(client).1, b"new 2\n");
    }
}

/// A request that waits for a scrape takes none of the slots for open connections. So while 64 requests wait,
/// the server still answers probes. At most 64 requests may wait, including requests of clients that have
/// disconnected. A further request gets the last exposition at once.
#[test]
fn waiting_requests_do_not_count_as_connections() {
    let (mut publisher, addr, demand) = serve_old();
    let mut clients: Vec<_> = (0..40).map(|_| send(addr, GET)).collect();
    (0..24).for_each(|_| drop(send(addr, GET)));
    // The server accepts the 40 + 24 connections above before this one. At most 64 requests may wait, so this
    // request gets the last exposition at once.
    let mut late = send(addr, GET);
    assert_eq!(receive(&mut late).1, b"old 1\n");
    for _ in 0..100 {
        let mut probe = send(addr, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(receive(&mut probe).0.starts_with("HTTP/1.1 200 "));
    }
    scrape(&mut publisher, &demand, b"new 2\n");
    for client in &mut clients {
        assert_eq!(receive(client).1, b"new 2\n");
    }
}

/// Prometheus sends its timeout with each request. If the scrape has not ended shortly before the timeout,
/// the server sends the last exposition.
#[test]
fn request_waits_until_shortly_before_its_timeout() {
    let (_publisher, addr, _) = serve_old();
    let timeout = "X-Prometheus-Scrape-Timeout-Seconds: 0.1";
    let mut client =
        send(addr, format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\n{timeout}\r\n\r\n").as_bytes());
    assert_eq!(receive(&mut client).1, b"old 1\n");
    client.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert!(receive(&mut client).0.starts_with("HTTP/1.1 200 "), "the connection is as before");
}

/// If a request is refused because of its host name, the response gives advice. The command line must accept
/// the option in the advice, and with this option the request must not be refused.
#[test]
fn host_in_the_advice_is_allowed() {
    for host in ["evil.example", "Evil.example:8080", "evil.example.:80", "evil.example:80:80", "[::1", "a b"]
    {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let ask = |addr| receive(&mut send(addr, request.as_bytes()));
        let (head, text) = ask(serve().1);
        if head.starts_with("HTTP/1.1 400 ") {
            continue; // the server has found no Host in this request
        }
        assert!(head.starts_with("HTTP/1.1 421 "), "{host}: {head}");
        let text = String::from_utf8(text).unwrap();
        let Some((_, advice)) = text.split_once("the option ") else {
            assert!(text.ends_with("it is no host name\n"), "{text}");
            continue;
        };
        let option = advice.strip_suffix(" allows it\n").unwrap().split(' ').map(Into::into);
        let Ok(Command::Run(options)) = args::parse(option) else { panic!("{advice}") };
        let (head, _) = ask(serve_for(options.allowed_hosts).1);
        assert!(head.starts_with("HTTP/1.1 200 "), "{host}: {head}");
    }
}

#[test]
fn own_host_name_is_allowed() {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {name}:8080\r\n\r\n");
    let (head, _) = receive(&mut send(serve().1, request.as_bytes()));
    assert!(!head.starts_with("HTTP/1.1 421 "), "{head}");
    let request = format!("GET /healthz HTTP/1.1\r\nHost: not-{name}\r\n\r\n");
    let (head, _) = receive(&mut send(serve().1, request.as_bytes()));
    assert!(head.starts_with("HTTP/1.1 421 "), "{head}");
}

#[test]
fn one_connection_serves_many_requests() {
    let (mut publisher, addr) = serve();
    let mut client = send(addr, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(receive(&mut client).0.starts_with("HTTP/1.1 503 "));
    for text in [b"x 1\n", b"x 2\n"] {
        publish(&mut publisher, text);
        client.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        assert_eq!(receive(&mut client).1, text);
        client
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n")
            .unwrap();
        let mut unzipped = Vec::new();
        flate2::read::GzDecoder::new(&receive(&mut client).1[..]).read_to_end(&mut unzipped).unwrap();
        assert_eq!(unzipped, text);
    }
}

/// The age in a response is the age at the time of the response, in plain text and in gzip. The rest of the
/// text is as it was published.
#[test]
fn age_is_rendered_when_it_is_served() {
    let (mut publisher, addr) = serve();
    let text = b"x 1\n".repeat(1000);
    publisher.buffer().extend_from_slice(&text);
    let since = Instant::now() - Duration::from_secs(100);
    publisher.publish(Some(Age { family: "# TYPE age gauge\nage ", since }));
    let mut last = 100.0;
    for accepts in ["identity", "gzip", "identity", "gzip"] {
        std::thread::sleep(Duration::from_millis(2));
        let request =
            format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: {accepts}\r\n\r\n");
        let (_, mut body) = receive(&mut send(addr, request.as_bytes()));
        if accepts == "gzip" {
            let mut unzipped = Vec::new();
            flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut unzipped).unwrap();
            body = unzipped;
        }
        let tail = std::str::from_utf8(body.strip_prefix(&text[..]).unwrap()).unwrap();
        let age: f64 = tail.strip_prefix("# TYPE age gauge\nage ").unwrap().trim_end().parse().unwrap();
        assert!(age > last && age <= since.elapsed().as_secs_f64(), "{age} after {last}");
        last = age;
    }
}

#[test]
fn requests_sent_together_are_answered_in_order() {
    let (mut publisher, addr) = serve();
    publish(&mut publisher, b"x 1\n");
    let requests = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: \
                     localhost\r\n\r\nGET /readyz HTTP/1.0\r\n\r\n";
    // The result must be the same wherever the requests are split into two packets.
    for i in 0..requests.len() {
        let mut client = send(addr, &requests[..i]);
        client.set_nodelay(true).unwrap();
        client.write_all(&requests[i..]).unwrap();
        assert_eq!(receive(&mut client).1, b"x 1\n");
        assert!(receive(&mut client).0.starts_with("HTTP/1.1 404 "));
        assert_eq!(receive(&mut client).1, b"ok\n");
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "HTTP/1.0 closes");
    }
}

#[test]
fn malformed_requests_get_an_error() {
    let (_publisher, addr) = serve();
    let mut endless = b"GET / HTTP/1.1\r\nX: ".to_vec();
    endless.resize(20_000, b'x');
    for (bytes, status) in [
        (&b"\x16\x03\x01\x02\x00"[..], 400),
        (b"GET /\r\n", 400),
        (&endless, 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n12345", 413),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 405),
    ] {
        let mut client = send(addr, bytes);
        let (head, _) = receive(&mut client);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn stalled_clients_do_not_block_others() {
    let (mut publisher, addr) = serve();
    let text = b"x 1\n".repeat(4 << 20);
    publish(&mut publisher, &text);
    let mut stopped = [(); 40].map(|()| send(addr, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    for client in &mut stopped {
        client.read_exact(&mut [0]).unwrap();
    }
    for _ in 0..3 {
        publish(&mut publisher, &text);
        let mut client = send(addr, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(receive(&mut client).1 == text);
    }
    // The server keeps at most about 3 MiB of outdated expositions for slow clients. Each exposition here has
    // 16 MiB, so the server drops it when it is outdated. The server then closes the connections of clients
    // that have not read it to its end.
    let mut newer = send(addr, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    newer.read_exact(&mut [0]).unwrap();
    publish(&mut publisher, &text);
    for mut client in stopped {
        let mut rest = Vec::new();
        match client.read_to_end(&mut rest) {
            Ok(_) => assert!(rest.len() < text.len()),
            Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset),
        }
    }
    assert!(receive(&mut send(addr, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")).1 == text);
}

#[test]
fn sixty_fifth_client_is_answered() {
    let (mut publisher, addr) = serve();
    publish(&mut publisher, b"x 1\n");
    let half = [(); 100].map(|()| send(addr, b"GET /metrics HT"));
    assert_eq!(receive(&mut send(addr, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")).1, b"x 1\n");
    drop(half);
}
