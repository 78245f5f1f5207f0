//! A request for the exposition on its way to a response: it may wait for a scrape and for compression.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::head::Head;
use super::limits::MAX_WAITING;
use super::response::{Answer, Body, PLAIN, Response, UNCACHED};
use super::site::Site;
use crate::demand::Freshness;

const EXPOSITION: (&str, &str) = ("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
const VARY: (&str, &str) = ("Vary", "Accept-Encoding");

/// How long a request without a timeout waits for a scrape.
const USUAL_PATIENCE: Duration = Duration::from_secs(5);
/// The maximum time that a request waits for a scrape, because a waiting request holds a connection.
pub const MAX_PATIENCE: Duration = Duration::from_secs(30);
/// How long before the client's timeout the wait ends, so that the answer arrives in time.
const SPARE: Duration = Duration::from_millis(500);

/// A request for the exposition that has been parsed and not answered yet.
pub struct Pending {
    accepts_gzip: bool,
    head_only: bool,
    keep_alive: bool,
    /// How long it may wait for a scrape.
    patience: Duration,
    stage: Stage,
}

enum Stage {
    /// It is not known yet whether the last exposition is fresh.
    New,
    /// It waits until more than this number of scrapes have succeeded, at most until the deadline. Then it
    /// gets the last exposition, whatever its age. The place counts it among the waiting requests.
    Scraping { n_succeeded: u64, deadline: Instant, _place: Arc<()> },
    /// It waits until the exposition with this number, or a later one, is compressed.
    Compressing { number: u64 },
}

impl Pending {
    /// Returns what a request for the exposition asks for.
    pub fn new(request: &Head<'_>) -> Self {
        Self {
            accepts_gzip: request.accepts_gzip,
            head_only: request.method == b"HEAD",
            keep_alive: request.keep_alive,
            patience: patience(request.scrape_timeout),
            stage: Stage::New,
        }
    }

    /// Whether it waits for a scrape: then it costs nothing.
    pub fn is_scraping(&self) -> bool {
        matches!(self.stage, Stage::Scraping { .. })
    }

    /// Whether it waits for compression. That goes on without credit once it has begun, because the text
    /// may be taken away meanwhile.
    pub fn is_compressing(&self) -> bool {
        matches!(self.stage, Stage::Compressing { .. })
    }

    /// Whether [`advance`](Self::advance) would change anything.
    pub fn is_ready(&self, site: &Site, now: Instant) -> bool {
        match self.stage {
            Stage::Scraping { n_succeeded, deadline, .. } => {
                now >= deadline || site.demand.has_succeeded(n_succeeded)
            }
            Stage::New | Stage::Compressing { .. } => true,
        }
    }

    /// Returns when the wait for a scrape ends.
    pub fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Scraping { deadline, .. } => Some(deadline),
            Stage::New | Stage::Compressing { .. } => None,
        }
    }

    /// Requests a scrape or compresses a piece. Returns the response once it is complete.
    pub fn advance(&mut self, site: &Site, now: Instant) -> Option<Response> {
        if matches!(self.stage, Stage::New)
            && let Freshness::WaitFor(n_succeeded) = site.demand.request(now)
            // The site holds the original, which does not stand for a waiting request.
            && Arc::strong_count(&site.places) <= MAX_WAITING
        {
            let (deadline, place) = (now + self.patience, site.places.clone());
            self.stage = Stage::Scraping { n_succeeded, deadline, _place: place };
            return None;
        }
        self.answer(site, now).map(|answer| Response::new(answer, self.head_only, self.keep_alive))
    }

    fn answer(&mut self, site: &Site, now: Instant) -> Option<Answer> {
        if self.accepts_gzip
            && !self.is_compressing()
            && let Some(latest) = site.published.latest()
        {
            self.stage = Stage::Compressing { number: latest.number };
        }
        if let Stage::Compressing { number } = self.stage {
            let mut compressor = site.compressor.borrow_mut();
            let gzipped = compressor.advance(&site.published, number)?;
            if let Some(bytes) = &gzipped.bytes {
                let headers = [EXPOSITION, UNCACHED, VARY, ("Content-Encoding", "gzip")];
                let answer = Answer::new(200, &headers, Body::Shared(bytes.clone(), gzipped.n_bytes));
                return Some(Answer { tail: gzipped.tail(now), ..answer });
            }
        }
        let Some(latest) = site.published.latest() else { return Some(not_ready()) };
        let tail = latest.age.map(|age| age.sample(now)).unwrap_or_default();
        let body = Body::Shared(latest.text, latest.len);
        Some(Answer { tail, ..Answer::new(200, &[EXPOSITION, UNCACHED, VARY], body) })
    }
}

/// Returns the answer before the first exposition.
pub fn not_ready() -> Answer {
    Answer::new(503, &[PLAIN, UNCACHED], "the first scrape is not complete yet\n")
}

/// Returns how long a request may wait: a little less than the client's timeout, given in seconds.
fn patience(scrape_timeout: &[u8]) -> Duration {
    let seconds = std::str::from_utf8(scrape_timeout).ok().and_then(|text| text.parse().ok());
    let timeout = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    timeout.map_or(USUAL_PATIENCE, |timeout| timeout - (timeout / 5).min(SPARE)).min(MAX_PATIENCE)
}
