//! Which request gets which response: routes, content negotiation, and the head that `tiny_http` prints.

use std::borrow::Cow;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tiny_http::{HTTPVersion, Header, StatusCode};

use super::head::{Head, Host};
use super::hosts::{Hosts, misdirected};
use super::limits::MAX_WAITING;
use super::page;
use crate::demand::{Demand, Freshness};
use crate::http::publish::{Document, Exposition, Published};

/// A printed head and the body that goes with it.
pub struct Response {
    /// Status line and headers, up to the empty line.
    pub head: Vec<u8>,
    /// What follows them.
    pub body: Body,
    /// And what follows that: it is true when the response is made.
    pub tail: Vec<u8>,
    /// Whether another request may follow on the connection.
    pub keep_alive: bool,
}

/// A body; an exposition's is not copied.
pub enum Body {
    /// A page or a line of text; empty for `HEAD`.
    Bytes(Cow<'static, [u8]>),
    /// An exposition as it is.
    Plain(Arc<Exposition>),
    /// An exposition, gzipped.
    Gzip(Arc<Exposition>),
}

impl Body {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Body::Bytes(bytes) => bytes,
            Body::Plain(exposition) => exposition.text(),
            Body::Gzip(exposition) => exposition.gzip(),
        }
    }

    /// What follows it if it is served now.
    fn tail(&self) -> Vec<u8> {
        match self {
            Body::Bytes(_) => Vec::new(),
            Body::Plain(exposition) => exposition.tail(Instant::now()),
            Body::Gzip(exposition) => exposition.gzip_tail(Instant::now()),
        }
    }

    /// Whether it is an exposition that must not be held any longer.
    pub fn is_cut(&self) -> bool {
        match self {
            Body::Bytes(_) => false,
            Body::Plain(exposition) | Body::Gzip(exposition) => exposition.is_cut(),
        }
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Body {
        Body::Bytes(Cow::Borrowed(text.as_bytes()))
    }
}

