//! Containers from containerd, asked over its socket without ever holding up the scrape.
//!
//! A listing is a task on a current-thread runtime that runs only while the scrape thread waits for its next tick. So a
//! containerd that hangs costs nothing but the listing: the scrape keeps its rate, and the containers known last go on being read.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{GetContainerRequest, ListTasksRequest};
use containerd_client::types::v1::Status;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{timeout, timeout_at};
use tonic::Code;
use tonic::transport::Channel;

use super::{Container, Listing, Source};
use crate::errors::plain;

/// How long a connection may take; on a node it takes a millisecond.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// How long `Tasks.List` may take. It waits 2 s for each shim that hangs.
const LIST_DEADLINE: Duration = Duration::from_secs(20);
/// How long one `Containers.Get` may take; usually it is 0.4 ms.
const GET_DEADLINE: Duration = Duration::from_secs(5);
/// The largest answer taken. A task is some 100 bytes and a container 10 to 20 KiB, so tonic's own limit of 4 MiB is near.
const MAX_ANSWER: usize = 64 << 20;

/// A connection to containerd, perhaps with a listing under way.
#[derive(Debug)]
pub struct Containerd {
    runtime: Runtime,
    state: State,
    /// An idle connection, which ends when containerd does: it tells of a death that no call would notice for a minute.
    lifeline: Option<UnixStream>,
}

#[derive(Debug)]
enum State {
    Idle(Lister),
    Listing(JoinHandle<Listed>),
    Listed(Listed),
    /// Only while the state changes.
    Moving,
}

/// A listing gives a lifeline to whoever answered it, too.
type Listed = (Lister, Result<(Listing, UnixStream), Error>);

/// Why a listing failed: one line.
#[derive(Debug)]
pub struct Error(String);

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl Containerd {
    /// A client of the containerd at `socket`, for these containerd namespaces. Connects when it is first asked.
    ///
    /// Fails when the system has no runtime to give (descriptors, mostly).
    pub fn new(socket: &Path, namespaces: &[String]) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let lister = Lister {
            socket: socket.to_owned(),
            namespaces: namespaces.to_owned(),
            channel: None,
            known: HashMap::new(),
        };
        Ok(Self { runtime, state: State::Idle(lister), lifeline: None })
    }
}

impl Source for Containerd {
    fn runtime(&self) -> Option<&'static str> {
        Some("containerd")
    }

    fn begin(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Moving) {
            State::Idle(mut lister) => State::Listing(self.runtime.spawn(async move {
                let listing = lister.list().await;
                if listing.is_err() {
                    lister.channel = None; // connect anew: this one may be half dead
                }
                (lister, listing)
            })),
            listing => listing,
        };
    }

    fn is_listing(&self) -> bool {
        matches!(self.state, State::Listing(_))
    }

    fn wait_until(&mut self, deadline: Instant) {
        // made inside the runtime: a timer asks for its reactor when it is made
        self.runtime.block_on(async { tokio::time::sleep_until(deadline.into()).await });
    }

    fn wait_for_listing(&mut self, deadline: Instant) {
        if let State::Listing(listing) = &mut self.state
            && let Ok(listed) = self.runtime.block_on(async { timeout_at(deadline.into(), listing).await })
        {
            self.state = State::Listed(listed.expect(NO_PANIC));
        }
    }

    fn take(&mut self) -> Option<Result<Listing, String>> {
        let (lister, listed) = match std::mem::replace(&mut self.state, State::Moving) {
            State::Listing(handle) if handle.is_finished() => self.runtime.block_on(handle).expect(NO_PANIC),
            State::Listed(listed) => listed,
            other => {
                self.state = other;
                return None;
            }
        };
        self.state = State::Idle(lister);
        let (listing, lifeline) = match listed {
            Ok((listing, lifeline)) => (Ok(listing), Some(lifeline)),
            Err(error) => (Err(error.to_string()), None),
        };
        self.lifeline = lifeline;
        Some(listing)
    }

    fn is_lost(&mut self) -> bool {
        let Some(lifeline) = &mut self.lifeline else { return false };
        // It greets with a few bytes, then says nothing.
        match lifeline.read(&mut [0; 256]) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

const NO_PANIC: &str = "a panic would have ended the process";

/// What asks: the connection, and the labels of the containers that it has met.
#[derive(Debug)]
struct Lister {
    socket: PathBuf,
    namespaces: Vec<String>,
    channel: Option<Channel>,
    /// By containerd namespace and id. Labels do not change while a task lives.
    known: HashMap<(String, String), Known>,
}

#[derive(Clone, Debug)]
enum Known {
    Sandbox,
    Container(Container),
}

impl Lister {
    async fn list(&mut self) -> Result<(Listing, UnixStream), Error> {
        let lifeline = self.connect_lifeline().await?;
        let channel = self.connect().await?;
        let mut listing = Listing { containers: Vec::new(), more_to_come: false };
        let mut listed = HashMap::new();
        for namespace in self.namespaces.clone() {
            let request = within(&namespace, ListTasksRequest::default());
            let mut tasks = TasksClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
            let answer = self.answer("tasks", LIST_DEADLINE, tasks.list(request)).await?;
            for task in answer.map(|answer| answer.into_inner().tasks).unwrap_or_default() {
                let is_alive = matches!(task.status(), Status::Running | Status::Paused | Status::Pausing);
                // The task of a shim that hangs comes as unknown, with pid 0: its last known pid serves on.
                let is_hung = task.status() == Status::Unknown && task.pid == 0;
                listing.more_to_come |= task.status() == Status::Created;
                if !(is_alive && task.pid != 0 || is_hung) {
                    continue;
                }
                let key = (namespace.clone(), task.id);
                let known = match self.known.get(&key).cloned() {
                    Some(known) => known,
                    None if is_hung => continue,
                    None => match self.get(&channel, &namespace, &key.1).await? {
                        Some(known) => {
                            // Kept also when a later call fails: the next listing goes on from here.
                            self.known.insert(key.clone(), known.clone());
                            known
                        }
                        None => continue, // removed meanwhile
                    },
                };
                let known = match known {
                    Known::Container(container) if !is_hung => {
                        Known::Container(Container { init_pid: Some(task.pid), ..container })
                    }
                    known => known,
                };
                if let Known::Container(container) = &known {
                    listing.containers.push(container.clone());
                }
                listed.insert(key, known);
            }
        }
        self.known = listed;
        listing.containers.sort_by(|a, b| a.id.cmp(&b.id));
        Ok((listing, lifeline))
    }

    /// Asks for the labels of a container; `None` if there is no such container any more.
    async fn get(&self, channel: &Channel, namespace: &str, id: &str) -> Result<Option<Known>, Error> {
        let request = within(namespace, GetContainerRequest { id: id.into() });
        let mut containers = ContainersClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let answer = self.answer("a container", GET_DEADLINE, containers.get(request)).await?;
        Ok(answer
            .and_then(|answer| answer.into_inner().container)
            .map(|found| known(namespace, id, &found.labels)))
    }

    async fn connect(&mut self) -> Result<Channel, Error> {
        if let Some(channel) = &self.channel {
            return Ok(channel.clone());
        }
        let channel = match timeout(CONNECT_DEADLINE, containerd_client::connect(&self.socket)).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(self.error("cannot connect to", &root_cause(&error))),
            Err(_) => return Err(self.error("cannot connect to", &no_answer(CONNECT_DEADLINE))),
        };
        self.channel = Some(channel.clone());
        Ok(channel)
    }

    async fn connect_lifeline(&self) -> Result<UnixStream, Error> {
        let connect = tokio::net::UnixStream::connect(&self.socket);
        match timeout(CONNECT_DEADLINE, connect).await {
            Ok(Ok(stream)) => {
                stream.into_std().map_err(|error| self.error("cannot connect to", &plain(&error)))
            }
            Ok(Err(error)) => Err(self.error("cannot connect to", &plain(&error))),
            Err(_) => Err(self.error("cannot connect to", &no_answer(CONNECT_DEADLINE))),
        }
    }

    /// Waits for an answer up to the deadline; `None` says that there is no such thing.
    async fn answer<T>(
        &self,
        what: &str,
        deadline: Duration,
        call: impl Future<Output = Result<T, tonic::Status>>,
    ) -> Result<Option<T>, Error> {
        let asking = format!("cannot list {what} of");
        match timeout(deadline, call).await {
            Ok(Ok(answer)) => Ok(Some(answer)),
            Ok(Err(status)) if status.code() == Code::NotFound => Ok(None),
            Ok(Err(status)) => Err(self.error(&asking, status.message())),
            Err(_) => Err(self.error(&asking, &no_answer(deadline))),
        }
    }

    fn error(&self, what: &str, cause: &str) -> Error {
        let cause = cause.escape_debug(); // a peer that is no containerd may say anything
        Error(format!("{what} containerd at {:?}: {cause}", self.socket))
    }
}

