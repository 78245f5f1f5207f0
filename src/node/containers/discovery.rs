//! Discovery finds out which containers run, and which cgroups belong to them.
//!
//! Proc shows nearly every change: a process in an unknown cgroup means a new container, and an init process
//! that disappears means that a container has ended. A listing takes 0.6 ms of the runtime's CPU time per
//! task, so containers are listed only after a change, and once a minute in case proc has not shown one.

use std::time::Instant;

use log::warn;

use super::cgroup_index::CgroupIndex;
use super::cut_ids::CutIds;
use super::filter::Filter;
use super::listings::Listings;
use super::selection::Selection;
use super::shared_pods;
use super::table::{Container, Containers, Seen, Tracked};
use super::unknown_cgroups::UnknownCgroups;
use crate::demand::Wake;
use crate::procfs::cgroup::Cgroups;
use crate::sources::{self, Listing, Source};

/// The containers of the node and the index of their cgroups.
#[derive(Debug)]
pub struct Discovery {
    listings: Listings,
    filters: Vec<Filter>,
    containers: Containers,
    cut_ids: CutIds,
    index: CgroupIndex,
    /// Whether `index` has changed since the last call of [`Discovery::observe`].
    has_changed: bool,
    /// Whether the log already has the warning that containers of different pods share a cgroup.
    has_reported_sharing: bool,
    unknown_cgroups: UnknownCgroups,
    /// The kubelet has a directory with a link to each log file. This is the number of names there that do
    /// not look like such links. `None` if containers are not listed by links.
    n_unrecognized: Option<u64>,
    /// The label text of each namespace, and the number of containers in it.
    namespaces: Vec<(String, u64)>,
}

impl Discovery {
    /// Creates a discovery without containers. Its listings come from `source`.
    pub fn new(source: Box<dyn Source>, filters: &[Filter]) -> Self {
        Self {
            index: CgroupIndex::new(source.lists_ended_containers()),
            listings: Listings::new(source),
            filters: filters.to_vec(),
            containers: Containers::default(),
            cut_ids: CutIds::default(),
            has_changed: false,
            has_reported_sharing: false,
            unknown_cgroups: UnknownCgroups::default(),
            n_unrecognized: None,
            namespaces: Vec::new(),
        }
    }

    /// Returns the listed containers, sorted by the id that the runtime gave them.
    pub fn containers(&self) -> impl ExactSizeIterator<Item = &Container> {
        self.containers.iter().map(|tracked| &*tracked.container)
    }

    /// Returns what is stored about a container, if it is still listed.
    pub fn find(&self, container: &Container) -> Option<&Tracked> {
        self.containers.find(container)
    }

    /// Whether a filter selects a process with this name in the container.
    pub fn selects(&self, container: &Container, comm: &str) -> bool {
        let sources::Container { namespace, pod, name, .. } = &container.listed;
        container.is_selected && self.filters.iter().any(|filter| filter.matches(namespace, pod, name, comm))
    }

