//! Renders views, which are the expositions for requests to `/metrics` with parameters.
//!
//! The HTTP thread parses such a request, and puts its view into a queue. When the next scrape ends, the
//! scrape thread renders and compresses the view. All views together may take as much memory as one
//! exposition. A view counts towards this limit until its response is sent.

use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::publish::Buffer;
use crate::credit::Credit;
use crate::demand::{Demand, Freshness};
use crate::procfs::this_process::thread_cpu_time;
use crate::scrape::views::Query;

/// How many views may exist at once, including rendered views that are still being sent. Requests for further
/// views are refused.
const MAX_VIEWS: usize = 4;
/// If sending a view takes longer than this, the memory of the view may be freed to make room for another
/// view.
const MAX_SENDING: Duration = Duration::from_secs(5);
/// All views together may take this number of bytes, multiplied by `--max-samples`, and at least
/// [`MIN_BYTES`]. This is enough for one view with labels of 512 bytes in each sample, because such a sample
/// takes 560 bytes.
const BYTES_PER_SAMPLE: usize = 560;
const MIN_BYTES: usize = 4 << 20;
/// How many bytes all views together may take if the number of samples is not limited.
const BYTES_WITHOUT_LIMIT: usize = 256 << 20;
/// The average fraction of one core that may be used for rendering and compressing views. CPU time that is
/// not used accumulates, up to the amount that is allowed in `CPU_BURST`.
const CPU: f64 = 0.08;
const CPU_BURST: Duration = Duration::from_secs(5);
/// The compression level. Level 5 makes 10 MB of text 16 times smaller in 30 ms. Level 6 needs 38 ms, and
/// makes the text hardly smaller.
const LEVEL: Compression = Compression::new(5);

/// A function that parses the parameters of a request. It returns `None` if the parameters change nothing, so
/// that the usual exposition can be served. The error is a one-line message.
type Parse = Box<dyn Fn(&[u8]) -> Result<Option<Query>, String> + Send + Sync>;

/// The queue of views, which the HTTP thread and the scrape thread share.
pub struct Views {
    parse: Parse,
    max_bytes: usize,
    state: Mutex<State>,
}

struct State {
    /// The views with responses that are not sent completely yet.
    views: Vec<Arc<View>>,
    /// The CPU time that may now be used for rendering and compressing views.
    credit: Credit,
}

/// One view. Requests with equal parameters share the view.
pub struct View {
    query: Query,
    is_gzipped: bool,
    answer: Mutex<Answer>,
}

enum Answer {
    /// The view is not rendered yet. Rendering waits until the number of successful scrapes is larger than
    /// this number. `None` means that rendering need not wait for a further scrape.
    Waiting(Option<u64>),
    /// The view is rendered. The tuple has the bytes of the response and the time of rendering.
    Rendered(Arc<Buffer>, Instant),
    /// The view was too large for the memory that the other views left.
    TooLarge,
}

/// The reason why a view is not served.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The parameters are invalid. The text is one line that says why.
    Invalid(String),
    /// The view cannot be rendered now, and the client should repeat the request later. The text is one line
    /// that says why.
    Busy(&'static str),
}

impl Views {
    /// Creates an empty queue. The memory limit of the queue depends on `max_samples`.
    pub fn new(parse: Parse, max_samples: usize) -> Self {
        let max_bytes = match max_samples {
            0 => BYTES_WITHOUT_LIMIT,
            _ => MIN_BYTES.max(max_samples.saturating_mul(BYTES_PER_SAMPLE)),
        };
        let mut credit = Credit::new(CPU);
        credit.cap(CPU_BURST);
        Self { parse, max_bytes, state: Mutex::new(State { views: Vec::new(), credit }) }
    }

