//! A response: the head, which `tiny_http` prints, and the body.

use std::borrow::Cow;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::TcpStream;
use std::sync::Arc;

use tiny_http::{HTTPVersion, Header, StatusCode};

use super::head::Head;
use super::publish::Buffer;

/// The content type of a line of text.
pub const PLAIN: (&str, &str) = ("Content-Type", "text/plain; charset=utf-8");
/// Responses are not cached, because the next one may differ.
pub const UNCACHED: (&str, &str) = ("Cache-Control", "no-store");

/// The headers that differ between responses.
type Headers<'a> = &'a [(&'a str, &'a str)];

/// What a response looks like, apart from its content. Only the request decides this.
#[derive(Clone, Copy)]
pub struct Form {
    /// Whether the body is omitted. The head still states its length.
    head_only: bool,
    /// Whether the connection stays open for another request.
    keep_alive: bool,
}

impl Form {
    /// The form of a response after which the connection closes.
    pub const LAST: Self = Self { head_only: false, keep_alive: false };

    /// Returns the form that a request requires. After a request with a body the connection closes, because
    /// otherwise the body would be parsed as the next request.
    pub fn of(request: &Head<'_>) -> Self {
        Self { head_only: request.method == b"HEAD", keep_alive: request.keep_alive && !request.has_body }
    }
}

/// A printed head and the body that goes with it.
pub struct Response {
    /// Status line and headers, up to the empty line.
    pub head: Vec<u8>,
    /// The exposition, or its gzipped bytes; they are shared, not copied. Other responses have none.
    pub exposition: Option<Arc<Buffer>>,
    /// The rest of the body. After an exposition this is the last sample, which depends on the time of the
    /// response.
    pub text: Cow<'static, [u8]>,
    n_written: usize,
    /// Whether the connection stays open for another request.
    pub keep_alive: bool,
}

impl Response {
    /// Returns a response with this body.
    pub fn new(form: Form, status: u16, headers: Headers<'_>, text: impl Into<Cow<'static, [u8]>>) -> Self {
        Self::print(form, status, headers, None, text.into())
    }

    /// Returns a response whose body is an exposition, or its gzipped bytes, followed by `tail`.
    pub fn of_exposition(form: Form, headers: Headers<'_>, buffer: Arc<Buffer>, tail: Vec<u8>) -> Self {
        Self::print(form, 200, headers, Some(buffer), tail.into())
    }

    fn print(
        form: Form,
        status: u16,
        headers: Headers<'_>,
        exposition: Option<Arc<Buffer>>,
        text: Cow<'static, [u8]>,
    ) -> Self {
        let common = [
            ("Server", concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"))),
            // Pages of other sites can neither embed these responses nor load them as scripts.
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ];
        let headers = headers.iter().copied().chain(common).map(|(name, value)| {
            Header::from_bytes(name, value).expect("the program's own headers are ASCII")
        });
        let n_bytes = exposition.as_ref().map_or(0, |exposition| exposition.n_bytes()) + text.len();
        let mut head = Vec::with_capacity(512);
        // tiny_http sends bodies above its threshold in chunks and without a Content-Length, so the threshold
        // is raised.
        tiny_http::Response::new(StatusCode(status), headers.collect(), io::empty(), Some(n_bytes), None)
            .with_chunked_threshold(usize::MAX)
            .raw_print(&mut head, HTTPVersion(1, 1), &[], true, None)
            .expect("a Vec takes every write");
        // tiny_http's own server would add the header Connection. Here it is inserted before the empty line.
        head.truncate(head.len() - 2);
        let keep_alive = form.keep_alive;
        let connection = if keep_alive { "keep-alive" } else { "close" };
        head.extend_from_slice(format!("Connection: {connection}\r\n\r\n").as_bytes());
        let has_body = !form.head_only && status != 304;
        let exposition = exposition.filter(|_| has_body);
        let text = if has_body { text } else { Cow::default() };
        Self { head, exposition, text, n_written: 0, keep_alive }
    }

    /// Writes as much as the socket accepts. This is less than 128 KiB, so a large response does not delay
    /// others. Returns whether the response is complete. Fails if the exposition's buffer was taken away.
    pub fn write(&mut self, mut socket: &TcpStream) -> io::Result<bool> {
        let buffer = self.exposition.as_ref();
        let exposition = buffer.map(|buffer| buffer.bytes().ok_or(ErrorKind::ConnectionAborted));
        let exposition = exposition.transpose()?;
        let exposition = exposition.as_deref().map_or(&[][..], Vec::as_slice);
        let mut parts = [&self.head[..], exposition, &self.text].map(IoSlice::new);
        let n_bytes: usize = parts.iter().map(|part| part.len()).sum();
        let mut left = &mut parts[..];
        IoSlice::advance_slices(&mut left, self.n_written);
        match socket.write_vectored(left)? {
            0 => Err(ErrorKind::WriteZero.into()),
            n => {
                self.n_written += n;
                Ok(self.n_written == n_bytes)
            }
        }
    }
}
