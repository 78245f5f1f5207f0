//! The head of an HTTP/1 request, from bytes that a stranger chose.
//!
//! Pure: no I/O, no allocation, no panic. Lines are judged as they come: what is wrong is wrong at the first byte that
//! makes it so and stays wrong, and an answer does not change when more bytes follow (RFC 9112, sections 2 to 6).

/// What the bytes received so far amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// Nothing wrong yet: more bytes decide.
    Incomplete,
    /// Not a request, whatever follows.
    Malformed,
    /// A whole head, and how many bytes it took.
    Complete(Head<'a>, usize),
}

/// What the server needs to know of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// `GET`, `HEAD` or any other token.
    pub method: &'a [u8],
    /// The path of the target, neither decoded nor with its query.
    pub path: &'a [u8],
    /// The host that the client wants.
    pub host: Host<'a>,
    /// Whether a body follows, of whatever kind and length.
    pub has_body: bool,
    /// Whether the client wants the connection to stay open.
    pub keep_alive: bool,
    /// Whether the response may be gzipped.
    pub accepts_gzip: bool,
    /// Whether the client is a browser: it likes `text/html` at least as much as anything else.
    pub prefers_html: bool,
    /// The entity tags that the client has: of several such lines the last.
    pub if_none_match: &'a [u8],
    /// After how many seconds Prometheus gives up: as it says it, which need not be a number.
    pub scrape_timeout: &'a [u8],
}

/// Whom a request is for (RFC 9112, section 3.2): the target's authority, else the `Host` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host<'a> {
    /// No `Host`, as HTTP/1.0 allows.
    Absent,
    /// `node:8080`, as it was sent; may be empty.
    Named(&'a [u8]),
    /// More than one `Host`, or none in HTTP/1.1.
    Invalid,
}

/// Reads a request's head.
pub fn parse_head(bytes: &[u8]) -> Parsed<'_> {
    let mut rest = bytes;
    let mut request_line = None;
    let mut fields = Fields::default();
    loop {
        let newline = rest.iter().position(|&b| b == b'\n');
        let line = &rest[..newline.unwrap_or(rest.len())];
        // A lone LF ends a line too. A CR is nothing but the first half of a CRLF.
        let text = line.strip_suffix(b"\r").unwrap_or(line);
        if !text.iter().copied().all(is_text) {
            return Parsed::Malformed;
        }
        let Some(newline) = newline else { return Parsed::Incomplete };
        rest = &rest[newline + 1..];
        match request_line {
            // Empty lines before a request are left over from sloppy clients' bodies.
            None if text.is_empty() => {}
            None => match parse_request_line(text) {
                Some(parts) => request_line = Some(parts),
                None => return Parsed::Malformed,
            },
            Some(request_line) if text.is_empty() => {
                return Parsed::Complete(fields.into_head(request_line), bytes.len() - rest.len());
            }
            Some(_) => {
                if fields.add(text).is_none() {
                    return Parsed::Malformed;
                }
            }
        }
    }
}

/// Text as header values may hold it: no control characters but the tab.
fn is_text(b: u8) -> bool {
    b == b'\t' || (b >= b' ' && b != 0x7f)
}

/// A character of a method's or a header's name (RFC 9110, section 5.6.2).
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

#[derive(Clone, Copy)]
struct RequestLine<'a> {
    method: &'a [u8],
    /// Of `http://host/path`.
    authority: Option<&'a [u8]>,
    path: &'a [u8],
    /// The 1 of HTTP/1.1.
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

/// The path of `/path?query`; the authority and the path of `http://host/path?query`, which proxies send.
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
    // `http://host` names the root.
    (authority, if path.is_empty() { b"/" } else { path })
}

/// What the header lines said so far. A list may be spread over several lines, so qualities are collected.
#[derive(Default)]
struct Fields<'a> {
    n_hosts: usize,
    host: &'a [u8],
    has_body: bool,
    close: bool,
    keep_alive: bool,
    /// Of `gzip`, of `identity`, of `*`, when they were named.
    gzip: Option<u16>,
    identity: Option<u16>,
    any_encoding: Option<u16>,
    /// Of `text/html`, and the best of any other media type.
    html: u16,
    other_type: u16,
    if_none_match: &'a [u8],
    scrape_timeout: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Takes in one `name: value` line; none when it is not one.
    fn add(&mut self, line: &'a [u8]) -> Option<()> {
        let colon = line.iter().position(|&b| b == b':')?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // This refuses folded lines and a space before the colon too: both have been used to smuggle requests.
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return None;
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return None;
            }
            self.has_body |= value.iter().any(|&b| b != b'0');
        } else if name.eq_ignore_ascii_case(b"host") {
            self.n_hosts += 1;
            self.host = value;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.has_body = true;
        } else if name.eq_ignore_ascii_case(b"connection") {
            for (option, _) in list(value) {
                self.close |= option.eq_ignore_ascii_case(b"close");
                self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        } else if name.eq_ignore_ascii_case(b"accept-encoding") {
            for (coding, quality) in list(value) {
                if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") {
                    self.gzip = self.gzip.max(Some(quality));
                } else if coding.eq_ignore_ascii_case(b"identity") {
                    self.identity = self.identity.max(Some(quality));
                } else if coding == b"*" {
                    self.any_encoding = self.any_encoding.max(Some(quality));
                }
            }
        } else if name.eq_ignore_ascii_case(b"accept") {
            for (media_type, quality) in list(value) {
                let is_html = media_type.eq_ignore_ascii_case(b"text/html");
                let best = if is_html { &mut self.html } else { &mut self.other_type };
                *best = quality.max(*best);
            }
        } else if name.eq_ignore_ascii_case(b"if-none-match") {
            self.if_none_match = value;
        } else if name.eq_ignore_ascii_case(b"x-prometheus-scrape-timeout-seconds") {
            self.scrape_timeout = value;
        }
        Some(())
    }

    fn into_head(self, line: RequestLine<'a>) -> Head<'a> {
        let host = match (self.n_hosts, line.minor_version) {
            (0, 0) => line.authority.map_or(Host::Absent, Host::Named),
            (1, _) => Host::Named(line.authority.unwrap_or(self.host)),
            _ => Host::Invalid,
        };
        let gzip = self.gzip.or(self.any_encoding).unwrap_or(0);
        Head {
            method: line.method,
            path: line.path,
            host,
            has_body: self.has_body,
            keep_alive: !self.close && (line.minor_version > 0 || self.keep_alive),
            accepts_gzip: gzip > 0 && gzip >= self.identity.unwrap_or(0),
            prefers_html: self.html > 0 && self.html >= self.other_type,
            if_none_match: self.if_none_match,
            scrape_timeout: self.scrape_timeout,
        }
    }
}

