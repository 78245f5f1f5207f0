//! What is answered to which request: routes, content negotiation, and the head that `tiny_http` prints.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tiny_http::{HTTPVersion, Header, Response, StatusCode};

use super::head::Head;
use super::page;
use crate::http::publish::{Exposition, Published};

/// A printed head and the body that goes with it.
pub struct Answer {
    /// Status line and headers, up to the empty line.
    pub head: Vec<u8>,
    /// What follows them.
    pub body: Body,
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
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Body {
        Body::Bytes(Cow::Borrowed(text.as_bytes()))
    }
}

const PLAIN: (&str, &str) = ("Content-Type", "text/plain; charset=utf-8");
const EXPOSITION: (&str, &str) = ("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
const UNCACHED: (&str, &str) = ("Cache-Control", "no-store");

/// Answers a whole request. `/healthz` finds scrapes older than `max_age` unhealthy.
pub fn answer(request: &Head<'_>, published: &Published, max_age: Duration) -> Answer {
    let keep_alive = request.keep_alive && !request.has_body;
    let mut page_headers = Vec::new();
    let (status, headers, body): (u16, &[(&str, &str)], Body) = match (request.method, request.path) {
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
        (_, b"/healthz") if published.age() < max_age => (200, &[PLAIN, UNCACHED], "ok\n".into()),
        (_, b"/healthz") => {
            let text = format!("the last complete scrape is {} s old\n", published.age().as_secs());
            (503, &[PLAIN, UNCACHED], Body::Bytes(text.into_bytes().into()))
        }
        (_, b"/readyz") if published.latest().is_some() => (200, &[PLAIN, UNCACHED], "ok\n".into()),
        (_, b"/readyz") => (503, &[PLAIN, UNCACHED], "the first scrape is not complete yet\n".into()),
        (_, path) => match page::file(path, request.prefers_html) {
            Some(file) => {
                let (status, body) = page_answer(request, file, &mut page_headers);
                (status, &page_headers, body)
            }
            None if path == b"/" => {
                (302, &[PLAIN, ("Location", "/metrics"), ("Vary", "Accept")], "see /metrics\n".into())
            }
            None => (404, &[PLAIN], "there are /metrics, /healthz, /readyz and /\n".into()),
        },
    };
    // Without a body the head still says how long it would be.
    let head = print_head(status, headers, body.bytes().len(), keep_alive);
    let body = if request.method == b"HEAD" || status == 304 { "".into() } else { body };
    Answer { head, body, keep_alive }
}

/// Answers with a file of the page, or with 304 where the client has it already.
fn page_answer(
    request: &Head<'_>,
    file: &'static page::File,
    headers: &mut Vec<(&'static str, &'static str)>,
) -> (u16, Body) {
    headers.extend([
        ("Content-Type", file.content_type),
        ("Content-Security-Policy", page::POLICY),
        ("X-Content-Type-Options", "nosniff"),
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

/// The answer to what is no request that could be answered. The connection closes after it.
pub fn refusal(status: u16, text: &'static str) -> Answer {
    let body = Body::from(text);
    let head = print_head(status, &[PLAIN], body.bytes().len(), false);
    Answer { head, body, keep_alive: false }
}

fn print_head(status: u16, headers: &[(&str, &str)], body_len: usize, keep_alive: bool) -> Vec<u8> {
    let server = ("Server", concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")));
    let headers =
        headers.iter().copied().chain([server]).map(|(name, value)| {
            Header::from_bytes(name, value).expect("the program's own headers are ASCII")
        });
    let mut head = Vec::with_capacity(512);
    // Above its threshold tiny_http would answer in chunks, without a Content-Length.
    Response::new(StatusCode(status), headers.collect(), io::empty(), Some(body_len), None)
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

    const MINUTE: Duration = Duration::from_secs(60);

    /// Answers the request that these lines make.
    fn ask(published: &Published, lines: &str) -> (String, Vec<u8>) {
        let request = lines.replace('\n', "\r\n") + "\r\n\r\n";
        let Parsed::Complete(head, _) = parse_head(request.as_bytes()) else { panic!("{lines:?}") };
        let answer = answer(&head, published, MINUTE);
        let printed = String::from_utf8(answer.head).unwrap();
        assert!(printed.starts_with("HTTP/1.1 ") && printed.ends_with("\r\n\r\n"), "{printed:?}");
        assert_eq!(printed.matches("\r\n\r\n").count(), 1, "{printed:?}");
        let connection = if answer.keep_alive { "keep-alive" } else { "close" };
        assert!(printed.contains(&format!("\r\nConnection: {connection}\r\n")), "{printed:?}");
        let body = answer.body.bytes().to_vec();
        if head.method != b"HEAD" && !printed.starts_with("HTTP/1.1 304 ") {
            assert!(printed.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{printed:?}");
        }
        (printed, body)
    }

    fn scraped(text: &[u8]) -> Published {
        let (mut publisher, published) = publish::publisher();
        publisher.buffer().extend_from_slice(text);
        publisher.publish();
        published
    }

    #[test]
    fn statuses() {
        let (_publisher, young) = publish::publisher();
        let scraped = scraped(b"x 1\n");
        for (lines, before, after) in [
            ("GET /metrics HTTP/1.1", "503 Service Unavailable", "200 OK"),
            ("HEAD /metrics HTTP/1.1", "503 Service Unavailable", "200 OK"),
            ("GET /metrics?a=b HTTP/1.0", "503 Service Unavailable", "200 OK"),
            ("GET /readyz HTTP/1.1", "503 Service Unavailable", "200 OK"),
            ("GET /healthz HTTP/1.1", "200 OK", "200 OK"),
            ("GET / HTTP/1.1", "302 Found", "302 Found"),
            ("GET / HTTP/1.1\nAccept: text/html", "200 OK", "200 OK"),
            ("GET /metrics/ HTTP/1.1", "404 Not Found", "404 Not Found"),
            ("GET /metrics HTTP/1.1\nContent-Length: 1", "413 Payload Too Large", "413 Payload Too Large"),
            ("POST /metrics HTTP/1.1\nContent-Length: 1", "405 Method Not Allowed", "405 Method Not Allowed"),
            ("get /metrics HTTP/1.1", "405 Method Not Allowed", "405 Method Not Allowed"),
        ] {
            for (published, status) in [(&young, before), (&scraped, after)] {
                let (head, _) = ask(published, lines);
                assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{lines}: {head}");
            }
        }
    }

    #[test]
    fn health_ends_with_age() {
        let (_publisher, published) = publish::publisher();
        let Parsed::Complete(head, _) = parse_head(b"GET /healthz HTTP/1.1\n\n") else { panic!() };
        let answer = answer(&head, &published, Duration::ZERO);
        assert!(answer.head.starts_with(b"HTTP/1.1 503 "));
        assert_eq!(answer.body.bytes(), b"the last complete scrape is 0 s old\n");
    }

    #[test]
    fn an_exposition_as_it_is_and_gzipped() {
        let published = scraped(&b"x 1\n".repeat(100_000));
        let text = published.latest().unwrap();
        let (head, body) = ask(&published, "GET /metrics HTTP/1.1");
        assert_eq!(body, text.text());
        assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
        assert!(
            head.contains("\r\nVary: Accept-Encoding\r\n") && !head.contains("Content-Encoding"),
            "{head}"
        );

        let (head, body) = ask(&published, "GET /metrics HTTP/1.1\nAccept-Encoding: gzip");
        assert_eq!(body, text.gzip());
        assert!(head.contains("\r\nContent-Encoding: gzip\r\n"), "{head}");
        assert!(head.contains("\r\nVary: Accept-Encoding\r\n"), "{head}");
    }

    #[test]
    fn a_head_is_the_get_without_its_body() {
        let published = scraped(b"x 1\n");
        for lines in ["GET /metrics HTTP/1.1", "GET / HTTP/1.1", "GET /nowhere HTTP/1.1"] {
            let undated = |head: String| {
                head.lines().filter(|line| !line.starts_with("Date:")).map(str::to_owned).collect::<Vec<_>>()
            };
            let (get, _) = ask(&published, lines);
            let (head, body) = ask(&published, &lines.replace("GET", "HEAD"));
            assert_eq!((undated(head), body), (undated(get), Vec::new()));
        }
    }

    #[test]
    fn a_browser_gets_the_page() {
        let published = scraped(b"x 1\n");
        let (head, body) = ask(&published, "GET / HTTP/1.1\nAccept: text/html,*/*;q=0.8");
        assert!(head.contains("\r\nContent-Type: text/html; charset=utf-8\r\n"), "{head}");
        assert!(head.contains("\r\nContent-Security-Policy: default-src 'none'; "), "{head}");
        assert!(body.starts_with(b"<!doctype html>"));
        let (head, _) = ask(&published, "GET / HTTP/1.1\nAccept: */*");
        assert!(head.contains("\r\nLocation: /metrics\r\n"), "{head}");
    }

    #[test]
    fn the_page_s_files_are_tagged_and_gzipped() {
        let published = scraped(b"x 1\n");
        for (path, content_type) in [
            ("/", "text/html; charset=utf-8"),
            ("/page.css", "text/css; charset=utf-8"),
            ("/page.js", "text/javascript; charset=utf-8"),
        ] {
            let get = format!("GET {path} HTTP/1.1\nAccept: text/html");
            let (head, body) = ask(&published, &get);
            let (_, tag) = head.split_once("\r\nETag: ").unwrap();
            let (tag, _) = tag.split_once("\r\n").unwrap();
            for header in [
                &format!("Content-Type: {content_type}"),
                "X-Content-Type-Options: nosniff",
                "Cache-Control: no-cache",
            ] {
                assert!(head.contains(&format!("\r\n{header}\r\n")), "{path}: {head}");
            }

            let (head, zipped) = ask(&published, &format!("{get}\nAccept-Encoding: gzip"));
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
                let (head, body) = ask(&published, &format!("{get}\nIf-None-Match: {theirs}"));
                assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {theirs}: {head}");
                assert!(head.contains(&format!("\r\nETag: {tag}\r\n")), "{head}");
                assert_eq!(body.is_empty(), status == 304);
            }
        }
    }

    #[test]
    fn what_was_not_read_closes_the_connection() {
        let published = scraped(b"x 1\n");
        for (lines, connection) in [
            ("GET /nowhere HTTP/1.1", "keep-alive"),
            ("DELETE / HTTP/1.1", "keep-alive"),
            ("DELETE / HTTP/1.1\nContent-Length: 3", "close"),
            ("GET / HTTP/1.1\nTransfer-Encoding: chunked", "close"),
            ("GET / HTTP/1.0", "close"),
        ] {
            let (head, _) = ask(&published, lines);
            assert!(head.contains(&format!("\r\nConnection: {connection}\r\n")), "{lines}: {head}");
        }
        assert!(refusal(400, "no\n").head.starts_with(b"HTTP/1.1 400 Bad Request\r\n"));
    }
}
