//! A request for the exposition on its way to a response: it may wait for a scrape and for compression.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::head::Head;
use super::response::{Form, PLAIN, Response, UNCACHED};
use super::site::Site;
use crate::demand::Freshness;

const EXPOSITION: (&str, &str) = ("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
const VARY: (&str, &str) = ("Vary", "Accept-Encoding");

/// Maximum number of requests waiting for a scrape. Further requests get the last exposition.
const MAX_WAITING: usize = 64;
/// How long a request without a timeout waits for a scrape.
const USUAL_PATIENCE: Duration = Duration::from_secs(5);
/// The maximum time that a request waits for a scrape, because a waiting request holds a connection.
pub const MAX_PATIENCE: Duration = Duration::from_secs(30);
/// How long before the client's timeout the wait ends, so that the answer arrives in time.
const SPARE: Duration = Duration::from_millis(500);

/// A request for the exposition that has been parsed and not answered yet.
pub struct Pending {
    form: Form,
    accepts_gzip: bool,
    /// The scrape that it waits for.
    scrape: Option<Wait>,
    /// The number of the exposition that is compressed for it; it accepts a later one.
    compressing: Option<u64>,
}

/// A wait until more than this number of scrapes have succeeded, at most until the deadline. Then the request
/// gets the last exposition, whatever its age. The place counts it among the waiting requests.
struct Wait {
    n_succeeded: u64,
    deadline: Instant,
    _place: Arc<()>,
}

impl Pending {
    /// Requests a scrape if the last exposition is not fresh, and waits for it if there is a place.
    pub fn new(site: &Site, request: &Head<'_>, now: Instant) -> Self {
        let scrape = match site.demand.request(now) {
            // The site holds the original, which does not stand for a waiting request.
            Freshness::WaitFor(n_succeeded) if Arc::strong_count(&site.places) <= MAX_WAITING => {
                let deadline = now + patience(request.scrape_timeout);
                Some(Wait { n_succeeded, deadline, _place: site.places.clone() })
            }
            _ => None,
        };
        Self { form: Form::of(request), accepts_gzip: request.accepts_gzip, scrape, compressing: None }
    }

    /// Whether it waits for a scrape: then it costs nothing.
    pub fn is_scraping(&self) -> bool {
        self.scrape.is_some()
    }

    /// Whether it waits for compression. That goes on without credit once it has begun, because the text
    /// may be taken away meanwhile.
    pub fn is_compressing(&self) -> bool {
        self.compressing.is_some()
    }

    /// Returns until when it waits for a scrape; `None` when [`advance`](Self::advance) is due.
    pub fn waits_until(&self, site: &Site) -> Option<Instant> {
        let wait = self.scrape.as_ref().filter(|wait| !site.demand.has_succeeded(wait.n_succeeded));
        wait.map(|wait| wait.deadline)
    }

    /// Ends the wait for a scrape and compresses a piece, if necessary. Returns the response once it is
    /// complete.
    pub fn advance(&mut self, site: &Site, now: Instant) -> Option<Response> {
        self.scrape = None;
        let Some(latest) = site.published.latest() else { return Some(not_ready(self.form)) };
        if self.accepts_gzip {
            let number = *self.compressing.get_or_insert(latest.number);
            let mut compressor = site.compressor.borrow_mut();
            let gzipped = compressor.advance(&site.published, number)?;
            if let Some(bytes) = gzipped.bytes.clone() {
                let headers = [EXPOSITION, UNCACHED, VARY, ("Content-Encoding", "gzip")];
                return Some(Response::of_exposition(self.form, &headers, bytes, gzipped.tail(now)));
            }
        }
        let tail = latest.age.map(|age| age.sample(now)).unwrap_or_default();
        Some(Response::of_exposition(self.form, &[EXPOSITION, UNCACHED, VARY], latest.text, tail))
    }
}

/// Returns the answer before the first exposition.
pub fn not_ready(form: Form) -> Response {
    Response::new(form, 503, &[PLAIN, UNCACHED], b"the first scrape is not complete yet\n")
}

/// Returns how long a request may wait: a little less than the client's timeout, given in seconds.
fn patience(scrape_timeout: &[u8]) -> Duration {
    let seconds = str::from_utf8(scrape_timeout).ok().and_then(|text| text.parse().ok());
    let timeout = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    timeout.map_or(USUAL_PATIENCE, |timeout| timeout - (timeout / 5).min(SPARE)).min(MAX_PATIENCE)
}