/// Which container this is, by its labels.
fn known(namespace: &str, id: &str, labels: &HashMap<String, String>) -> Known {
    let label = |name: &str| labels.get(name).cloned();
    if label("io.cri-containerd.kind").as_deref() == Some("sandbox") {
        return Known::Sandbox;
    }
    let (pod_namespace, pod, name) = (
        label("io.kubernetes.pod.namespace"),
        label("io.kubernetes.pod.name"),
        label("io.kubernetes.container.name").or_else(|| label("nerdctl/name")),
    );
    Known::Container(Container {
        id: id.into(),
        init_pid: None,
        namespace: pod_namespace.unwrap_or_else(|| namespace.into()),
        pod: pod.unwrap_or_default(),
        name: name.unwrap_or_else(|| id.into()),
    })
}

/// A request in a containerd namespace. Without this header it is refused.
fn within<T>(namespace: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let namespace = namespace.parse().expect("the command line takes only names that fit a header");
    request.metadata_mut().insert("containerd-namespace", namespace);
    request
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_named_by_its_labels() {
        let named = |labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
            match known("moby", "abc", &labels) {
                Known::Sandbox => "sandbox".into(),
                Known::Container(Container { namespace, pod, name, .. }) => {
                    format!("{namespace}/{pod}/{name}")
                }
            }
        };
        assert_eq!(named(&[]), "moby//abc");
        assert_eq!(named(&[("nerdctl/name", "web")]), "moby//web");
        let pod = [
            ("io.cri-containerd.kind", "container"),
            ("io.kubernetes.pod.namespace", "shop"),
            ("io.kubernetes.pod.name", "web-1"),
            ("io.kubernetes.container.name", "app"),
        ];
        assert_eq!(named(&pod), "shop/web-1/app");
        assert_eq!(named(&[("io.cri-containerd.kind", "sandbox")]), "sandbox");
    }

    #[test]
    fn a_socket_that_is_not_there_is_one_line() {
        let mut containerd = Containerd::new(Path::new("/does/not/exist.sock"), &["k8s.io".into()]).unwrap();
        containerd.begin();
        containerd.wait_for_listing(Instant::now() + Duration::from_secs(10));
        let error = containerd.take().expect("it has ended").unwrap_err();
        let expected = r#"cannot connect to containerd at "/does/not/exist.sock": no such file or directory"#;
        assert_eq!(error.to_string(), expected);
        assert!(!containerd.is_lost() && !containerd.is_listing());
    }
}
