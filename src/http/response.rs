//! A response has a head, which `tiny_http` prints, and a body.

use std::borrow::Cow;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::TcpStream;
use std::sync::Arc;

use tiny_http::{HTTPVersion, Header, StatusCode};

use super::head::Head;
use super::publish::Buffer;

/// The content type of responses that are a line of text.
pub const PLAIN: (&str, &str) = ("Content-Type", "text/plain; charset=utf-8");
/// The header that forbids caching, because the next response may differ.
pub const UNCACHED: (&str, &str) = ("Cache-Control", "no-store");

/// Headers that differ from response to response, as names and values.
type Headers<'a> = &'a [(&'a str, &'a str)];

/// The form of a response: all that does not depend on its content. The form depends only on the request.
#[derive(Clone, Copy)]
pub struct Form {
    /// Whether the body is omitted. The head still has the length of the body.
    head_only: bool,
    /// Whether the connection stays open for another request.
    keep_alive: bool,
}

impl Form {
    /// The form of a response after which the connection is closed.
    pub const LAST: Self = Self { head_only: false, keep_alive: false };

    /// Returns the form of the response to a request. After a request with a body, the connection is closed,
    /// because otherwise the body would be parsed as the next request.
    pub fn of(request: &Head<'_>) -> Self {
        Self { head_only: request.method == b"HEAD", keep_alive: request.keep_alive && !request.has_body }
    }
}

/// The head of a response as text, and the body that follows it.
pub struct Response {
    /// The status line and the headers, including the empty line after them.
    pub head: Vec<u8>,
    /// The text of an exposition or its gzipped bytes. Responses share these bytes instead of copying them.
    /// `None` if the body contains no exposition.
    pub exposition: Option<Arc<Buffer>>,
    /// The whole body if there is no `exposition`. Otherwise this is the last sample, which follows
    /// `exposition`. The value of this sample is the age of the exposition, so the sample is made for each
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

    /// Returns a response with an exposition. The body is the content of `buffer`, followed by `tail`.
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
            // Because of these headers, pages of other sites can neither embed the responses nor load them as
            // scripts.
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ];
        let headers = headers.iter().copied().chain(common).map(|(name, value)| {
            Header::from_bytes(name, value).expect("the program's own headers are ASCII")
        });
        let n_bytes = exposition.as_ref().map_or(0, |exposition| exposition.n_bytes()) + text.len();
        let mut head = Vec::with_capacity(512);
        // tiny_http sends bodies above the threshold in chunks and without a Content-Length. The highest
        // threshold prevents this.
        tiny_http::Response::new(StatusCode(status), headers.collect(), io::empty(), Some(n_bytes), None)
            .with_chunked_threshold(usize::MAX)
            .raw_print(&mut head, HTTPVersion(1, 1), &[], true, None)
            .expect("a Vec takes every write");
        // `raw_print` leaves the header Connection to tiny_http's own server, which this program does not
        // use. So the header is added here, before the empty line that ends the headers.
        head.truncate(head.len() - 2);
        let keep_alive = form.keep_alive;
        let connection = if keep_alive { "keep-alive" } else { "close" };
        head.extend_from_slice(format!("Connection: {connection}\r\n\r\n").as_bytes());
        let has_body = !form.head_only && status != 304;
        let exposition = exposition.filter(|_| has_body);
        let text = if has_body { text } else { Cow::default() };
        Self { head, exposition, text, n_written: 0, keep_alive }
    }

    /// Writes as much as the socket accepts. The server sets a small send buffer, so the socket accepts less
    /// than 128 KiB, and a large response does not delay other connections. Returns whether the response is
    /// complete. Fails if the exposition's bytes were freed to make room for a newer exposition.
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
