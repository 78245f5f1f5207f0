//! Which container each process belongs to, and when to ask containerd again.
//!
//! The pass over proc shows nearly all that changes: a new container is a process in a cgroup that nobody knows, one that ends is an init
//! process that is gone. So containerd, whom a listing costs 0.6 ms CPU a task, is asked only then, and once a minute to be sure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};

use crate::node::filter::Filter;
use crate::procfs::Pass;
use crate::procfs::cgroup::Owners;
use crate::sources::Container;
use crate::sources::containerd::{Containerd, Listing};
use crate::sources::recording::Recording;

/// How long containerd may take to know of a container whose first process is already there. A listing that begins
/// later than this after something new was seen has explained it.
const SETTLED: Duration = Duration::from_secs(2);
/// A listing that takes longer than this is late; on a node with 1,000 containers it takes under a second.
const LATE: Duration = Duration::from_secs(5);
/// The longest time between two listings.
const TO_BE_SURE: Duration = Duration::from_secs(60);
/// The shortest time between two listings, and the first pause after a failed one; it doubles with each.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// Where containers come from.
#[derive(Debug)]
pub enum Source {
    /// Asked.
    Containerd(Box<Containerd>),
    /// Read.
    Recording(Recording),
}

/// The containers of the node, and the cgroups that are theirs.
#[derive(Debug)]
pub struct Discovery {
    source: Source,
    containers: Vec<Tracked>,
    owners: Owners,
    /// The cgroup paths that are no container's, with the number of the pass that saw each last.
    strangers: HashMap<Box<[u8]>, u64>,
    pass_number: u64,
    schedule: Schedule,
    /// Whether the last listing succeeded and the one who answered lives.
    is_up: bool,
    n_errors: u64,
    last_error: Option<String>,
}

/// A container, and what the passes have shown of it.
#[derive(Debug)]
pub struct Tracked {
    /// What is known of it.
    pub container: Container,
    /// Its label text, see [`Container::labels`].
    pub labels: Arc<str>,
    /// Whether a filter can take a process of it.
    pub is_wanted: bool,
    /// When its init process began, once seen; another process with the same pid began at another time.
    init_started: Option<u64>,
    init_is_gone: bool,
    cgroup: Vec<u8>,
}

/// When to list.
#[derive(Debug)]
struct Schedule {
    /// When something was seen that no listing has explained yet.
    unexplained_since: Option<Instant>,
    /// When the last good listing began.
    listed_at: Option<Instant>,
    began_at: Option<Instant>,
    pause: Duration,
}

impl Schedule {
    fn is_due(&self, now: Instant) -> bool {
        if self.began_at.is_some_and(|began| now < began + self.pause) {
            return false;
        }
        let Some(listed) = self.listed_at else { return true };
        now >= listed + TO_BE_SURE || self.unexplained_since.is_some_and(|since| listed < since + SETTLED)
    }

    fn lengthen_pause(&mut self) {
        self.pause = (2 * self.pause).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    }
}

impl Discovery {
    /// Containers from `source`, none yet.
    pub fn new(source: Source) -> Self {
        let schedule =
            Schedule { unexplained_since: None, listed_at: None, began_at: None, pause: Duration::ZERO };
        Self {
            source,
            containers: Vec::new(),
            owners: Owners::default(),
            strangers: HashMap::new(),
            pass_number: 0,
            schedule,
            is_up: false,
            n_errors: 0,
            last_error: None,
        }
    }

    /// The containers known.
    pub fn containers(&self) -> &[Tracked] {
        &self.containers
    }

    /// Whether containerd answers; `None` for a recording. One that lets a listing wait does not.
    pub fn containerd_up(&self, now: Instant) -> Option<bool> {
        let Source::Containerd(containerd) = &self.source else { return None };
        let is_late = self.schedule.began_at.is_some_and(|began| now > began + LATE);
        Some(self.is_up && !(containerd.is_listing() && is_late))
    }

    /// Listings that failed.
    pub fn n_errors(&self) -> u64 {
        self.n_errors
    }

    /// The container that owns the cgroup at `path`, as a position in [`Discovery::containers`].
    pub fn owner_of(&self, path: &[u8]) -> Option<u32> {
        self.owners.owner_of(path)
    }