const PLAIN: (&str, &str) = ("Content-Type", "text/plain; charset=utf-8");
const EXPOSITION: (&str, &str) = ("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
/// How long a request waits for a scrape when it names no timeout.
const USUAL_PATIENCE: Duration = Duration::from_secs(5);
/// No request waits longer, because a waiting request holds a connection.
const MAX_PATIENCE: Duration = Duration::from_secs(30);
/// How long before the client's timeout the wait ends, so that the answer arrives in time.
const SPARE: Duration = Duration::from_millis(500);

/// What `/ooms` says before the first kill.
const NO_OOMS: &str = "{\"records\":[]}\n";

const UNCACHED: (&str, &str) = ("Cache-Control", "no-store");

/// What is served, and to whom.
pub struct Site {
    /// The expositions.
    pub published: Published,
    /// The records of OOM kills, as JSON.
    pub ooms: Document,
    /// Requests for scrapes.
    pub demand: Arc<Demand>,
    /// Each waiting request holds a clone: the number of clones is the number of waiting requests.
    pub places: Arc<()>,
    /// `/healthz` finds scrapes that take longer than this, or do not come for so long, unhealthy.
    pub max_age: Duration,
    /// The hosts that requests may name.
    pub hosts: Hosts,
}

/// A request that waits for a scrape, because the last exposition is stale.
pub struct Wait {
    /// The wait ends when more than this number of scrapes have succeeded.
    n_succeeded: u64,
    /// At this time the request gets the last exposition, however old.
    pub deadline: Instant,
    /// Counts this request among those that wait.
    _place: Arc<()>,
}

impl Wait {
    /// Whether it is over.
    pub fn is_over(&self, site: &Site, now: Instant) -> bool {
        now >= self.deadline || site.demand.has_succeeded(self.n_succeeded)
    }
}

/// Returns what a request must wait for. A request that gets no exposition, or a fresh one, need not wait.
pub fn wait(site: &Site, request: &Head<'_>, peer: IpAddr, now: Instant) -> Option<Wait> {
    let host = match request.host {
        Host::Invalid => return None,
        Host::Absent => None,
        Host::Named(host) => Some(host),
    };
    let is_get = request.method == b"GET" || request.method == b"HEAD";
    if request.path != b"/metrics" || !is_get || request.has_body || !site.hosts.allow(peer, host) {
        return None;
    }
    match site.demand.request(now) {
        // The site holds the original, which is no waiting request.
        Freshness::WaitFor(n_succeeded) if Arc::strong_count(&site.places) <= MAX_WAITING => {
            let deadline = now + patience(request.scrape_timeout);
            Some(Wait { n_succeeded, deadline, _place: site.places.clone() })
        }
        Freshness::WaitFor(_) | Freshness::Fresh => None,
    }
}

/// Returns how long a request may wait, given the client's timeout in seconds: a little less than that.
fn patience(scrape_timeout: &[u8]) -> Duration {
    let seconds = std::str::from_utf8(scrape_timeout).ok().and_then(|text| text.parse().ok());
    let timeout = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    timeout.map_or(USUAL_PATIENCE, |timeout| timeout - (timeout / 5).min(SPARE)).min(MAX_PATIENCE)
}

/// Answers a whole request.
pub fn respond(site: &Site, request: &Head<'_>, peer: IpAddr) -> Response {
    let published = &site.published;
    let host = match request.host {
        Host::Invalid => return error_response(400, "a request must name its Host, once\n"),
        Host::Absent => None,
        Host::Named(host) => Some(host),
    };
    let keep_alive = request.keep_alive && !request.has_body;
    let mut page_headers = Vec::new();
    let (status, headers, body): (u16, &[(&str, &str)], Body) = match (request.method, request.path) {
        _ if !site.hosts.allow(peer, host) => {
            (421, &[PLAIN], Body::Bytes(misdirected(host).into_bytes().into()))
        }
        (method, _) if method != b"GET" && method != b"HEAD" => {
            (405, &[PLAIN, ("Allow", "GET, HEAD")], "only GET and HEAD are answered\n".into())
        }
        _ if request.has_body => (413, &[PLAIN], "a request must not have a body\n".into()),
        (_, b"/metrics") => match published.latest() {
            None => (503, &[PLAIN, UNCACHED], "the first scrape is not complete yet\n".into()),
            Some(exposition) if request.accepts_gzip => (
                200,
                &[EXPOSITION, UNCACHED, ("Vary", "Accept-Encoding"), ("Content-Encoding", "gzip")],
                Body::Gzip(exposition),
            ),
            Some(exposition) => {
                (200, &[EXPOSITION, UNCACHED, ("Vary", "Accept-Encoding")], Body::Plain(exposition))
            }
        },
        (_, b"/healthz") => match site.demand.overdue(Instant::now()) {
            overdue if overdue < site.max_age => (200, &[PLAIN, UNCACHED], "ok\n".into()),
            overdue => {
                let text = format!("a scrape has been due for {} s\n", overdue.as_secs());
                (503, &[PLAIN, UNCACHED], Body::Bytes(text.into_bytes().into()))
            }
        },
        (_, b"/readyz") if published.latest().is_some() => (200, &[PLAIN, UNCACHED], "ok\n".into()),
        (_, b"/readyz") => (503, &[PLAIN, UNCACHED], "the first scrape is not complete yet\n".into()),
        (_, b"/ooms") => {
            let text = site.ooms.text().unwrap_or_else(|| NO_OOMS.to_owned());
            (200, &[("Content-Type", "application/json"), UNCACHED], Body::Bytes(text.into_bytes().into()))
        }
        (_, b"/dashboard.json") => (
            200,
            &[("Content-Type", "application/json"), ("Cache-Control", "no-cache")],
            include_str!("dashboard.json").into(),
        ),
        (_, path) => match page::file(path, request.prefers_html) {
            Some(file) => {
                let (status, body) = page_response(request, file, &mut page_headers);
                (status, &page_headers, body)
            }
            None if path == b"/" => {
                (302, &[PLAIN, ("Location", "metrics"), ("Vary", "Accept")], "see /metrics\n".into())
            }
            None => (
                404,
                &[PLAIN],
                "there are /metrics, /healthz, /readyz, /ooms, /dashboard.json and /\n".into(),
            ),
        },
    };
    // Without a body the head still says how long it would be.
    let tail = body.tail();
    let head = print_head(status, headers, body.bytes().len() + tail.len(), keep_alive);
    match request.method == b"HEAD" || status == 304 {
        true => Response { head, body: "".into(), tail: Vec::new(), keep_alive },
        false => Response { head, body, tail, keep_alive },
    }
}

/// Responses with a file of the page, or with 304 where the client has it already.
fn page_response(
    request: &Head<'_>,
    file: &'static page::File,
    headers: &mut Vec<(&'static str, &'static str)>,
) -> (u16, Body) {
    headers.extend([
        ("Content-Type", file.content_type),
        ("Content-Security-Policy", page::POLICY),
        ("Referrer-Policy", "no-referrer"),
        // A new version of the exporter brings a new page on the same addresses.
        ("Cache-Control", "no-cache"),
        ("ETag", file.tag()),
        ("Vary", "Accept, Accept-Encoding"),
    ]);
    if request.accepts_gzip {
        headers.push(("Content-Encoding", "gzip"));
    }
    let bytes = if request.accepts_gzip { file.gzip() } else { file.text().as_bytes() };
    (if request.has(file.tag()) { 304 } else { 200 }, Body::Bytes(bytes.into()))
}

/// The response to what cannot be answered otherwise. The connection closes after it.
pub fn error_response(status: u16, text: &'static str) -> Response {
    let body = Body::from(text);
    let head = print_head(status, &[PLAIN], body.bytes().len(), false);
    Response { head, body, tail: Vec::new(), keep_alive: false }
}

fn print_head(status: u16, headers: &[(&str, &str)], body_len: usize, keep_alive: bool) -> Vec<u8> {
    let common = [
        ("Server", concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"))),
        // Pages of other sites can neither embed what is served here nor have it taken for a script.
        ("X-Content-Type-Options", "nosniff"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
    ];
    let headers =
        headers.iter().copied().chain(common).map(|(name, value)| {
            Header::from_bytes(name, value).expect("the program's own headers are ASCII")
        });
    let mut head = Vec::with_capacity(512);
    // Above its threshold tiny_http would answer in chunks, without a Content-Length.
    tiny_http::Response::new(StatusCode(status), headers.collect(), io::empty(), Some(body_len), None)
        .with_chunked_threshold(usize::MAX)
        .raw_print(&mut head, HTTPVersion(1, 1), &[], true, None)
        .expect("a Vec takes every write");
    // tiny_http leaves Connection to its own server: it goes before the empty line.
    head.truncate(head.len() - 2);
    let connection: &[u8] = if keep_alive { b"keep-alive" } else { b"close" };
    head.extend_from_slice(b"Connection: ");
    head.extend_from_slice(connection);
    head.extend_from_slice(b"\r\n\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::super::head::{Parsed, parse_head};
    use super::*;
    use crate::http::publish;
    use std::net::Ipv4Addr;

    const MINUTE: Duration = Duration::from_secs(60);
    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    impl Site {
        /// One that has published this text.
        pub fn of(text: &[u8]) -> Site {
            let (mut publisher, published) = publish::publisher();
            publisher.buffer().extend_from_slice(text);
            publisher.publish(None);
            let now = Instant::now();
            let demand = Arc::new(Demand::new(MINUTE, now).unwrap());
            demand.begin(now);
            demand.end(true, None, now);
            Site {
                published,
                ooms: Document::default(),
                demand,
                places: Arc::default(),
                max_age: MINUTE,
                hosts: Hosts::new(String::new(), Vec::new()),
            }
        }

        fn empty() -> Site {
            let demand = Arc::new(Demand::new(MINUTE, Instant::now()).unwrap());
            Site { published: publish::publisher().1, demand, ..Site::of(b"") }
        }
    }

    /// Answers the request that these lines make.
    fn ask(site: &Site, lines: &str) -> (String, Vec<u8>) {
        let has_host = !lines.contains("HTTP/1.1") || lines.contains("Host");
        let lines = if has_host { lines.to_owned() } else { format!("{lines}\nHost: localhost:8080") };
        let request = lines.replace('\n', "\r\n") + "\r\n\r\n";
        let Parsed::Complete(head, _) = parse_head(request.as_bytes()) else { panic!("{lines:?}") };
        let response = respond(site, &head, HERE);
        let printed = String::from_utf8(response.head).unwrap();
        assert!(printed.starts_with("HTTP/1.1 ") && printed.ends_with("\r\n\r\n"), "{printed:?}");
        assert_eq!(printed.matches("\r\n\r\n").count(), 1, "{printed:?}");
        for header in ["X-Content-Type-Options: nosniff", "Cross-Origin-Resource-Policy: same-origin"] {
            assert_eq!(printed.matches(&format!("\r\n{header}\r\n")).count(), 1, "{printed:?}");
        }
        let connection = if response.keep_alive { "keep-alive" } else { "close" };
        assert!(printed.contains(&format!("\r\nConnection: {connection}\r\n")), "{printed:?}");
        let body = [response.body.bytes(), &response.tail].concat();
        if head.method != b"HEAD" && !printed.starts_with("HTTP/1.1 304 ") {
            assert!(printed.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{printed:?}");
        }
        (printed, body)
    }

    #[test]
    fn statuses() {
        let (unscraped, scraped) = (Site::empty(), Site::of(b"x 1\n"));
        for (lines, before, after) in [
            ("GET /metrics HTTP/1.1", "503 Service Unavailable", "200 OK"),
            ("HEAD /metrics HTTP/1.1", "503 Service Unavailable", "200 OK"),
            ("GET /metrics?a=b HTTP/1.0", "503 Service Unavailable", "200 OK"),
            ("GET /readyz HTTP/1.1", "503 Service Unavailable", "200 OK"),
            ("GET /healthz HTTP/1.1", "200 OK", "200 OK"),
            ("GET / HTTP/1.1", "302 Found", "302 Found"),
            ("GET / HTTP/1.1\nAccept: text/html", "200 OK", "200 OK"),
            ("GET /dashboard.json HTTP/1.1", "200 OK", "200 OK"),
            ("GET /metrics/ HTTP/1.1", "404 Not Found", "404 Not Found"),
            ("GET /metrics HTTP/1.1\nContent-Length: 1", "413 Payload Too Large", "413 Payload Too Large"),
            ("POST /metrics HTTP/1.1\nContent-Length: 1", "405 Method Not Allowed", "405 Method Not Allowed"),
            ("get /metrics HTTP/1.1", "405 Method Not Allowed", "405 Method Not Allowed"),
        ] {
            for (site, status) in [(&unscraped, before), (&scraped, after)] {
                let (head, _) = ask(site, lines);
                assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{lines}: {head}");
            }
        }
    }

    #[test]
    fn hosts() {
        let site = Site::of(b"x 1\n");
        let elsewhere: IpAddr = "192.0.2.7".parse().unwrap();
        for (lines, peer, status) in [
            ("GET /metrics HTTP/1.1\nHost: evil.example", HERE, 421),
            ("POST / HTTP/1.1\nHost: evil.example", HERE, 421),
            ("GET http://evil.example/metrics HTTP/1.1\nHost: localhost", HERE, 421),
            ("GET /metrics HTTP/1.1\nHost: localhost", HERE, 200),
            ("GET /metrics HTTP/1.0", HERE, 200),
            ("GET /metrics HTTP/1.1\nHost: evil.example", elsewhere, 200),
            ("GET /metrics HTTP/1.1", HERE, 400),
            ("GET /metrics HTTP/1.1", elsewhere, 400),
            ("GET /metrics HTTP/1.1\nHost: localhost\nHost: localhost", HERE, 400),
        ] {
            let request = lines.replace('\n', "\r\n") + "\r\n\r\n";
            let Parsed::Complete(head, _) = parse_head(request.as_bytes()) else { panic!("{lines:?}") };
            let response = respond(&site, &head, peer);
            assert!(
                response.head.starts_with(format!("HTTP/1.1 {status} ").as_bytes()),
                "{lines} from {peer}"
            );
        }
    }

    #[test]
    fn health_ends_with_age() {
        let site = Site { max_age: Duration::ZERO, ..Site::of(b"x 1\n") };
        let Parsed::Complete(head, _) = parse_head(b"GET /healthz HTTP/1.0\n\n") else { panic!() };
        let response = respond(&site, &head, HERE);
        assert!(response.head.starts_with(b"HTTP/1.1 503 "));
        assert_eq!(response.body.bytes(), b"a scrape has been due for 0 s\n");
    }

    #[test]
    fn an_exposition_as_it_is_and_gzipped() {
        let site = Site::of(&b"x 1\n".repeat(100_000));
        let text = site.published.latest().unwrap();
        let (head, body) = ask(&site, "GET /metrics HTTP/1.1");
        assert_eq!(body, text.text());
        assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
        assert!(
            head.contains("\r\nVary: Accept-Encoding\r\n") && !head.contains("Content-Encoding"),
            "{head}"
        );

        let (head, body) = ask(&site, "GET /metrics HTTP/1.1\nAccept-Encoding: gzip");
        assert!(body.starts_with(text.gzip()));
        assert!(head.contains("\r\nContent-Encoding: gzip\r\n"), "{head}");
        assert!(head.contains("\r\nVary: Accept-Encoding\r\n"), "{head}");
    }

    #[test]
    fn a_head_is_the_get_without_its_body() {
        let site = Site::of(b"x 1\n");
        for lines in ["GET /metrics HTTP/1.1", "GET / HTTP/1.1", "GET /nowhere HTTP/1.1"] {
            let undated = |head: String| {
                head.lines().filter(|line| !line.starts_with("Date:")).map(str::to_owned).collect::<Vec<_>>()
            };
            let (get, _) = ask(&site, lines);
            let (head, body) = ask(&site, &lines.replace("GET", "HEAD"));
            assert_eq!((undated(head), body), (undated(get), Vec::new()));
        }
    }

    #[test]
    fn a_browser_gets_the_page() {
        let site = Site::of(b"x 1\n");
        let (head, body) = ask(&site, "GET / HTTP/1.1\nAccept: text/html,*/*;q=0.8");
        assert!(head.contains("\r\nContent-Type: text/html; charset=utf-8\r\n"), "{head}");
        assert!(head.contains("\r\nContent-Security-Policy: default-src 'none'; "), "{head}");
        assert!(body.starts_with(b"<!doctype html>"));
        let (head, _) = ask(&site, "GET / HTTP/1.1\nAccept: */*");
        assert!(head.contains("\r\nLocation: metrics\r\n"), "{head}");
    }

    #[test]
    fn the_page_s_files_are_tagged_and_gzipped() {
        let site = Site::of(b"x 1\n");
        for (path, content_type) in [
            ("/", "text/html; charset=utf-8"),
            ("/page.css", "text/css; charset=utf-8"),
            ("/page.js", "text/javascript; charset=utf-8"),
        ] {
            let get = format!("GET {path} HTTP/1.1\nAccept: text/html");
            let (head, body) = ask(&site, &get);
            let (_, tag) = head.split_once("\r\nETag: ").unwrap();
            let (tag, _) = tag.split_once("\r\n").unwrap();
            for header in [
                &format!("Content-Type: {content_type}"),
                "X-Content-Type-Options: nosniff",
                "Cache-Control: no-cache",
            ] {
                assert!(head.contains(&format!("\r\n{header}\r\n")), "{path}: {head}");
            }

            let (head, zipped) = ask(&site, &format!("{get}\nAccept-Encoding: gzip"));
            assert!(head.contains("\r\nContent-Encoding: gzip\r\n"), "{head}");
            assert!(zipped.len() < body.len() / 2);

            for (theirs, status) in [
                (tag, 304),
                (tag.trim_start_matches("W/"), 304),
                (&*format!("\"x\", {tag}"), 304),
                ("*", 304),
                ("\"x\"", 200),
                ("", 200),
            ] {
                let (head, body) = ask(&site, &format!("{get}\nIf-None-Match: {theirs}"));
                assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {theirs}: {head}");
                assert!(head.contains(&format!("\r\nETag: {tag}\r\n")), "{head}");
                assert_eq!(body.is_empty(), status == 304);
            }
        }
    }

    #[test]
    fn what_was_not_read_closes_the_connection() {
        let site = Site::of(b"x 1\n");
        for (lines, connection) in [
            ("GET /nowhere HTTP/1.1", "keep-alive"),
            ("DELETE / HTTP/1.1", "keep-alive"),
            ("DELETE / HTTP/1.1\nContent-Length: 3", "close"),
            ("GET / HTTP/1.1\nTransfer-Encoding: chunked", "close"),
            ("GET / HTTP/1.0", "close"),
        ] {
            let (head, _) = ask(&site, lines);
            assert!(head.contains(&format!("\r\nConnection: {connection}\r\n")), "{lines}: {head}");
        }
        assert!(error_response(400, "no\n").head.starts_with(b"HTTP/1.1 400 Bad Request\r\n"));
    }
}
