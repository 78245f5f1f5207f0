//! Where containers come from: containerd, any runtime that speaks CRI, the kubelet's links, or a recording.
//!
//! A listing is begun, goes on while the scrape thread waits, and is taken when it has ended. Nobody waits for it.

mod answers;
mod client;
mod connection;
mod container;
mod container_logs;
mod containerd;
mod cri;
mod lifeline;
mod protobuf;
pub mod recording;

use std::path::Path;
use std::time::Instant;

use log::info;

use crate::cli::options::Options;
use crate::errors::plain;
use client::{Client, Lister};
pub use container::Container;
use container_logs::ContainerLogs;
use recording::Recording;

/// What lists the containers.
#[derive(Debug)]
pub enum Source {
    /// A runtime that is asked over its socket.
    Client(Box<Client>),
    /// The names of the kubelet's links.
    Logs(ContainerLogs),
    /// A file of a recorded node.
    Recording(Recording),
}

/// What a listing gives.
#[derive(Debug, Default)]
pub struct Listing {
    /// The running and paused containers, by id; sandboxes left out. The kubelet's links may also name some that are gone.
    pub containers: Vec<Container>,
    /// Some container is created and not started yet: list again soon.
    pub more_to_come: bool,
    /// Labels of these containers that were cut, for they were longer than containerd itself takes.
    pub n_cut_labels: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Api {
    Containerd,
    Cri,
}

/// The sockets that are tried, in this order, when the command line names no source.
const SOCKETS: [(&str, Api); 3] = [
    ("/run/containerd/containerd.sock", Api::Containerd),
    ("/run/crio/crio.sock", Api::Cri),
    ("/run/cri-dockerd.sock", Api::Cri),
];

impl Source {
    /// What the options say; logs which it is. Asks nothing yet.
    ///
    /// Fails with one line when there is no such socket or directory.
    pub fn open(options: &Options) -> Result<Self, String> {
        if let Some(directory) = &options.fixture {
            return Ok(Self::Recording(Recording::new(directory)));
        }
        if let Some(directory) = &options.container_logs {
            std::fs::read_dir(directory)
                .map_err(|error| format!("cannot list {directory:?}: {}", plain(&error)))?;
            info!("containers are listed by the names of the kubelet's links in {directory:?}");
            return Ok(Self::Logs(ContainerLogs::new(directory)));
        }
        let (socket, api) = match (&options.containerd_sock, &options.cri_sock) {
            (Some(socket), _) => (socket.as_path(), Api::Containerd),
            (None, Some(socket)) => (socket.as_path(), Api::Cri),
            (None, None) => first_socket(&options.containerd_namespaces, Path::exists)?,
        };
        std::fs::metadata(socket).map_err(|error| format!("no socket at {socket:?}: {}", plain(&error)))?;
        let lister = match api {
            Api::Containerd => {
                info!("containers are listed by containerd's API at {socket:?}");
                Lister::Containerd(containerd::Lister::new(socket, &options.containerd_namespaces))
            }
            Api::Cri => {
                info!("containers are listed by CRI at {socket:?}");
                Lister::Cri(cri::Lister::new(socket))
            }
        };
        let client =
            Client::new(lister).map_err(|error| format!("cannot ask {socket:?}: {}", plain(&error)))?;
        Ok(Self::Client(Box::new(client)))
    }

    /// Begins a listing, unless one is under way. A recording needs none: it is read whenever it is taken.
    pub fn begin(&mut self) {
        match self {
            Self::Client(client) => client.begin(),
            Self::Logs(logs) => logs.begin(),
            Self::Recording(_) => {}
        }
    }

    /// Whether a listing is under way.
    pub fn is_listing(&self) -> bool {
        matches!(self, Self::Client(client) if client.is_listing())
    }

    /// Waits until `deadline`; meanwhile a listing goes on.
    pub fn wait_until(&mut self, deadline: Instant) {
        match self {
            Self::Client(client) => client.wait_until(deadline),
            Self::Logs(_) | Self::Recording(_) => {
                std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
            }
        }
    }

