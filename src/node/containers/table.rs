//! The containers of the last listing, and what proc has shown about their init processes.

use std::collections::BTreeMap;
use std::sync::Arc;

use log::debug;

use super::cgroup_path::named_cgroup;
use super::filter::Filter;
use crate::procfs::cgroup::Cgroups;
use crate::sources;
use crate::totals::labels;
use crate::totals::table::ContainerKey;

/// The number of running containers is exported for at most this many namespaces. A cluster has dozens of
/// namespaces, and each name takes memory.
const MAX_NAMESPACES: usize = 100;

/// Identifies a container for as long as its entry in the listing stays the same. If the runtime lists the
/// container with another init process or under another name, the container gets a new id. No id is used
/// twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(pub u32);

impl ContainerId {
    /// Returns the key under which the memory of the container's processes is summed.
    pub fn key(self) -> ContainerKey {
        ContainerKey(self.0)
    }
}

/// A container that processes are attributed to.
#[derive(Debug)]
pub struct Container {
    /// The id of this container.
    pub id: ContainerId,
    /// The container as the runtime lists it.
    pub listed: sources::Container,
    /// The container's label text, see [`labels::container`].
    pub labels: String,
    /// Whether a filter can select a process in the container.
    pub is_selected: bool,
}

impl Container {
    /// Creates a container from its entry in a listing.
    pub fn new(id: ContainerId, listed: sources::Container, is_selected: bool) -> Self {
        let labels = labels::container(&listed.namespace, &listed.pod, &listed.name);
        Self { id, listed, labels, is_selected }
    }

    /// Whether `self` and `other` are the same container. If the runtime lists a container again with another
    /// init process, its [`ContainerId`] changes, but it is still the same container.
    pub fn is_same(&self, other: &Self) -> bool {
        self.id == other.id || self.listed.id == other.listed.id && self.labels == other.labels
    }
}

/// What the last listing of proc shows about a process.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The pid of the process.
    pub pid: u32,
    /// The start time of the process, once it is known.
    pub start_time: Option<u64>,
    /// The cgroups that the process is in.
    pub cgroups: &'a Cgroups,
}

/// A listed container and its init process.
#[derive(Debug)]
pub struct Tracked {
    /// The container.
    pub container: Arc<Container>,
    /// The container's pod, if the container's processes are attributed to the pod. This is the case with
    /// gVisor and Kata Containers, because the containers of a pod share their processes there. The pod is
    /// stored as a [`Container`] with an empty name.
    pub pod: Option<Arc<Container>>,
    /// The cgroups in which the init process was first seen.
    pub first_cgroups: Option<Cgroups>,
    /// When the init process started, once that is known. A process with the same pid and another start time
    /// is another process.
    pub init_start_time: Option<u64>,
    /// Whether the init process existed when the processes in proc were last listed.
    init_is_there: bool,
    /// The value of `init_is_there` at the last call of [`Containers::misses_init`].
    init_was_there: bool,
    /// Whether the process with the listed pid is not the container's init process.
    init_is_foreign: bool,
    /// Whether the container runs now. A container runs if the runtime lists it as running, or if it has a
    /// process.
    is_running: bool,
    /// Whether the container ran in the previous scrape.
    was_running: bool,
}

/// The containers of the last listing.
#[derive(Debug, Default)]
pub struct Containers {
    /// The containers, sorted by the id that the runtime gave them.
    tracked: Vec<Tracked>,
    /// The pid of each init process, and the position in `tracked` of the container that it belongs to.
    /// Sorted by pid.
    inits: Vec<(u32, usize)>,
    /// The number of container ids used so far.
    n_ids: u32,
}

