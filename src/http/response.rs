//! A response: the head that `tiny_http` prints, and the body.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use tiny_http::{HTTPVersion, Header, StatusCode};

use crate::http::publish::Exposition;

/// The content type of a line of text.
pub const PLAIN: (&str, &str) = ("Content-Type", "text/plain; charset=utf-8");

/// A printed head and the body that goes with it.
pub struct Response {
    /// Status line and headers, up to the empty line.
    pub head: Vec<u8>,
    /// The bytes after the head.
    pub body: Body,
    /// The end of the body, which depends on the time of the response: it contains the age of the data.
    pub tail: Vec<u8>,
    /// Whether the connection stays open for another request.
    pub keep_alive: bool,
}

/// A body. The text of an exposition is not copied.
pub enum Body {
    /// A page or a line of text; empty for `HEAD`.
    Bytes(Cow<'static, [u8]>),
    /// The uncompressed text of an exposition.
    Plain(Arc<Exposition>),
    /// The gzipped text of an exposition.
    Gzip(Arc<Exposition>),
}

impl Body {
    /// Returns the bytes of the body, without the tail.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Body::Bytes(bytes) => bytes,
            Body::Plain(exposition) => exposition.text(),
            Body::Gzip(exposition) => exposition.gzip(),
        }
    }

    /// Returns the end of the body if it is served now.
    fn tail(&self) -> Vec<u8> {
        match self {
            Body::Bytes(_) => Vec::new(),
            Body::Plain(exposition) => exposition.tail(Instant::now()),
            Body::Gzip(exposition) => exposition.gzip_tail(Instant::now()),
        }
    }

    /// Whether the body is an exposition that connections must not hold any longer.
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

/// The answer of a route.
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers that are not the same in every response.
    pub headers: Vec<(&'static str, &'static str)>,
    /// The body, which is also set in an answer to `HEAD`.
    pub body: Body,
}

impl Answer {
    /// Returns an answer with these headers.
    pub fn new(status: u16, headers: &[(&'static str, &'static str)], body: impl Into<Body>) -> Self {
        Self { status, headers: headers.to_vec(), body: body.into() }
    }
}

impl Response {
    /// Prints the head. With `head_only` the body is left out, but the head still states its length.
    pub fn new(answer: Answer, head_only: bool, keep_alive: bool) -> Self {
        let Answer { status, headers, body } = answer;
        let tail = body.tail();
        let head = print_head(status, &headers, body.bytes().len() + tail.len(), keep_alive);
        match head_only || status == 304 {
            true => Self { head, body: "".into(), tail: Vec::new(), keep_alive },
            false => Self { head, body, tail, keep_alive },
        }
    }
}

impl From<String> for Body {
    fn from(text: String) -> Body {
        Body::Bytes(text.into_bytes().into())
    }
}

/// Returns the response to a request that cannot be answered. The connection closes after it.
pub fn error_response(status: u16, text: &'static str) -> Response {
    Response::new(Answer::new(status, &[PLAIN], text), false, false)
}

fn print_head(status: u16, headers: &[(&str, &str)], body_len: usize, keep_alive: bool) -> Vec<u8> {
    let common = [
        ("Server", concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"))),
        // Pages of other sites can neither embed these responses nor load them as scripts.
        ("X-Content-Type-Options", "nosniff"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
    ];
    let headers =
        headers.iter().copied().chain(common).map(|(name, value)| {
            Header::from_bytes(name, value).expect("the program's own headers are ASCII")
        });
    let mut head = Vec::with_capacity(512);
    // For a body above its threshold, tiny_http would send chunks without a Content-Length.
    tiny_http::Response::new(StatusCode(status), headers.collect(), io::empty(), Some(body_len), None)
        .with_chunked_threshold(usize::MAX)
        .raw_print(&mut head, HTTPVersion(1, 1), &[], true, None)
        .expect("a Vec takes every write");
    // tiny_http's own server adds Connection, so here it is inserted before the empty line.
    head.truncate(head.len() - 2);
    let connection: &[u8] = if keep_alive { b"keep-alive" } else { b"close" };
    head.extend_from_slice(b"Connection: ");
    head.extend_from_slice(connection);
    head.extend_from_slice(b"\r\n\r\n");
    head
}
