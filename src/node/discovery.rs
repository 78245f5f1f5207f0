//! Which containers there are, which cgroups are theirs, and when to ask their source again.
//!
//! Proc shows nearly all that changes: a new container is a process in a cgroup that nobody knows, one that ends is an init
//! process that is gone. So the source, whom a listing costs 0.6 ms CPU a task, is asked only then, and once a minute to be sure.

mod cut_ids;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{debug, info, warn};

use self::cut_ids::CutIds;
use super::filter::Filter;
use super::owners::{Container, Owners};
use super::process::Process;
use super::processes::Processes;
use super::schedule::Schedule;
use super::selection::Selection;
use crate::demand::Wake;
use crate::procfs::cgroup::Cgroups;
use crate::sources::{self, Listing, Source};
use crate::totals::labels;

/// A listing that takes longer than this is late; on a node with 1,000 containers it takes under a second.
const LATE: Duration = Duration::from_secs(5);

/// A scrape that finds something unexplained waits so long for the listing that it begins; with 50 pods that takes 30 ms.
const PATIENCE: Duration = Duration::from_millis(300);

/// More namespaces are not listed for those who look for theirs: a cluster has dozens, and a name takes room.
const MAX_NAMESPACES: usize = 100;

/// The containers of the node, and the cgroups that are theirs.
#[derive(Debug)]
pub struct Discovery {
    source: Box<dyn Source>,
    filters: Vec<Filter>,
    containers: Vec<Tracked>,
    cut_ids: CutIds,
    owners: Owners,
    has_new_claims: bool,
    /// Whether the log says that containers of different pods have one cgroup.
    has_reported_sharing: bool,
    /// The cgroups of processes in no container, with the number of the last scrape that saw each.
    unowned: HashMap<Cgroups, u64>,
    n_scrapes: u64,
    schedule: Schedule,
    /// Whether the last listing succeeded and the runtime that answered lives.
    is_up: bool,
    has_listed: bool,
    n_errors: u64,
    n_cut_labels: u64,
    n_unclear: Option<u64>,
    /// The label text of each namespace, and how many containers it has: of the first hundred namespaces by name.
    namespaces: Vec<(String, u64)>,
    last_error: Option<String>,
}

/// A container, and what proc has shown of its init process.
#[derive(Debug)]
struct Tracked {
    container: Arc<Container>,
    /// Once seen; another process with the same pid began at another time.
    init_start_time: Option<u64>,
    init_is_gone: bool,
    /// The cgroups that its init process was first seen in.
    first_cgroups: Option<Cgroups>,
    /// Whether it runs: its source says so, or a process of it was seen; and whether it did in the scrape before.
    runs: bool,
    ran: bool,
}

impl Tracked {
    /// The init process, if it is there. Another process with its pid began at another time.
    fn init<'a>(&self, processes: &'a Processes) -> Option<&'a Process> {
        let init = processes.find(self.container.listed.init_pid?)?;
        (self.init_start_time.is_none() || self.init_start_time == init.start_time()).then_some(init)
    }
}

impl Discovery {
    /// Containers from `source`, none yet.
    pub fn new(source: Box<dyn Source>, filters: &[Filter]) -> Self {
        Self {
            owners: Owners::new(source.lists_what_is_gone()),
            source,
            filters: filters.to_vec(),
            containers: Vec::new(),
            cut_ids: CutIds::default(),
            has_new_claims: false,
            has_reported_sharing: false,
            unowned: HashMap::new(),
            n_scrapes: 0,
            schedule: Schedule::default(),
            is_up: false,
            has_listed: false,
            n_errors: 0,
            n_cut_labels: 0,
            n_unclear: None,
            namespaces: Vec::new(),
            last_error: None,
        }
    }

    /// The containers known, by id.
    pub fn containers(&self) -> impl ExactSizeIterator<Item = &Container> {
        self.containers.iter().map(|tracked| &*tracked.container)
    }

