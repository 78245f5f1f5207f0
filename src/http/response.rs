//! A response: the head that `tiny_http` prints, and the body.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use tiny_http::{HTTPVersion, Header, StatusCode};

use super::publish::Buffer;

/// The content type of a line of text.
pub const PLAIN: (&str, &str) = ("Content-Type", "text/plain; charset=utf-8");
/// Answers are not cached if the next one may differ.
pub const UNCACHED: (&str, &str) = ("Cache-Control", "no-store");

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

/// A body. Expositions are not copied.
pub enum Body {
    /// A page or a line of text; empty for `HEAD`.
    Bytes(Cow<'static, [u8]>),
    /// A buffer, and its length. It has another length once it was taken away.
    Shared(Arc<Buffer>, usize),
}

impl Body {
    /// Returns the number of bytes, without the tail.
    pub fn n_bytes(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Shared(_, n_bytes) => *n_bytes,
        }
    }

    /// Calls `send` with the bytes. Fails if they were taken away.
    pub fn with_bytes<T>(&self, send: impl FnOnce(&[u8]) -> io::Result<T>) -> io::Result<T> {
        match self {
            Self::Bytes(bytes) => send(bytes),
            Self::Shared(buffer, n_bytes) => match &*buffer.bytes() {
                bytes if bytes.len() == *n_bytes => send(bytes),
                _ => Err(io::ErrorKind::ConnectionAborted.into()),
            },
        }
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Body {
        Body::Bytes(Cow::Borrowed(text.as_bytes()))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Body {
        Body::Bytes(text.into_bytes().into())
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
    /// The end of the body.
    pub tail: Vec<u8>,
}

impl Answer {
    /// Returns an answer with these headers.
    pub fn new(status: u16, headers: &[(&'static str, &'static str)], body: impl Into<Body>) -> Self {
        Self { status, headers: headers.to_vec(), body: body.into(), tail: Vec::new() }
    }
}

impl Response {
    /// Prints the head. With `head_only` the body is left out, but the head still states its length.
    pub fn new(answer: Answer, head_only: bool, keep_alive: bool) -> Self {
        let Answer { status, headers, body, tail } = answer;
        let head = print_head(status, &headers, body.n_bytes() + tail.len(), keep_alive);
        match head_only || status == 304 {
            true => Self { head, body: "".into(), tail: Vec::new(), keep_alive },
            false => Self { head, body, tail, keep_alive },
        }
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
