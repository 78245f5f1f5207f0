//! Requests that wait for a scrape, because the last exposition is stale.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::head::{Head, Host};
use super::limits::MAX_WAITING;
use super::site::Site;
use crate::demand::Freshness;

/// How long a request without a timeout waits for a scrape.
const USUAL_PATIENCE: Duration = Duration::from_secs(5);
/// The maximum time that a request waits, because a waiting request holds a connection.
const MAX_PATIENCE: Duration = Duration::from_secs(30);
/// How long before the client's timeout the wait ends, so that the answer arrives in time.
const SPARE: Duration = Duration::from_millis(500);

/// A request that waits for a scrape, because the last exposition is stale.
pub struct Wait {
    /// The wait ends when more than this number of scrapes have succeeded.
    n_succeeded: u64,
    /// At this time the request gets the last exposition, whatever its age.
    pub deadline: Instant,
    /// Counts this request among those that wait.
    _place: Arc<()>,
}

impl Wait {
    /// Whether the wait has ended.
    pub fn is_over(&self, site: &Site, now: Instant) -> bool {
        now >= self.deadline || site.demand.has_succeeded(self.n_succeeded)
    }
}

/// Returns the wait of a request; `None` if the request gets no exposition, or a fresh one.
pub fn wait(site: &Site, request: &Head<'_>, peer: IpAddr, now: Instant) -> Option<Wait> {
    let host = match request.host {
        Host::Invalid => return None,
        Host::Absent => None,
        Host::Named(host) => Some(host),
    };
    let is_get = request.method == b"GET" || request.method == b"HEAD";
    if request.path != b"/metrics" || !is_get || request.has_body || !site.hosts.allow(peer, host) {
        return None;
    }
    match site.demand.request(now) {
        // The site holds the original, which does not stand for a waiting request.
        Freshness::WaitFor(n_succeeded) if Arc::strong_count(&site.places) <= MAX_WAITING => {
            let deadline = now + patience(request.scrape_timeout);
            Some(Wait { n_succeeded, deadline, _place: site.places.clone() })
        }
        Freshness::WaitFor(_) | Freshness::Fresh => None,
    }
}

/// Returns how long a request may wait: a little less than the client's timeout, given in seconds.
fn patience(scrape_timeout: &[u8]) -> Duration {
    let seconds = std::str::from_utf8(scrape_timeout).ok().and_then(|text| text.parse().ok());
    let timeout = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    timeout.map_or(USUAL_PATIENCE, |timeout| timeout - (timeout / 5).min(SPARE)).min(MAX_PATIENCE)
}
