//! Finds pods with containers that share a process or a cgroup. gVisor and Kata Containers run all containers
//! of a pod in one sandbox. The processes of the sandbox are in one cgroup, and the runtime lists the same
//! pid for each container. Nothing shows which container uses the memory of these processes. So their memory
//! is attributed to the pod, and the label `container` is empty.

use std::sync::Arc;

use log::debug;

use super::cgroup_path::named_cgroup;
use super::filter::Filter;
use super::table::{Container, ContainerId, Containers};
use crate::procfs::cgroup::Cgroups;
use crate::sources;

/// What several containers of a pod can share: the pid of their init process, or a cgroup with a path that
/// contains no container's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shared<'a> {
    Pid(u32),
    Cgroup(&'a [u8]),
}

/// Sets the pod of each container that shares a pid or a cgroup with another container of the same pod. The
/// memory of the shared processes is then attributed to the pod, because nothing shows which container uses
/// this memory. For all other containers, no pod is set.
pub fn find(containers: &mut Containers, filters: &[Filter]) {
    let mut is_sharing = sharing(containers).into_iter();
    let mut pods: Vec<Arc<Container>> = containers.iter().filter_map(|known| known.pod.clone()).collect();
    containers.set_pods(|container, n_ids| {
        if !is_sharing.next()? {
            return None;
        }
        let sources::Container { namespace, pod, .. } = &container.listed;
        let is_own =
            |known: &&Arc<Container>| (&known.listed.namespace, &known.listed.pod) == (namespace, pod);
        if let Some(known) = pods.iter().find(is_own) {
            return Some(known.clone());
        }
        debug!("containers of {namespace}/{pod} share their processes, which count for the pod");
        let (id, name) = (String::new(), String::new());
        let is_selected = filters.iter().any(|filter| filter.matches_container(namespace, pod, &name));
        let (namespace, pod) = (namespace.clone(), pod.clone());
        let listed = sources::Container { id, init_pid: None, namespace, pod, name };
        let new = Arc::new(Container::new(ContainerId(*n_ids), listed, is_selected));
        *n_ids += 1;
        pods.push(new.clone());
        Some(new)
    });
}

/// Returns, for each container, whether it shares a pid or a cgroup with another container of its pod.
fn sharing(containers: &Containers) -> Vec<bool> {
    let mut shared = Vec::new();
    for (i, tracked) in containers.iter().enumerate() {
        let sources::Container { id, init_pid, namespace, pod, .. } = &tracked.container.listed;
        let has_no_id =
            |first: &&Cgroups| first.paths().all(|path| named_cgroup(id.as_bytes(), path).is_none());
        let cgroup = tracked.first_cgroups.as_ref().filter(has_no_id).and_then(Cgroups::main);
        let of_container = [init_pid.map(Shared::Pid), cgroup.map(Shared::Cgroup)];
        if !pod.is_empty() {
            shared.extend(of_container.into_iter().flatten().map(|what| ((namespace, pod, what), i)));
        }
    }
    shared.sort_unstable();
    let mut is_sharing = vec![false; containers.count()];
    for pair in shared.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        (is_sharing[pair[0].1], is_sharing[pair[1].1]) = (true, true);
    }
    is_sharing
}

#[cfg(test)]
mod tests {
    use super::super::table::{Seen, tests::listed};
    use super::*;

    #[test]
    fn containers_that_share_a_process_or_a_cgroup_are_in_their_pod() {
        let filters = [Filter::parse("default/*/*/*").unwrap()];
        let mut containers = Containers::default();
        let elsewhere = |id, pid| sources::Container { pod: "other".into(), ..listed(id, Some(pid)) };
        let listing = vec![
            listed("a", Some(1)),
            listed("b", Some(1)),
            listed("c", Some(2)),
            listed("d", Some(3)),
            elsewhere("e", 1),
            listed("f", None),
        ];
        containers.replace_listing(listing, &filters, false);
        let mut pods_of = |cgroups: [&str; 3]| -> Vec<Option<u32>> {
            let cgroups = cgroups.map(|path| Cgroups::from(&*format!("0::{path}")));
            let seen = |(pid, cgroups)| Seen { pid, start_time: Some(5), cgroups };
            containers.see_inits((1..).zip(&cgroups).map(seen));
            find(&mut containers, &filters);
            let pods = containers.iter().map(|tracked| tracked.pod.as_ref());
            pods.map(|pod| pod.map(|pod| pod.id.0)).collect()
        };
        let by_pid = [Some(6), Some(6), None, None, None, None];
        assert_eq!(pods_of(["/pod/x", "/pod/c", "/pod/d"]), by_pid, "c and d have ids in their paths");
        assert_eq!(pods_of(["/pod/x", "/pod/c", "/pod/d"]), by_pid, "the pod keeps its id");
        let pod = containers.iter().next().unwrap().pod.clone().unwrap();
        assert_eq!(pod.labels, r#"{namespace="default",pod="pod",container="""#);
        assert!(pod.is_selected);
        containers.replace_listing(vec![listed("c", Some(4)), listed("d", Some(5))], &filters, false);
        let sandbox = Cgroups::from("0::/pod/sandbox");
        let seen = [4, 5].map(|pid| Seen { pid, start_time: Some(6), cgroups: &sandbox });
        containers.see_inits(seen.into_iter());
        find(&mut containers, &filters);
        assert!(containers.iter().all(|tracked| tracked.pod.is_some()), "one cgroup, two processes");
    }
}