    /// Waits for the first listing, so that the first scrape has containers.
    ///
    /// Fails with one line when there is none until `deadline`.
    pub fn list_first(&mut self, filters: &[Filter], deadline: Instant) -> Result<(), String> {
        if let Source::Containerd(containerd) = &mut self.source {
            self.schedule.began_at = Some(Instant::now());
            containerd.begin();
            containerd.wait_for_listing(deadline);
        }
        self.take_listing(filters, Instant::now())?;
        match &self.source {
            Source::Containerd(containerd) if containerd.is_listing() => {
                Err("containerd has not answered yet".into())
            }
            _ => Ok(()),
        }
    }

    /// Takes what the source has to say. Never waits.
    pub fn refresh(&mut self, filters: &[Filter], now: Instant) {
        let has_failed = self.last_error.is_some();
        match self.take_listing(filters, now) {
            Err(error) if !has_failed => warn!("{error}"),
            _ => {}
        }
    }

    fn take_listing(&mut self, filters: &[Filter], now: Instant) -> Result<(), String> {
        let listed = match &mut self.source {
            Source::Recording(recording) => {
                recording.containers().map(|found| found.map(|containers| (containers, false)))
            }
            Source::Containerd(containerd) => {
                if self.is_up && containerd.is_lost() {
                    self.is_up = false;
                    self.schedule.listed_at = None; // list as soon as may be
                    let lost = "containerd has ended: the containers known go on being read";
                    warn!("{lost}");
                    self.last_error = Some(lost.into());
                }
                containerd.take().transpose().map_err(|error| error.to_string()).map(|listing| {
                    listing.map(|Listing { containers, more_to_come, .. }| (containers, more_to_come))
                })
            }
        };
        match listed {
            Ok(None) => Ok(()),
            Ok(Some((containers, more_to_come))) => {
                self.succeed(containers, more_to_come, filters, now);
                Ok(())
            }
            Err(error) => {
                self.fail(&error);
                Err(error)
            }
        }
    }

    fn succeed(&mut self, containers: Vec<Container>, more_to_come: bool, filters: &[Filter], now: Instant) {
        if self.last_error.take().is_some() {
            info!("containers are listed again");
        }
        self.is_up = true;
        self.schedule.listed_at = self.schedule.began_at;
        if more_to_come {
            self.schedule.unexplained_since = Some(now);
            self.schedule.lengthen_pause(); // a task may stay created for good
        } else {
            self.schedule.pause = SHORTEST_PAUSE;
        }
        self.adopt(containers, filters);
    }

    fn fail(&mut self, error: &str) {
        self.last_error = Some(error.into());
        self.is_up = false;
        self.n_errors += 1;
        self.schedule.listed_at = None;
        self.schedule.lengthen_pause();
    }

    /// Replaces the containers, keeping what is known of those that stay.
    fn adopt(&mut self, containers: Vec<Container>, filters: &[Filter]) {
        // Both are in the order of ids.
        let mut before = std::mem::take(&mut self.containers).into_iter().peekable();
        self.containers.extend(containers.into_iter().map(|container| {
            while before.next_if(|tracked| tracked.container.id < container.id).is_some() {}
            before.next_if(|tracked| tracked.container == container).unwrap_or_else(|| {
                let Container { namespace, pod, name, .. } = &container;
                Tracked {
                    labels: container.labels().into(),
                    is_wanted: filters.iter().any(|filter| filter.matches_container(namespace, pod, name)),
                    container,
                    init_started: None,
                    init_is_gone: false,
                    cgroup: Vec::new(),
                }
            })
        }));
        self.claim_cgroups();
    }

    fn claim_cgroups(&mut self) {
        self.owners.clear();
        for (i, tracked) in
            self.containers.iter().enumerate().filter(|(_, tracked)| !tracked.cgroup.is_empty())
        {
            self.owners.claim(&tracked.cgroup, i as u32);
        }
    }

