use super::super::accounts::tests::Node;
use super::*;

#[test]
fn limits_are_read_once_a_second_where_writes_are_not_reported() {
    let node = Node::new("unreported", &[]);
    node.cgroup("kubepods/c1", 500);
    node.write("kubepods/c1/memory.max", "max\n");
    let place = Place { path: b"kubepods/c1".into(), pod: None, parent: None };
    let (mut looks, id, start) = (Looks::new(1000), ContainerId(1), Instant::now());
    looks.add(&node.fs(), id, &place, [false; 2], start);
    let look = |looks: &mut Looks, second, limit: u64| {
        node.write("kubepods/c1/memory.max", &format!("{limit}\n"));
        looks.look(start + Duration::from_secs(second));
        looks.use_of_container(id).limit
    };
    assert_eq!(look(&mut looks, 1, 1000), Some(1000));
    looks.levels.values().filter_map(|level| level.limit_file).for_each(|file| looks.changes.forget(file));
    assert_eq!(look(&mut looks, 2, 900), Some(1000), "this write is not reported");
    assert_eq!(look(&mut looks, 11, 900), Some(900), "all limits are read");
    assert_eq!(look(&mut looks, 12, 800), Some(800));
}

#[test]
fn a_new_cgroup_ends_the_calm() {
    let node = Node::new("calm", &[]);
    for path in ["kubepods/pod", "kubepods/pod/c1"] {
        node.cgroup(path, 500);
        node.write(&format!("{path}/memory.max"), "1000\n");
    }
    let pod = Some(b"kubepods/pod".to_vec());
    let place = Place { path: b"kubepods/pod/c1".into(), pod: pod.clone(), parent: pod };
    let (mut looks, start) = (Looks::new(1000), Instant::now());
    looks.add(&node.fs(), ContainerId(1), &place, [false; 2], start);
    let mut look = |seconds| {
        let now = start + Duration::from_secs(seconds);
        (looks.look(now).has_new, looks.is_calm(now))
    };
    assert_eq!([look(1), look(10)], [(false, false), (false, true)]);
    node.cgroup("kubepods/pod/c2", 1);
    assert_eq!([look(11), look(20), look(21)], [(true, false), (false, false), (false, true)]);
}

#[test]
fn a_cgroup_that_is_gone_is_not_looked_at_again() {
    let node = Node::new("gone", &[]);
    node.cgroup("kubepods/c1", 500);
    node.write("kubepods/c1/memory.max", "1000\n");
    let place = Place { path: b"kubepods/c1".into(), pod: None, parent: None };
    let (mut looks, id, start) = (Looks::new(1000), ContainerId(1), Instant::now());
    looks.add(&node.fs(), id, &place, [false; 2], start);
    assert_eq!((looks.levels.len(), looks.containers.len()), (1, 1));
    node.write("kubepods/c1/memory.current", "");
    looks.look(start + MAX_INTERVAL);
    assert_eq!((looks.levels.len(), looks.containers.len(), looks.next()), (0, 0, None));
}
