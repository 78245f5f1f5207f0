//! Lists the containers: when a listing begins, what it returned, and whether the runtime is up.

use std::time::{Duration, Instant};

use log::{debug, info, warn};

use super::schedule::Schedule;
use crate::demand::Wake;
use crate::sources::{Listing, Source};

/// If a listing takes longer than this, the runtime is considered down. Even on a node with 1,000 containers,
/// a listing takes under a second.
const LATE: Duration = Duration::from_secs(5);

/// If a container seems to have started or ended since the last listing, the scrape begins a new listing and
/// waits for it at most this long. With 50 pods, a listing takes 30 ms.
const PATIENCE: Duration = Duration::from_millis(300);

/// The source that lists the containers, the schedule of its listings, and whether they have succeeded.
#[derive(Debug)]
pub struct Listings {
    source: Box<dyn Source>,
    schedule: Schedule,
    /// Whether the last listing succeeded and the runtime has been up since then.
    is_up: bool,
    has_listed: bool,
    n_errors: u64,
    /// The error of the last listing; `None` if it succeeded.
    last_error: Option<String>,
}

impl Listings {
    /// Creates the listings of `source`. The first listing has not begun yet.
    pub fn new(source: Box<dyn Source>) -> Self {
        let schedule = Schedule::default();
        Self { source, schedule, is_up: false, has_listed: false, n_errors: 0, last_error: None }
    }

    /// Returns a description of the source for the log.
    pub fn describe_source(&self) -> String {
        self.source.describe()
    }

