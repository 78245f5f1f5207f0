//! The content that the server serves.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use super::gzip::Compressor;
use super::hosts::Hosts;
use super::publish::{Document, Published};
use crate::demand::Demand;

/// The content that the server serves, and the hosts that requests may name.
pub struct Site {
    /// The expositions.
    pub published: Published,
    /// Compresses expositions.
    pub compressor: RefCell<Compressor>,
    /// The records of OOM kills, as JSON.
    pub ooms: Document,
    /// Requests for scrapes.
    pub demand: Arc<Demand>,
    /// Each waiting request holds a clone: the number of clones is the number of waiting requests.
    pub places: Arc<()>,
    /// `/healthz` fails when a scrape takes longer than this, or has been due for longer.
    pub max_age: Duration,
    /// The hosts that requests may name.
    pub hosts: Hosts,
}

#[cfg(test)]
use std::time::Instant;

#[cfg(test)]
const MINUTE: Duration = Duration::from_secs(60);

#[cfg(test)]
impl Site {
    /// Returns a site that has published an exposition with this text.
    pub fn of(text: &[u8]) -> Site {
        let (mut publisher, published) = super::publish::publisher();
        publisher.buffer().extend_from_slice(text);
        publisher.publish(None);
        let now = Instant::now();
        let demand = Arc::new(Demand::new(MINUTE, now).unwrap());
        demand.begin(now);
        demand.end(true, None, now);
        Site {
            published,
            compressor: RefCell::default(),
            ooms: Document::default(),
            demand,
            places: Arc::default(),
            max_age: MINUTE,
            hosts: Hosts::new(String::new(), Vec::new()),
        }
    }

    /// Returns a site before its first scrape has ended.
    pub fn empty() -> Site {
        let demand = Arc::new(Demand::new(MINUTE, Instant::now()).unwrap());
        Site { published: super::publish::publisher().1, demand, ..Site::of(b"") }
    }
}
