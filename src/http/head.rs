//! The head of an HTTP/1 request, which may be any bytes.
//!
//! This file does no I/O and never panics. Lines are checked as they arrive: a malformed request is refused
//! at the first wrong byte, and a result does not change when more bytes follow (RFC 9112, sections 2 to 6).

use super::header_fields::{HeaderFields, is_token};

/// The result of parsing the bytes received so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// The bytes are well-formed so far, but more are needed.
    Incomplete,
    /// The bytes are not a request, whatever follows.
    Malformed,
    /// The head is complete; the number is its length in bytes.
    Complete(Head<'a>, usize),
}

/// The parts of a request that the server needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// `GET`, `HEAD` or any other token.
    pub method: &'a [u8],
    /// The path of the target, not decoded and without its query.
    pub path: &'a [u8],
    /// The host that the client wants.
    pub host: Host<'a>,
    /// Whether a body follows.
    pub has_body: bool,
    /// Whether the client wants the connection to stay open.
    pub keep_alive: bool,
    /// Whether the response may be gzipped.
    pub accepts_gzip: bool,
    /// Whether the client is a browser: it prefers no other type to `text/html`.
    pub prefers_html: bool,
    /// The entity tags that the client has. If there are several such lines, the last one counts.
    pub if_none_match: &'a [u8],
    /// Prometheus's scrape timeout in seconds, as it was sent; it may not be a number.
    pub scrape_timeout: &'a [u8],
}

/// The host that a request names (RFC 9112, section 3.2): the authority of the target, else the `Host`
/// header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host<'a> {
    /// There is no `Host`, as HTTP/1.0 allows.
    Absent,
    /// The host as it was sent, such as `node:8080`; may be empty.
    Named(&'a [u8]),
    /// There is more than one `Host`, or none in HTTP/1.1.
    Invalid,
}

/// Parses the head of a request.
pub fn parse_head(bytes: &[u8]) -> Parsed<'_> {
    let mut rest = bytes;
    let mut request_line = None;
    let mut fields = HeaderFields::default();
    loop {
        let newline = rest.iter().position(|&b| b == b'\n');
        let line = &rest[..newline.unwrap_or(rest.len())];
        // A lone LF ends a line too. A CR is allowed only in a CRLF.
        let text = line.strip_suffix(b"\r").unwrap_or(line);
        if !text.iter().copied().all(is_text) {
            return Parsed::Malformed;
        }
        let Some(newline) = newline else { return Parsed::Incomplete };
        rest = &rest[newline + 1..];
        match request_line {
            // Some clients send an empty line after a body, which then precedes the next request.
            None if text.is_empty() => {}
            None => match parse_request_line(text) {
                Some(parts) => request_line = Some(parts),
                None => return Parsed::Malformed,
            },
            Some(request_line) if text.is_empty() => {
                return Parsed::Complete(head(&fields, request_line), bytes.len() - rest.len());
            }
            Some(_) => {
                if fields.add(text).is_none() {
                    return Parsed::Malformed;
                }
            }
        }
    }
}

/// Returns whether a header value may contain this byte: any byte except control characters other than the
/// tab.
fn is_text(b: u8) -> bool {
    b == b'\t' || (b >= b' ' && b != 0x7f)
}

#[derive(Clone, Copy)]
struct RequestLine<'a> {
    method: &'a [u8],
    /// The authority in `http://host/path`.
    authority: Option<&'a [u8]>,
    path: &'a [u8],
    /// The last digit of the version: 1 in HTTP/1.1.
    minor_version: u8,
}

fn parse_request_line(line: &[u8]) -> Option<RequestLine<'_>> {
    let mut words = line.split(|&b| b == b' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let minor_version = match version.strip_prefix(b"HTTP/1.")? {
        [digit @ b'0'..=b'9'] => digit - b'0',
        _ => return None,
    };
    let is_valid = words.next().is_none()
        && !method.is_empty()
        && method.iter().copied().all(is_token)
        && !target.is_empty()
        && !target.contains(&b'\t');
    let (authority, path) = split_target(target);
    is_valid.then_some(RequestLine { method, authority, path, minor_version })
}

