//! Finds the container of a process from the cgroup paths of the process. The PID namespace is not used.
//!
//! If a component of a path is a container's id, the cgroup at this component and all cgroups below it belong
//! to the container. The cgroup in which the init process is now does not matter, because systemd and Docker
//! move init into a child cgroup. If no path of init contains the id, the cgroup in which init was first seen
//! belongs to the container, with all cgroups below it. The node's root cgroup belongs to no container,
//! because the whole node would be in it. Its path is `/`, or in a cgroup namespace a path such as `/../..`.
//! There, `/` is the exporter's own cgroup, which can belong to a container.
//!
//! If a path contains the ids of two containers, the first id usually counts, because a workload may name one
//! of its own cgroups after another container. `is_placed_at` decides when the second id counts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::cgroup_path::{components, id_of, key, named_cgroup, outermost_id};
use super::table::Container;
use crate::procfs::cgroup::Cgroups;

/// The index from cgroup paths to containers.
#[derive(Debug, Default)]
pub struct CgroupIndex {
    by_id: HashMap<Box<[u8]>, Listed>,
    by_path: ByPath,
    /// The ids of containers that are known to have a cgroup outside the cgroups of all other containers.
    /// Such an id was seen as the first container id in a cgroup path.
    placed: HashSet<Box<[u8]>>,
    /// Whether the exporter sees processes from inside a cgroup namespace.
    is_inside: bool,
    /// Whether a listing may name containers that have ended. If so, a container owns a cgroup inside another
    /// container's cgroup only if its init process was first seen there. Otherwise, a workload could give the
    /// id of an ended container to a cgroup of its own, and would then be mistaken for that container.
    includes_ended: bool,
}

/// The containers that cannot be found by an id in a cgroup path. The key is the cgroup in which the init
/// process was first seen. The value is `None` if containers of different pods share that cgroup.
type ByPath = HashMap<Box<[u8]>, Option<Arc<Container>>>;

/// A listed container, and the cgroups in which its init process was first seen, if it was seen.
#[derive(Debug)]
struct Listed {
    container: Arc<Container>,
    /// The container's pod, if the processes are attributed to the pod (see [`super::shared_pods`]).
    pod: Option<Arc<Container>>,
    first: Option<Cgroups>,
}

impl Listed {
    fn pod_or_container(&self) -> &Arc<Container> {
        self.pod.as_ref().unwrap_or(&self.container)
    }
}

/// A container and its cgroup. The path is the one that proc prints.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a, 'p> {
    /// The container that the cgroup belongs to.
    pub container: &'a Arc<Container>,
    /// The path of the container's own cgroup, on which its limits are set.
    pub cgroup: &'p [u8],
}

impl CgroupIndex {
    /// Creates an empty index. `includes_ended` says that a listing may name containers that have ended.
    pub fn new(includes_ended: bool) -> Self {
        Self { includes_ended, ..Self::default() }
    }

