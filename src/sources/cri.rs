//! Containers by CRI v1, the kubelet's own interface to any runtime: CRI-O, cri-dockerd, containerd.
//!
//! A listing is two calls, which the runtime answers from its memory. CRI tells no process id: whose a process is, is told by the
//! container's id in its cgroup's path. <https://github.com/kubernetes/cri-api/blob/master/pkg/apis/runtime/v1/api.proto>

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use crate::sources::connection::{Call, Connection, Error};
use crate::sources::lifeline::Lifeline;
use crate::sources::protobuf::{Fields, Value, text};
use crate::sources::{Container, Listing};

/// How the log calls it.
pub const PEER: &str = "the container runtime";
/// How long a call may take; it takes a few milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);
/// The most sandboxes, and the most containers, taken of an answer, whatever their state. A node has some hundreds.
const MAX_COUNT: usize = 100_000;
/// The most bytes of names kept: many containers can be said to be in one pod with a long name.
const MAX_TEXT: usize = 16 << 20;

/// `ContainerState`.
const CREATED: u64 = 0;
const RUNNING: u64 = 1;

/// The connection.
#[derive(Debug)]
pub struct Lister {
    connection: Connection,
}

impl Lister {
    /// Asks the runtime at `socket`.
    pub fn new(socket: &Path) -> Self {
        Self { connection: Connection::new(PEER, socket) }
    }

    /// For the log.
    pub fn describe(&self) -> String {
        format!("containers are listed by CRI at {:?}", self.connection.socket())
    }

    /// Lists the containers that run, and the sandboxes, which know their pods.
    pub async fn list(&mut self) -> Result<(Listing, Lifeline), Error> {
        let lifeline = self.connection.lifeline().await?;
        self.connection.open().await?;
        // Containers first: the sandbox of each is older than it, and is listed until the container is gone.
        let containers =
            self.call("containers", "/runtime.v1.RuntimeService/ListContainers", containers).await?;
        let sandboxes =
            self.call("pod sandboxes", "/runtime.v1.RuntimeService/ListPodSandbox", sandboxes).await?;
        let listing = listing(containers, &sandboxes);
        let listing = listing.map_err(|why| self.connection.error("cannot list containers of", &why))?;
        Ok((listing, lifeline))
    }

    /// After a failed listing: connects anew.
    pub fn start_over(&mut self) {
        self.connection.close();
    }

    async fn call<T: Default + Send + Sync + 'static>(
        &self,
        what: &'static str,
        method: &'static str,
        decode: fn(&[u8]) -> Result<T, String>,
    ) -> Result<T, Error> {
        // An empty request has no filter.
        let (namespace, request) = (None, Vec::new());
        let call =
            Call { what, may_be_missing: false, deadline: DEADLINE, method, namespace, request, decode };
        Ok(self.connection.call(call).await?.unwrap_or_default())
    }
}

/// `Container`, as far as it is of use.
#[derive(Debug, PartialEq)]
struct Found {
    id: String,
    sandbox: String,
    name: String,
    state: u64,
}

/// By the sandbox's id, the namespace and the name of its pod.
type Sandboxes = HashMap<String, (String, String)>;

/// Fails with the reason when there are more names than a node can have.
fn listing(found: Vec<Found>, sandboxes: &Sandboxes) -> Result<Listing, String> {
    let mut listing = Listing::default();
    let mut n_bytes = 0;
    for Found { id, sandbox, name, state } in found {
        listing.more_to_come |= state == CREATED;
        if let (RUNNING, Some((namespace, pod))) = (state, sandboxes.get(&sandbox)) {
            n_bytes += id.len() + namespace.len() + pod.len() + name.len();
            if n_bytes > MAX_TEXT {
                return Err(format!("over {MAX_TEXT} bytes of names"));
            }
            let (namespace, pod) = (namespace.clone(), pod.clone());
            listing.containers.push(Container { id, init_pid: None, namespace, pod, name });
        }
    }
    listing.containers.sort_by(|a, b| a.id.cmp(&b.id));
    listing.containers.dedup_by(|a, b| a.id == b.id);
    Ok(listing)
}

/// Decodes a `ListContainersResponse`: the containers that are created or run.
///
/// Fails with the reason when the bytes are none, or make too many.
fn containers(message: &[u8]) -> Result<Vec<Found>, String> {
    let mut found = Vec::new();
    for container in elements(message, "containers")? {
        let (mut id, mut sandbox, mut name, mut state) = (&[][..], &[][..], &[][..], CREATED);
        for field in Fields(container) {
            match field? {
                (1, Value::Bytes(bytes)) => id = bytes,
                (2, Value::Bytes(bytes)) => sandbox = bytes,
                (3, Value::Bytes(metadata)) => name = field_of(metadata, 1)?,
                (6, Value::Number(number)) => state = number,
                _ => {}
            }
        }
        if state == CREATED || state == RUNNING {
            let (id, sandbox) = (text("a container's id", id)?, text("a sandbox's id", sandbox)?);
            found.push(Found { id, sandbox, name: text("a container's name", name)?, state });
        }
    }
    Ok(found)
}

/// Decodes a `ListPodSandboxResponse`.
///
/// Fails with the reason when the bytes are none, or make too many.
fn sandboxes(message: &[u8]) -> Result<Sandboxes, String> {
    let mut found = Sandboxes::new();
    for sandbox in elements(message, "pod sandboxes")? {
        let (mut id, mut pod, mut namespace) = (&[][..], &[][..], &[][..]);
        for field in Fields(sandbox) {
            match field? {
                (1, Value::Bytes(bytes)) => id = bytes,
                (2, Value::Bytes(metadata)) => {
                    (pod, namespace) = (field_of(metadata, 1)?, field_of(metadata, 3)?)
                }
                _ => {}
            }
        }
        let names = (text("a pod's namespace", namespace)?, text("a pod's name", pod)?);
        found.insert(text("a sandbox's id", id)?, names);
    }
    Ok(found)
}

