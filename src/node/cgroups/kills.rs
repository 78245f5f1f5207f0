//! Finds OOM kills by comparing the kernel's counters with their previous values.

use std::cmp::Reverse;

use super::account::Account;
use super::oom::OomTracker;
use crate::cgroupfs::files::CgroupFs;

/// Compares the kill counters of all containers with their previous values. `gone` are containers without a
/// process.
pub fn find(fs: &mut CgroupFs, ooms: &mut OomTracker, live: &mut [Account], gone: &mut [Account]) {
    // The kills found so far, by the path of the cgroup above. Empty without kills: a steady scrape allocates
    // nothing.
    let mut found: Vec<(Vec<u8>, u64)> = Vec::new();
    // The containers without their own counter: the cgroup may be gone while a process in it is still listed.
    let mut silent: Vec<&mut Account> = gone.iter_mut().collect();
    for account in live {
        match account.new_kills(fs) {
            Some(0) => {}
            Some(n_kills) => {
                report(ooms, account, n_kills);
                found.push((account.kills().path_above().to_vec(), n_kills));
            }
            None => silent.push(account),
        }
    }
    // Kills that only the cgroup above has counted are attributed to the fullest container in it.
    silent.sort_by_key(|account| Reverse(account.use_permille()));
    for account in silent {
        let Some(n_above) = account.kills().new_above(fs) else { continue };
        let path = account.kills().path_above();
        let n_of_others: u64 = found.iter().filter(|(other, _)| *other == path).map(|(_, n)| n).sum();
        let n_kills = n_above.saturating_sub(n_of_others);
        if n_kills > 0 {
            found.push((path.to_vec(), n_kills));
            report(ooms, account, n_kills);
        }
    }
}