    /// Queues the view that these parameters describe. Requests a scrape if the last one is not fresh.
    /// Returns `None` if the parameters change nothing, so that the usual exposition can be served.
    pub fn request(
        &self,
        parameters: &[u8],
        is_gzipped: bool,
        demand: &Demand,
        now: Instant,
    ) -> Result<Option<Arc<View>>, Refusal> {
        let Some(query) = (self.parse)(parameters).map_err(Refusal::Invalid)? else { return Ok(None) };
        let mut state = lock(&self.state);
        state.views.retain(|view| view.is_used());
        let freshness = if query.needs_paths { demand.request_paths(now) } else { demand.request(now) };
        let n_succeeded = match freshness {
            Freshness::Fresh => None,
            Freshness::WaitFor(n) => Some(n),
        };
        let same = state.views.iter().find(|view| {
            let is_same = view.query == query && view.is_gzipped == is_gzipped;
            is_same && matches!(*lock(&view.answer), Answer::Waiting(n) if n == n_succeeded)
        });
        if let Some(same) = same {
            return Ok(Some(same.clone()));
        }
        if state.views.len() >= MAX_VIEWS && !state.take_oldest(now) {
            return Err(Refusal::Busy("too many views are requested at a time\n"));
        }
        let view = Arc::new(View { query, is_gzipped, answer: Mutex::new(Answer::Waiting(n_succeeded)) });
        state.views.push(view.clone());
        drop(state);
        demand.requested().wake();
        Ok(Some(view))
    }

    /// Renders the views that do not wait for a scrape any more. `render` appends a view to a text, and
    /// returns whether the view fits into the given number of bytes.
    pub fn render_due(&self, demand: &Demand, mut render: impl FnMut(&Query, &mut Vec<u8>, usize) -> bool) {
        while let Some((view, max_bytes)) = self.next_due(demand) {
            let clock = thread_cpu_time();
            let answer = view.render(max_bytes, &mut render);
            *lock(&view.answer) = answer;
            lock(&self.state).credit.spend(thread_cpu_time().saturating_sub(clock).as_secs_f64());
            demand.done().wake();
        }
    }

    /// Returns a view that is to be rendered now, and how many bytes it may take. Returns `None` if no view
    /// is due, or if no CPU time may be spent on views now.
    fn next_due(&self, demand: &Demand) -> Option<(Arc<View>, usize)> {
        let mut state = lock(&self.state);
        state.credit.earn(Instant::now(), CPU_BURST);
        if !state.credit.is_left() {
            return None;
        }
        let view = state.views.iter().find(|view| view.is_used() && view.is_due(demand))?;
        Some((view.clone(), self.max_bytes.saturating_sub(state.n_bytes())))
    }
}

impl State {
    /// Returns how much memory the rendered views take.
    fn n_bytes(&self) -> usize {
        self.views
            .iter()
            .filter(|view| view.is_used())
            .filter_map(|view| view.bytes())
            .map(|b| b.n_bytes())
            .sum()
    }

    /// Takes the oldest rendered view away from its connections, if sending it has taken too long. Returns
    /// whether a view was taken away.
    fn take_oldest(&mut self, now: Instant) -> bool {
        let rendered_at = |view: &Arc<View>| match &*lock(&view.answer) {
            Answer::Rendered(_, at) => Some(*at),
            _ => None,
        };
        let times = self.views.iter().map(rendered_at).enumerate();
        let oldest = times.filter_map(|(i, at)| Some((at?, i))).min();
        let oldest = oldest.filter(|(at, _)| now.saturating_duration_since(*at) >= MAX_SENDING);
        let Some((_, i)) = oldest else { return false };
        self.views.swap_remove(i).bytes().iter().for_each(|bytes| bytes.take());
        true
    }
}

impl View {
    /// Whether a request still waits for the view, or a response with the view is being sent.
    fn is_used(self: &Arc<Self>) -> bool {
        let is_sent = match &*lock(&self.answer) {
            Answer::Rendered(bytes, _) => Arc::strong_count(bytes) > 1,
            _ => false,
        };
        is_sent || Arc::strong_count(self) > 1
    }