    /// Counts the processes and containers that the filters select. `processes` has the container of each
    /// process, and whether a filter selects the process.
    pub fn selection<'a>(&self, processes: impl Iterator<Item = (&'a Container, bool)>) -> Selection<'_> {
        let mut selection = Selection::of(&self.filters, processes);
        selection.n_listed = self.containers.count() + self.cut_ids.n_incomplete();
        selection.lister = self.listings.lister();
        let running = self.containers.running();
        selection.namespaces = running.map(|container| container.listed.namespace.as_str()).collect();
        selection
    }

    /// Returns a description of the source for the log.
    pub fn describe_source(&self) -> String {
        self.listings.describe_source()
    }

    /// Whether any listing has succeeded.
    pub fn has_listed(&self) -> bool {
        self.listings.has_listed()
    }

    /// Returns how many of the kubelet's links to log files do not match exactly one container. Returns
    /// `None` if containers are not listed by links.
    pub fn n_unmatched_links(&self) -> Option<u64> {
        Some(self.n_unrecognized? + self.cut_ids.n_ambiguous())
    }

    /// Returns the label text of each namespace and the number of containers in it. Only the first 100
    /// namespaces by name are included.
    pub fn namespaces(&self) -> &[(String, u64)] {
        &self.namespaces
    }

    /// Returns the index from cgroups to containers.
    pub fn index(&self) -> &CgroupIndex {
        &self.index
    }

    /// Whether the container runtime is up; `None` if recorded files are read instead of a live node.
    pub fn is_runtime_up(&self, now: Instant) -> Option<bool> {
        self.listings.is_runtime_up(now)
    }

    /// Returns how many listings failed.
    pub fn n_errors(&self) -> u64 {
        self.listings.n_errors()
    }

    /// Waits for the first listing, so that the first scrape has containers.
    ///
    /// Fails with a one-line message if no listing has succeeded by `deadline`.
    pub fn list_first(&mut self, deadline: Instant) -> Result<(), String> {
        self.listings.begin_first(deadline);
        if let Some(listing) = self.listings.take(Instant::now())? {
            self.take_listing(listing);
        }
        self.listings.check_answered()
    }

    /// Applies the result of a listing that has ended, if there is one. This call never waits.
    pub fn refresh(&mut self, now: Instant) {
        if let Some(listing) = self.listings.take_and_log(now) {
            self.take_listing(listing);
        }
    }

    fn take_listing(&mut self, Listing { containers, cut, n_unrecognized, .. }: Listing) {
        self.n_unrecognized = n_unrecognized;
        let containers = self.cut_ids.take(containers, cut);
        self.replace_listing(containers);
    }

    fn replace_listing(&mut self, listed: Vec<sources::Container>) {
        self.containers.replace_listing(listed, &self.filters, self.listings.includes_ended());
        self.fill_index();
        self.index.forget_unlisted();
        self.namespaces = self.containers.count_by_namespace();
    }

    /// Stores which containers have a process, if the source also lists containers that have ended.
    pub fn see_running<'a>(&mut self, with_process: impl Iterator<Item = &'a Container>) {
        if self.listings.includes_ended() && self.containers.see_running(with_process) {
            self.namespaces = self.containers.count_by_namespace();
        }
    }

    /// Returns the number of running containers.
    pub fn n_running(&self) -> u64 {
        self.containers.running().count() as u64
    }

    fn fill_index(&mut self) {
        self.index.clear();
        shared_pods::find(&mut self.containers, &self.filters);
        for Tracked { container, pod, first_cgroups, .. } in self.containers.iter() {
            let is_shared = self.index.insert(container, pod.as_ref(), first_cgroups.as_ref());
            if is_shared && !std::mem::replace(&mut self.has_reported_sharing, true) {
                let path = first_cgroups.as_ref().and_then(Cgroups::main).unwrap_or_default();
                let path = String::from_utf8_lossy(path);
                warn!(
                    "containers of different pods have the cgroup {path:?}: its processes are not \
                     exported"
                );
            }
        }
        self.has_changed = true;
    }

    /// Finds the init processes among the processes of the node, and begins a listing if one is due. Returns
    /// whether `index` has changed. If so, a process may be in another container than before.
    ///
    /// `processes` is an iterator, because a slice would have to be allocated in each scrape.
    pub fn observe<'a>(&mut self, processes: impl Iterator<Item = Seen<'a>> + Clone, now: Instant) -> bool {
        self.learn(processes.clone());
        let cgroups = processes.clone().map(|process| process.cgroups);
        let misses_init = self.containers.misses_init();
        let is_unexplained = self.unknown_cgroups.see(cgroups, &self.index, self.has_changed) || misses_init;
        let had_changed = std::mem::take(&mut self.has_changed);
        if self.listings.begin_if_due(is_unexplained, now) {
            self.refresh(now);
            if self.has_changed {
                self.learn(processes);
            }
        }
        std::mem::take(&mut self.has_changed) || had_changed
    }

    /// Finds out from the processes in which cgroups the containers are.
    fn learn<'a>(&mut self, processes: impl Iterator<Item = Seen<'a>> + Clone) {
        let cgroups = processes.clone().map(|process| process.cgroups);
        if let Some(containers) = self.cut_ids.complete(cgroups.clone()) {
            self.replace_listing(containers);
        }
        if self.containers.see_inits(processes) {
            self.fill_index();
            let ids = self.index.ids_of(cgroups.clone());
            if self.containers.reject_foreign_inits(|id| ids.contains(id)) {
                self.fill_index();
            }
        }
        if self.index.observe(cgroups) {
            self.fill_index();
        }
    }

    /// Waits until `deadline`, or until `wake` reports a change. Meanwhile, a listing in progress continues.
    pub fn wait_until(&mut self, deadline: Instant, wake: &Wake) {
        self.listings.wait_until(deadline, wake);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::listings::tests::FakeSource;
    use super::super::table::{ContainerId, tests::listed};
    use super::*;

    /// A discovery, its source and its clock.
    struct Node {
        discovery: Discovery,
        source: FakeSource,
        start: Instant,
    }

    /// The pid, the start time and the cgroup of a process.
    type Process = (u32, u64, &'static str);

    const HOST: Process = (1, 10, "/init.scope");
    const A: Process = (100, 11, "/kubepods/a");
    /// The init process of container b. Its cgroup path does not contain the id of the container.
    const B: Process = (200, 12, "/kubepods/x/init");

    impl Node {
        fn new() -> Self {
            let source = FakeSource::default();
            let filters = [Filter::parse("default/pod/b/java").unwrap(), Filter::parse("*/*/a/*").unwrap()];
            let discovery = Discovery::new(Box::new(source.clone()), &filters);
            Self { discovery, source, start: Instant::now() }
        }

        /// Returns a node with the containers a and b. Nothing has changed on it for ten seconds.
        fn quiet() -> Self {
            let mut node = Self::new();
            for ms in [0, 3000] {
                node.see(ms, &[HOST, A, B]);
                node.answer(ms, &[("a", 100), ("b", 200)]);
            }
            node.see(10_000, &[HOST, A, B]);
            node.source.state().n_begun = 0;
            node
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        /// Ends the listing in progress. The listing returns these containers, each with its id and the pid
        /// of its init process.
        fn answer(&mut self, ms: u64, containers: &[(&str, u32)]) {
            let containers =
                containers.iter().map(|&(id, pid)| listed(id, Some(pid).filter(|&pid| pid != 0)));
            let listing = Listing { containers: containers.collect(), ..Listing::default() };
            self.source.state().answer = Some(Ok(listing));
            self.discovery.refresh(self.at(ms));
        }

        /// Simulates a scrape that finds these processes. Returns whether a process may be in another
        /// container than before.
        fn see(&mut self, ms: u64, processes: &[Process]) -> bool {
            let with_cgroups: Vec<_> = processes
                .iter()
                .map(|&(pid, start_time, path)| (pid, start_time, Cgroups::from(&*format!("0::{path}\n"))))
                .collect();
            let seen = with_cgroups.iter().map(|(pid, start_time, cgroups)| Seen {
                pid: *pid,
                start_time: Some(*start_time),
                cgroups,
            });
            self.discovery.observe(seen, self.at(ms))
        }

        /// Returns how many listings have begun since the last call.
        fn n_begun(&self) -> u32 {
            std::mem::take(&mut self.source.state().n_begun)
        }

        fn container_at(&self, path: &str) -> Option<&str> {
            let place = self.discovery.index().container_at(path.as_bytes());
            place.map(|place| place.container.listed.id.as_str())
        }
    }

    #[test]
    fn unknown_cgroups_and_missing_init_processes_cause_a_listing() {
        let cases: &[(&str, &[Process], u32)] = &[
            ("nothing new", &[HOST, A, B], 0),
            ("another process of the node's own", &[HOST, (5, 20, "/init.scope"), A, B], 0),
            ("another process of a container", &[HOST, A, (150, 20, "/kubepods/a/sub"), B], 0),
            ("a process of the node's own that ends", &[A, B], 0),
            ("an init process that has moved into a child", &[HOST, (100, 11, "/kubepods/a/init"), B], 0),
            ("an unknown cgroup", &[HOST, A, B, (300, 20, "/kubepods/c")], 1),
            ("an init process that is gone", &[HOST, A], 1),
            ("an init process that started at another time", &[HOST, A, (200, 99, "/kubepods/x/init")], 1),
            ("an init process that has moved out", &[HOST, A, (200, 12, "/kubepods/y")], 1),
        ];
        for (what, processes, n_begun) in cases {
            let mut node = Node::quiet();
            node.see(11_000, processes);
            assert_eq!(node.n_begun(), *n_begun, "{what}");
        }
        let mut node = Node::quiet();
        node.see(62_999, &[HOST, A, B]);
        assert_eq!(node.n_begun(), 0);
        node.see(63_000, &[HOST, A, B]);
        assert_eq!(node.n_begun(), 1, "a minute has passed");
        node.see(63_500, &[HOST, A, B, (300, 20, "/kubepods/c")]);
        assert_eq!(node.n_begun(), 0, "one is under way");
    }

    #[test]
    fn missing_init_process_causes_one_listing() {
        let mut node = Node::quiet();
        for ms in [11_000, 14_000] {
            node.see(ms, &[HOST, A]);
            node.answer(ms, &[("a", 100), ("b", 200)]);
        }
        node.n_begun();
        node.see(15_000, &[HOST, A]);
        assert_eq!(node.n_begun(), 0, "its shim hangs: the runtime says that it runs");
        assert_eq!(node.container_at("/kubepods/x/init/sub"), Some("b"), "and keeps its cgroup");
        node.answer(15_000, &[("a", 100)]);
        assert_eq!(
            (node.container_at("/kubepods/x/init/sub"), node.container_at("/kubepods/a")),
            (None, Some("a"))
        );
        assert!(node.see(15_500, &[HOST, A]), "the index has changed");
        assert!(!node.see(16_000, &[HOST, A]));
        node.answer(17_000, &[("b", 200), ("c", 300)]);
        assert_eq!(node.container_at("/kubepods/x/init"), None, "it is another container with the same id");
    }

    #[test]
    fn a_container_keeps_the_first_cgroup_of_its_init_process() {
        let mut node = Node::quiet();
        assert_eq!(
            (node.container_at("/kubepods/a/sub"), node.container_at("/kubepods/x/init")),
            (Some("a"), Some("b"))
        );
        node.see(11_000, &[HOST, (100, 11, "/kubepods/a/init"), (200, 12, "/init.scope")]);
        assert_eq!(
            (node.container_at("/kubepods/a/app"), node.container_at("/kubepods/x/init")),
            (Some("a"), Some("b"))
        );
        assert_eq!(node.container_at("/init.scope"), None);
        node.answer(12_000, &[("b", 200), ("c", 300)]);
        assert_eq!(node.container_at("/kubepods/x/init"), Some("b"), "other containers come and go");
        let mut node = Node::quiet();
        node.see(11_000, &[HOST, A, (200, 99, "/system.slice/ssh.service")]);
        assert_eq!(node.container_at("/system.slice/ssh.service"), None, "a pid that is used again");
        let mut node = Node::new();
        let ssh = (100, 9, "/system.slice/ssh.service");
        node.see(0, &[ssh, (150, 11, "/kubepods/a")]);
        node.answer(0, &[("a", 100)]);
        node.see(0, &[ssh, (150, 11, "/kubepods/a")]);
        assert_eq!(node.container_at(ssh.2), None, "another process's cgroup holds the id");
        let mut node = Node::new();
        node.see(0, &[HOST, A]);
        node.answer(0, &[("a", 0)]);
        assert_eq!(node.container_at("/kubepods/a/sub"), Some("a"), "a source without pids");
    }

    #[test]
    fn filters_select_processes_by_container_and_name() {
        let node = Node::quiet();
        let selects = |id: &str, comm| {
            let container = node.discovery.containers().find(|container| container.listed.id == id);
            node.discovery.selects(container.unwrap(), comm)
        };
        assert!(selects("a", "sh") && selects("b", "java") && !selects("b", "sh"));
        let unselected = Container::new(ContainerId(9), listed("a", None), false);
        assert!(!node.discovery.selects(&unselected, "java"));
    }
}