impl Head<'_> {
    /// Whether the client has what this weak entity tag names (RFC 9110, section 13.1.2). No tag of ours holds a comma.
    pub fn has(&self, tag: &str) -> bool {
        let opaque = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
        self.if_none_match
            .split(|&b| b == b',')
            .map(<[u8]>::trim_ascii)
            .any(|theirs| theirs == b"*" || opaque(theirs) == opaque(tag.as_bytes()))
    }
}

/// The members of a comma-separated list, each with its quality.
fn list(value: &[u8]) -> impl Iterator<Item = (&[u8], u16)> {
    value.split(|&b| b == b',').filter_map(|member| {
        let mut parts = member.split(|&b| b == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().filter(|name| !name.is_empty())?;
        let weight = parts.find_map(|p| p.strip_prefix(b"q=").or_else(|| p.strip_prefix(b"Q=")));
        Some((name, weight.map_or(1000, parse_quality)))
    })
}

/// `0`, `1`, `0.5` in thousandths; what is no quality is 0, for it asks for nothing that we understand.
fn parse_quality(text: &[u8]) -> u16 {
    let (whole, decimals) = match text {
        [whole] => (whole, &[][..]),
        [whole, b'.', decimals @ ..] if decimals.len() <= 3 => (whole, decimals),
        _ => return 0,
    };
    if !matches!(whole, b'0' | b'1') || !decimals.iter().all(u8::is_ascii_digit) {
        return 0;
    }
    let thousandths = (0..3).fold(0, |sum, i| sum * 10 + u16::from(decimals.get(i).unwrap_or(&b'0') - b'0'));
    (u16::from(whole - b'0') * 1000 + thousandths).min(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses a whole head, having checked every prefix of it and what more bytes would change.
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

    #[test]
    fn encodings() {
        for (header, accepts_gzip) in [
            ("Accept-Encoding: gzip", true),
            ("Accept-Encoding: deflate, GZIP;q=0.001, br", true),
            ("Accept-Encoding: x-gzip", true),
            ("Accept-Encoding: *", true),
            ("Accept-Encoding: br\r\nAccept-Encoding: gzip", true),
            ("Accept-Encoding: gzip;q=0.5, identity;q=0.5", true),
            ("Accept-Encoding: gzip;q=0.5, identity", false),
            ("Accept-Encoding: gzip;q=0", false),
            ("Accept-Encoding: gzip; q=0.000, *", false),
            ("Accept-Encoding: *;q=0", false),
            ("Accept-Encoding: br;q=1", false),
            ("Accept-Encoding: gzip;q=lots", false),
            ("Accept-Encoding: gzip;q=0.0001", false),
            ("Accept-Encoding:", false),
            ("Accept-Encoding: ,,;q=1,", false),
            ("Accept: gzip", false),
        ] {
            let head = format!("GET / HTTP/1.1\r\n{header}\r\n\r\n");
            assert_eq!(complete(&head).accepts_gzip, accepts_gzip, "{header}");
        }
    }

    #[test]
    fn browsers() {
        for (accept, prefers_html) in [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("text/html", true),
            ("*/*, Text/HTML", true),
            ("*/*", false),
            ("text/html;q=0", false),
            ("text/plain, text/html;q=0.9", false),
            (
                "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                false,
            ),
            ("", false),
        ] {
            let head = format!("GET / HTTP/1.1\r\nAccept: {accept}\r\n\r\n");
            assert_eq!(complete(&head).prefers_html, prefers_html, "{accept}");
        }
    }

    #[test]
    fn qualities() {
        for (text, thousandths) in [
            ("0", 0),
            ("1", 1000),
            ("1.000", 1000),
            ("1.9", 1000),
            ("0.5", 500),
            ("0.05", 50),
            ("0.", 0),
            ("2", 0),
            ("", 0),
            (".5", 0),
            ("0.1234", 0),
            ("0.x", 0),
        ] {
            assert_eq!(parse_quality(text.as_bytes()), thousandths, "{text}");
        }
    }
}
