use super::*;
use crate::sources;

const POD: &[u8] = b"kubepods/burstable/pod";
const ABOVE: [&[u8]; 3] = [b"kubepods", b"kubepods/burstable", POD];

/// A pod with the containers a, b and c, and the kernel's counters. Container c is not selected.
struct Node {
    counts: KillCounts,
    containers: [EventCounts; 3],
    /// The counts of the cgroups in [`ABOVE`].
    above: [EventCounts; 3],
    now: Instant,
}

/// The reason for a kill: a cgroup has reached its limit, or the whole node has no memory left. A cgroup is
/// given by its position in the array `containers` or `above` of the test.
enum Full {
    Container(usize),
    Above(usize),
    Node,
}

impl Node {
    fn new() -> Self {
        let mut node = Self {
            counts: KillCounts::new(true),
            containers: [EventCounts { max: 1, oom: 2, own_oom: 2, kills: 3 }; 3],
            above: [EventCounts { max: 5, oom: 7, own_oom: 1, kills: 9 }; 3],
            now: Instant::now(),
        };
        for (path, counts) in ABOVE.iter().zip(node.above) {
            node.counts.add_above(path, counts);
        }
        for (i, counts) in node.containers.into_iter().enumerate() {
            node.counts.add_container(&container(i), Some(POD), counts);
        }
        node
    }

    /// Counts an `oom` event in the same way as the kernel. `full` is the cgroup that has reached its limit.
    fn reach(&mut self, full: &Full) {
        if let Full::Container(i) = *full {
            self.containers[i].own_oom += 1;
            self.containers[i].oom += 1;
            self.above.iter_mut().for_each(|above| above.oom += 1);
        }
        if let Full::Above(i) = *full {
            self.above[i].own_oom += 1;
            self.above[..=i].iter_mut().for_each(|above| above.oom += 1);
        }
    }

    /// Counts a kill in container `i`, and the `oom` event before it.
    fn kill(&mut self, i: usize, full: &Full) {
        self.reach(full);
        self.containers[i].kills += 1;
        self.above.iter_mut().for_each(|above| above.kills += 1);
    }

    fn update_above(&mut self) {
        for (path, counts) in ABOVE.iter().zip(self.above) {
            self.counts.update_above(path, counts, self.now);
        }
    }

    fn see_containers(&mut self, seen: &[u32]) {
        for &i in seen {
            self.counts.update_container(ContainerId(i), self.containers[i as usize], self.now);
        }
    }

    /// Reads the cgroups above containers, and the containers in `seen`. Returns an entry for each container
    /// or pod with new kills: its name, the number of kills, and the limit that was hit. The name of a pod is
    /// `pod`, the container names in `candidates`, and `has_unselected`.
    fn read(&mut self, seen: &[u32]) -> Vec<(String, u64, Option<Limit>)> {
        self.update_above();
        self.see_containers(seen);
        self.settle()
    }

    fn settle(&mut self) -> Vec<(String, u64, Option<Limit>)> {
        let mut found = Vec::new();
        self.counts.settle(&mut found);
        let name = |place: &Place| match place {
            Place::Container(container) => container.listed.name.clone(),
            Place::Pod { candidates, has_unselected, .. } => {
                format!("pod {} {has_unselected}", candidates.join(","))
            }
        };
        found.iter().map(|kill| (name(&kill.place), kill.n_kills, kill.limit)).collect()
    }
}

fn container(i: usize) -> Arc<Container> {
    let name = ["a", "b", "c"][i];
    let listed = sources::Container {
        id: name.into(),
        init_pid: None,
        namespace: "shop".into(),
        pod: "web".into(),
        name: name.into(),
    };
    Arc::new(Container::new(ContainerId(i as u32), listed, name != "c"))
}

fn one(name: &str, limit: Limit) -> (String, u64, Option<Limit>) {
    (name.to_owned(), 1, Some(limit))
}

#[test]
fn a_kill_is_found_in_its_container_with_the_limit_that_was_hit() {
    for (full, limit) in [
        (Full::Container(0), Limit::Container),
        (Full::Above(2), Limit::Pod),
        (Full::Above(1), Limit::Kubepods),
        (Full::Above(0), Limit::Kubepods),
        (Full::Node, Limit::Node),
    ] {
        let mut node = Node::new();
        assert_eq!(node.read(&[0, 1, 2]), [], "kills before the start do not count");
        node.kill(0, &full);
        assert_eq!(node.read(&[0, 1, 2]), [one("a", limit)]);
        assert_eq!(node.read(&[0, 1, 2]), []);
        node.now += TOGETHER;
        node.kill(0, &Full::Node);
        assert_eq!(node.read(&[0, 1, 2]), [one("a", Limit::Node)], "a later kill has another reason");
        node.now += 2 * NEARBY;
        node.kill(1, &Full::Node);
        assert_eq!(node.read(&[0, 1, 2]), [one("b", Limit::Node)], "after a while it is another limit");
    }
}

#[test]
fn a_kill_may_follow_seconds_after_its_limit_was_reached() {
    let mut node = Node::new();
    node.reach(&Full::Above(2));
    assert_eq!(node.read(&[0, 1, 2]), []);
    node.now += 2 * TOGETHER;
    node.kill(0, &Full::Node);
    assert_eq!(node.read(&[0, 1, 2]), [one("a", Limit::Pod)]);
    node.now += TOGETHER / 2;
    node.kill(1, &Full::Node);
    assert_eq!(node.read(&[0, 1, 2]), [one("b", Limit::Pod)], "it is killed together with the other");
    node.now += NEARBY;
    node.reach(&Full::Above(2));
    assert_eq!(node.read(&[0, 1, 2]), []);
    node.now += NEARBY;
    node.kill(0, &Full::Node);
    assert_eq!(node.read(&[0, 1, 2]), [one("a", Limit::Node)], "the limit was reached too long before");
}

