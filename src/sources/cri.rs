//! Lists containers with CRI v1, the kubelet's interface to every runtime: CRI-O, cri-dockerd, containerd.
//!
//! A listing consists of two calls, which the runtime answers from its memory. CRI reports no pids. So a
//! process is attributed to a container by the container's id, which is in the path of the process's cgroup.
//! See <https://github.com/kubernetes/cri-api/blob/master/pkg/apis/runtime/v1/api.proto>.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use tonic::Request;

use crate::sources::connection::{self, Connection, Error};
use crate::sources::{Container, Listing};

/// The runtime's name in the log.
pub const PEER: &str = "the container runtime";
/// The maximum time for a call, which usually takes a few milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// Two values of CRI's `ContainerState`.
const CREATED: i32 = 0;
const RUNNING: i32 = 1;

/// The connection to the runtime.
#[derive(Debug)]
pub struct Cri {
    connection: Connection,
}

impl Cri {
    /// Creates a client that lists the containers of the runtime at `socket`.
    pub fn new(socket: &Path) -> Self {
        Self { connection: Connection::new(PEER, socket) }
    }

    pub fn socket(&self) -> &Path {
        self.connection.socket()
    }

    /// Describes this source for the log.
    pub fn describe(&self) -> String {
        format!("containers are listed by CRI at {:?}", self.connection.socket())
    }

    /// Lists the running containers. The pods of the containers come from a list of the sandboxes.
    pub async fn list(&self) -> Result<Listing, Error> {
        let channel = self.connection.connect().await?;
        // Containers are listed before sandboxes, because a sandbox is created before its containers. In the
        // other order, the sandbox of a new container could be missing.
        let method = "/runtime.v1.RuntimeService/ListContainers";
        let call = connection::call(&channel, method, Request::new(())); // an empty request has no filter
        let ListContainersResponse { containers } =
            self.connection.answer("containers", DEADLINE, call).await?;
        let method = "/runtime.v1.RuntimeService/ListPodSandbox";
        let call = connection::call(&channel, method, Request::new(()));
        let ListPodSandboxResponse { items } =
            self.connection.answer("pod sandboxes", DEADLINE, call).await?;
        Ok(listing(containers, items))
    }
}

#[derive(prost::Message)]
struct ListContainersResponse {
    #[prost(message, repeated, tag = "1")]
    containers: Vec<CriContainer>,
}

/// CRI's `Container`, with only the fields that this program uses.
#[derive(prost::Message)]
struct CriContainer {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    pod_sandbox_id: String,
    #[prost(message, tag = "3")]
    metadata: Option<ContainerMetadata>,
    #[prost(int32, tag = "6")]
    state: i32,
}

#[derive(prost::Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(prost::Message)]
struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    items: Vec<PodSandbox>,
}

/// CRI's `PodSandbox`, with only the fields that this program uses.
#[derive(prost::Message)]
struct PodSandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, tag = "2")]
    metadata: Option<PodSandboxMetadata>,
}

#[derive(Clone, prost::Message)]
struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

/// Returns the running containers. The pod of a container is the pod of its sandbox.
fn listing(containers: Vec<CriContainer>, sandboxes: Vec<PodSandbox>) -> Listing {
    let pods: HashMap<_, _> =
        sandboxes.into_iter().filter_map(|sandbox| Some((sandbox.id, sandbox.metadata?))).collect();
    let mut listing = Listing::default();
    for container in containers {
        let CriContainer { id, pod_sandbox_id, metadata, state } = container;
        listing.more_to_come |= state == CREATED;
        let pod = pods.get(&pod_sandbox_id).cloned();
        if let (RUNNING, Some(pod), Some(ContainerMetadata { name })) = (state, pod, metadata) {
            let PodSandboxMetadata { name: pod, namespace } = pod;
            listing.containers.push(Container { id, init_pid: None, namespace, pod, name });
        }
    }
    listing.containers.sort_by(|a, b| a.id.cmp(&b.id));
    listing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, sandbox: &str, state: i32) -> CriContainer {
        let metadata = Some(ContainerMetadata { name: "app".into() });
        CriContainer { id: id.into(), pod_sandbox_id: sandbox.into(), metadata, state }
    }

    fn sandbox(id: &str, namespace: &str, name: &str) -> PodSandbox {
        let metadata = Some(PodSandboxMetadata { name: name.into(), namespace: namespace.into() });
        PodSandbox { id: id.into(), metadata }
    }

    #[test]
    fn running_containers_are_listed_by_id_with_their_pods() {
        let pods = || vec![sandbox("s1", "shop", "web-0"), sandbox("s2", "default", "web-0")];
        let containers = vec![
            container("b", "s1", RUNNING),
            container("a", "s2", RUNNING),
            container("exited", "s1", 2),
            container("unknown", "s1", 3),
            container("without a sandbox", "s3", RUNNING),
        ];
        let running = listing(containers, pods());
        let names: Vec<_> = running
            .containers
            .iter()
            .map(|Container { id, namespace, pod, name, .. }| format!("{id} {namespace}/{pod}/{name}"))
            .collect();
        assert_eq!(names, ["a default/web-0/app", "b shop/web-0/app"]);
        assert!(!running.more_to_come);
        let created = listing(vec![container("c", "s1", CREATED)], pods());
        assert!(created.more_to_come && created.containers.is_empty());
    }
}
