use super::super::accounts::tests::Node;
use super::*;

#[test]
fn limits_are_read_once_a_second_where_writes_are_not_reported() {
    let node = Node::new("unreported", &[]);
    node.cgroup("kubepods/c1", 500);
    node.write("kubepods/c1/memory.max", "max\n");
    let place = Place { path: b"kubepods/c1".into(), pod: None, parent: None };
    let (mut limit_watch, id, start) = (LimitWatch::new(1000), ContainerId(1), Instant::now());
    limit_watch.add(&node.fs(), id, &place, [false; 2], start);
    let measure = |limit_watch: &mut LimitWatch, second, limit: u64| {
        node.write("kubepods/c1/memory.max", &format!("{limit}\n"));
        limit_watch.measure(start + Duration::from_secs(second));
        limit_watch.use_of_container(id).limit
    };
    assert_eq!(measure(&mut limit_watch, 1, 1000), Some(1000));
    limit_watch
        .levels
        .values()
        .filter_map(|level| level.limit_file)
        .for_each(|file| limit_watch.changes.forget(file));
    assert_eq!(measure(&mut limit_watch, 2, 900), Some(1000), "this write is not reported");
    assert_eq!(measure(&mut limit_watch, 11, 900), Some(900), "all limits are read");
    assert_eq!(measure(&mut limit_watch, 12, 800), Some(800));
}

#[test]
fn a_node_with_a_new_cgroup_is_not_calm() {
    let node = Node::new("calm", &[]);
    for path in ["kubepods/pod", "kubepods/pod/c1"] {
        node.cgroup(path, 500);
        node.write(&format!("{path}/memory.max"), "1000\n");
    }
    let pod = Some(b"kubepods/pod".to_vec());
    let place = Place { path: b"kubepods/pod/c1".into(), pod: pod.clone(), parent: pod };
    let (mut limit_watch, start) = (LimitWatch::new(1000), Instant::now());
    limit_watch.add(&node.fs(), ContainerId(1), &place, [false; 2], start);
    let mut measure = |seconds| {
        let now = start + Duration::from_secs(seconds);
        (limit_watch.measure(now).has_new, limit_watch.is_calm(now))
    };
    assert_eq!([measure(1), measure(10)], [(false, false), (false, true)]);
    node.cgroup("kubepods/pod/c2", 1);
    assert_eq!([measure(11), measure(20), measure(21)], [(true, false), (false, false), (false, true)]);
}

#[test]
fn a_removed_cgroup_is_not_measured_again() {
    let node = Node::new("gone", &[]);
    node.cgroup("kubepods/c1", 500);
    node.write("kubepods/c1/memory.max", "1000\n");
    let place = Place { path: b"kubepods/c1".into(), pod: None, parent: None };
    let (mut limit_watch, id, start) = (LimitWatch::new(1000), ContainerId(1), Instant::now());
    limit_watch.add(&node.fs(), id, &place, [false; 2], start);
    assert_eq!((limit_watch.levels.len(), limit_watch.containers.len()), (1, 1));
    node.write("kubepods/c1/memory.current", "");
    limit_watch.measure(start + MAX_INTERVAL);
    assert_eq!((limit_watch.levels.len(), limit_watch.containers.len(), limit_watch.next()), (0, 0, None));
}

/// A leak in a container fills the pod between two measurements. Before a scrape reads a process of the
/// container, it calls `time_to_limit`. This function measures the cgroups again if the last measurements are
/// too old, and so finds the leak.
#[test]
fn a_leak_since_the_last_measurement_is_noticed() {
    let node = Node::new("since", &[]);
    for path in ["kubepods/pod", "kubepods/pod/c1"] {
        node.cgroup(path, 100);
    }
    node.write("kubepods/pod/memory.max", "1000\n");
    let pod = Some(b"kubepods/pod".to_vec());
    let place = Place { path: b"kubepods/pod/c1".into(), pod: pod.clone(), parent: pod };
    let (mut limit_watch, id, start) = (LimitWatch::new(1000), ContainerId(1), Instant::now());
    limit_watch.add(&node.fs(), id, &place, [false; 2], start);
    node.write("kubepods/pod/memory.current", "900\n");
    let mut time_left = |ms| limit_watch.time_to_limit(id, start + Duration::from_millis(ms));
    // The 800 bytes may have been allocated in the last 100 ms. The last 100 bytes then need 12.5 ms.
    assert_eq!([time_left(99), time_left(800)], [None, Some(Duration::from_micros(12_500))]);
    node.write("kubepods/pod/memory.current", "1000\n");
    assert_eq!([time_left(810), time_left(900)], [Some(Duration::from_micros(2500)), Some(Duration::ZERO)]);
    assert_eq!(limit_watch.take_due(), [id].into(), "it is read after the scrape");
}
