//! Keeps a request for an exposition until it is answered. The request may wait for a scrape, and then for
//! compression.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::head::Head;
use super::response::{Form, PLAIN, Response, UNCACHED};
use super::site::Site;
use super::views::{Refusal, View};
use crate::demand::Freshness;

const EXPOSITION: (&str, &str) = ("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
const VARY: (&str, &str) = ("Vary", "Accept-Encoding");

/// The maximum number of requests that wait for a scrape. Further requests get the last exposition at once.
const MAX_WAITING: usize = 64;
/// How long a request waits for a scrape if the client sends no timeout.
const USUAL_PATIENCE: Duration = Duration::from_secs(5);
/// The maximum time that a request waits for a scrape. It is limited, because a waiting request holds a
/// connection.
pub const MAX_PATIENCE: Duration = Duration::from_secs(30);
/// The wait for a scrape ends this long before the client's timeout, so that the response arrives in time.
const SPARE: Duration = Duration::from_millis(500);
/// A request with parameters first waits for the next scrape. If the scrape takes too long, the exposition is
/// rendered from the last scrape, and the request waits at most this long for the rendering.
const GRACE: Duration = Duration::from_millis(400);
/// The interval at which a request with parameters wakes the scrape thread, until that thread has rendered an
/// exposition for the request.
const TRY_INTERVAL: Duration = Duration::from_millis(250);

/// A parsed request for an exposition. The request is not answered yet.
pub struct Pending {
    form: Form,
    accepts_gzip: bool,
    /// The scrape that the request waits for.
    scrape: Option<Wait>,
    /// The view that the request waits for.
    view: Option<WaitForView>,
    /// The number of the exposition that is being compressed for this request. The request also accepts a
    /// later exposition.
    compressing: Option<u64>,
}

/// A wait for the next scrape. `n_succeeded` is the number of successful scrapes at the beginning of the
/// wait. The wait ends when this number has grown, or at the deadline. At the deadline, the request gets the
/// last exposition, even if it is old. `_slot` counts this request as waiting.
struct Wait {
    n_succeeded: u64,
    deadline: Instant,
    _slot: Arc<()>,
}

/// A wait for a view, which is an exposition for the parameters of a request. While the CPU time for views is
/// used up, the scrape thread renders no views. It does not wake by itself as soon as CPU time is available
/// again. So the request wakes the scrape thread at `next_try`.
struct WaitForView {
    view: Arc<View>,
    next_try: Instant,
    deadline: Instant,
}

impl Pending {
    /// Requests a scrape if the last exposition is not fresh. Then waits for the scrape, unless too many
    /// requests already wait.
    pub fn new(site: &Site, request: &Head<'_>, now: Instant) -> Self {
        let scrape = match site.demand.request(now) {
            // Each waiting request holds a clone of `wait_slots`, so the number of clones counts the waiting
            // requests. `site` holds one more.
            Freshness::WaitFor(n_succeeded) if Arc::strong_count(&site.wait_slots) <= MAX_WAITING => {
                let deadline = now + patience(request.scrape_timeout);
                Some(Wait { n_succeeded, deadline, _slot: site.wait_slots.clone() })
            }
            _ => None,
        };
        let (form, accepts_gzip) = (Form::of(request), request.accepts_gzip);
        Self { form, accepts_gzip, scrape, view: None, compressing: None }
    }

    /// Requests the view that the parameters of the request describe.
    pub fn of_view(site: &Site, request: &Head<'_>, now: Instant) -> Result<Self, Refusal> {
        let (form, accepts_gzip) = (Form::of(request), request.accepts_gzip);
        let view = site.views.request(request.query, accepts_gzip, &site.demand, now)?;
        let Some(view) = view else { return Ok(Self::new(site, request, now)) };
        let deadline = now + patience(request.scrape_timeout);
        let view = Some(WaitForView { view, next_try: now + TRY_INTERVAL, deadline });
        Ok(Self { form, accepts_gzip, scrape: None, view, compressing: None })
    }

    /// Whether the request waits for the scrape thread, which runs scrapes and renders the views that
    /// requests with parameters describe.
    pub fn is_scraping(&self) -> bool {
        self.scrape.is_some() || self.view.is_some()
    }

    /// Whether compression of the exposition has begun for this request. Then the request continues even if
    /// the CPU time for responses is used up. If it paused, the next scrape might free the text of the
    /// exposition before all of it is compressed.
    pub fn is_compressing(&self) -> bool {
        self.compressing.is_some()
    }

    /// Returns the deadline of a request that waits for a scrape, or for an exposition with other parameters.
    /// `None` means that the wait is over, and that [`advance`](Self::advance) must be called now.
    pub fn waits_until(&self, site: &Site) -> Option<Instant> {
        if let Some(view) = &self.view {
            return (!view.view.is_answered()).then_some(view.next_try.min(view.deadline));
        }
        let wait = self.scrape.as_ref().filter(|wait| !site.demand.has_succeeded(wait.n_succeeded));
        wait.map(|wait| wait.deadline)
    }

    /// Makes the next step towards the response. Returns the response, or `None` if more steps are needed.
    /// Call this only when the time that [`waits_until`](Self::waits_until) returns has come, or when it
    /// returns `None`. If the client accepts gzip, each step compresses one piece of the latest exposition.
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

    /// Returns the response to a request for a view, or `None` while the request still waits. If the next
    /// scrape takes too long, the view is rendered from the last scrape. The response is an error if
    /// rendering takes too long as well, if [`View::end_wait`] does not allow the use of the last scrape, or
    /// if the view is refused.
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

/// Returns the error response to a request with parameters. `refusal` is the reason why there is no
/// exposition for these parameters.
pub fn refused(form: Form, refusal: Refusal) -> Response {
    match refusal {
        Refusal::Invalid(line) => Response::new(form, 400, &[PLAIN], (line + "\n").into_bytes()),
        Refusal::Busy(line) => {
            Response::new(form, 503, &[PLAIN, UNCACHED, ("Retry-After", "5")], line.as_bytes())
        }
    }
}

/// Returns the response to a request that arrives before the first exposition is ready.
pub fn not_ready(form: Form) -> Response {
    Response::new(form, 503, &[PLAIN, UNCACHED], b"the first scrape is not complete yet\n")
}

/// Returns how long a request may wait: a little less than the client's timeout. `scrape_timeout` is that
/// timeout in seconds, as text.
fn patience(scrape_timeout: &[u8]) -> Duration {
    let seconds = str::from_utf8(scrape_timeout).ok().and_then(|text| text.parse().ok());
    let timeout = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    timeout.map_or(USUAL_PATIENCE, |timeout| timeout - (timeout / 5).min(SPARE)).min(MAX_PATIENCE)
}
