//! Decides which response a request gets: routes and content negotiation.

use std::time::Instant;

use super::head::Head;
use super::hosts::misdirected;
use super::page;
use super::pending::{Pending, not_ready, refused};
use super::response::{Form, PLAIN, Response, UNCACHED};
use super::site::Site;

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// The content of `/ooms` before the first OOM kill.
const NO_OOMS: &str = "{\"records\":[]}\n";

/// The reply to a request.
pub enum Reply {
    /// The response to a probe. A probe is answered even if there are too many connections, or if no CPU time
    /// may be spent on other responses.
    Probe(Response),
    /// Any other response without an exposition.
    Response(Response),
    /// A response with an exposition, which may not be ready yet.
    Exposition(Pending),
}

/// What the server knows about a client, apart from the client's request.
#[derive(Clone, Copy)]
pub struct Client {
    /// Whether the client runs on this machine: its address is a loopback address, or equals the address that
    /// it connected to.
    pub is_local: bool,
    /// Whether the client's connection has a slot, which is a place for one open connection. A client without
    /// a slot gets one response: the answer to a probe, or the message that there are too many connections.
    pub has_slot: bool,
}

/// Answers a complete request.
pub fn reply(site: &Site, request: &Head<'_>, client: Client, now: Instant) -> Reply {
    let form = Form::of(request);
    let Some(host) = request.host else {
        let text = b"a request must name its Host, once\n";
        return Reply::Response(Response::new(Form::LAST, 400, &[PLAIN], text));
    };
    Reply::Response(match request.method {
        _ if !site.hosts.allow(client.is_local, host) => {
            Response::new(form, 421, &[PLAIN], misdirected(host).into_bytes())
        }
        b"GET" | b"HEAD" if request.has_body => {
            Response::new(form, 413, &[PLAIN], b"a request must not have a body\n")
        }
        b"GET" | b"HEAD" => match request.path {
            b"/healthz" => return Reply::Probe(health(site, form, now)),
            b"/readyz" if site.published.latest().is_none() => return Reply::Probe(not_ready(form)),
            b"/readyz" => return Reply::Probe(Response::new(form, 200, &[PLAIN, UNCACHED], b"ok\n")),
            _ if !client.has_slot => Response::new(Form::LAST, 503, &[PLAIN], b"too many connections\n"),
            b"/metrics" if request.query.is_empty() => {
                return Reply::Exposition(Pending::new(site, request, now));
            }
            b"/metrics" => match Pending::of_view(site, request, now) {
                Ok(pending) => return Reply::Exposition(pending),
                Err(refusal) => refused(form, refusal),
            },
            _ => route(site, request, form),
        },
        _ => {
            let headers = [PLAIN, ("Allow", "GET, HEAD")];
            Response::new(form, 405, &headers, b"only GET and HEAD are answered\n")
        }
    })
}

fn route(site: &Site, request: &Head<'_>, form: Form) -> Response {
    match request.path {
        b"/ooms" => {
            let text = site.ooms.text().unwrap_or_else(|| NO_OOMS.to_owned());
            Response::new(form, 200, &[JSON, UNCACHED], text.into_bytes())
        }
        b"/dashboard.json" => {
            let headers = [JSON, ("Cache-Control", "no-cache")];
            Response::new(form, 200, &headers, include_bytes!("dashboard.json"))
        }
        path => match page::file(path, request.accepts_html) {
            Some(file) => file.respond(request),
            None if path == b"/" => {
                let headers = [PLAIN, ("Location", "metrics"), ("Vary", "Accept")];
                Response::new(form, 302, &headers, b"see /metrics\n")
            }
            None => {
                let text = b"there are /metrics, /healthz, /readyz, /ooms, /dashboard.json and /\n";
                Response::new(form, 404, &[PLAIN], text)
            }
        },
    }
}

