//! Containers from containerd, asked over its socket without ever holding up the scrape.
//!
//! A listing is a task on a current-thread runtime that runs only while the scrape thread waits for its next tick. So a
//! containerd that hangs costs nothing but the listing: the scrape keeps its rate, and the containers known last go on being read.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use containerd_client::types::v1::Status;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{timeout, timeout_at};
use tonic::Code;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;

use crate::errors::plain;
use crate::sources::Container;
use crate::sources::answers::{self, ByHand, Labels, MAX_TASKS};
use crate::sources::lifeline::Lifeline;

/// How long a connection may take; on a node it takes a millisecond.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// How long `Tasks.List` may take. It waits 2 s for each shim that hangs.
const LIST_DEADLINE: Duration = Duration::from_secs(20);
/// How long one `Containers.Get` may take; usually it is 0.4 ms.
const GET_DEADLINE: Duration = Duration::from_secs(5);
/// The largest answer taken, which is the largest that containerd gives unless its configuration says otherwise. A task is some
/// 300 bytes and a container 10 to 20 KiB, so tonic's own limit of 4 MiB is near.
const MAX_ANSWER: usize = 16 << 20;
/// The most bytes of ids and labels kept of all containers: with [`MAX_TASKS`] of them 160 bytes each, which is more than a pod's.
const MAX_TEXT: usize = 16 << 20;
/// Where the text of somebody's error is cut.
const MAX_CAUSE: usize = 300;

/// A connection to containerd, perhaps with a listing under way.
#[derive(Debug)]
pub struct Containerd {
    runtime: Runtime,
    state: State,
    /// An idle connection, which ends when containerd does: it tells of a death that no call would notice for a minute.
    lifeline: Option<Lifeline>,
}

#[derive(Debug)]
enum State {
    Idle(Lister),
    Listing(JoinHandle<Listed>),
    Listed(Listed),
    /// Only while the state changes.
    Moving,
}

type Listed = (Lister, Result<Listing, Error>);

/// What a listing gives.
#[derive(Debug)]
pub struct Listing {
    /// The running and paused containers, by id; sandboxes left out.
    pub containers: Vec<Container>,
    /// Some task is created and not started yet: list again soon.
    pub more_to_come: bool,
    /// Labels of these containers that were cut, for they were longer than containerd itself takes.
    pub n_cut_labels: u64,
    lifeline: Option<Lifeline>,
}

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

    /// Begins a listing, unless one is under way.
    pub fn begin(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Moving) {
            State::Idle(mut lister) => State::Listing(self.runtime.spawn(async move {
                let listing = lister.list().await;
                if listing.is_err() {
                    lister.channel = None; // connect anew: this one may be half dead
                    lister.forget_excess();
                }
                (lister, listing)
            })),
            listing => listing,
        };
    }

    /// Whether a listing is under way.
    pub fn is_listing(&self) -> bool {
        matches!(self.state, State::Listing(_))
    }

    /// Lets a listing go on until `deadline`, and returns then.
    pub fn wait_until(&mut self, deadline: Instant) {
        // made inside the runtime: a timer asks for its reactor when it is made
        self.runtime.block_on(async { tokio::time::sleep_until(deadline.into()).await });
    }

    /// Lets the listing go on until it ends, or until `deadline`.
    pub fn wait_for_listing(&mut self, deadline: Instant) {
        if let State::Listing(listing) = &mut self.state
            && let Ok(listed) = self.runtime.block_on(async { timeout_at(deadline.into(), listing).await })
        {
            self.state = State::Listed(listed.expect(NO_PANIC));
        }
    }

    /// What the listing gave, if one has ended since.
    pub fn take(&mut self) -> Option<Result<Listing, Error>> {
        let (lister, mut listing) = match std::mem::replace(&mut self.state, State::Moving) {
            State::Listing(handle) if handle.is_finished() => self.runtime.block_on(handle).expect(NO_PANIC),
            State::Listed(listed) => listed,
            other => {
                self.state = other;
                return None;
            }
        };
        // The one who answered may have ended since, or be another than the lifeline hangs on: the channel connects anew by itself.
        let mut lifeline = listing.as_mut().ok().and_then(|listing| listing.lifeline.take());
        let is_of_the_dead = lifeline.as_mut().is_some_and(Lifeline::has_ended);
        let ended = is_of_the_dead.then(|| lister.error(LIST_TASKS, "it has ended meanwhile"));
        self.state = State::Idle(lister);
        match ended {
            Some(_) if self.is_lost() => return None, // as is known
            Some(error) => return Some(Err(error)),
            None => self.lifeline = lifeline,
        }
        Some(listing)
    }

    /// Whether containerd has ended since the last listing that it answered. Asks nothing of it.
    pub fn is_lost(&mut self) -> bool {
        self.lifeline.as_mut().is_some_and(Lifeline::has_ended)
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
    Container { container: Container, n_cut: u64 },
}