    /// The cgroups that the init process of the container with this id was first seen in, and when it began.
    pub fn init_of(&self, id: &str) -> (Option<&Cgroups>, Option<u64>) {
        match self.containers.binary_search_by(|known| known.container.listed.id.as_str().cmp(id)) {
            Ok(i) => (self.containers[i].first_cgroups.as_ref(), self.containers[i].init_start_time),
            Err(_) => (None, None),
        }
    }

    /// Whether a filter selects a process of this name in the container.
    pub fn selects(&self, container: &Container, comm: &str) -> bool {
        let sources::Container { namespace, pod, name, .. } = &container.listed;
        container.is_selected && self.filters.iter().any(|filter| filter.matches(namespace, pod, name, comm))
    }

    /// What the filters select of these processes.
    pub fn selection(&self, processes: &Processes) -> Selection<'_> {
        let mut selection = Selection { filters: &self.filters, ..Selection::default() };
        let (mut selected, mut known) = (HashSet::new(), HashSet::new());
        for (container, is_selected) in processes.attributed() {
            selection.n_processes += 1;
            selection.n_selected += usize::from(is_selected);
            known.insert(container.listed.id.as_str());
            if is_selected {
                selected.insert(container.listed.id.as_str());
            }
        }
        (selection.n_selected_containers, selection.n_containers) = (selected.len(), known.len());
        selection.n_listed = self.containers.len() + self.cut_ids.n_incomplete();
        selection.lister = self.source.runtime();
        let running = self.containers.iter().filter(|tracked| tracked.runs);
        selection.namespaces = running.map(|tracked| tracked.container.listed.namespace.as_str()).collect();
        selection
    }

    /// Where containers come from, for the log.
    pub fn describe_source(&self) -> String {
        self.source.describe()
    }

    /// Whether the containers have been listed, ever.
    pub fn has_listed(&self) -> bool {
        self.has_listed
    }

    /// Labels of the containers that were cut for their length.
    pub fn n_cut_labels(&self) -> u64 {
        self.n_cut_labels
    }

    /// Links of the kubelet that name no container, or whose cut ids match more than one; `None` for other sources.
    pub fn n_unmatched_links(&self) -> Option<u64> {
        Some(self.n_unclear? + self.cut_ids.n_ambiguous())
    }

    /// The label text of each namespace, and how many containers it has: of the first hundred namespaces by name.
    pub fn namespaces(&self) -> &[(String, u64)] {
        &self.namespaces
    }

    /// Which container owns which cgroup.
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Whether the container runtime answers; `None` for a recording. One that lets a listing wait does not.
    pub fn is_runtime_up(&self, now: Instant) -> Option<bool> {
        self.source.runtime()?;
        let is_late = self.schedule.began_at().is_some_and(|began| now > began + LATE);
        Some(self.is_up && !(self.source.is_listing() && is_late))
    }

    /// Listings that failed.
    pub fn n_errors(&self) -> u64 {
        self.n_errors
    }

    /// Waits for the first listing, so that the first scrape has containers.
    ///
    /// Fails with one line when there is none until `deadline`.
    pub fn list_first(&mut self, deadline: Instant) -> Result<(), String> {
        self.schedule.begin(Instant::now());
        self.source.begin();
        self.source.wait_for_listing(deadline);
        self.take_listing(Instant::now())?;
        match self.source.runtime() {
            Some(runtime) if self.source.is_listing() => Err(format!("{runtime} has not answered yet")),
            _ => Ok(()),
        }
    }

    /// Takes what the source has to say. Never waits.
    pub fn refresh(&mut self, now: Instant) {
        let has_failed = self.last_error.is_some();
        match self.take_listing(now) {
            Err(error) if !has_failed => warn!("{error}"),
            _ => {}
        }
    }

    fn take_listing(&mut self, now: Instant) -> Result<(), String> {
        if self.is_up && self.source.is_lost() {
            let runtime = self.source.runtime().unwrap_or_default();
            let lost = format!("{runtime} has ended: the containers known go on being read");
            warn!("{lost}");
            self.is_up = false;
            self.schedule.lose();
            self.last_error = Some(lost);
        }
        match self.source.take() {
            None => Ok(()),
            Some(Ok(Listing { containers, more_to_come, n_cut_labels, cut, n_unclear })) => {
                if self.last_error.take().is_some() {
                    info!("containers are listed again");
                }
                self.is_up = true;
                self.has_listed = true;
                debug!("{} containers are listed", containers.len());
                self.schedule.succeed(more_to_come, now);
                (self.n_cut_labels, self.n_unclear) = (n_cut_labels, n_unclear);
                let containers = self.cut_ids.take(containers, cut);
                self.adopt(containers);
                Ok(())
            }
            Some(Err(error)) => {
                self.last_error = Some(error.clone());
                self.is_up = false;
                self.n_errors += 1;
                self.schedule.fail();
                Err(error)
            }
        }
    }

    /// Replaces the containers, keeping what is known of those that stay.
    fn adopt(&mut self, listed: Vec<sources::Container>) {
        let runs = !self.source.lists_what_is_gone();
        let told = |news: &str, Container { listed, .. }: &Container| {
            let sources::Container { id, namespace, pod, name, .. } = listed;
            debug!("{news}: {namespace}/{pod}/{name}, {id}");
        };
        // Both are in the order of ids.
        let mut before = std::mem::take(&mut self.containers).into_iter().peekable();
        self.containers.extend(listed.into_iter().map(|listed| {
            while let Some(gone) = before.next_if(|known| known.container.listed.id < listed.id) {
                told("a container is gone", &gone.container);
            }
            before.next_if(|known| known.container.listed == listed).unwrap_or_else(|| {
                let is_selected = self
                    .filters
                    .iter()
                    .any(|filter| filter.matches_container(&listed.namespace, &listed.pod, &listed.name));
                let container = Arc::new(Container::new(listed, is_selected));
                told(
                    if is_selected { "a new container" } else { "a new container that no filter selects" },
                    &container,
                );
                Tracked {
                    container,
                    init_start_time: None,
                    init_is_gone: false,
                    first_cgroups: None,
                    runs,
                    ran: runs,
                }
            })
        }));
        before.for_each(|gone| told("a container is gone", &gone.container));
        self.claim_cgroups();
        self.owners.forget_unlisted();
        self.count_running();
    }

    /// Sees which containers have a process, where their source lists those that have ended as well.
    pub fn see_running(&mut self, processes: &Processes) {
        if !self.source.lists_what_is_gone() {
            return;
        }
        for tracked in &mut self.containers {
            tracked.ran = std::mem::take(&mut tracked.runs);
        }
        for (container, _) in processes.attributed() {
            let id = container.listed.id.as_str();
            if let Ok(i) =
                self.containers.binary_search_by(|known| known.container.listed.id.as_str().cmp(id))
            {
                self.containers[i].runs = true;
            }
        }
        if self.containers.iter().any(|tracked| tracked.runs != tracked.ran) {
            self.count_running();
        }
    }

    /// How many containers run.
    pub fn n_running(&self) -> u64 {
        self.containers.iter().filter(|tracked| tracked.runs).count() as u64
    }

    fn count_running(&mut self) {
        let mut counts = BTreeMap::new();
        for tracked in self.containers.iter().filter(|tracked| tracked.runs) {
            *counts.entry(tracked.container.listed.namespace.as_str()).or_insert(0) += 1;
        }
        let with_labels = |(namespace, n_containers)| {
            let mut text = String::new();
            labels::push(&mut text, "{namespace=\"", namespace);
            (text + "}", n_containers)
        };
        self.namespaces = counts.into_iter().take(MAX_NAMESPACES).map(with_labels).collect();
    }

    fn claim_cgroups(&mut self) {
        self.owners.clear();
        for Tracked { container, first_cgroups, .. } in &self.containers {
            let is_shared = self.owners.claim(container, first_cgroups.as_ref());
            if is_shared && !std::mem::replace(&mut self.has_reported_sharing, true) {
                let path = first_cgroups.as_ref().and_then(Cgroups::main).unwrap_or_default();
                let path = String::from_utf8_lossy(path);
                warn!(
                    "containers of different pods have the cgroup {path:?}: its processes are exported for none"
                );
            }
        }
        self.has_new_claims = true;
    }

    /// Looks at the processes that were found: sees where the containers' init processes are, and whatever calls for another
    /// listing. Says whether cgroups may have other owners than before.
    pub fn observe(&mut self, processes: &Processes, now: Instant) -> bool {
        self.learn(processes);
        let mut is_unexplained = self.misses_init(processes);
        is_unexplained |= self.sees_new_unowned(processes);
        if is_unexplained {
            self.schedule.see_unexplained(now);
        }
        let is_due = !self.source.is_listing() && self.schedule.is_due(now);
        if is_due {
            self.schedule.begin(now);
            self.source.begin();
            // The next scrape may be minutes away. A source that hangs keeps its listing, so it is waited for once.
            if is_unexplained && self.is_up {
                self.source.wait_for_listing(now + PATIENCE);
                self.refresh(now);
                if self.has_new_claims {
                    self.learn(processes);
                }
            }
        }
        std::mem::take(&mut self.has_new_claims)
    }

    /// Learns from the processes where the containers are.
    fn learn(&mut self, processes: &Processes) {
        let cgroups = || processes.iter().map(Process::cgroups);
        if let Some(containers) = self.cut_ids.complete(cgroups()) {
            self.adopt(containers);
        }
        let mut has_news = false;
        for tracked in &mut self.containers {
            let Some(init) = tracked.init(processes) else { continue };
            tracked.init_start_time = init.start_time();
            if tracked.first_cgroups.is_none() {
                tracked.first_cgroups = Some(init.cgroups().clone());
                has_news = true;
            }
        }
        if has_news {
            self.claim_cgroups();
        }
        if self.owners.learn(cgroups()) {
            self.claim_cgroups();
        }
    }

    /// Whether an init process is gone that was there before. A container keeps its cgroup until a listing says that it
    /// has ended.
    fn misses_init(&mut self, processes: &Processes) -> bool {
        let mut is_missed = false;
        for tracked in
            self.containers.iter_mut().filter(|tracked| tracked.container.listed.init_pid.is_some())
        {
            let is_gone = tracked.init(processes).is_none();
            is_missed |= is_gone && !tracked.init_is_gone;
            tracked.init_is_gone = is_gone;
        }
        is_missed
    }

    /// Whether a process is in a cgroup that is no container's and that no process was in before.
    fn sees_new_unowned(&mut self, processes: &Processes) -> bool {
        self.n_scrapes += 1;
        let mut has_new = false;
        let mut n_unowned = 0;
        for process in processes.iter() {
            let cgroups = process.cgroups();
            match self.unowned.get_mut(cgroups) {
                Some(_) if self.has_new_claims && self.owners.owner_of(cgroups).is_some() => {}
                Some(seen) => {
                    n_unowned += usize::from(*seen != self.n_scrapes);
                    *seen = self.n_scrapes;
                }
                None if self.owners.owner_of(cgroups).is_some() => {}
                None => {
                    has_new = true;
                    n_unowned += 1;
                    self.unowned.insert(cgroups.clone(), self.n_scrapes);
                }
            }
        }
        if n_unowned < self.unowned.len() {
            self.unowned.retain(|_, seen| *seen == self.n_scrapes);
            self.unowned.shrink_to(2 * n_unowned);
        }
        has_new
    }

    /// Waits until `deadline`, or until `wake` says that something has changed; meanwhile a listing goes on.
    pub fn wait_until(&mut self, deadline: Instant, wake: &Wake) {
        self.source.wait_until(deadline, wake);
    }
}

#[cfg(test)]
mod tests;
