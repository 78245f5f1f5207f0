//! Lists containers with containerd's own API. The API has the running tasks, and the labels of their
//! containers.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{GetContainerRequest, ListTasksRequest};
use containerd_client::types::v1::{Process, Status};
use containerd_client::with_namespace;
use log::info;
use prost::DecodeError;
use prost::bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType, message, skip_field};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::sources::connection::{self, Connection, Error, MAX_ANSWER};
use crate::sources::{Container, Listing};

/// The runtime's name in the log.
pub const PEER: &str = "containerd";
/// The maximum time for `Tasks.List`. containerd waits 2 s for each shim that hangs.
const LIST_DEADLINE: Duration = Duration::from_secs(20);
/// The maximum time for `Containers.Get`, which usually takes 0.4 ms.
const GET_DEADLINE: Duration = Duration::from_secs(5);

/// The connection to containerd, and the containers of the tasks in the last listing.
#[derive(Debug)]
pub struct Containerd {
    connection: Connection,
    namespaces: Vec<String>,
    /// The containers of the last listing, by containerd namespace and container id. The value is `None` for
    /// the sandbox container of a pod. The next listing takes the names and labels from here, because they do
    /// not change while a task exists.
    known: HashMap<(String, String), Option<Container>>,
    /// Whether the log already says that containers are named by their ids, because containerd knows no
    /// names.
    has_logged_ids: bool,
}

impl Containerd {
    /// Creates a client that lists the containers in these namespaces of the containerd at `socket`.
    pub fn new(socket: &Path, namespaces: &[String]) -> Self {
        let connection = Connection::new(PEER, socket);
        Self { connection, namespaces: namespaces.to_owned(), known: HashMap::new(), has_logged_ids: false }
    }

    pub fn socket(&self) -> &Path {
        self.connection.socket()
    }

    /// Describes this source for the log.
    pub fn describe(&self) -> String {
        let (socket, namespaces) = (self.connection.socket(), self.namespaces.join(", "));
        format!("containers are listed by containerd's API at {socket:?}, in its namespaces {namespaces}")
    }

    /// Lists the running tasks, and gets the labels of the tasks that the last listing did not have.
    pub async fn list(&mut self) -> Result<Listing, Error> {
        let channel = self.connection.connect().await?;
        let mut listing = Listing::default();
        let mut listed = HashMap::new();
        for namespace in &self.namespaces {
            for task in tasks(&self.connection, &channel, namespace).await? {
                let is_hung = match task.status() {
                    Status::Created => {
                        listing.more_to_come = true;
                        continue;
                    }
                    Status::Running | Status::Paused | Status::Pausing => task.pid == 0,
                    // The pid 0 means that the shim of this task hangs.
                    Status::Unknown if task.pid == 0 => true,
                    // Until a stopped task is deleted, it is listed with its old pid.
                    Status::Unknown | Status::Stopped => continue,
                };
                let key = (namespace.clone(), task.id);
                let mut container = match self.known.get(&key) {
                    Some(known) => known.clone(),
                    None if is_hung => continue,
                    None => {
                        let labels = labels(&self.connection, &channel, namespace, &key.1).await?;
                        let Some(labels) = labels else { continue }; // removed in the meantime
                        let container = container(namespace, &key.1, labels);
                        if !self.has_logged_ids && container.as_ref().is_some_and(is_named_by_id) {
                            self.has_logged_ids = true;
                            info!("{}", no_names(namespace));
                        }
                        // The container is kept here. So if a later call fails, the next listing need not get
                        // it again.
                        self.known.insert(key.clone(), container.clone());
                        container
                    }
                };
                if let Some(container) = &mut container {
                    // If the shim hangs, `task.pid` is 0, and the container keeps the pid of an earlier
                    // listing.
                    if !is_hung {
                        container.init_pid = Some(task.pid);
                    }
                    listing.containers.push(container.clone());
                }
                listed.insert(key, container);
            }
        }
        self.known = listed;
        listing.containers.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(listing)
    }
}

/// Calls `Tasks.List`. containerd refuses a call without the header that names the namespace.
async fn tasks(connection: &Connection, channel: &Channel, namespace: &str) -> Result<Vec<Process>, Error> {
    let mut client = TasksClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
    let request = with_namespace!(ListTasksRequest::default(), namespace);
    let answer = connection.answer("tasks", LIST_DEADLINE, client.list(request)).await?;
    Ok(answer.into_inner().tasks)
}