    /// Looks through the cgroup paths of all processes. They show whether the exporter is in a cgroup
    /// namespace, and which containers have a cgroup that is not inside another container's cgroup. Returns
    /// true if the first result has changed since the last call, or if the paths show such a container that
    /// was not known before. Processes may then have to be attributed to other containers.
    pub fn observe<'a>(&mut self, processes: impl Iterator<Item = &'a Cgroups>) -> bool {
        let Self { by_id, by_path, placed, .. } = self;
        let needs_placing = by_id.values().any(|listed| listed.first.is_none());
        let (mut is_inside, mut is_new) = (false, false);
        for path in processes.flat_map(Cgroups::paths) {
            is_inside |= path == b"/.." || path.starts_with(b"/../");
            if needs_placing
                && let Some(id) =
                    outermost_id(path, |id| by_id.contains_key(id), |path| is_first(by_path, path))
                && !placed.contains(id)
            {
                is_new = true;
                placed.insert(id.into());
            }
        }
        is_new | (std::mem::replace(&mut self.is_inside, is_inside) != is_inside)
    }

    /// Returns the ids of listed containers in the cgroup paths of these processes. In each path, only the
    /// first id counts, because a workload may have made the cgroups below it.
    pub fn ids_of<'p>(&self, processes: impl Iterator<Item = &'p Cgroups>) -> HashSet<&'p [u8]> {
        let is_listed = |id: &[u8]| self.by_id.contains_key(id);
        let paths = processes.flat_map(Cgroups::paths);
        paths.filter_map(|path| outermost_id(path, is_listed, |path| is_first(&self.by_path, path))).collect()
    }

    /// Removes every container.
    pub fn clear(&mut self) {
        self.by_id.clear();
        self.by_path.clear();
    }

    /// Drops the ids in `placed` that are no longer listed.
    pub fn forget_unlisted(&mut self) {
        let Self { by_id, placed, .. } = self;
        placed.retain(|id| by_id.contains_key(id));
    }

    /// Adds a container, which is found by its id in a cgroup path. `first` has the cgroups in which its init
    /// process was first seen. If none of them contains the id, their main path finds the container, too.
    ///
    /// If `pod` is given, the container's processes are attributed to that pod. Returns true if the main path
    /// is already that of a container in another pod. The cgroup at this path then belongs to neither pod.
    pub fn insert(
        &mut self,
        container: &Arc<Container>,
        pod: Option<&Arc<Container>>,
        first: Option<&Cgroups>,
    ) -> bool {
        let id = container.listed.id.as_bytes();
        let pod_or_container = pod.unwrap_or(container);
        if !id.is_empty() {
            let listed = || Listed { container: container.clone(), pod: pod.cloned(), first: first.cloned() };
            self.by_id.entry(id.into()).or_insert_with(listed);
        }
        let Some(first) = first.filter(|first| first.paths().all(|path| named_cgroup(id, path).is_none()))
        else {
            return false;
        };
        let Some(path) = first.main() else { return false };
        let is_root = path.split(|&b| b == b'/').all(|component| [&b""[..], b".."].contains(&component));
        if is_root && !(self.is_inside && path == b"/") {
            return false;
        }
        let known = self.by_path.entry(path.into()).or_insert_with(|| Some(pod_or_container.clone()));
        known.take_if(|known| known.id != pod_or_container.id);
        known.is_none()
    }

    /// Returns the container of a process in these cgroups. The first path with a listed id is used, in any
    /// hierarchy. If no path contains a listed id, the path from [`Cgroups::main`] is used.
    pub fn container_of<'a, 'p>(&'a self, cgroups: &'p Cgroups) -> Option<Place<'a, 'p>> {
        let by_id = cgroups.paths().find_map(|path| match self.find(path) {
            (place, true) => Some(place),
            _ => None,
        });
        by_id.unwrap_or_else(|| self.find(cgroups.main()?).0)
    }

    /// Returns the container that has the cgroup at `path`.
    pub fn container_at<'a, 'p>(&'a self, path: &'p [u8]) -> Option<Place<'a, 'p>> {
        self.find(path).0
    }

    /// Returns the container that the cgroup at `path` belongs to, and whether `path` contains a listed id. A
    /// container that is found before a `..` is dropped, because `..` leads out of that container's cgroup.
    fn find<'a, 'p>(&'a self, path: &'p [u8]) -> (Option<Place<'a, 'p>>, bool) {
        let (mut place, mut has_id) = (None::<Place<'a, 'p>>, false);
        for (component, above) in components(path) {
            if component == b".." {
                place = None;
                continue;
            }
            if let Some(Some(container)) = self.by_path.get(key(above)) {
                place = Some(Place { container, cgroup: key(above) });
            }
            let Some(listed) = self.by_id.get(id_of(component)) else { continue };
            has_id = true;
            let is_same = |place: &Place| place.container.id == listed.pod_or_container().id;
            if place.is_none() || (self.is_placed_at(listed, above) && !place.as_ref().is_some_and(is_same)) {
                place = Some(Place { container: listed.pod_or_container(), cgroup: key(above) });
            }
        }
        (place, has_id)
    }

    /// Whether the listed container owns the cgroup at `path`, which is inside another container's cgroup. If
    /// the listed container's init process was seen, the container owns the cgroup only if init was first
    /// seen there. If init was never seen, the container owns the cgroup only if the runtime lists no pid for
    /// init, a listing cannot name ended containers, and the container is not known to have a cgroup outside
    /// the cgroups of all other containers.
    fn is_placed_at(&self, listed: &Listed, path: &[u8]) -> bool {
        let id = listed.container.listed.id.as_bytes();
        match &listed.first {
            Some(first) => first.paths().any(|first| named_cgroup(id, first) == Some(path)),
            None if listed.container.listed.init_pid.is_some() => false,
            None => !self.includes_ended && !self.placed.contains(id),
        }
    }
}

/// Whether `by_path` has a container for the cgroup at `path`.
fn is_first(by_path: &ByPath, path: &[u8]) -> bool {
    matches!(by_path.get(path), Some(Some(_)))
}

#[cfg(test)]
mod tests;