    /// Looks at a pass: finds the containers' cgroups, and whatever calls for another listing.
    pub fn observe(&mut self, pass: &Pass, now: Instant) {
        let mut is_unexplained = false;
        let mut has_moved = false;
        for tracked in &mut self.containers {
            let Some(init_pid) = tracked.container.init_pid else { continue };
            let init = pass.find(init_pid);
            let is_same = |started: u64| tracked.init_started.is_none_or(|known| known == started);
            let Some(init) = init.filter(|init| is_same(init.started)) else {
                // Its cgroup stays its own until a listing says that it has ended.
                is_unexplained |= !tracked.init_is_gone;
                tracked.init_is_gone = true;
                continue;
            };
            tracked.init_started = Some(init.started);
            tracked.init_is_gone = false;
            let cgroup = pass.cgroup(init);
            if tracked.cgroup != cgroup {
                is_unexplained |= !tracked.cgroup.is_empty();
                has_moved = true;
                tracked.cgroup.clear();
                tracked.cgroup.extend_from_slice(cgroup);
            }
        }
        if has_moved {
            self.claim_cgroups();
        }
        self.pass_number += 1;
        let mut n_strangers = 0;
        for process in &pass.processes {
            let path = pass.cgroup(process);
            if self.owners.owner_of(path).is_some() {
                continue;
            }
            match self.strangers.get_mut(path) {
                Some(seen) => {
                    n_strangers += usize::from(*seen != self.pass_number);
                    *seen = self.pass_number;
                }
                None => {
                    is_unexplained = true;
                    n_strangers += 1;
                    self.strangers.insert(path.into(), self.pass_number);
                }
            }
        }
        if n_strangers < self.strangers.len() {
            self.strangers.retain(|_, seen| *seen == self.pass_number);
            self.strangers.shrink_to(2 * n_strangers);
        }
        if is_unexplained {
            self.schedule.unexplained_since = Some(now);
        }
        if let Source::Containerd(containerd) = &mut self.source
            && !containerd.is_listing()
            && self.schedule.is_due(now)
        {
            self.schedule.began_at = Some(now);
            containerd.begin();
        }
    }