/// In each case, processes in the containers `killed` are killed. Then the containers that are not in `seen`
/// are removed. The kills in a removed container must be attributed to the pod, not to another container.
#[test]
fn kills_are_not_attributed_to_another_container() {
    for (name, killed, seen, expected) in [
        ("both are killed", &[0_usize, 1][..], &[0_u32, 1][..], vec![("a", 1), ("b", 1)]),
        ("one ends by itself", &[0], &[0, 1], vec![("a", 1)]),
        ("one that is not selected is killed", &[2], &[0, 1, 2], vec![]),
        ("both are killed and one is gone", &[0, 1], &[1], vec![("b", 1), ("pod a true", 1)]),
        ("one is killed and gone", &[0], &[1, 2], vec![("pod a true", 1)]),
        ("all are gone", &[0, 2], &[], vec![("pod a,b true", 2)]),
    ] {
        let mut node = Node::new();
        for &i in killed {
            node.kill(i, &Full::Container(i));
        }
        for i in (0..3).filter(|i| !seen.contains(i)) {
            node.counts.end_container(ContainerId(i), node.now);
        }
        let expected: Vec<_> =
            expected.into_iter().map(|(name, n)| (name.to_owned(), n, Some(Limit::Container))).collect();
        assert_eq!(node.read(seen), expected, "{name}");
    }
}

/// The first kill happens at the limit of the container. A second later, another kill happens at the limit of
/// the pod.
#[test]
fn the_limit_hit_closest_to_the_kill_is_reported() {
    let mut node = Node::new();
    node.kill(0, &Full::Container(0));
    assert_eq!(node.read(&[0, 1]), [one("a", Limit::Container)]);
    node.now += Duration::from_secs(1);
    node.kill(0, &Full::Above(2));
    assert_eq!(node.read(&[0, 1]), [one("a", Limit::Pod)]);
    node.now += Duration::from_secs(1);
    node.kill(0, &Full::Container(0));
    node.kill(1, &Full::Above(2));
    assert_eq!(node.read(&[0, 1]), [one("a", Limit::Container), one("b", Limit::Pod)]);
}

#[test]
fn kills_are_found_once_if_pod_and_container_are_read_apart() {
    let mut node = Node::new();
    node.update_above();
    node.kill(0, &Full::Container(0));
    node.see_containers(&[0, 1, 2]);
    assert_eq!(node.settle(), [one("a", Limit::Container)], "the container was read after its pod");
    assert_eq!(node.read(&[0, 1, 2]), []);
    node.counts.end_container(ContainerId(0), node.now);
    node.kill(0, &Full::Container(0));
    assert_eq!(node.read(&[1, 2]), [one("pod a true", Limit::Container)]);
    node.kill(1, &Full::Container(1));
    assert_eq!(node.read(&[1, 2]), [one("b", Limit::Container)], "the pod's own kill was returned before");
    node.counts.forget(node.now + CANDIDATE);
    node.kill(0, &Full::Container(0));
    assert_eq!(node.read(&[1, 2]), [one("pod  true", Limit::Container)], "another instance");
    node.counts.end_above(POD);
    node.kill(1, &Full::Container(1));
    assert_eq!(node.read(&[1, 2]), [one("b", Limit::Container)]);
}

#[test]
fn the_first_process_of_a_group_kill_counts_twice() {
    let mut node = Node::new();
    node.kill(0, &Full::Container(0));
    (0..3).for_each(|_| node.kill(0, &Full::Node));
    assert_eq!(node.read(&[0, 1, 2]), [("a".to_owned(), 4, Some(Limit::Container))]);
}

/// With the mount option `memory_localevents`, a cgroup does not count the events of the cgroups below it. So
/// the kernel counts this kill for the container, but not for the pod.
#[test]
fn local_events_are_counted_for_containers_only() {
    let mut node = Node::new();
    node.containers[0].kills += 1;
    node.containers[0].oom += 1;
    assert_eq!(node.read(&[0, 1, 2]), [one("a", Limit::Container)]);
    assert_eq!(node.read(&[0, 1, 2]), []);
}

#[test]
fn kills_in_a_cgroup_of_several_pods_are_not_those_of_a_pod() {
    let mut node = Node::new();
    let mut other = sources::Container { pod: "other".into(), ..container(0).listed.clone() };
    other.id = "d".into();
    let other = Arc::new(Container::new(ContainerId(9), other, true));
    node.counts.add_container(&other, Some(POD), EventCounts::default());
    node.above[2].kills += 1;
    assert_eq!(node.read(&[0, 1, 2]), []);
}

#[test]
fn no_limit_is_reported_without_counts_of_oom() {
    let mut counts = KillCounts::new(false);
    counts.add_container(&container(0), None, EventCounts::default());
    counts.update_container(
        ContainerId(0),
        EventCounts { kills: 1, ..EventCounts::default() },
        Instant::now(),
    );
    let mut found = Vec::new();
    counts.settle(&mut found);
    assert_eq!((found.len(), found[0].n_kills, found[0].limit), (1, 1, None));
}
