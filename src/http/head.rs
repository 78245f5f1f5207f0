//! Parses the head of an HTTP/1 request. The bytes come from a client and may be anything.
//!
//! `httparse` checks the grammar of lines. It refuses a malformed head at the first wrong byte, for example a
//! folded line or a space before a colon. This module also refuses some well-formed heads, and decides what a
//! head means (RFC 9112, sections 2 to 6).

/// The maximum number of header lines.
pub const MAX_FIELDS: usize = 100;

/// The result of parsing the bytes received so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// The bytes are well-formed so far, but more are needed.
    Incomplete,
    /// The bytes cannot become a valid request, whatever follows.
    Malformed,
    /// The head has more than [`MAX_FIELDS`] header lines.
    TooLong,
    /// The head is complete. The number is the length of the head in bytes.
    Complete(Head<'a>, usize),
}

/// The parts of a request that the server needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The method: `GET`, `HEAD` or any other token.
    pub method: &'a [u8],
    /// The path in the target, without the query. It is still percent-encoded.
    pub path: &'a [u8],
    /// The query in the target, still percent-encoded. Empty if the target has no query.
    pub query: &'a [u8],
    /// The host that the client names (RFC 9112, section 3.2), such as `node:8080`. This is the host in the
    /// target or, if the target has none, the value of the header `Host`. Empty if an HTTP/1.0 request names
    /// no host. `None` if the request is invalid because it has several `Host` headers, or because it is an
    /// HTTP/1.1 request without `Host`.
    pub host: Option<&'a [u8]>,
    /// Whether a body follows the head.
    pub has_body: bool,
    /// Whether the client wants the connection to stay open.
    pub keep_alive: bool,
    /// Whether the response may be gzipped.
    pub accepts_gzip: bool,
    /// Whether the client is a browser. Only browsers request `text/html`.
    pub accepts_html: bool,
    /// The value of the last header `If-None-Match`. It lists the entity tags of the versions that the client
    /// has cached.
    pub if_none_match: &'a [u8],
    /// The scrape timeout that Prometheus sends, in seconds. It is not parsed yet, and may not be a number.
    pub scrape_timeout: &'a [u8],
}

/// Parses the head of a request.
pub fn parse_head(bytes: &[u8]) -> Parsed<'_> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut lines);
    let n_bytes = match request.parse(bytes) {
        Ok(httparse::Status::Complete(n_bytes)) => n_bytes,
        Ok(httparse::Status::Partial) => return Parsed::Incomplete,
        Err(httparse::Error::TooManyHeaders) => return Parsed::TooLong,
        Err(_) => return Parsed::Malformed,
    };
    // The version is the last digit of HTTP/1.0 or HTTP/1.1.
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Parsed::Malformed;
    };
    let values = |name: &'static str| {
        let named = request.headers.iter().filter(move |line| line.name.eq_ignore_ascii_case(name));
        named.map(|line| line.value.trim_ascii())
    };
    let mut has_body = values("transfer-encoding").next().is_some();
    for length in values("content-length") {
        if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
            return Parsed::Malformed;
        }
        has_body |= length.iter().any(|&b| b != b'0');
    }
    let has_option = |option: &[u8]| {
        values("connection").flat_map(list).any(|(name, _)| name.eq_ignore_ascii_case(option))
    };
    let accepts = |name, member: &[u8]| {
        let mut named = values(name).flat_map(list).filter(|(name, _)| name.eq_ignore_ascii_case(member));
        named.next().map(|(_, is_accepted)| is_accepted)
    };
    let (authority, path, query) = split_target(target.as_bytes());
    let host = authority.or_else(|| values("host").next()).unwrap_or_default();
    let is_valid = matches!((values("host").count(), version), (0, 0) | (1, _));
    let head = Head {
        method: method.as_bytes(),
        path,
        query,
        host: is_valid.then_some(host),
        has_body,
        keep_alive: !has_option(b"close") && (version > 0 || has_option(b"keep-alive")),
        accepts_gzip: accepts("accept-encoding", b"gzip").or(accepts("accept-encoding", b"*")) == Some(true),
        accepts_html: accepts("accept", b"text/html") == Some(true),
        if_none_match: values("if-none-match").next_back().unwrap_or_default(),
        scrape_timeout: values("x-prometheus-scrape-timeout-seconds").next_back().unwrap_or_default(),
    };
    Parsed::Complete(head, n_bytes)
}

/// Splits a request's target into authority, path and query. A target is usually `/path?query`. A client that
/// uses a proxy sends `http://host/path?query`.
fn split_target(target: &[u8]) -> (Option<&[u8]>, &[u8], &[u8]) {
    let (authority, path) = match target.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case(b"http://") => {
            let rest = &target[7..];
            let end = rest.iter().position(|&b| b == b'/' || b == b'?').unwrap_or(rest.len());
            (Some(&rest[..end]), &rest[end..])
        }
        _ => (None, target),
    };
    let mut parts = path.splitn(2, |&b| b == b'?');
    let (path, query) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    // `http://host` without a path means the path `/`.
    (authority, if path.is_empty() { b"/" } else { path }, query)
}