impl Known {
    fn text(&self) -> usize {
        match self {
            Known::Sandbox => 0,
            Known::Container { container: Container { id, namespace, pod, name, .. }, .. } => {
                id.len() + namespace.len() + pod.len() + name.len()
            }
        }
    }
}

impl Lister {
    async fn list(&mut self) -> Result<Listing, Error> {
        let lifeline = self.connect_lifeline().await?;
        let channel = self.connect().await?;
        let mut listing = Listing {
            containers: Vec::new(),
            more_to_come: false,
            n_cut_labels: 0,
            lifeline: Some(lifeline),
        };
        let mut listed = HashMap::new();
        let mut text = 0;
        for namespace in self.namespaces.clone() {
            for task in self.tasks(&channel, &namespace).await? {
                if task.status == Status::Created as i32 {
                    listing.more_to_come = true;
                    continue;
                }
                // The task of a shim that hangs comes with pid 0: its last known pid serves on.
                let is_hung = task.pid == 0;
                let key = (namespace.clone(), task.id);
                if listed.contains_key(&key) {
                    continue; // one id, one task
                }
                let mut known = match self.known.get(&key).cloned() {
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
                text += key.0.len() + key.1.len() + known.text();
                if listed.len() == MAX_TASKS || text > MAX_TEXT {
                    let n = listed.len() + 1;
                    return Err(
                        self.error(LIST_TASKS, &format!("{n} containers with {text} bytes of labels"))
                    );
                }
                if let Known::Container { container, n_cut } = &mut known {
                    if !is_hung {
                        container.init_pid = Some(task.pid);
                    }
                    listing.n_cut_labels += *n_cut;
                    listing.containers.push(container.clone());
                }
                listed.insert(key, known);
            }
        }
        self.known = listed;
        listing.containers.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(listing)
    }

    /// The tasks of a namespace that are created, alive, or lost to a shim that hangs.
    async fn tasks(&self, channel: &Channel, namespace: &str) -> Result<Vec<answers::Task>, Error> {
        let decode = |answer: &[u8]| answers::tasks(answer, is_of_interest);
        let path = PathAndQuery::from_static("/containerd.services.tasks.v1.Tasks/List");
        let call = call(channel, path, namespace, Vec::new(), ByHand(decode));
        match timeout(LIST_DEADLINE, call).await {
            Ok(answer) => answer.map_err(|status| self.error(LIST_TASKS, status.message())),
            Err(_) => Err(self.error(LIST_TASKS, &no_answer(LIST_DEADLINE))),
        }
    }

    /// Asks for the labels of a container; `None` if there is no such container any more.
    async fn get(&self, channel: &Channel, namespace: &str, id: &str) -> Result<Option<Known>, Error> {
        const GET: &str = "cannot list a container of";
        let path = PathAndQuery::from_static("/containerd.services.containers.v1.Containers/Get");
        let request = answers::get_container_request(id);
        let call = call(channel, path, namespace, request, ByHand(answers::labels));
        match timeout(GET_DEADLINE, call).await {
            Ok(Ok(labels)) => Ok(labels.map(|labels| known(namespace, id, labels))),
            Ok(Err(status)) if status.code() == Code::NotFound => Ok(None),
            Ok(Err(status)) => Err(self.error(GET, status.message())),
            Err(_) => Err(self.error(GET, &no_answer(GET_DEADLINE))),
        }
    }

    /// Forgets the labels of containers when listing after listing fails and each names others.
    fn forget_excess(&mut self) {
        let text =
            self.known.iter().map(|((namespace, id), known)| namespace.len() + id.len() + known.text());
        if self.known.len() > MAX_TASKS || text.sum::<usize>() > MAX_TEXT {
            self.known = HashMap::new();
        }
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

    async fn connect_lifeline(&self) -> Result<Lifeline, Error> {
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

    fn error(&self, what: &str, cause: &str) -> Error {
        // A peer that is no containerd may say anything, at any length.
        let cause: String = cause.escape_debug().take(MAX_CAUSE).collect();
        Error(format!("{what} containerd at {:?}: {cause}", self.socket))
    }
}

const LIST_TASKS: &str = "cannot list tasks of";

/// Whether a task of this status and pid is created, alive, or lost to a shim that hangs: it comes as unknown, with pid 0.
fn is_of_interest(status: i32, pid: u32) -> bool {
    match Status::try_from(status) {
        Ok(Status::Created) => true,
        Ok(Status::Running | Status::Paused | Status::Pausing) => pid != 0,
        Ok(Status::Unknown) => pid == 0,
        Ok(Status::Stopped) | Err(_) => false,
    }
}

/// Which container this is, by its labels.
fn known(namespace: &str, id: &str, labels: Labels) -> Known {
    if labels.kind.as_deref() == Some("sandbox") {
        return Known::Sandbox;
    }
    let container = Container {
        id: id.into(),
        init_pid: None,
        namespace: labels.pod_namespace.unwrap_or_else(|| namespace.into()),
        pod: labels.pod.unwrap_or_default(),
        name: labels.container.or(labels.nerdctl_name).unwrap_or_else(|| id.into()),
    };
    Known::Container { container, n_cut: labels.n_cut }
}

/// Calls a method of containerd in one of its namespaces. Without that header a call is refused.
async fn call<T: Send + Sync + 'static>(
    channel: &Channel,
    path: PathAndQuery,
    namespace: &str,
    message: Vec<u8>,
    codec: ByHand<T>,
) -> Result<T, tonic::Status> {
    let mut client = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
    client.ready().await.map_err(|error| tonic::Status::unavailable(root_cause(&error)))?;
    let mut request = tonic::Request::new(message);
    let namespace = namespace.parse().expect("the command line takes only names that fit a header");
    request.metadata_mut().insert("containerd-namespace", namespace);
    client.unary(request, path, codec).await.map(tonic::Response::into_inner)
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
        let named = |labels| match known("moby", "abc", labels) {
            Known::Sandbox => "sandbox".into(),
            Known::Container { container, .. } => container.labels(),
        };
        let some = |text: &str| Some(text.to_string());
        let none = Labels::default;
        assert_eq!(named(none()), r#"{namespace="moby",pod="",container="abc""#);
        let nerdctl = Labels { nerdctl_name: some("web"), ..none() };
        assert_eq!(named(nerdctl), r#"{namespace="moby",pod="",container="web""#);
        let pod = Labels {
            kind: some("container"),
            pod_namespace: some("shop"),
            pod: some("web-1"),
            container: some("app"),
            ..none()
        };
        assert_eq!(named(pod), r#"{namespace="shop",pod="web-1",container="app""#);
        assert_eq!(named(Labels { kind: some("sandbox"), ..none() }), "sandbox");
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