fn health(site: &Site, form: Form, now: Instant) -> Response {
    let overdue = site.demand.overdue(now);
    if overdue < site.max_age {
        return Response::new(form, 200, &[PLAIN, UNCACHED], b"ok\n");
    }
    let text = format!("a scrape has been due for {} s\n", overdue.as_secs());
    Response::new(form, 503, &[PLAIN, UNCACHED], text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::head::{Parsed, parse_head};
    use super::super::publish::Published;
    use super::*;
    use std::io::Read;
    use std::time::Duration;

    /// Sends a request with these lines, and returns the head and the body of the response. Adds a `Host` if
    /// HTTP/1.1 needs one and the lines contain none.
    fn ask(site: &Site, is_local: bool, lines: &str) -> (String, Vec<u8>) {
        let has_host = !lines.contains("HTTP/1.1") || lines.contains("Host");
        let host = if has_host { "" } else { "Host: localhost:8080\r\n" };
        let request = format!("{}\r\n{host}\r\n", lines.replace('\n', "\r\n"));
        let Parsed::Complete(head, _) = parse_head(request.as_bytes()) else { panic!("{request:?}") };
        let client = Client { is_local, has_slot: true };
        let response = match reply(site, &head, client, Instant::now()) {
            Reply::Probe(response) | Reply::Response(response) => response,
            Reply::Exposition(mut pending) => {
                std::iter::repeat_with(|| pending.advance(site, Instant::now()))
                    .find_map(|response| response)
                    .unwrap()
            }
        };
        let printed = String::from_utf8(response.head).unwrap();
        assert!(printed.starts_with("HTTP/1.1 ") && printed.ends_with("\r\n\r\n"), "{printed:?}");
        assert_eq!(printed.matches("\r\n\r\n").count(), 1, "{printed:?}");
        let connection = if response.keep_alive { "keep-alive" } else { "close" };
        for header in [
            "X-Content-Type-Options: nosniff",
            "Cross-Origin-Resource-Policy: same-origin",
            &format!("Connection: {connection}"),
        ] {
            assert_eq!(printed.matches(&format!("\r\n{header}\r\n")).count(), 1, "{printed:?}");
        }
        let mut body = response.exposition.map_or(Vec::new(), |buffer| buffer.bytes().unwrap().clone());
        body.extend_from_slice(&response.text);
        if !lines.starts_with("HEAD") {
            assert!(printed.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{printed:?}");
        }
        (printed, body)
    }

    #[test]
    fn statuses_depend_on_method_path_and_state() {
        let scraped = Site::of(b"x 1\n");
        let unscraped = Site { published: Published::default(), ..Site::of(b"") };
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
                let (head, _) = ask(site, true, lines);
                assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{lines}: {head}");
            }
        }
        let stuck = Site { max_age: Duration::ZERO, ..scraped };
        let (head, body) = ask(&stuck, true, "GET /healthz HTTP/1.0");
        assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        assert_eq!(body, b"a scrape has been due for 0 s\n");
    }

    #[test]
    fn unknown_hosts_are_refused() {
        let site = Site::of(b"x 1\n");
        for (lines, local, elsewhere) in [
            ("GET /metrics HTTP/1.1\nHost: evil.example", 421, 200),
            ("POST / HTTP/1.1\nHost: evil.example", 421, 405),
            ("GET http://evil.example/metrics HTTP/1.1\nHost: localhost", 421, 200),
            ("GET /metrics HTTP/1.1\nHost: localhost", 200, 200),
            ("GET /metrics HTTP/1.0", 200, 200),
            ("GET /metrics HTTP/1.1\nX: no Host", 400, 400),
            ("GET /metrics HTTP/1.1\nHost: localhost\nHost: localhost", 400, 400),
        ] {
            for (is_local, status) in [(true, local), (false, elsewhere)] {
                let (head, _) = ask(&site, is_local, lines);
                assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{lines}");
            }
        }
    }

    #[test]
    fn headers_depend_on_the_request() {
        let site = Site::of(b"x 1\n");
        for (lines, header) in [
            ("GET /metrics HTTP/1.1", "Content-Type: text/plain; version=0.0.4; charset=utf-8"),
            ("GET /metrics HTTP/1.1", "Vary: Accept-Encoding"),
            ("GET /metrics HTTP/1.1\nAccept-Encoding: gzip", "Vary: Accept-Encoding"),
            ("GET /metrics HTTP/1.1\nAccept-Encoding: gzip", "Content-Encoding: gzip"),
            ("GET / HTTP/1.1\nAccept: text/html,*/*;q=0.8", "Content-Type: text/html; charset=utf-8"),
            ("GET / HTTP/1.1\nAccept: */*", "Location: metrics"),
            ("GET /nowhere HTTP/1.1", "Connection: keep-alive"),
            ("DELETE / HTTP/1.1", "Connection: keep-alive"),
            ("DELETE / HTTP/1.1\nContent-Length: 3", "Connection: close"),
            ("GET / HTTP/1.1\nTransfer-Encoding: chunked", "Connection: close"),
            ("GET / HTTP/1.0", "Connection: close"),
        ] {
            let (head, _) = ask(&site, true, lines);
            assert!(head.contains(&format!("\r\n{header}\r\n")), "{lines}: {head}");
            assert_eq!(head.contains("Content-Encoding"), lines.contains("gzip"), "{lines}: {head}");
        }
    }

    #[test]
    fn exposition_is_served_plain_and_gzipped() {
        let text = b"x 1\n".repeat(100_000);
        let site = Site::of(&text);
        assert_eq!(ask(&site, true, "GET /metrics HTTP/1.1").1, text);
        let (_, body) = ask(&site, true, "GET /metrics HTTP/1.1\nAccept-Encoding: gzip");
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, text);
    }

    #[test]
    fn head_response_is_that_of_get_without_its_body() {
        let site = Site::of(b"x 1\n");
        for lines in ["GET /metrics HTTP/1.1", "GET / HTTP/1.1", "GET /nowhere HTTP/1.1"] {
            let undated = |head: String| {
                head.lines().filter(|line| !line.starts_with("Date:")).map(str::to_owned).collect::<Vec<_>>()
            };
            let (get, _) = ask(&site, true, lines);
            let (head, body) = ask(&site, true, &lines.replace("GET", "HEAD"));
            assert_eq!((undated(head), body), (undated(get), Vec::new()));
        }
    }
}