/// Returns the members of a comma-separated list, each with a flag that says whether the client accepts it. A
/// member is accepted unless its quality is 0.
fn list(value: &[u8]) -> impl Iterator<Item = (&[u8], bool)> {
    value.split(|&b| b == b',').map(|member| {
        let mut parts = member.split(|&b| b == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix(b"q=").or(part.strip_prefix(b"Q=")));
        (name, !quality.is_some_and(|quality| quality.iter().all(|b| b"0.".contains(b))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses a complete head. Also parses each shorter prefix of the head, and checks that the prefix is
    /// incomplete or gives the same result.
    fn parse(head: &str) -> Parsed<'_> {
        let bytes = head.as_bytes();
        let whole = parse_head(bytes);
        for end in 0..bytes.len() {
            match (parse_head(&bytes[..end]), &whole) {
                (Parsed::Incomplete, _) | (Parsed::Malformed, Parsed::Malformed) => {}
                (Parsed::TooLong, Parsed::TooLong) => {}
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
    fn whole_requests_are_parsed() {
        let expected = Head {
            method: b"GET",
            path: b"/metrics",
            query: b"",
            host: Some(b"node:8080"),
            has_body: false,
            keep_alive: true,
            accepts_gzip: false,
            accepts_html: false,
            if_none_match: b"",
            scrape_timeout: b"",
        };
        for (request, what) in [
            ("GET /metrics HTTP/1.1\r\nHost: node:8080\r\n\r\n", "usual"),
            ("GET /metrics HTTP/1.1\nHost: node:8080\n\n", "lone line feeds"),
            ("\r\n\r\nGET /metrics HTTP/1.1\r\nhost:node:8080\r\n\r\n", "empty lines before"),
            ("GET /metrics HTTP/1.1\r\nX: \t\u{e9}\r\nHost: node:8080\r\nY:\r\n\r\n", "any value"),
        ] {
            assert_eq!(complete(request), expected, "{what}");
        }
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
    fn malformed_requests_are_refused() {
        for head in [
            "\0",
            "\x16\x03\x01\x02",
            "GET\r\n",
            "GET /\r\n",
            "GET / HTTP/1.1 \r\n",
            "GET  / HTTP/1.1\r\n",
            "GET / HTTP/2.0\r\n",
            "GET / HTTP/1.10\r\n",
            "GET / HTTP/1.9\r\n",
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
            "GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length:\r\n\r\n",
        ] {
            assert_eq!(parse(head), Parsed::Malformed, "{head:?}");
        }
    }

    #[test]
    fn number_of_lines_is_bounded() {
        let head = |n| format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(n));
        assert!(matches!(parse(&head(MAX_FIELDS)), Parsed::Complete(..)));
        assert_eq!(parse(&head(MAX_FIELDS + 1)), Parsed::TooLong);
    }

    #[test]
    fn targets_are_split_into_path_and_query() {
        for (target, path, query) in [
            ("/", "/", ""),
            ("/metrics?name[]=a", "/metrics", "name[]=a"),
            ("/?", "/", ""),
            ("?x?y", "/", "x?y"),
            ("*", "*", ""),
            ("http://node:8080/metrics?x=/y", "/metrics", "x=/y"),
            ("HTTP://node", "/", ""),
            ("http://node?x", "/", "x"),
        ] {
            let head = format!("GET {target} HTTP/1.1\r\n\r\n");
            let head = complete(&head);
            assert_eq!((head.path, head.query), (path.as_bytes(), query.as_bytes()), "{target}");
        }
    }

    #[test]
    fn host_of_target_precedes_header() {
        for (head, host) in [
            ("GET / HTTP/1.0", Some("")),
            ("GET / HTTP/1.0\r\nHost: a", Some("a")),
            ("GET / HTTP/1.1\r\nHost:", Some("")),
            ("GET / HTTP/1.1\r\nHOST:\t[::1]:80 ", Some("[::1]:80")),
            ("GET / HTTP/1.1", None),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a", None),
            ("GET / HTTP/1.0\r\nHost: a\r\nX: y\r\nHost: b", None),
            ("GET http://b:1/ HTTP/1.1\r\nHost: a", Some("b:1")),
            ("GET http://b?x HTTP/1.0", Some("b")),
            ("GET http://b HTTP/1.1", None),
        ] {
            let host = host.map(str::as_bytes);
            assert_eq!(complete(&format!("{head}\r\n\r\n")).host, host, "{head}");
        }
    }

    #[test]
    fn requests_with_a_body_are_recognized() {
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
    fn accepted_encodings_and_media_types_are_found() {
        for (header, accepts_gzip, accepts_html) in [
            ("Accept-Encoding: gzip", true, false),
            ("Accept-Encoding: deflate, GZIP;q=0.001, br", true, false),
            ("Accept-Encoding: *", true, false),
            ("Accept-Encoding: br\r\nAccept-Encoding: gzip", true, false),
            ("Accept-Encoding: gzip;q=0", false, false),
            ("Accept-Encoding: gzip; q=0.000, *", false, false),
            ("Accept-Encoding: *;q=0", false, false),
            ("Accept-Encoding: br;q=1, ,;q=1,", false, false),
            ("Accept: gzip", false, false),
            ("Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", false, true),
            ("Accept: */*, Text/HTML", false, true),
            ("Accept: text/html;q=0", false, false),
            ("Accept: application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.5,*/*", false, false),
        ] {
            let head = format!("GET / HTTP/1.1\r\n{header}\r\n\r\n");
            let head = complete(&head);
            assert_eq!((head.accepts_gzip, head.accepts_html), (accepts_gzip, accepts_html), "{header}");
        }
    }

    #[test]
    fn connection_header_decides_whether_to_close() {
        for (version, header, keep_alive) in [
            ("1.1", "X: y", true),
            ("1.1", "Connection: close", false),
            ("1.1", "connection: x, CLOSE", false),
            ("1.1", "Connection: keep-alive\r\nConnection: close", false),
            ("1.0", "X: y", false),
            ("1.0", "Connection: Keep-Alive", true),
            ("1.0", "Connection: keep-alive, close", false),
        ] {
            let head = format!("GET / HTTP/{version}\r\n{header}\r\n\r\n");
            assert_eq!(complete(&head).keep_alive, keep_alive, "{version} {header}");
        }
    }
}