/// Reports kills in a container, if there are any.
pub fn report(ooms: &mut OomTracker, account: &mut Account, n_kills: u64) {
    if n_kills > 0 {
        ooms.add(account.kill(n_kills));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::accounts::tests::labels;
    use super::super::usage::CgroupUsage;
    use super::super::usage::tests::{Checked, pod};
    use log::Level;

    fn killed(name: &str, n_kills: u64, current: u64) -> (String, u64, u64) {
        (name.to_owned(), n_kills, current)
    }

    #[test]
    fn kills_counted_by_the_container_are_reported() {
        let (mut node, processes) = pod("counted");
        assert_eq!(node.check(&processes), (vec![], vec![]), "kills before the start do not count");
        node.cgroup("kubepods/pod/c1", 950);
        assert_eq!(node.check(&processes), (vec!["a"], vec![]));
        node.oom_kills(8);
        node.cgroup("kubepods/pod/c1", 100);
        node.write("kubepods/pod/c1/memory.events", "oom 9\noom_kill 4\n");
        node.write("kubepods/pod/memory.events", "oom_kill 7\n");
        assert_eq!(node.check(&processes), (vec![], vec![killed("a", 1, 950)]));
        assert_eq!(node.check(&processes), (vec![], vec![]));
        node.oom_kills(10);
        node.write("kubepods/pod/c1/memory.events", "oom_kill 6\n");
        node.write("kubepods/pod/memory.events", "oom_kill 9\n");
        let (near, kills) = node.check(&processes);
        assert_eq!((near, kills), (vec![], vec![killed("a", 2, 100)]));
        let counts: Vec<_> = node.usage.n_kills().map(|(labels, n)| (labels.to_owned(), n)).collect();
        assert_eq!(counts, [(labels("a"), 3), (labels("b"), 0)]);
    }

    /// The cgroup is gone before its counter is read, so only the pod's counter remains.
    #[test]
    fn kills_in_a_container_that_is_gone_are_counted_by_its_pod() {
        let (mut node, processes) = pod("gone");
        node.check(&processes);
        // Killed by SIGKILL: no counter changes.
        assert_eq!(node.check(&processes[1..]).1, []);
        node.check(&processes);
        // An OOM kill in one of two containers that are gone is attributed to the fuller one.
        node.cgroup("kubepods/pod/c2", 600);
        node.check(&processes);
        for (name, n_on_node, n_of_pod, expected) in
            [("somewhere else", 8, 6, vec![]), ("one of two", 9, 7, vec![killed("b", 1, 600)])]
        {
            node.check(&processes);
            node.oom_kills(n_on_node);
            node.write("kubepods/pod/memory.events", &format!("oom_kill {n_of_pod}\n"));
            assert_eq!(node.check(&[]).1, expected, "{name}");
        }
        let counts: Vec<_> = node.usage.n_kills().map(|(labels, n)| (labels.to_owned(), n)).collect();
        assert_eq!(counts, [(labels("b"), 1)], "a container without kills is forgotten");
    }

    /// A kill that another container of the pod has counted did not happen in the container that is gone.
    #[test]
    fn a_kill_is_reported_once() {
        let (mut node, processes) = pod("once");
        node.check(&processes);
        node.oom_kills(8);
        node.write("kubepods/pod/c2/memory.events", "oom_kill 4\n");
        node.write("kubepods/pod/memory.events", "oom_kill 7\n");
        assert_eq!(node.check(&processes[1..]).1, [killed("b", 1, 500)]);
    }

    /// Version 1 has no counter for the pod, so the container's own counter is read often while it is near
    /// its limit. Kills in a container that is gone remain unknown.
    #[test]
    fn version_1_counts_kills_in_watched_containers() {
        for (current, is_watched) in [(950, true), (800, false)] {
            let mut node = Checked::new(&format!("v1-{current}"), &[("c1", "10", "shop", "a")]);
            node.oom_kills(7);
            fs::remove_file(node.node.directory.join("cgroup/cgroup.controllers")).unwrap();
            node.write("memory/kubepods/pod/c1/memory.usage_in_bytes", &format!("{current}\n"));
            node.write("memory/kubepods/pod/c1/memory.stat", "hierarchical_memory_limit 1000\n");
            node.write("memory/kubepods/pod/c1/memory.oom_control", "oom_kill 3\n");
            node.usage = CgroupUsage::new(node.node.fs(), Level::Info);
            node.check(&[(10, 100, "/kubepods/pod/c1")]);
            assert_eq!(node.usage.has_watched(), is_watched);
            node.usage.watch();
            assert!(node.usage.take_kills().is_empty());
            node.write("memory/kubepods/pod/c1/memory.oom_control", "oom_kill 4\n");
            node.usage.watch();
            let kills: Vec<_> =
                node.usage.take_kills().iter().map(|kill| (kill.n_kills, kill.current)).collect();
            assert_eq!(kills, if is_watched { vec![(1, 950)] } else { vec![] });
            // A kill elsewhere while the container ends.
            node.oom_kills(9);
            assert_eq!(node.check(&[]).1, []);
        }
    }

    /// The killed process is still listed, but its cgroup is gone.
    #[test]
    fn a_kill_is_counted_if_the_cgroup_is_gone_before_the_process() {
        for is_read_between in [false, true] {
            let (mut node, processes) = pod(&format!("cgroup-first-{is_read_between}"));
            node.cgroup("kubepods/pod/c1", 950);
            node.check(&processes);
            assert_eq!(node.check(&processes).0, ["a"]);
            fs::remove_dir_all(node.node.directory.join("cgroup/kubepods/pod/c1")).unwrap();
            if is_read_between {
                // The container disappears after the counters were compared.
                assert_eq!(node.check(&processes).1, []);
            }
            node.oom_kills(8);
            node.write("kubepods/pod/memory.events", "oom_kill 7\n");
            assert_eq!(node.check(&processes).1, [killed("a", 1, 950)]);
            assert_eq!(node.check(&processes[1..]).1, []);
        }
    }

    /// Cgroups that are not kept open are read by their paths, so the kill is not attributed to the pod's
    /// fuller container.
    #[test]
    fn kills_are_counted_beyond_the_limit_of_open_cgroups() {
        let (mut node, processes) = pod("beyond");
        node.usage.keep_open(0);
        node.cgroup("kubepods/pod/c1", 600);
        assert_eq!(node.check(&processes), (vec![], vec![]));
        node.oom_kills(8);
        node.write("kubepods/pod/c2/memory.events", "oom_kill 4\n");
        node.write("kubepods/pod/memory.events", "oom_kill 7\n");
        assert_eq!(node.check(&processes).1, [killed("b", 1, 500)]);
    }

    #[test]
    fn a_kill_is_counted_if_the_node_counts_it_first() {
        let (mut node, processes) = pod("node-first");
        node.check(&processes);
        node.oom_kills(8);
        assert_eq!(node.check(&processes).1, []);
        node.write("kubepods/pod/c1/memory.events", "oom_kill 4\n");
        assert_eq!(node.check(&processes).1, [killed("a", 1, 500)]);
        assert_eq!(node.check(&processes).1, []);
    }
}