    /// Waits until `deadline`; meanwhile a listing goes on.
    pub fn wait_until(&mut self, deadline: Instant) {
        match &mut self.source {
            Source::Containerd(containerd) => containerd.wait_until(deadline),
            Source::Recording(_) => std::thread::sleep(deadline.saturating_duration_since(Instant::now())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// A discovery that a test tells what was listed and seen, and when.
    struct Node {
        discovery: Discovery,
        filters: [Filter; 1],
        start: Instant,
    }

    impl Node {
        fn new() -> Self {
            let source = Source::Recording(Recording::new(Path::new("/does/not/exist")));
            let filters = [Filter::parse("*/*/*/*").unwrap()];
            Self { discovery: Discovery::new(source), filters, start: Instant::now() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn is_due(&self, ms: u64) -> bool {
            self.discovery.schedule.is_due(self.at(ms))
        }

        /// A listing that begins and ends at this time: containers by id and pid.
        fn list(&mut self, ms: u64, containers: &[(&str, u32)], more_to_come: bool) {
            let containers = containers.iter().map(|&(id, init_pid)| Container {
                id: id.into(),
                init_pid: Some(init_pid),
                namespace: "default".into(),
                pod: "pod".into(),
                name: id.into(),
            });
            self.discovery.schedule.began_at = Some(self.at(ms));
            let (containers, now) = (containers.collect(), self.at(ms));
            self.discovery.succeed(containers, more_to_come, &self.filters, now);
        }

        fn fail(&mut self, ms: u64) {
            self.discovery.schedule.began_at = Some(self.at(ms));
            self.discovery.fail("no answer");
        }

        /// A pass: processes by pid, start time and cgroup.
        fn see(&mut self, ms: u64, processes: &[(u32, u64, &str)]) {
            self.discovery.observe(&Pass::of(processes), self.at(ms));
        }

        fn owner(&self, path: &str) -> Option<u32> {
            self.discovery.owner_of(path.as_bytes())
        }
    }

    /// Pid, start time and cgroup.
    type Process = (u32, u64, &'static str);

    const HOST: Process = (1, 10, "/init.scope");
    const A: Process = (100, 11, "/kubepods/a");
    const B: Process = (200, 12, "/kubepods/b");

    /// A node that has been quiet for ten seconds, with the containers a and b.
    fn quiet() -> Node {
        let mut node = Node::new();
        node.list(0, &[("a", 100), ("b", 200)], false);
        node.see(0, &[HOST, A, B]);
        node.list(3000, &[("a", 100), ("b", 200)], false);
        node.see(10_000, &[HOST, A, B]);
        node
    }

    #[test]
    fn a_quiet_node_is_listed_once_a_minute() {
        assert!(Node::new().is_due(0));
        let node = quiet();
        assert!(!node.is_due(10_000) && !node.is_due(62_999));
        assert!(node.is_due(63_000));
    }

    #[test]
    fn what_calls_for_a_listing() {
        let cases: &[(&str, &[Process], bool)] = &[
            ("nothing new", &[HOST, A, B], false),
            ("another process of the node's own", &[HOST, (5, 20, "/init.scope"), A, B], false),
            ("another process of a container", &[HOST, A, (150, 20, "/kubepods/a/sub"), B], false),
            ("a process of the node's own that ends", &[A, B], false),
            ("a cgroup that nobody knows", &[HOST, A, B, (300, 20, "/kubepods/c")], true),
            ("an init process that is gone", &[HOST, A], true),
            ("an init process that began at another time", &[HOST, A, (200, 99, "/kubepods/b")], true),
            ("an init process that has moved", &[HOST, A, (200, 12, "/kubepods/x")], true),
        ];
        for (what, processes, is_due) in cases {
            let mut node = quiet();
            node.see(11_000, processes);
            assert_eq!(node.is_due(11_000), *is_due, "{what}");
        }
    }

    #[test]
    fn a_listing_that_begins_two_seconds_later_explains_what_was_seen() {
        let mut node = quiet();
        let stranger = (300, 20, "/system.slice/x");
        node.see(11_000, &[HOST, A, B, stranger]);
        node.list(11_000, &[("a", 100), ("b", 200)], false);
        node.see(12_000, &[HOST, A, B, stranger]);
        assert!(!node.is_due(11_249), "not so soon");
        assert!(node.is_due(12_000), "containerd may not have known yet");
        node.list(13_000, &[("a", 100), ("b", 200)], false);
        assert!(!node.is_due(14_000), "it is no container");
        node.see(14_000, &[HOST, A, B]);
        node.see(15_000, &[HOST, A, B, stranger]);
        assert!(node.is_due(15_000), "what was gone is new again");
    }

    #[test]
    fn an_init_process_that_is_gone_is_asked_about_once() {
        let mut node = quiet();
        node.see(11_000, &[HOST, A]);
        node.list(13_000, &[("a", 100), ("b", 200)], false);
        node.see(14_000, &[HOST, A]);
        assert!(!node.is_due(14_000), "its shim hangs: containerd says that it runs");
        assert_eq!(node.owner("/kubepods/b/sub"), Some(1), "and what is left of it is its own");
        node.list(15_000, &[("a", 100)], false);
        assert_eq!(node.owner("/kubepods/b/sub"), None);
        assert_eq!(node.owner("/kubepods/a"), Some(0));
    }

    #[test]
    fn a_pid_that_is_used_again_brings_no_cgroup_with_it() {
        let mut node = quiet();
        node.see(11_000, &[HOST, A, (200, 99, "/system.slice/ssh.service")]);
        assert_eq!(node.owner("/system.slice/ssh.service"), None);
        assert_eq!(node.owner("/kubepods/b"), Some(1));
    }

    #[test]
    fn failed_listings_come_at_longer_and_longer_intervals() {
        let mut node = quiet();
        let mut ms = 100_000;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            node.fail(ms);
            let pause = (0..).step_by(250).find(|pause| node.is_due(ms + pause)).unwrap();
            pauses.push(pause);
            ms += pause;
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 4000, 4000, 4000, 4000]);
        assert_eq!(node.discovery.n_errors(), 8);
        assert_eq!(node.discovery.containers().len(), 2, "the known ones go on");
        node.list(ms, &[("a", 100)], false);
        assert!(!node.is_due(ms + 59_999), "what was seen before is explained");
    }

    #[test]
    fn a_task_that_is_created_and_never_started_is_asked_about_less_and_less() {
        let mut node = quiet();
        let mut n_listings = 0;
        node.list(20_000, &[("a", 100), ("b", 200)], true);
        for tick in (20_000..80_000).step_by(250) {
            if node.is_due(tick) {
                node.list(tick, &[("a", 100), ("b", 200)], true);
                n_listings += 1;
            }
        }
        assert!((14..=18).contains(&n_listings), "{n_listings} in a minute");
    }

    #[test]
    fn strangers_are_forgotten_with_their_processes() {
        let mut node = quiet();
        for i in 0..1000 {
            let path = format!("/system.slice/run-{i}.scope");
            node.see(11_000 + i, &[HOST, A, B, (1000 + i as u32, i, &path)]);
            assert_eq!(node.discovery.strangers.len(), 2, "this one and the node's own");
        }
    }
}