/// Splits `/path?query` or `http://host/path?query`, which proxies send, into the authority and the path.
fn split_target(target: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let (authority, path) = match target.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case(b"http://") => {
            let rest = &target[7..];
            let end = rest.iter().position(|&b| b == b'/' || b == b'?').unwrap_or(rest.len());
            (Some(&rest[..end]), &rest[end..])
        }
        _ => (None, target),
    };
    let path = path.split(|&b| b == b'?').next().unwrap_or_default();
    // `http://host` stands for the root.
    (authority, if path.is_empty() { b"/" } else { path })
}

fn head<'a>(fields: &HeaderFields<'a>, line: RequestLine<'a>) -> Head<'a> {
    let host = match (fields.n_hosts, line.minor_version) {
        (0, 0) => line.authority.map_or(Host::Absent, Host::Named),
        (1, _) => Host::Named(line.authority.unwrap_or(fields.host)),
        _ => Host::Invalid,
    };
    Head {
        method: line.method,
        path: line.path,
        host,
        has_body: fields.has_body,
        keep_alive: !fields.close && (line.minor_version > 0 || fields.keep_alive),
        accepts_gzip: fields.accepts_gzip(),
        prefers_html: fields.prefers_html(),
        if_none_match: fields.if_none_match,
        scrape_timeout: fields.scrape_timeout,
    }
}

