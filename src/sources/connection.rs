//! Connects to a container runtime. Each call has a deadline, and each error is a one-line message.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::errors::plain;

/// The maximum time for connecting, which usually takes about a millisecond.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// The maximum size of an answer in bytes. A task takes about 300 bytes, and a container's record 10 to 20
/// KiB, so tonic's default of 4 MiB is too small for a large node. By default, containerd sends at most 16
/// MiB.
pub const MAX_ANSWER: usize = 32 << 20;

/// The reason why a listing failed, in one line.
#[derive(Debug)]
pub struct Error(String);

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// The address of a runtime's socket. Each listing opens a new connection to the socket, because a connection
/// that stays open can break without being noticed.
#[derive(Debug)]
pub struct Connection {
    /// The runtime's name in error messages.
    peer: &'static str,
    socket: PathBuf,
}

impl Connection {
    pub fn new(peer: &'static str, socket: &Path) -> Self {
        Self { peer, socket: socket.to_owned() }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub async fn connect(&self) -> Result<Channel, Error> {
        match timeout(CONNECT_DEADLINE, containerd_client::connect(&self.socket)).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(self.error("cannot connect to", &root_cause(&error))),
            Err(_) => Err(self.error("cannot connect to", &no_answer(CONNECT_DEADLINE))),
        }
    }

    /// Waits for the answer to a call, until the deadline.
    ///
    /// The error is a one-line message, which says that `what` could not be listed.
    pub async fn answer<T>(
        &self,
        what: &str,
        deadline: Duration,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Error> {
        let cause = match timeout(deadline, call).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(status)) => match std::error::Error::source(&status) {
                Some(source) => root_cause(source),
                None => status.message().to_owned(),
            },
            Err(_) => no_answer(deadline),
        };
        Err(self.error(&format!("cannot list {what} of"), &cause))
    }

    fn error(&self, what: &str, cause: &str) -> Error {
        // The runtime's message may have several lines, so newlines are escaped.
        Error(format!("{what} {} at {:?}: {}", self.peer, self.socket, cause.escape_debug()))
    }
}

/// Calls a gRPC method. The types of the messages are declared in this program, and not generated.
pub async fn call<Q, A>(channel: &Channel, method: &'static str, request: Request<Q>) -> Result<A, Status>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut client = Grpc::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
    client.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let codec = ProstCodec::<Q, A>::default();
    Ok(client.unary(request, PathAndQuery::from_static(method), codec).await?.into_inner())
}

fn no_answer(deadline: Duration) -> String {
    format!("no answer within {} s", deadline.as_secs())
}

/// Returns the innermost cause of an error. The outermost error says only "transport error".
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.downcast_ref::<io::Error>().map_or_else(|| cause.to_string(), plain)
}