    fn is_due(&self, demand: &Demand) -> bool {
        match *lock(&self.answer) {
            Answer::Waiting(n) => demand.has_succeeded(n.unwrap_or(0)), // nothing precedes the first scrape
            _ => false,
        }
    }

    fn bytes(&self) -> Option<Arc<Buffer>> {
        match &*lock(&self.answer) {
            Answer::Rendered(bytes, _) => Some(bytes.clone()),
            _ => None,
        }
    }

    /// Renders the view, and compresses it if the client accepts gzip.
    fn render(
        &self,
        max_bytes: usize,
        render: &mut impl FnMut(&Query, &mut Vec<u8>, usize) -> bool,
    ) -> Answer {
        let mut text = Vec::new();
        if !render(&self.query, &mut text, max_bytes) {
            return Answer::TooLarge;
        }
        if self.is_gzipped {
            let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 16 + 64), LEVEL);
            encoder.write_all(&text).expect("a Vec takes every write");
            text = encoder.finish().expect("a Vec takes every write");
        }
        text.shrink_to_fit();
        Answer::Rendered(Arc::new(Buffer::new(text)), Instant::now())
    }

    /// Whether the view is rendered or refused, so that the request can be answered.
    pub fn is_answered(&self) -> bool {
        !matches!(*lock(&self.answer), Answer::Waiting(_))
    }

    /// Returns the bytes of the response, or the reason why the view is refused.
    pub fn answer(&self) -> Result<Arc<Buffer>, Refusal> {
        match &*lock(&self.answer) {
            Answer::Waiting(_) => Err(Refusal::Busy("no scrape has ended in time\n")),
            Answer::Rendered(bytes, _) => Ok(bytes.clone()),
            Answer::TooLarge => Err(Refusal::Busy(
                "the view does not fit into memory: expected a narrower filter or fewer fields\n",
            )),
        }
    }

    /// Whether the bytes of the response are gzipped.
    pub fn is_gzipped(&self) -> bool {
        self.is_gzipped
    }

    /// Stops waiting for the next scrape, so that the view is rendered from the last scrape. Returns whether
    /// the view has been waiting.
    ///
    /// Returns false and changes nothing if another request waits for the same view. A view that needs the
    /// paths of mappings also continues to wait, because the last scrape may not have read paths.
    pub fn end_wait(self: &Arc<Self>, demand: &Demand) -> bool {
        let is_shared = Arc::strong_count(self) > 2; // the queue holds it, too
        if is_shared || self.query.needs_paths {
            return false;
        }
        let Answer::Waiting(n) = &mut *lock(&self.answer) else { return false };
        let has_waited = n.take().is_some();
        demand.requested().wake();
        has_waited
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::totals::shape::Shape;

    /// Returns an empty queue, a `Demand` after its first successful scrape, and the current time. In this
    /// queue, the parameters of a request are a number N, which is stored in `max_samples`. The function
    /// `render_due` below renders such a view as N KiB of text.
    fn queue() -> (Views, Demand, Instant) {
        let parse = |parameters: &[u8]| {
            let number = str::from_utf8(parameters).ok().and_then(|text| text.parse().ok());
            let max_samples = number.ok_or_else(|| "expected a number".to_owned())?;
            let shape = Shape { max_samples, ..Shape::default() };
            Ok((max_samples > 0).then_some(Query { shape, filters: Vec::new(), needs_paths: false }))
        };
        let now = Instant::now();
        let demand = Demand::new(Duration::from_secs(60), now).unwrap();
        demand.begin(now);
        demand.end(true, None, now);
        (Views::new(Box::new(parse), 1), demand, now)
    }

    fn render_due(views: &Views, demand: &Demand) {
        views.render_due(demand, |query, text, max_bytes| {
            text.resize(query.shape.max_samples << 10, b'x');
            text.len() <= max_bytes
        });
    }

    fn request(queue: &(Views, Demand, Instant), parameters: &str) -> Result<Arc<View>, Refusal> {
        let (views, demand, now) = queue;
        let view = views.request(parameters.as_bytes(), false, demand, *now);
        view.map(|view| view.expect("it is not the one rendered ahead"))
    }

    fn is_too_large(view: &View) -> bool {
        matches!(*lock(&view.answer), Answer::TooLarge)
    }

    #[test]
    fn parameters_without_effect_name_the_exposition_rendered_ahead() {
        let queue = queue();
        assert!(queue.0.request(b"0", false, &queue.1, queue.2).unwrap().is_none());
        let error = queue.0.request(b"x", false, &queue.1, queue.2).err();
        assert_eq!(error, Some(Refusal::Invalid("expected a number".into())));
    }

    #[test]
    fn all_views_together_have_a_limit() {
        let queue = queue();
        let large = request(&queue, "3000").unwrap();
        let small = request(&queue, "1000").unwrap();
        let too_large = request(&queue, "2000").unwrap();
        render_due(&queue.0, &queue.1);
        assert_eq!([&large, &small, &too_large].map(|view| is_too_large(view)), [false, false, true]);
        assert_eq!(large.answer().unwrap().n_bytes(), 3000 << 10);
        let sent = large.answer().unwrap();
        drop(large);
        let again = request(&queue, "2001").unwrap();
        render_due(&queue.0, &queue.1);
        assert!(is_too_large(&again), "the large one is still being sent");
        drop(sent);
        let again = request(&queue, "2002").unwrap();
        render_due(&queue.0, &queue.1);
        assert!(!is_too_large(&again));
    }

    #[test]
    fn fifth_view_is_refused_until_another_is_sent() {
        let queue = queue();
        let mut views: Vec<_> = ["1", "2", "3", "4"].map(|n| request(&queue, n).unwrap()).into();
        let same = request(&queue, "4").unwrap();
        assert!(Arc::ptr_eq(&same, &views[3]), "equal requests share a view");
        assert!(matches!(request(&queue, "5"), Err(Refusal::Busy(_))));
        drop(views.pop());
        assert!(matches!(request(&queue, "5"), Err(Refusal::Busy(_))), "one of the two still waits");
        drop(same);
        views.push(request(&queue, "5").unwrap());
        render_due(&queue.0, &queue.1);
        assert!(matches!(request(&queue, "6"), Err(Refusal::Busy(_))));
    }

    #[test]
    fn unread_view_makes_room_for_another() {
        let queue = queue();
        let views = ["1", "2", "3", "4"].map(|n| request(&queue, n).unwrap());
        render_due(&queue.0, &queue.1);
        let bytes = views.map(|view| view.answer().unwrap());
        let late = (queue.0, queue.1, Instant::now() + MAX_SENDING);
        let _view = request(&late, "5").unwrap();
        let n_left = bytes.iter().filter(|bytes| bytes.bytes().is_some()).count();
        assert_eq!(n_left, 3);
    }

    #[test]
    fn a_view_waits_for_the_scrape_that_answers_it() {
        let (views, demand, now) = queue();
        let queue = (views, demand, now + Duration::from_secs(61));
        let [view, impatient] = ["1", "2"].map(|n| request(&queue, n).unwrap());
        render_due(&queue.0, &queue.1);
        assert!(!view.is_answered() && view.answer().is_err());
        let patient = request(&queue, "2").unwrap();
        assert!(!impatient.end_wait(&queue.1), "another request shares the wait");
        drop(patient);
        assert!(impatient.end_wait(&queue.1) && !impatient.end_wait(&queue.1));
        render_due(&queue.0, &queue.1);
        assert!(!view.is_answered() && impatient.is_answered());
        queue.1.begin(queue.2);
        queue.1.end(true, None, queue.2);
        render_due(&queue.0, &queue.1);
        assert!(view.is_answered() && view.answer().is_ok());
    }

    #[test]
    fn views_have_their_own_credit() {
        let queue = queue();
        lock(&queue.0.state).credit.spend(1e6);
        let view = request(&queue, "1").unwrap();
        render_due(&queue.0, &queue.1);
        assert!(!view.is_answered());
    }
}