impl Head<'_> {
    /// Returns whether the client has the file with this weak entity tag (RFC 9110, section 13.1.2). The
    /// server's own tags contain no commas.
    pub fn has(&self, tag: &str) -> bool {
        let opaque = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
        self.if_none_match
            .split(|&b| b == b',')
            .map(<[u8]>::trim_ascii)
            .any(|theirs| theirs == b"*" || opaque(theirs) == opaque(tag.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses a complete head, and checks that every prefix of it gives a consistent result.
    fn parse(head: &str) -> Parsed<'_> {
        let bytes = head.as_bytes();
        let whole = parse_head(bytes);
        for end in 0..bytes.len() {
            match (parse_head(&bytes[..end]), &whole) {
                (Parsed::Incomplete, _) | (Parsed::Malformed, Parsed::Malformed) => {}
                (Parsed::Complete(head, n), Parsed::Complete(whole, n_whole)) => {
                    assert_eq!((&head, n), (whole, *n_whole));
                }
                (parsed, _) => panic!("{:?} gave {parsed:?}, the whole {whole:?}", head.get(..end)),
            }
        }
        whole
    }

    fn complete(head: &str) -> Head<'_> {
        match parse(head) {
            Parsed::Complete(parsed, n) => {
                assert_eq!(n, head.len(), "{head:?}");
                parsed
            }
            other => panic!("{head:?} gave {other:?}"),
        }
    }

    #[test]
    fn whole_requests() {
        let get = complete("GET /metrics HTTP/1.1\r\nHost: node:8080\r\n\r\n");
        let expected = Head {
            method: b"GET",
            path: b"/metrics",
            host: Host::Named(b"node:8080"),
            has_body: false,
            keep_alive: true,
            accepts_gzip: false,
            prefers_html: false,
            if_none_match: b"",
            scrape_timeout: b"",
        };
        assert_eq!(get, expected);
        assert_eq!(complete("GET /metrics HTTP/1.1\nHost: node:8080\n\n"), expected, "lone line feeds");
        assert_eq!(
            complete("\r\n\r\nGET /metrics HTTP/1.1\r\nhost:node:8080\r\n\r\n"),
            expected,
            "empty lines before"
        );
        assert_eq!(
            complete("GET /metrics HTTP/1.1\r\nX: \t\u{e9}\r\nHost: node:8080\r\nY:\r\n\r\n"),
            expected,
            "any value"
        );
    }

    #[test]
    fn bytes_that_follow_are_the_next_request() {
        let head = "GET / HTTP/1.1\r\n\r\n";
        let Parsed::Complete(_, n) = parse("GET / HTTP/1.1\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n") else {
            panic!()
        };
        assert_eq!(n, head.len());
        assert!(matches!(parse("GET / HTTP/1.1\r\n\r\n\0\0"), Parsed::Complete(_, n) if n == head.len()));
    }

    #[test]
    fn not_requests() {
        for head in [
            "\0",
            "\x16\x03\x01\x02",
            "GET\r\n",
            "GET /\r\n",
            "GET / HTTP/1.1 \r\n",
            "GET  / HTTP/1.1\r\n",
            "GET / HTTP/2.0\r\n",
            "GET / HTTP/1.10\r\n",
            "GET / HTTP/1.\r\n",
            "GET / http/1.1\r\n",
            "GET /a b HTTP/1.1\r\n",
            "GET /a\tb HTTP/1.1\r\n",
            " / HTTP/1.1\r\n",
            "G(T / HTTP/1.1\r\n",
            "GET  HTTP/1.1\r\n",
            "GET / HTTP/1.1\r\r\n",
            "GET / HTTP/1.1\rX",
            "GET / HTTP/1.1\r\nno colon\r\n",
            "GET / HTTP/1.1\r\n: no name\r\n",
            "GET / HTTP/1.1\r\nHost : spaced\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n",
            "GET / HTTP/1.1\r\nHost: a\0b",
            "GET / HTTP/1.1\r\nContent-Length: -1\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 5, 5\r\n",
            "GET / HTTP/1.1\r\nContent-Length:\r\n",
        ] {
            assert_eq!(parse(head), Parsed::Malformed, "{head:?}");
        }
    }

    #[test]
    fn paths() {
        for (target, path) in [
            ("/", "/"),
            ("/metrics?name[]=a", "/metrics"),
            ("/?", "/"),
            ("?x", "/"),
            ("*", "*"),
            ("http://node:8080/metrics?x=/y", "/metrics"),
            ("HTTP://node", "/"),
            ("http://node?x", "/"),
        ] {
            let head = format!("GET {target} HTTP/1.1\r\n\r\n");
            assert_eq!(complete(&head).path, path.as_bytes(), "{target}");
        }
    }

    #[test]
    fn hosts() {
        for (head, host) in [
            ("GET / HTTP/1.0", Host::Absent),
            ("GET / HTTP/1.0\r\nHost: a", Host::Named(b"a")),
            ("GET / HTTP/1.1\r\nHost:", Host::Named(b"")),
            ("GET / HTTP/1.1\r\nHOST:\t[::1]:80 ", Host::Named(b"[::1]:80")),
            ("GET / HTTP/1.1", Host::Invalid),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a", Host::Invalid),
            ("GET / HTTP/1.0\r\nHost: a\r\nX: y\r\nHost: b", Host::Invalid),
            ("GET http://b:1/ HTTP/1.1\r\nHost: a", Host::Named(b"b:1")),
            ("GET http://b?x HTTP/1.0", Host::Named(b"b")),
            ("GET http://b HTTP/1.1", Host::Invalid),
        ] {
            assert_eq!(complete(&format!("{head}\r\n\r\n")).host, host, "{head}");
        }
    }

    #[test]
    fn bodies() {
        for (header, has_body) in [
            ("Content-Length: 0", false),
            ("Content-Length: 000", false),
            ("Content-Length: 1", true),
            ("CONTENT-LENGTH:99999999999999999999999999", true),
            ("Content-Length: 5\r\nContent-Length: 0", true),
            ("Transfer-Encoding: chunked", true),
            ("transfer-encoding: identity", true),
        ] {
            let head = format!("GET / HTTP/1.1\r\n{header}\r\n\r\n");
            assert_eq!(complete(&head).has_body, has_body, "{header}");
        }
    }

    #[test]
    fn connections() {
        for (version, header, keep_alive) in [
            ("1.1", "X: y", true),
            ("1.1", "Connection: close", false),
            ("1.1", "connection: x, CLOSE", false),
            ("1.1", "Connection: keep-alive\r\nConnection: close", false),
            ("1.0", "X: y", false),
            ("1.0", "Connection: Keep-Alive", true),
            ("1.0", "Connection: keep-alive, close", false),
            ("1.9", "X: y", true),
        ] {
            let head = format!("GET / HTTP/{version}\r\n{header}\r\n\r\n");
            assert_eq!(complete(&head).keep_alive, keep_alive, "{version} {header}");
        }
    }
}
