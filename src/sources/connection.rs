//! A connection to a container runtime: one socket, calls with deadlines, errors of one line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;
use tonic::Code;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;

use crate::errors::plain;
use crate::sources::lifeline::Lifeline;
use crate::sources::protobuf::ByHand;

/// How long a connection may take; on a node it takes a millisecond.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// The largest answer taken, which is the largest that containerd gives unless its configuration says otherwise. A task is some
/// 300 bytes and a container 10 to 20 KiB, so tonic's own limit of 4 MiB is near.
const MAX_ANSWER: usize = 16 << 20;
/// Where the text of somebody's error is cut.
const MAX_CAUSE: usize = 300;

/// Why a listing failed: one line.
#[derive(Debug)]
pub struct Error(String);

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// A socket, and the channel to whoever listens there once it was needed.
#[derive(Debug)]
pub struct Connection {
    /// How errors call the other end.
    peer: &'static str,
    socket: PathBuf,
    channel: Option<Channel>,
}

/// One call of a method.
pub struct Call<T> {
    /// "Not found" is an answer: there is none.
    pub may_be_missing: bool,
    /// What is listed, for the error.
    pub what: &'static str,
    pub deadline: Duration,
    /// `/<service>/<method>`.
    pub method: &'static str,
    /// The header `containerd-namespace`, without which containerd's own services refuse a call.
    pub namespace: Option<AsciiMetadataValue>,
    pub request: Vec<u8>,
    /// Decodes the answer.
    pub decode: fn(&[u8]) -> Result<T, String>,
}

impl Connection {
    pub fn new(peer: &'static str, socket: &Path) -> Self {
        Self { peer, socket: socket.to_owned(), channel: None }
    }

    /// Where it leads.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Connects, unless that has been done.
    pub async fn open(&mut self) -> Result<(), Error> {
        if self.channel.is_none() {
            self.channel = match timeout(CONNECT_DEADLINE, containerd_client::connect(&self.socket)).await {
                Ok(Ok(channel)) => Some(channel),
                Ok(Err(error)) => return Err(self.error("cannot connect to", &root_cause(&error))),
                Err(_) => return Err(self.error("cannot connect to", &no_answer(CONNECT_DEADLINE))),
            };
        }
        Ok(())
    }

    /// Lets go of the channel, which may be half dead: the next call needs another.
    pub fn close(&mut self) {
        self.channel = None;
    }

    /// A second connection, that asks nothing and tells when the other end is gone.
    pub async fn lifeline(&self) -> Result<Lifeline, Error> {
        let connect = async {
            let stream = tokio::net::UnixStream::connect(&self.socket).await?;
            Lifeline::new(stream.into_std()?)
        };
        match timeout(CONNECT_DEADLINE, connect).await {
            Ok(Ok(lifeline)) => Ok(lifeline),
            Ok(Err(error)) => Err(self.error("cannot connect to", &plain(&error))),
            Err(_) => Err(self.error("cannot connect to", &no_answer(CONNECT_DEADLINE))),
        }
    }

    /// Calls a method; `None` says that there is no such thing as it asks for. The connection is open.
    pub async fn call<T: Send + Sync + 'static>(&self, call: Call<T>) -> Result<Option<T>, Error> {
        let what = format!("cannot list {} of", call.what);
        let channel = self.channel.clone().ok_or_else(|| self.error(&what, "it is not connected"))?;
        let answer = async {
            let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
            client.ready().await.map_err(|error| tonic::Status::unavailable(root_cause(&error)))?;
            let mut request = tonic::Request::new(call.request);
            if let Some(namespace) = call.namespace {
                request.metadata_mut().insert("containerd-namespace", namespace);
            }
            client.unary(request, PathAndQuery::from_static(call.method), ByHand(call.decode)).await
        };
        match timeout(call.deadline, answer).await {
            Ok(Ok(answer)) => Ok(Some(answer.into_inner())),
            Ok(Err(status)) if call.may_be_missing && status.code() == Code::NotFound => Ok(None),
            Ok(Err(status)) => Err(self.error(&what, status.message())),
            Err(_) => Err(self.error(&what, &no_answer(call.deadline))),
        }
    }

    /// One line that names the other end.
    pub fn error(&self, what: &str, cause: &str) -> Error {
        // A peer that is no container runtime may say anything, at any length.
        let cause: String = cause.escape_debug().take(MAX_CAUSE).collect();
        Error(format!("{what} {} at {:?}: {cause}", self.peer, self.socket))
    }
}

fn no_answer(deadline: Duration) -> String {
    format!("no answer within {} s", deadline.as_secs())
}

/// What lies at the bottom of an error of many layers: the top one says no more than "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