/// Calls `Containers.Get`. Returns `None` if the container no longer exists.
///
/// If the record of a container is too large, returns no labels, and the container is named by its id. The
/// record includes the labels of the image, of which a workload can choose any number. An error here would
/// stop the listing of all containers.
async fn labels(
    connection: &Connection,
    channel: &Channel,
    namespace: &str,
    id: &str,
) -> Result<Option<HashMap<String, String>>, Error> {
    let method = "/containerd.services.containers.v1.Containers/Get";
    let request = with_namespace!(GetContainerRequest { id: id.to_owned() }, namespace);
    let call = async {
        match connection::call(channel, method, request).await {
            Err(status) if status.code() == Code::NotFound => Ok(None),
            // The record is larger than containerd may send, or than this program accepts.
            Err(status) if matches!(status.code(), Code::ResourceExhausted | Code::OutOfRange) => {
                Ok(Some(ContainerRecord::default()))
            }
            answer => answer.map(|GetContainerResponse { container }| container),
        }
    };
    let container = connection.answer("a container", GET_DEADLINE, call).await?;
    Ok(container.map(|container| container.labels))
}

/// `GetContainerResponse`, with only those labels that this program uses.
///
/// containerd's CRI plugin copies the labels of the container's image into this answer. The workload chooses
/// the labels of its image. For an answer of 15 MB with 1.5 million labels, the generated type takes 185 MiB,
/// and this type takes 17 MiB.
#[derive(prost::Message)]
struct GetContainerResponse {
    #[prost(message, tag = "1")]
    container: Option<ContainerRecord>,
}

#[derive(Debug, Default)]
struct ContainerRecord {
    labels: HashMap<String, String>,
}

#[derive(prost::Message)]
struct Label {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

const KIND: &str = "io.cri-containerd.kind";
const NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD: &str = "io.kubernetes.pod.name";
const CONTAINER: &str = "io.kubernetes.container.name";
const NERDCTL_NAME: &str = "nerdctl/name";

impl prost::Message for ContainerRecord {
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag != 2 {
            return skip_field(wire_type, tag, buffer, context);
        }
        let mut label = Label::default();
        message::merge(wire_type, &mut label, buffer, context)?;
        if [KIND, NAMESPACE, POD, CONTAINER, NERDCTL_NAME].contains(&label.key.as_str()) {
            self.labels.insert(label.key, label.value);
        }
        Ok(())
    }

    // This program never sends this message, so encoding is empty.
    fn encode_raw(&self, _: &mut impl BufMut) {}

    fn encoded_len(&self) -> usize {
        0
    }

    fn clear(&mut self) {
        self.labels.clear();
    }
}

/// Creates a container from its containerd namespace, its id and its labels. Returns `None` for a sandbox.
fn container(namespace: &str, id: &str, mut labels: HashMap<String, String>) -> Option<Container> {
    if labels.get(KIND).is_some_and(|kind| kind == "sandbox") {
        return None;
    }
    let mut label = |key| labels.remove(key);
    Some(Container {
        id: id.into(),
        init_pid: None,
        namespace: label(NAMESPACE).unwrap_or_else(|| namespace.into()),
        pod: label(POD).unwrap_or_default(),
        name: label(CONTAINER).or_else(|| label(NERDCTL_NAME)).unwrap_or_else(|| id.into()),
    })
}

/// Whether the container is named by its id, because containerd knows no other name. Docker (29 and older
/// versions) gives its containers only the label `com.docker/engine.bundle.path`.
fn is_named_by_id(container: &Container) -> bool {
    container.pod.is_empty() && container.name == container.id
}

/// Returns a line for the log, which says why containers are named by their ids, and where to find their
/// names.
fn no_names(namespace: &str) -> String {
    format!(
        "containerd knows no names of containers in its namespace {namespace:?}, so they are named by their \
         ids; for Docker, \"docker ps --no-trunc\" lists both"
    )
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn containers_are_named_by_their_labels() {
        let pod =
            [(KIND, "container"), (NAMESPACE, "shop"), (POD, "web-1"), (CONTAINER, "app"), ("app", "web")];
        for (labels, expected) in [
            (&[][..], Some("moby//abc")),
            (&[(NERDCTL_NAME, "web")], Some("moby//web")),
            (&pod, Some("shop/web-1/app")),
            (&[(KIND, "sandbox")], None),
        ] {
            let labels = labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
            let name = container("moby", "abc", labels)
                .map(|Container { namespace, pod, name, .. }| format!("{namespace}/{pod}/{name}"));
            assert_eq!(name.as_deref(), expected);
        }
    }
    #[test]
    fn only_used_labels_are_kept() {
        use containerd_client::services::v1::{Container, GetContainerResponse as Generated};
        let labels = [(POD, "web-1"), ("app", "web")].map(|(key, value)| (key.into(), value.into()));
        let container = Container { id: "abc".into(), labels: labels.into(), ..Container::default() };
        let message = Generated { container: Some(container) }.encode_to_vec();
        let record = GetContainerResponse::decode(&message[..]).unwrap().container.expect("it has one");
        assert_eq!(record.labels, HashMap::from([(POD.to_owned(), "web-1".to_owned())]));
        assert!(GetContainerResponse::decode(&message[..message.len() - 1]).is_err(), "it is truncated");
    }
}