    /// Returns the name of the runtime that lists the containers; `None` if recorded files are read instead.
    pub fn lister(&self) -> Option<&'static str> {
        self.source.lister()
    }

    /// Whether a listing may name containers that have ended.
    pub fn includes_ended(&self) -> bool {
        self.source.lists_ended_containers()
    }

    /// Whether any listing has succeeded.
    pub fn has_listed(&self) -> bool {
        self.has_listed
    }

    /// Returns how many listings failed.
    pub fn n_errors(&self) -> u64 {
        self.n_errors
    }

    /// Whether the container runtime is up; `None` if recorded files are read instead of a live node. While a
    /// listing is late, the runtime counts as down.
    pub fn is_runtime_up(&self, now: Instant) -> Option<bool> {
        self.source.lister()?;
        let is_late = self.schedule.began_at().is_some_and(|began| now > began + LATE);
        Some(self.is_up && !(self.source.is_listing() && is_late))
    }

    /// Begins the first listing and waits for it until `deadline`.
    pub fn begin_first(&mut self, deadline: Instant) {
        self.schedule.begin(Instant::now());
        self.source.begin_listing();
        self.source.wait_for_listing(deadline);
    }

    /// Fails with a one-line message if the first listing has not ended yet.
    pub fn check_answered(&self) -> Result<(), String> {
        match self.source.lister() {
            Some(runtime) if self.source.is_listing() => Err(format!("{runtime} has not answered yet")),
            _ => Ok(()),
        }
    }

    /// Begins a listing if one is due and none is running. `is_unexplained` says that a container seems to
    /// have started or ended since the last listing, for example because a process is in an unknown cgroup.
    /// If `is_unexplained` is true and the runtime is up, the call waits a moment for the listing that it has
    /// begun. Returns whether the call has waited.
    pub fn begin_if_due(&mut self, is_unexplained: bool, now: Instant) -> bool {
        if is_unexplained {
            self.schedule.see_unexplained(now);
        }
        if self.source.is_listing() || !self.schedule.is_due(now) {
            return false;
        }
        self.schedule.begin(now);
        self.source.begin_listing();
        // The scrape waits for the listing, because otherwise a new container would appear only in the next
        // scrape, which may be minutes away. If the runtime is down, the scrape does not wait, because the
        // runtime may never answer.
        let is_awaited = is_unexplained && self.is_up;
        if is_awaited {
            self.source.wait_for_listing(now + PATIENCE);
        }
        is_awaited
    }

    /// Returns the listing that has ended since the last call, if there is one. This call never waits.
    ///
    /// Fails with a one-line message if the listing failed.
    pub fn take(&mut self, now: Instant) -> Result<Option<Listing>, String> {
        let taken = match self.source.take_listing() {
            None => Ok(None),
            Some(Ok(listing)) => {
                if self.last_error.take().is_some() {
                    info!("containers are listed again");
                }
                (self.is_up, self.has_listed) = (true, true);
                debug!("{} containers are listed", listing.containers.len());
                self.schedule.succeed(listing.more_to_come, now);
                Ok(Some(listing))
            }
            Some(Err(error)) => {
                self.last_error = Some(error.clone());
                self.is_up = false;
                self.n_errors += 1;
                self.schedule.fail();
                Err(error)
            }
        };
        if self.is_up && self.source.has_runtime_ended() {
            let runtime = self.source.lister().unwrap_or_default();
            let lost =
                format!("{runtime} has ended or restarted: the containers it listed last are still read");
            warn!("{lost}");
            self.is_up = false;
            self.schedule.note_runtime_end();
            self.last_error = Some(lost);
        }
        taken
    }

    /// Does the same as [`Listings::take`], but logs an error. If the previous listing also failed, nothing
    /// is logged.
    pub fn take_and_log(&mut self, now: Instant) -> Option<Listing> {
        let has_failed = self.last_error.is_some();
        self.take(now).unwrap_or_else(|error| {
            if !has_failed {
                warn!("{error}");
            }
            None
        })
    }

    /// Waits until `deadline`, or until `wake` reports a change. Meanwhile, a listing in progress continues.
    pub fn wait_until(&mut self, deadline: Instant, wake: &Wake) {
        self.source.wait_until(deadline, wake);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex, MutexGuard};

    use super::*;

    /// A source that returns the listings that a test has put into it.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct FakeSource(Arc<Mutex<State>>);

    #[derive(Debug, Default)]
    pub(crate) struct State {
        pub(crate) answer: Option<Result<Listing, String>>,
        pub(crate) n_begun: u32,
        is_listing: bool,
        is_lost: bool,
        pub(crate) includes_ended: bool,
    }

    impl FakeSource {
        pub(crate) fn state(&self) -> MutexGuard<'_, State> {
            self.0.lock().unwrap()
        }
    }

    impl Source for FakeSource {
        fn lister(&self) -> Option<&'static str> {
            Some("fake")
        }

        fn describe(&self) -> String {
            "containers are made up by the test".into()
        }

        fn lists_ended_containers(&self) -> bool {
            self.state().includes_ended
        }

        fn begin_listing(&mut self) {
            let mut state = self.state();
            state.n_begun += 1;
            state.is_listing = true;
        }

        fn is_listing(&self) -> bool {
            self.state().is_listing
        }

        fn take_listing(&mut self) -> Option<Result<Listing, String>> {
            let mut state = self.state();
            let answer = state.answer.take();
            state.is_listing &= answer.is_none();
            answer
        }

        fn has_runtime_ended(&mut self) -> bool {
            std::mem::take(&mut self.state().is_lost)
        }

        fn wait_for_listing(&mut self, _: Instant) {}

        fn wait_until(&mut self, _: Instant, _: &Wake) {}
    }

    #[test]
    fn runtime_is_up_while_listings_succeed_in_time() {
        let source = FakeSource::default();
        let (mut listings, start) = (Listings::new(Box::new(source.clone())), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let succeed = |listings: &mut Listings, ms| {
            source.state().answer = Some(Ok(Listing::default()));
            assert!(listings.take(at(ms)).unwrap().is_some());
        };
        assert_eq!(listings.is_runtime_up(at(0)), Some(false), "nothing is listed yet");
        assert!(!listings.begin_if_due(true, at(0)), "a runtime that is not up is not waited for");
        source.state().answer = Some(Err("no answer".into()));
        assert_eq!(listings.take(at(100)).unwrap_err(), "no answer");
        assert_eq!((listings.is_runtime_up(at(100)), listings.n_errors()), (Some(false), 1));
        listings.begin_if_due(false, at(700));
        succeed(&mut listings, 700);
        assert_eq!(listings.is_runtime_up(at(700)), Some(true));
        assert!(listings.take(at(800)).unwrap().is_none());
        assert_eq!(listings.is_runtime_up(at(800)), Some(true), "no answer yet is no end");
        listings.begin_if_due(false, at(60_700));
        assert_eq!(listings.is_runtime_up(at(65_700)), Some(true));
        assert_eq!(listings.is_runtime_up(at(65_701)), Some(false), "the listing is late");
        succeed(&mut listings, 66_000);
        assert_eq!(listings.is_runtime_up(at(66_000)), Some(true));
        source.state().is_lost = true;
        assert!(listings.take_and_log(at(67_000)).is_none());
        assert_eq!(listings.is_runtime_up(at(67_000)), Some(false), "the runtime has ended");
        let n_begun = source.state().n_begun;
        listings.begin_if_due(false, at(67_000));
        assert_eq!(source.state().n_begun, n_begun + 1, "it is listed again as soon as possible");
        assert_eq!(listings.n_errors(), 1, "an end is no failed listing");
    }

    #[test]
    fn the_first_listing_fails_without_an_answer() {
        let source = FakeSource::default();
        let mut listings = Listings::new(Box::new(source.clone()));
        let now = Instant::now();
        listings.begin_first(now);
        assert!(listings.take(now).unwrap().is_none());
        assert_eq!(listings.check_answered(), Err("fake has not answered yet".into()));
        source.state().answer = Some(Ok(Listing::default()));
        assert!(listings.take(now).unwrap().is_some());
        assert_eq!((listings.check_answered(), listings.has_listed()), (Ok(()), true));
    }
}
