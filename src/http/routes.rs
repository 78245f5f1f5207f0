//! Routes and content negotiation: which request gets which answer.

use std::time::Instant;

use super::head::{Head, Host};
use super::hosts::misdirected;
use super::page;
use super::pending::{Pending, not_ready};
use super::response::{Answer, Body, PLAIN, Response, UNCACHED, error_response};
use super::site::Site;

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// The content of `/ooms` before the first kill.
const NO_OOMS: &str = "{\"records\":[]}\n";

/// What a request gets.
pub enum Reply {
    /// The answer to a probe, which needs neither a slot nor credit for responses.
    Probe(Response),
    /// Any other response.
    Response(Response),
    /// The exposition.
    Exposition(Pending),
}

/// Answers a complete request. `is_local` says that it comes from this machine.
pub fn reply(site: &Site, request: &Head<'_>, is_local: bool) -> Reply {
    let host = match request.host {
        Host::Invalid => {
            return Reply::Response(error_response(400, "a request must name its Host, once\n"));
        }
        Host::Absent => None,
        Host::Named(host) => Some(host),
    };
    let print =
        |answer| Response::new(answer, request.method == b"HEAD", request.keep_alive && !request.has_body);
    let answer = match request.method {
        _ if !site.hosts.allow(is_local, host) => Answer::new(421, &[PLAIN], misdirected(host)),
        b"GET" | b"HEAD" if request.has_body => {
            Answer::new(413, &[PLAIN], "a request must not have a body\n")
        }
        b"GET" | b"HEAD" => match request.path {
            b"/metrics" => return Reply::Exposition(Pending::new(request)),
            b"/healthz" => return Reply::Probe(print(health(site))),
            b"/readyz" if site.published.latest().is_none() => return Reply::Probe(print(not_ready())),
            b"/readyz" => return Reply::Probe(print(Answer::new(200, &[PLAIN, UNCACHED], "ok\n"))),
            _ => route(site, request),
        },
        _ => Answer::new(405, &[PLAIN, ("Allow", "GET, HEAD")], "only GET and HEAD are answered\n"),
    };
    Reply::Response(print(answer))
}

fn route(site: &Site, request: &Head<'_>) -> Answer {
    match request.path {
        b"/ooms" => {
            let text = site.ooms.text().unwrap_or_else(|| NO_OOMS.to_owned());
            Answer::new(200, &[JSON, UNCACHED], text)
        }
        b"/dashboard.json" => {
            Answer::new(200, &[JSON, ("Cache-Control", "no-cache")], include_str!("dashboard.json"))
        }
        path => match page::file(path, request.accepts_html) {
            Some(file) => page_file(request, file),
            None if path == b"/" => {
                Answer::new(302, &[PLAIN, ("Location", "metrics"), ("Vary", "Accept")], "see /metrics\n")
            }
            None => Answer::new(
                404,
                &[PLAIN],
                "there are /metrics, /healthz, /readyz, /ooms, /dashboard.json and /\n",
            ),
        },
    }
}

fn health(site: &Site) -> Answer {
    match site.demand.overdue(Instant::now()) {
        overdue if overdue < site.max_age => Answer::new(200, &[PLAIN, UNCACHED], "ok\n"),
        overdue => {
            let text = format!("a scrape has been due for {} s\n", overdue.as_secs());
            Answer::new(503, &[PLAIN, UNCACHED], text)
        }
    }
}

/// Answers with a file of the page, or with 304 if the client already has it.
fn page_file(request: &Head<'_>, file: &'static page::File) -> Answer {
    let mut headers = vec![
        ("Content-Type", file.content_type),
        ("Content-Security-Policy", page::POLICY),
        ("Referrer-Policy", "no-referrer"),
        // A new version of the exporter has a new page at the same addresses.
        ("Cache-Control", "no-cache"),
        ("ETag", file.tag()),
        ("Vary", "Accept, Accept-Encoding"),
    ];
    if request.accepts_gzip {
        headers.push(("Content-Encoding", "gzip"));
    }
    let bytes = if request.accepts_gzip { file.gzip() } else { file.text().as_bytes() };
    let status = if request.has(file.tag()) { 304 } else { 200 };
    Answer { headers, ..Answer::new(status, &[], Body::Bytes(bytes.into())) }
}

#[cfg(test)]
mod tests {
    use super::super::head::{Parsed, parse_head};
    use super::*;
    use std::io::Read;
    use std::time::Duration;