    /// Lets the listing go on until it ends, or until `deadline`.
    pub fn wait_for_listing(&mut self, deadline: Instant) {
        if let Self::Client(client) = self {
            client.wait_for_listing(deadline);
        }
    }

    /// What the listing gave, if one has ended since, or the recording has changed. Fails with one line.
    pub fn take(&mut self) -> Option<Result<Listing, String>> {
        match self {
            Self::Client(client) => client.take().map(|listed| listed.map_err(|error| error.to_string())),
            Self::Logs(logs) => logs.take(),
            Self::Recording(recording) => {
                let listing = |containers| Listing { containers, ..Listing::default() };
                recording.containers().transpose().map(|containers| containers.map(listing))
            }
        }
    }

    /// Whether the runtime has ended since the last listing that it answered. Asks nothing of it.
    pub fn is_lost(&mut self) -> bool {
        match self {
            Self::Client(client) => client.is_lost(),
            Self::Logs(_) | Self::Recording(_) => false,
        }
    }

    /// Whether containers come from something that lives, and can fail to answer.
    pub fn is_live(&self) -> bool {
        !matches!(self, Self::Recording(_))
    }
}

/// Which socket is used when the command line names none: the first that exists, and speaks of the containerd namespaces asked for.
///
/// Fails with one line when there is none.
fn first_socket(
    namespaces: &[String],
    exists: impl Fn(&Path) -> bool,
) -> Result<(&'static Path, Api), String> {
    let is_cri_enough = namespaces == ["k8s.io"];
    let mut sockets = SOCKETS.into_iter().filter(|(_, api)| *api == Api::Containerd || is_cri_enough);
    let found = sockets.clone().find(|(path, _)| exists(Path::new(path)));
    found.map(|(path, api)| (Path::new(path), api)).ok_or_else(|| {
        let paths: Vec<_> = sockets.by_ref().map(|(path, _)| format!("{path:?}")).collect();
        format!(
            "no container runtime's socket at {}: expected --containerd-sock, --cri-sock, --container-logs or --fixture",
            paths.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_socket_that_exists() {
        let [containerd, crio, dockerd] = SOCKETS.map(|(path, _)| path);
        let kubernetes = &["k8s.io".to_owned()][..];
        let docker = &["moby".to_owned(), "k8s.io".to_owned()][..];
        let none = r#"no container runtime's socket at "/run/containerd/containerd.sock", "/run/crio/crio.sock", "/run/cri-dockerd.sock": expected --containerd-sock, --cri-sock, --container-logs or --fixture"#;
        let no_containerd = r#"no container runtime's socket at "/run/containerd/containerd.sock": expected --containerd-sock, --cri-sock, --container-logs or --fixture"#;
        type Found = Result<(&'static str, Api), &'static str>;
        let cases: [(&[&str], &[String], Found); 6] = [
            (&[containerd, crio, dockerd], kubernetes, Ok((containerd, Api::Containerd))),
            (&[dockerd, crio], kubernetes, Ok((crio, Api::Cri))),
            (&[dockerd], kubernetes, Ok((dockerd, Api::Cri))),
            (&[dockerd, containerd], docker, Ok((containerd, Api::Containerd))),
            (&[], kubernetes, Err(none)),
            (&[dockerd, crio], docker, Err(no_containerd)),
        ];
        for (existing, namespaces, expected) in cases {
            let exists = |path: &Path| existing.iter().any(|socket| path == Path::new(socket));
            let expected = expected.map(|(path, api)| (Path::new(path), api)).map_err(str::to_owned);
            assert_eq!(first_socket(namespaces, exists), expected, "{existing:?} {namespaces:?}");
        }
    }

    #[test]
    fn help_names_the_sockets_in_their_order() {
        let help = crate::cli::help::help();
        let at: Vec<_> = SOCKETS.iter().map(|(path, _)| help.rfind(path).expect(path)).collect();
        assert!(at.is_sorted(), "{help}");
    }
}