impl Containers {
    /// Returns the listed containers, sorted by the id that the runtime gave them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Tracked> {
        self.tracked.iter()
    }

    /// Returns the number of listed containers.
    pub fn count(&self) -> usize {
        self.tracked.len()
    }

    /// Returns what is stored about a container, if it is still listed.
    pub fn find(&self, container: &Container) -> Option<&Tracked> {
        self.position(container).map(|i| &self.tracked[i])
    }

    fn position(&self, container: &Container) -> Option<usize> {
        let id = container.listed.id.as_str();
        self.tracked.binary_search_by(|known| known.container.listed.id.as_str().cmp(id)).ok()
    }

    /// Replaces the containers with the containers of a new listing. What is stored about a container is kept
    /// if the container is unchanged. `includes_ended` says that the listing may name containers that have
    /// ended.
    pub fn replace_listing(
        &mut self,
        listed: Vec<sources::Container>,
        filters: &[Filter],
        includes_ended: bool,
    ) {
        // Both lists are sorted by the id that the runtime gave the containers.
        let mut before = std::mem::take(&mut self.tracked).into_iter().peekable();
        for listed in listed {
            while let Some(gone) = before.next_if(|known| known.container.listed.id < listed.id) {
                log_change("a container is gone", &gone.container);
            }
            let known = before.next_if(|known| known.container.listed == listed);
            let tracked = known.unwrap_or_else(|| {
                let (namespace, pod, name) = (&listed.namespace, &listed.pod, &listed.name);
                let is_selected = filters.iter().any(|filter| filter.matches_container(namespace, pod, name));
                let container = Container::new(ContainerId(self.n_ids), listed, is_selected);
                self.n_ids += 1;
                log_change(
                    if is_selected { "a new container" } else { "a new container that no filter selects" },
                    &container,
                );
                Tracked::new(container, !includes_ended)
            });
            self.tracked.push(tracked);
        }
        before.for_each(|gone| log_change("a container is gone", &gone.container));
        self.inits.clear();
        let inits = self.tracked.iter().enumerate();
        self.inits.extend(inits.filter_map(|(i, tracked)| Some((tracked.container.listed.init_pid?, i))));
        self.inits.sort_unstable();
    }

    /// Stores which init processes exist, and the cgroups in which each init process was first seen. Returns
    /// whether an init process was seen for the first time.
    pub fn see_inits<'a>(&mut self, processes: impl Iterator<Item = Seen<'a>>) -> bool {
        let mut has_news = false;
        self.tracked.iter_mut().for_each(|tracked| tracked.init_is_there = false);
        for process in processes {
            let first = self.inits.partition_point(|(pid, _)| *pid < process.pid);
            for &(_, i) in self.inits[first..].iter().take_while(|(pid, _)| *pid == process.pid) {
                let tracked = &mut self.tracked[i];
                let is_known = tracked.init_start_time.is_some();
                if tracked.init_is_foreign || is_known && tracked.init_start_time != process.start_time {
                    continue;
                }
                tracked.init_is_there = true;
                tracked.init_start_time = process.start_time;
                if tracked.first_cgroups.is_none() {
                    tracked.first_cgroups = Some(process.cgroups.clone());
                    has_news = true;
                }
            }
        }
        has_news
    }

    /// Rejects the listed init pid of a container if the process with this pid is not in the container. The
    /// process is not in the container if its cgroup paths lack the container's id, and the cgroup paths of
    /// another process contain that id. Either the pid was reused, or it is a pid of another PID namespace,
    /// as in kind (Kubernetes in Docker). Returns whether a pid was rejected.
    pub fn reject_foreign_inits(&mut self, is_in_paths: impl Fn(&[u8]) -> bool) -> bool {
        let mut has_news = false;
        for tracked in &mut self.tracked {
            let id = tracked.container.listed.id.as_bytes();
            let Some(first) = &tracked.first_cgroups else { continue };
            if first.paths().all(|path| named_cgroup(id, path).is_none()) && is_in_paths(id) {
                log_change("the listed init pid belongs to another process", &tracked.container);
                (tracked.first_cgroups, tracked.init_start_time) = (None, None);
                (tracked.init_is_foreign, has_news) = (true, true);
            }
        }
        has_news
    }

    /// Calls `pod_of` for each container, in the order of [`Containers::iter`], and stores the returned pod.
    /// A pod is represented by a [`Container`] with an empty name. The second argument of `pod_of` is the
    /// next unused [`ContainerId`] number. If `pod_of` creates a pod with this number, it must increase the
    /// number.
    pub fn set_pods(&mut self, mut pod_of: impl FnMut(&Container, &mut u32) -> Option<Arc<Container>>) {
        for tracked in &mut self.tracked {
            tracked.pod = pod_of(&tracked.container, &mut self.n_ids);
        }
    }

    /// Returns whether the init process of a container has disappeared since the last call.
    pub fn misses_init(&mut self) -> bool {
        let mut is_missed = false;
        for &(_, i) in &self.inits {
            let tracked = &mut self.tracked[i];
            is_missed |= tracked.init_was_there && !tracked.init_is_there;
            tracked.init_was_there = tracked.init_is_there;
        }
        is_missed
    }

    /// Stores which containers have a process. Returns whether the set of running containers has changed.
    pub fn see_running<'a>(&mut self, with_process: impl Iterator<Item = &'a Container>) -> bool {
        for tracked in &mut self.tracked {
            tracked.was_running = std::mem::take(&mut tracked.is_running);
        }
        for container in with_process {
            if let Some(i) = self.position(container) {
                self.tracked[i].is_running = true;
            }
        }
        self.tracked.iter().any(|tracked| tracked.is_running != tracked.was_running)
    }

    /// Returns the running containers.
    pub fn running(&self) -> impl Iterator<Item = &Container> {
        self.tracked.iter().filter(|tracked| tracked.is_running).map(|tracked| &*tracked.container)
    }

    /// Returns the label text of each namespace and the number of running containers in it. Only the first
    /// 100 namespaces by name are included.
    pub fn count_by_namespace(&self) -> Vec<(String, u64)> {
        let mut counts = BTreeMap::new();
        for container in self.running() {
            *counts.entry(container.listed.namespace.as_str()).or_insert(0) += 1;
        }
        let with_labels = |(namespace, n_containers)| {
            let mut text = String::new();
            labels::push(&mut text, "{namespace=\"", namespace);
            (text + "}", n_containers)
        };
        counts.into_iter().take(MAX_NAMESPACES).map(with_labels).collect()
    }
}