/// The elements of a message that is a list: its field 1, repeated.
fn elements<'a>(message: &'a [u8], what: &str) -> Result<Vec<&'a [u8]>, String> {
    let mut elements = Vec::new();
    for field in Fields(message) {
        if let (1, Value::Bytes(element)) = field? {
            elements.push(element);
        }
        if elements.len() > MAX_COUNT {
            return Err(format!("over {MAX_COUNT} {what}"));
        }
    }
    Ok(elements)
}

/// The last string of this number in a message; protobuf's default if there is none.
fn field_of(message: &[u8], number: u64) -> Result<&[u8], &'static str> {
    let mut found = &[][..];
    for field in Fields(message) {
        match field? {
            (n, Value::Bytes(bytes)) if n == number => found = bytes,
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::protobuf::tests::{bytes, number};

    fn container(id: &str, sandbox: &str, name: &str, state: u8) -> Vec<u8> {
        let metadata = [bytes(1, name.as_bytes()), number(2, 7)].concat();
        let fields = [bytes(1, id.as_bytes()), bytes(2, sandbox.as_bytes()), bytes(3, &metadata)].concat();
        // the image, when it was created, a label: of no interest
        let others =
            [bytes(4, &bytes(1, b"busybox")), number(7, 9), bytes(8, &bytes(1, b"io.kubernetes.pod.name"))]
                .concat();
        bytes(1, &[fields, number(6, state), others].concat())
    }

    fn sandbox(id: &str, namespace: &str, name: &str) -> Vec<u8> {
        let metadata = [bytes(1, name.as_bytes()), bytes(2, b"uid"), bytes(3, namespace.as_bytes())].concat();
        bytes(1, &[bytes(1, id.as_bytes()), bytes(2, &metadata), number(3, 1), number(4, 9)].concat())
    }

    fn list(containers_message: &[u8], sandboxes_message: &[u8]) -> Result<Listing, String> {
        listing(containers(containers_message)?, &sandboxes(sandboxes_message)?)
    }

    #[test]
    fn running_containers_by_id_with_their_pods() {
        let found = [
            container("b", "s1", "app", 1),
            container("a", "s2", "app", 1),
            container("exited", "s1", "init", 2),
            container("unknown", "s1", "lost", 3),
            container("orphan", "gone", "app", 1),
            container("b", "s1", "app", 1),
        ];
        let pods =
            [sandbox("s1", "shop", "web-0"), sandbox("s2", "default", "web-0"), sandbox("s3", "x", "y")];
        let listing = list(&found.concat(), &pods.concat()).unwrap();
        let names = |found: &Container| {
            let Container { id, namespace, pod, name, .. } = found;
            format!("{id} {namespace}/{pod}/{name}")
        };
        let found: Vec<_> = listing.containers.iter().map(names).collect();
        assert_eq!(found, ["a default/web-0/app", "b shop/web-0/app"]);
        assert!(listing.containers.iter().all(|found| found.init_pid.is_none()) && !listing.more_to_come);
        // protobuf leaves out a 0: created
        let created = bytes(1, &[bytes(1, b"c"), bytes(2, b"s1"), bytes(3, &bytes(1, b"app"))].concat());
        let listing = list(&created, &pods.concat()).unwrap();
        assert!(listing.more_to_come && listing.containers.is_empty());
        assert_eq!(list(b"", b"").unwrap().containers, []);
    }

    #[test]
    fn what_is_refused() {
        let two_bytes = |n: usize| [1 << 3 | 2, 0].repeat(n);
        let long = "x".repeat(4097);
        let pod = sandbox("s", &"n".repeat(4096), &"p".repeat(4096));
        let many: Vec<u8> = (0..3000).flat_map(|i| container(&format!("c{i}"), "s", "app", 1)).collect();
        for (found, pods, why) in [
            (two_bytes(MAX_COUNT + 1), vec![], "over 100000 containers"),
            (vec![], two_bytes(MAX_COUNT + 1), "over 100000 pod sandboxes"),
            (container(&long, "s", "app", 1), vec![], "a container's id of 4097 bytes"),
            (container("c", "s", &long, 1), vec![], "a container's name of 4097 bytes"),
            (
                bytes(1, &[bytes(1, b"\xff"), number(6, 1)].concat()),
                vec![],
                "a container's id that is not UTF-8",
            ),
            (vec![], sandbox("s", &long, "web"), "a pod's namespace of 4097 bytes"),
            (b"HTTP/1.1 400".to_vec(), vec![], "no protobuf message"),
            (many, pod, "over 16777216 bytes of names"),
        ] {
            assert_eq!(list(&found, &pods).map(|listing| listing.containers.len()), Err(why.to_owned()));
        }
    }

    #[test]
    fn every_prefix_is_an_answer_or_refused() {
        let found = [container("a", "s", "app", 1), container("b", "s", "app", 1)].concat();
        let pods = sandbox("s", "shop", "web-0");
        for n in 0..found.len() {
            if let Ok(listing) = list(&found[..n], &pods) {
                assert!(listing.containers.len() < 2, "cut after {n}");
            }
        }
        for n in 1..pods.len() {
            assert!(list(&found, &pods[..n]).is_err(), "cut after {n}");
        }
    }
}
