//! A container runtime is asked over its socket without ever holding up the scrape.
//!
//! A listing is a task on a current-thread runtime that runs only while the scrape thread waits for its next tick. So a
//! runtime that hangs costs nothing but the listing: the scrape keeps its rate, and the containers known last go on being read.

use std::io;
use std::time::Instant;

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

use crate::demand::Wake;
use crate::sources::connection::Error;
use crate::sources::lifeline::Lifeline;
use crate::sources::{Listing, Source, containerd, cri};

/// A container runtime, perhaps with a listing under way.
#[derive(Debug)]
pub struct Client {
    /// How the log calls the runtime.
    peer: &'static str,
    description: String,
    runtime: Runtime,
    state: State,
    /// An idle connection, which ends when the runtime does: it tells of a death that no call would notice for a minute.
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

type Listed = (Lister, Result<(Listing, Lifeline), Error>);

impl Client {
    /// Of whatever `lister` asks. Connects when it is first asked.
    ///
    /// Fails when the system has no runtime to give (descriptors, mostly).
    pub fn new(lister: Lister) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (peer, description) = (lister.peer(), lister.describe());
        Ok(Self { peer, description, runtime, state: State::Idle(lister), lifeline: None })
    }
}

impl Source for Client {
    fn runtime(&self) -> Option<&'static str> {
        Some(self.peer)
    }

    fn describe(&self) -> String {
        self.description.clone()
    }

    fn begin(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::Moving) {
            State::Idle(mut lister) => State::Listing(self.runtime.spawn(async move {
                let listing = lister.list().await;
                if listing.is_err() {
                    lister.start_over();
                }
                (lister, listing)
            })),
            listing => listing,
        };
    }

    fn is_listing(&self) -> bool {
        matches!(self.state, State::Listing(_))
    }

    fn wait_until(&mut self, deadline: Instant, wake: &Wake) {
        // A timer needs to be made inside the runtime.
        let woken = self.runtime.block_on(async { timeout_at(deadline.into(), wake.woken()).await });
        if let Ok(Err(_)) = woken {
            // No descriptor is left: the listing makes no progress, but this does not spin.
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

    fn take(&mut self) -> Option<Result<Listing, String>> {
        let (lister, listed) = match std::mem::replace(&mut self.state, State::Moving) {
            State::Listing(handle) if handle.is_finished() => self.runtime.block_on(handle).expect(NO_PANIC),
            State::Listed(listed) => listed,
            other => {
                self.state = other;
                return None;
            }
        };
        let peer = lister.peer();
        self.state = State::Idle(lister);
        let (listing, mut lifeline) = match listed {
            Ok((listing, lifeline)) => (listing, lifeline),
            Err(error) => {
                self.lifeline = None;
                return Some(Err(error.to_string()));
            }
        };
        // The one who answered may have ended since, or be another than the lifeline hangs on: the channel connects anew by itself.
        if lifeline.has_ended() {
            let is_known = self.is_lost();
            return (!is_known).then(|| Err(format!("{peer} has ended while it was asked")));
        }
        self.lifeline = Some(lifeline);
        Some(Ok(listing))
    }

    fn is_lost(&mut self) -> bool {
        self.lifeline.as_mut().is_some_and(Lifeline::has_ended)
    }
}

const NO_PANIC: &str = "a panic would have ended the process";

/// What asks, by one API or another.
#[derive(Debug)]
pub enum Lister {
    /// containerd's own.
    Containerd(containerd::Lister),
    /// The kubelet's.
    Cri(cri::Lister),
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

    async fn list(&mut self) -> Result<(Listing, Lifeline), Error> {
        match self {
            Self::Containerd(lister) => lister.list().await,
            Self::Cri(lister) => lister.list().await,
        }
    }

    /// After a failed listing.
    fn start_over(&mut self) {
        match self {
            Self::Containerd(lister) => lister.start_over(),
            Self::Cri(lister) => lister.start_over(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_socket_that_is_not_there_is_one_line() {
        let socket = Path::new("/does/not/exist.sock");
        for (lister, peer) in [
            (Lister::Containerd(containerd::Lister::new(socket, &["k8s.io".into()])), "containerd"),
            (Lister::Cri(cri::Lister::new(socket)), "the container runtime"),
        ] {
            let mut client = Client::new(lister).unwrap();
            client.begin();
            client.wait_for_listing(Instant::now() + Duration::from_secs(10));
            let error = client.take().expect("it has ended").unwrap_err();
            let expected =
                format!(r#"cannot connect to {peer} at "/does/not/exist.sock": no such file or directory"#);
            assert_eq!((client.runtime(), error), (Some(peer), expected));
            assert!(!client.is_lost() && !client.is_listing());
        }
    }
}
