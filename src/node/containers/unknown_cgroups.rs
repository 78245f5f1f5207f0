//! The cgroups of processes outside containers. If one of these cgroups is new, it may belong to a container
//! that is not listed yet.

use std::collections::HashMap;

use super::cgroup_index::CgroupIndex;
use crate::procfs::cgroup::Cgroups;

/// The cgroups outside containers that the last scrape found.
#[derive(Debug, Default)]
pub struct UnknownCgroups {
    /// The cgroups, each with the number of the scrape that saw it last.
    seen: HashMap<Cgroups, u64>,
    n_scrapes: u64,
}

impl UnknownCgroups {
    /// Stores the cgroups of the processes that are in no container. Returns whether one of these cgroups was
    /// not seen before. `has_changed` says that `index` has changed since the last scrape. If so, a stored
    /// cgroup that belongs to a container by now is dropped.
    pub fn see<'a>(
        &mut self,
        processes: impl Iterator<Item = &'a Cgroups>,
        index: &CgroupIndex,
        has_changed: bool,
    ) -> bool {
        self.n_scrapes += 1;
        let mut has_new = false;
        let mut n_seen = 0;
        for cgroups in processes {
            match self.seen.get_mut(cgroups) {
                Some(_) if has_changed && index.container_of(cgroups).is_some() => {}
                Some(seen) => {
                    n_seen += usize::from(*seen != self.n_scrapes);
                    *seen = self.n_scrapes;
                }
                None if index.container_of(cgroups).is_some() => {}
                None => {
                    has_new = true;
                    n_seen += 1;
                    self.seen.insert(cgroups.clone(), self.n_scrapes);
                }
            }
        }
        if n_seen < self.seen.len() {
            self.seen.retain(|_, seen| *seen == self.n_scrapes);
            self.seen.shrink_to(2 * n_seen);
        }
        has_new
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::table::{Container, ContainerId, tests::listed};
    use super::*;

    #[test]
    fn cgroup_is_new_only_the_first_time() {
        let mut index = CgroupIndex::default();
        let container = Container::new(ContainerId(0), listed("a", None), true);
        index.insert(&Arc::new(container), None, None);
        let mut unknown = UnknownCgroups::default();
        let mut see = |paths: &[&str]| {
            let cgroups: Vec<_> = paths.iter().map(|path| Cgroups::from(&*format!("0::{path}"))).collect();
            let has_new = unknown.see(cgroups.iter(), &index, false);
            (has_new, unknown.seen.len())
        };
        assert_eq!(see(&["/a/x"]), (false, 0), "it is in a container");
        assert_eq!(see(&["/x", "/x", "/a"]), (true, 1));
        assert_eq!(see(&["/x"]), (false, 1));
        assert_eq!(see(&["/y"]), (true, 1), "one without processes is forgotten");
        assert_eq!(see(&["/x", "/y"]), (true, 2), "and is new again");
    }

    #[test]
    fn cgroup_of_a_new_container_is_known() {
        let (mut index, mut unknown) = (CgroupIndex::default(), UnknownCgroups::default());
        let cgroups = Cgroups::from("0::/a\n");
        assert!(unknown.see([&cgroups].into_iter(), &index, false));
        let container = Container::new(ContainerId(0), listed("a", None), true);
        index.insert(&Arc::new(container), None, None);
        assert!(!unknown.see([&cgroups].into_iter(), &index, true));
        assert!(unknown.seen.is_empty());
    }
}
