//! A request for the exposition on its way to a response: it may wait for a scrape and for compression.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::head::Head;
use super::response::{Form, PLAIN, Response, UNCACHED};
use super::site::Site;
use super::views::{Refusal, View};
use crate::demand::Freshness;

const EXPOSITION: (&str, &str) = ("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
const VARY: (&str, &str) = ("Vary", "Accept-Encoding");

/// The maximum number of requests waiting for a scrape. Further requests get the last exposition.
const MAX_WAITING: usize = 64;
/// How long a request without a timeout waits for a scrape.
const USUAL_PATIENCE: Duration = Duration::from_secs(5);
/// The maximum time that a request waits for a scrape, because a waiting request holds a connection.
pub const MAX_PATIENCE: Duration = Duration::from_secs(30);
/// How long before the client's timeout the wait ends, so that the answer arrives in time.
const SPARE: Duration = Duration::from_millis(500);
/// How long a view may take after the wait for its scrape has ended.
const GRACE: Duration = Duration::from_millis(400);
/// How often a view that is not rendered yet wakes the thread that scrapes.
const TRY_INTERVAL: Duration = Duration::from_millis(250);

/// A request for the exposition that has been parsed and not answered yet.
pub struct Pending {
    form: Form,
    accepts_gzip: bool,
    /// The scrape that the request waits for.
    scrape: Option<Wait>,
    /// The view that the request waits for.
    view: Option<WaitForView>,
    /// The number of the exposition that is compressed for the request, which accepts a later one.
    compressing: Option<u64>,
}

/// A wait until more than this number of scrapes have succeeded, at most until the deadline. Then the request
/// gets the last exposition, whatever its age. The slot counts the request among the waiting ones.
struct Wait {
    n_succeeded: u64,
    deadline: Instant,
    _slot: Arc<()>,
}

/// A wait for a view, at most until the deadline. The thread that scrapes is woken from time to time, because
/// a view may lack CPU time.
struct WaitForView {
    view: Arc<View>,
    next_try: Instant,
    deadline: Instant,
}

impl Pending {
    /// Requests a scrape if the last exposition is not fresh, and waits for it if there is a free slot.
    pub fn new(site: &Site, request: &Head<'_>, now: Instant) -> Self {
        let scrape = match site.demand.request(now) {
            // The site holds the original, which stands for no waiting request.
            Freshness::WaitFor(n_succeeded) if Arc::strong_count(&site.wait_slots) <= MAX_WAITING => {
                let deadline = now + patience(request.scrape_timeout);
                Some(Wait { n_succeeded, deadline, _slot: site.wait_slots.clone() })
            }
            _ => None,
        };
        let (form, accepts_gzip) = (Form::of(request), request.accepts_gzip);
        Self { form, accepts_gzip, scrape, view: None, compressing: None }
    }

    /// Requests the view that the request's parameters describe.
    pub fn of_view(site: &Site, request: &Head<'_>, now: Instant) -> Result<Self, Refusal> {
        let (form, accepts_gzip) = (Form::of(request), request.accepts_gzip);
        let view = site.views.request(request.query, accepts_gzip, &site.demand, now)?;
        let Some(view) = view else { return Ok(Self::new(site, request, now)) };
        let deadline = now + patience(request.scrape_timeout);
        let view = Some(WaitForView { view, next_try: now + TRY_INTERVAL, deadline });
        Ok(Self { form, accepts_gzip, scrape: None, view, compressing: None })
    }

    /// Whether the request waits for a scrape, which costs nothing.
    pub fn is_scraping(&self) -> bool {
        self.scrape.is_some() || self.view.is_some()
    }

    /// Whether the request waits for compression. Compression continues without credit once it has begun,
    /// because the text may be taken for a scrape in the meantime.
    pub fn is_compressing(&self) -> bool {
        self.compressing.is_some()
    }

    /// Returns until when the request waits for a scrape; `None` when [`advance`](Self::advance) is due.
    pub fn waits_until(&self, site: &Site) -> Option<Instant> {
        if let Some(view) = &self.view {
            return (!view.view.is_answered()).then_some(view.next_try.min(view.deadline));
        }
        let wait = self.scrape.as_ref().filter(|wait| !site.demand.has_succeeded(wait.n_succeeded));
        wait.map(|wait| wait.deadline)
    }

    /// Ends the wait for a scrape and compresses a piece, if necessary. Returns the response once it is
    /// complete.
    pub fn advance(&mut self, site: &Site, now: Instant) -> Option<Response> {
        if self.view.is_some() {
            return self.advance_view(site, now);
        }
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

    /// Returns the response with a view. If the scrape takes too long, the last one is rendered; if that is
    /// impossible too, the response says so.
    fn advance_view(&mut self, site: &Site, now: Instant) -> Option<Response> {
        let WaitForView { view, next_try, deadline } = self.view.as_mut()?;
        if !view.is_answered() && now < *deadline {
            *next_try = now + TRY_INTERVAL;
            site.demand.requested().wake();
            return None;
        }
        if !view.is_answered() && view.end_wait(&site.demand) {
            *deadline = now + GRACE;
            return None;
        }
        let gzip = view.is_gzipped().then_some(("Content-Encoding", "gzip"));
        let headers: Vec<_> = [EXPOSITION, UNCACHED, VARY].into_iter().chain(gzip).collect();
        Some(match view.answer() {
            Ok(bytes) => Response::of_exposition(self.form, &headers, bytes, Vec::new()),
            Err(refusal) => refused(self.form, refusal),
        })
    }
}

/// Returns the response to a request for a view that is not served.
pub fn refused(form: Form, refusal: Refusal) -> Response {
    match refusal {
        Refusal::Invalid(line) => Response::new(form, 400, &[PLAIN], (line + "\n").into_bytes()),
        Refusal::Busy(line) => {
            Response::new(form, 503, &[PLAIN, UNCACHED, ("Retry-After", "5")], line.as_bytes())
        }
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
