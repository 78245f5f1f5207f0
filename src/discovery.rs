//! Which container each process belongs to, and when to ask containerd again.
//!
//! The pass over proc shows nearly all that changes: a new container is a process in a cgroup that nobody knows, one that ends is an init
//! process that is gone. So containerd, whom a listing costs 0.6 ms CPU a task, is asked only then, and once a minute to be sure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};

use crate::cgroup::Owners;
use crate::containerd::Containerd;
use crate::containers::Container;
use crate::filter::Filter;
use crate::procfs::Pass;
use crate::recording::Recording;

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
        let (listed, more_to_come) = match &mut self.source {
            Source::Recording(recording) => (recording.containers(), false),
            Source::Containerd(containerd) => {
                if self.is_up && containerd.is_lost() {
                    self.is_up = false;
                    self.schedule.listed_at = None; // list as soon as may be
                    let lost = "containerd has ended: the containers known go on being read";
                    warn!("{lost}");
                    self.last_error = Some(lost.into());
                }
                match containerd.take() {
                    Some(Ok(listing)) => (Ok(Some(listing.containers)), listing.more_to_come),
                    Some(Err(error)) => (Err(error.to_string()), false),
                    None => (Ok(None), false),
                }
            }
        };
        match listed {
            Ok(None) => {}
            Ok(Some(containers)) => {
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
            Err(error) => {
                self.last_error = Some(error.clone());
                self.is_up = false;
                self.n_errors += 1;
                self.schedule.listed_at = None;
                self.schedule.lengthen_pause();
                return Err(error);
            }
        }
        Ok(())
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
            let init = pass.find(tracked.container.init_pid);
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