    /// Answers the request with this head.
    fn respond(site: &Site, head: &str, is_local: bool) -> Response {
        let Parsed::Complete(head, _) = parse_head(head.as_bytes()) else { panic!("{head:?}") };
        match reply(site, &head, is_local) {
            Reply::Probe(response) | Reply::Response(response) => response,
            Reply::Exposition(mut pending) => loop {
                if let Some(response) = pending.advance(site, Instant::now()) {
                    return response;
                }
            },
        }
    }

    /// Answers the request with these lines. Returns the head and the body.
    fn ask(site: &Site, lines: &str) -> (String, Vec<u8>) {
        let has_host = !lines.contains("HTTP/1.1") || lines.contains("Host");
        let lines = if has_host { lines.to_owned() } else { format!("{lines}\nHost: localhost:8080") };
        let response = respond(site, &(lines.replace('\n', "\r\n") + "\r\n\r\n"), true);
        let printed = String::from_utf8(response.head).unwrap();
        assert!(printed.starts_with("HTTP/1.1 ") && printed.ends_with("\r\n\r\n"), "{printed:?}");
        assert_eq!(printed.matches("\r\n\r\n").count(), 1, "{printed:?}");
        for header in ["X-Content-Type-Options: nosniff", "Cross-Origin-Resource-Policy: same-origin"] {
            assert_eq!(printed.matches(&format!("\r\n{header}\r\n")).count(), 1, "{printed:?}");
        }
        let connection = if response.keep_alive { "keep-alive" } else { "close" };
        assert!(printed.contains(&format!("\r\nConnection: {connection}\r\n")), "{printed:?}");
        let body = response.body.with_bytes(|body| Ok([body, &response.tail].concat())).unwrap();
        if !lines.starts_with("HEAD") && !printed.starts_with("HTTP/1.1 304 ") {
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
        for (lines, local, elsewhere) in [
            ("GET /metrics HTTP/1.1\r\nHost: evil.example", 421, 200),
            ("POST / HTTP/1.1\r\nHost: evil.example", 421, 405),
            ("GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost", 421, 200),
            ("GET /metrics HTTP/1.1\r\nHost: localhost", 200, 200),
            ("GET /metrics HTTP/1.0", 200, 200),
            ("GET /metrics HTTP/1.1", 400, 400),
            ("GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: localhost", 400, 400),
        ] {
            for (is_local, status) in [(true, local), (false, elsewhere)] {
                let response = respond(&site, &format!("{lines}\r\n\r\n"), is_local);
                assert!(response.head.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{lines}");
            }
        }
    }

    #[test]
    fn health_ends_with_an_overdue_scrape() {
        let site = Site { max_age: Duration::ZERO, ..Site::of(b"x 1\n") };
        let (head, body) = ask(&site, "GET /healthz HTTP/1.0");
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        assert_eq!(body, b"a scrape has been due for 0 s\n");
    }

    #[test]
    fn exposition_is_served_plain_and_gzipped() {
        let text = b"x 1\n".repeat(100_000);
        let site = Site::of(&text);
        let (head, body) = ask(&site, "GET /metrics HTTP/1.1");
        assert_eq!(body, text);
        assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
        assert!(
            head.contains("\r\nVary: Accept-Encoding\r\n") && !head.contains("Content-Encoding"),
            "{head}"
        );

        let (head, body) = ask(&site, "GET /metrics HTTP/1.1\nAccept-Encoding: gzip");
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, text);
        assert!(head.contains("\r\nContent-Encoding: gzip\r\n"), "{head}");
        assert!(head.contains("\r\nVary: Accept-Encoding\r\n"), "{head}");
    }

    #[test]
    fn head_is_the_get_without_its_body() {
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
    fn browser_gets_the_page() {
        let site = Site::of(b"x 1\n");
        let (head, body) = ask(&site, "GET / HTTP/1.1\nAccept: text/html,*/*;q=0.8");
        assert!(head.contains("\r\nContent-Type: text/html; charset=utf-8\r\n"), "{head}");
        assert!(head.contains("\r\nContent-Security-Policy: default-src 'none'; "), "{head}");
        assert!(body.starts_with(b"<!doctype html>"));
        let (head, _) = ask(&site, "GET / HTTP/1.1\nAccept: */*");
        assert!(head.contains("\r\nLocation: metrics\r\n"), "{head}");
    }

    #[test]
    fn files_of_the_page_are_tagged_and_gzipped() {
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
    fn unread_body_closes_the_connection() {
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