impl Tracked {
    fn new(container: Container, is_running: bool) -> Self {
        Self {
            container: Arc::new(container),
            pod: None,
            first_cgroups: None,
            init_start_time: None,
            init_is_there: false,
            init_was_there: true, // an init process that never appears counts as missing, too
            init_is_foreign: false,
            is_running,
            was_running: is_running,
        }
    }
}

fn log_change(news: &str, Container { listed, .. }: &Container) {
    let sources::Container { id, namespace, pod, name, .. } = listed;
    debug!("{news}: {namespace}/{pod}/{name}, {id}");
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn listed(id: &str, init_pid: Option<u32>) -> sources::Container {
        sources::Container {
            id: id.into(),
            init_pid,
            namespace: "default".into(),
            pod: "pod".into(),
            name: id.into(),
        }
    }

    fn selected(containers: &Containers) -> Vec<(u32, &str, bool)> {
        let facts = |tracked: &'_ Tracked| (tracked.container.id.0, tracked.container.is_selected);
        containers.iter().map(|t| (facts(t).0, t.container.listed.id.as_str(), facts(t).1)).collect()
    }

    #[test]
    fn a_container_keeps_its_id_while_it_is_listed_without_a_change() {
        let filters = [Filter::parse("default/pod/b/*").unwrap()];
        let mut containers = Containers::default();
        for (listing, expected) in [
            (vec![listed("a", Some(1)), listed("b", Some(2))], vec![(0, "a", false), (1, "b", true)]),
            (vec![listed("b", Some(2)), listed("c", None)], vec![(1, "b", true), (2, "c", false)]),
            (vec![listed("a", Some(1)), listed("b", Some(3))], vec![(3, "a", false), (4, "b", true)]),
        ] {
            containers.replace_listing(listing, &filters, false);
            assert_eq!(selected(&containers), expected);
        }
        let labels = &containers.iter().next().unwrap().container.labels;
        assert_eq!(labels, "{namespace=\"default\",pod=\"pod\",container=\"a\"");
    }

    #[test]
    fn the_first_cgroup_of_the_init_process_is_kept() {
        let mut containers = Containers::default();
        containers.replace_listing(vec![listed("a", Some(7))], &[], false);
        let [first, other] = ["0::/a\n", "0::/b\n"].map(Cgroups::from);
        let seen = |start_time, cgroups| [Seen { pid: 7, start_time: Some(start_time), cgroups }].into_iter();
        assert!(containers.see_inits(seen(5, &first)));
        assert!(!containers.see_inits(seen(5, &other)), "it moves");
        assert!(!containers.misses_init());
        assert!(!containers.see_inits(seen(6, &other)), "another process has its pid");
        assert!(containers.misses_init() && !containers.misses_init(), "that is reported once");
        let tracked = containers.iter().next().unwrap();
        assert_eq!((&tracked.first_cgroups, tracked.init_start_time), (&Some(first), Some(5)));
    }

    #[test]
    fn listed_container_without_a_process_does_not_run() {
        let mut containers = Containers::default();
        containers.replace_listing(vec![listed("a", None), listed("b", None)], &[], true);
        assert_eq!(containers.running().count(), 0);
        let b = containers.iter().nth(1).unwrap().container.clone();
        assert!(containers.see_running([&*b].into_iter()));
        assert!(!containers.see_running([&*b].into_iter()));
        assert_eq!(containers.count_by_namespace(), [("{namespace=\"default\"}".to_owned(), 1)]);
        assert!(containers.see_running([].into_iter()));
    }
}
