//! Containers by containerd's own API: its tasks, and their labels.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use containerd_client::types::v1::Status;
use tonic::metadata::AsciiMetadataValue;

use crate::sources::answers::{self, Labels, MAX_TASKS};
use crate::sources::connection::{Call, Connection, Error};
use crate::sources::lifeline::Lifeline;
use crate::sources::{Container, Listing};

/// How the log calls it.
pub const PEER: &str = "containerd";
/// How long `Tasks.List` may take. It waits 2 s for each shim that hangs.
const LIST_DEADLINE: Duration = Duration::from_secs(20);
/// How long one `Containers.Get` may take; usually it is 0.4 ms.
const GET_DEADLINE: Duration = Duration::from_secs(5);
/// The most bytes of ids and labels kept of all containers: with [`MAX_TASKS`] of them 160 bytes each, which is more than a pod's.
const MAX_TEXT: usize = 16 << 20;

/// The connection, and the labels of the containers that were met.
#[derive(Debug)]
pub struct Lister {
    connection: Connection,
    namespaces: Vec<String>,
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
    /// Asks the containerd at `socket`, in these namespaces of its.
    pub fn new(socket: &Path, namespaces: &[String]) -> Self {
        let connection = Connection::new(PEER, socket);
        Self { connection, namespaces: namespaces.to_owned(), known: HashMap::new() }
    }

    /// For the log.
    pub fn describe(&self) -> String {
        let (socket, namespaces) = (self.connection.socket(), self.namespaces.join(", "));
        format!("containers are listed by containerd's API at {socket:?}, in its namespaces {namespaces}")
    }

    /// Lists the tasks, and asks for the labels of those that are new.
    pub async fn list(&mut self) -> Result<(Listing, Lifeline), Error> {
        let lifeline = self.connection.lifeline().await?;
        self.connection.open().await?;
        let mut listing = Listing::default();
        let mut listed = HashMap::new();
        let mut text = 0;
        for namespace in self.namespaces.clone() {
            for task in self.tasks(&namespace).await? {
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
                    None => match self.get(&namespace, &key.1).await? {
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
                    let cause = format!("{n} containers with {text} bytes of labels");
                    return Err(self.connection.error("cannot list tasks of", &cause));
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
        Ok((listing, lifeline))
    }

    /// The tasks of a namespace that are created, alive, or lost to a shim that hangs.
    async fn tasks(&self, namespace: &str) -> Result<Vec<answers::Task>, Error> {
        let call = Call {
            may_be_missing: false,
            what: "tasks",
            deadline: LIST_DEADLINE,
            method: "/containerd.services.tasks.v1.Tasks/List",
            namespace: Some(header(namespace)),
            request: Vec::new(),
            decode: |answer| answers::tasks(answer, is_of_interest),
        };
        Ok(self.connection.call(call).await?.unwrap_or_default())
    }

    /// Asks for the labels of a container; `None` if there is no such container any more.
    async fn get(&self, namespace: &str, id: &str) -> Result<Option<Known>, Error> {
        let call = Call {
            may_be_missing: true,
            what: "a container",
            deadline: GET_DEADLINE,
            method: "/containerd.services.containers.v1.Containers/Get",
            namespace: Some(header(namespace)),
            request: answers::get_container_request(id),
            decode: answers::labels,
        };
        let labels = self.connection.call(call).await?.flatten();
        Ok(labels.map(|labels| known(namespace, id, labels)))
    }

    /// After a failed listing: connects anew, and forgets the labels when listing after listing fails and each names other containers.
    pub fn start_over(&mut self) {
        self.connection.close();
        let text =
            self.known.iter().map(|((namespace, id), known)| namespace.len() + id.len() + known.text());
        if self.known.len() > MAX_TASKS || text.sum::<usize>() > MAX_TEXT {
            self.known = HashMap::new();
        }
    }
}

fn header(namespace: &str) -> AsciiMetadataValue {
    namespace.parse().expect("the command line takes only names that fit a header")
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_named_by_its_labels() {
        let named = |labels| match known("moby", "abc", labels) {
            Known::Sandbox => "sandbox".into(),
            Known::Container { container: Container { namespace, pod, name, .. }, .. } => {
                format!("{namespace}/{pod}/{name}")
            }
        };
        let some = |text: &str| Some(text.to_string());
        let none = Labels::default;
        assert_eq!(named(none()), "moby//abc");
        let nerdctl = Labels { nerdctl_name: some("web"), ..none() };
        assert_eq!(named(nerdctl), "moby//web");
        let pod = Labels {
            kind: some("container"),
            pod_namespace: some("shop"),
            pod: some("web-1"),
            container: some("app"),
            ..none()
        };
        assert_eq!(named(pod), "shop/web-1/app");
        assert_eq!(named(Labels { kind: some("sandbox"), ..none() }), "sandbox");
    }
}
