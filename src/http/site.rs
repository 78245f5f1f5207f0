//! The content that the server serves.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use super::gzip::Compressor;
use super::hosts::Hosts;
use super::publish::{Document, Published};
use super::views::Views;
use crate::demand::Demand;

/// The content that the server serves, and the hosts that requests may name.
pub struct Site {
    /// The expositions.
    pub published: Published,
    /// Compresses expositions.
    pub compressor: RefCell<Compressor>,
    /// The records of OOM kills, as JSON.
    pub ooms: Document,
    /// The views: expositions for requests with parameters.
    pub views: Arc<Views>,
    /// The requests for scrapes.
    pub demand: Arc<Demand>,
    /// Counts the waiting requests: each of them holds a clone.
    pub wait_slots: Arc<()>,
    /// `/healthz` fails if a scrape has been due, or has been running, for longer than this.
    pub max_age: Duration,
    /// The hosts that requests may name.
    pub hosts: Hosts,
}

#[cfg(test)]
impl Site {
    /// Returns a site that has published an exposition with this text.
    pub fn of(text: &[u8]) -> Site {
        let (mut publisher, published) = super::publish::publisher();
        super::publish::publish(&mut publisher, text);
        let (minute, now) = (Duration::from_secs(60), std::time::Instant::now());
        let demand = Arc::new(Demand::new(minute, now).unwrap());
        demand.begin(now);
        demand.end(true, None, now);
        Site {
            published,
            compressor: RefCell::default(),
            ooms: Document::default(),
            views: Arc::new(Views::new(Box::new(|_| Ok(None)), 0)),
            demand,
            wait_slots: Arc::default(),
            max_age: minute,
            hosts: Hosts::default(),
        }
    }
}
