//! Lists the containers of a runtime over its socket. This never delays a scrape.
//!
//! A listing is a task that runs only while the scrape thread waits for the next scrape. A runtime that hangs
//! delays only the listing. Meanwhile, the containers of the last listing are read as often as before.

use std::fs;
use std::io::{self, ErrorKind::ConnectionRefused, ErrorKind::NotFound};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

use crate::demand::Wake;
use crate::sources::connection::Error;
use crate::sources::containerd::{self, Containerd};
use crate::sources::cri::{self, Cri};
use crate::sources::{Listing, Source};

/// A container runtime, and the state of its current or last container listing.
#[derive(Debug)]
pub struct Client {
    /// The container runtime's name in the log.
    peer: &'static str,
    description: String,
    socket: PathBuf,
    /// Identifies the socket that existed when the last listing began. A runtime that restarts creates a new
    /// socket.
    listed_at: Option<SocketId>,
    runtime: Runtime,
    state: State,
}

/// The device and inode numbers of a socket.
type SocketId = (u64, u64);

#[derive(Debug)]
enum State {
    Idle(Lister),
    Listing(JoinHandle<Listed>),
    Listed(Listed),
    /// A placeholder that is stored only while the real state is taken out and replaced.
    Moving,
}

type Listed = (Lister, Result<Listing, Error>);

impl Client {
    /// Creates a client. The client connects when the first listing begins.
    ///
    /// Fails if tokio's runtime cannot be created, for example because no file descriptor is left.
    pub fn new(lister: Lister) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (peer, description) = (lister.peer(), lister.describe());
        let socket = lister.socket().to_owned();
        Ok(Self { peer, description, socket, listed_at: None, runtime, state: State::Idle(lister) })
    }

    /// Returns the socket's identity, if a process listens on the socket. To find out whether a process
    /// listens, the exporter connects to the socket, and closes the connection at once. Connecting never
    /// blocks.
    fn live_socket(&self) -> Option<SocketId> {
        match self.runtime.block_on(UnixStream::connect(&self.socket)) {
            Err(error) if matches!(error.kind(), ConnectionRefused | NotFound) => None,
            // The connection has succeeded, or the queue for connections is full because the runtime hangs.
            // In both cases, a process listens on the socket.
            _ => id(&self.socket),
        }
    }
}

fn id(socket: &Path) -> Option<SocketId> {
    fs::metadata(socket).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Source for Client {
    fn lister(&self) -> Option<&'static str> {
        Some(self.peer)
    }

    fn describe(&self) -> String {
        self.description.clone()
    }

    fn begin_listing(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Moving) {
            State::Idle(mut lister) => {
                self.listed_at = id(&self.socket);
                State::Listing(self.runtime.spawn(async move {
                    let listing = lister.list().await;
                    (lister, listing)
                }))
            }
            listing => listing,
        };
    }

    fn is_listing(&self) -> bool {
        matches!(self.state, State::Listing(_))
    }

    fn wait_until(&mut self, deadline: Instant, wake: &Wake) {
        // tokio requires that a timer is created inside its runtime.
        let woken = self.runtime.block_on(async { timeout_at(deadline.into(), wake.woken()).await });
        if let Ok(Err(_)) = woken {
            // `woken` fails at once if no file descriptor is left. Waiting here until the deadline keeps the
            // caller from retrying at once. A listing does not continue during this wait, because it runs
            // only while `runtime` runs.
            wake.wait_until(deadline);
        }
    }

    fn wait_for_listing(&mut self, deadline: Instant) {
        if let State::Listing(listing) = &mut self.state
            && let Ok(listed) = self.runtime.block_on(async { timeout_at(deadline.into(), listing).await })
        {
            self.state = State::Listed(listed.expect(NO_PANIC));
        }
    }

    fn take_listing(&mut self) -> Option<Result<Listing, String>> {
        let (lister, listed) = match std::mem::replace(&mut self.state, State::Moving) {
            State::Listing(handle) if handle.is_finished() => self.runtime.block_on(handle).expect(NO_PANIC),
            State::Listed(listed) => listed,
            other => {
                self.state = other;
                return None;
            }
        };
        self.state = State::Idle(lister);
        Some(listed.map_err(|error| error.to_string()))
    }

    fn has_runtime_ended(&mut self) -> bool {
        let live = self.live_socket();
        live.is_none() || live != self.listed_at
    }
}

const NO_PANIC: &str = "a panic would have ended the process";

/// The API that lists the containers.
#[derive(Debug)]
pub enum Lister {
    /// containerd's own API.
    Containerd(Containerd),
    /// CRI, the kubelet's API to every runtime.
    Cri(Cri),
}

impl Lister {
    fn peer(&self) -> &'static str {
        match self {
            Self::Containerd(_) => containerd::PEER,
            Self::Cri(_) => cri::PEER,
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Containerd(lister) => lister.describe(),
            Self::Cri(lister) => lister.describe(),
        }
    }

    fn socket(&self) -> &Path {
        match self {
            Self::Containerd(lister) => lister.socket(),
            Self::Cri(lister) => lister.socket(),
        }
    }

    async fn list(&mut self) -> Result<Listing, Error> {
        match self {
            Self::Containerd(lister) => lister.list().await,
            Self::Cri(lister) => lister.list().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketType};

    use super::*;

    #[test]
    fn missing_socket_is_reported_in_one_line() {
        let socket = Path::new("/does/not/exist.sock");
        for (lister, peer) in [
            (Lister::Containerd(Containerd::new(socket, &["k8s.io".into()])), "containerd"),
            (Lister::Cri(Cri::new(socket)), "the container runtime"),
        ] {
            let mut client = Client::new(lister).unwrap();
            client.begin_listing();
            client.wait_for_listing(Instant::now() + Duration::from_secs(10));
            let error = client.take_listing().expect("it has ended").unwrap_err();
            let expected =
                format!(r#"cannot connect to {peer} at "/does/not/exist.sock": no such file or directory"#);
            assert_eq!((client.lister(), error), (Some(peer), expected));
            assert!(client.has_runtime_ended() && !client.is_listing());
        }
    }
    #[test]
    fn restarted_runtime_has_another_socket() {
        let path = std::env::temp_dir().join(format!("smaps-restart-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let mut client = Client::new(Lister::Cri(Cri::new(&path))).unwrap();
        client.begin_listing();
        assert!(!client.has_runtime_ended());
        // The old socket still exists, so the new socket cannot get the same inode number.
        let other = path.with_extension("other");
        let restarted = UnixListener::bind(&other).unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(client.has_runtime_ended(), "it is another socket");
        drop((listener, restarted));
        assert!(client.has_runtime_ended(), "no process listens there");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn hanging_runtime_has_not_ended() {
        let path = std::env::temp_dir().join(format!("smaps-hangs-{}", std::process::id()));
        let listener = socket_with_a_queue_of_one(&path);
        let mut client = Client::new(Lister::Cri(Cri::new(&path))).unwrap();
        client.begin_listing();
        for _ in 0..5 {
            assert!(!client.has_runtime_ended());
        }
        drop(listener);
        assert!(client.has_runtime_ended());
        fs::remove_file(path).unwrap();
    }

    /// Returns a socket on which at most two connections can wait. The kernel lets one more wait than the
    /// backlog of 1, and refuses the next one.
    fn socket_with_a_queue_of_one(path: &Path) -> OwnedFd {
        let socket = net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        net::listen(&socket, 1).unwrap();
        socket
    }
}
