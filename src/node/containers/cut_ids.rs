//! Completes container ids that were cut off. The kubelet cuts the names of its links at 255 bytes. The
//! container id is at the end of a name, so a link with a long name has only the first digits of the id. The
//! missing digits are found in the cgroup paths of processes, if exactly one id in these paths begins with
//! the same digits.

use std::collections::{BTreeSet, HashMap, HashSet};

use log::warn;

use super::cgroup_path::id_of;
use crate::procfs::cgroup::Cgroups;
use crate::sources::Container;

/// The number of hexadecimal digits in a container id. It is the same for every runtime.
const ID_LEN: usize = 64;

/// The containers of a listing. Some of them may have a cut id, which has only the first digits.
#[derive(Debug, Default)]
pub struct CutIds {
    /// The containers that were listed with a complete id, sorted by id. The search for missing digits ends
    /// at such an id in a cgroup path. The list is also returned together with the completed containers. It
    /// is empty if no container has a cut id, because then no search is needed.
    listed: Vec<Container>,
    /// The containers that were listed with a cut id, sorted by this id.
    cut: Vec<Container>,
    /// The complete id of each container in `cut`; `None` if the missing digits were not found.
    whole: Vec<Option<Box<str>>>,
    n_ambiguous: u64,
    has_reported: bool,
}

impl CutIds {
    /// Replaces the containers by those of a new listing. The containers in `listed` have complete ids. The
    /// containers in `cut` have only the first digits of their ids. Returns the containers in `listed`, and
    /// those in `cut` for which the complete id was already found after an earlier listing. The result is
    /// sorted by id.
    pub fn take(&mut self, listed: Vec<Container>, mut cut: Vec<Container>) -> Vec<Container> {
        if cut.is_empty() {
            *self = Self { has_reported: self.has_reported, ..Self::default() };
            return listed;
        }
        cut.sort_by(|a, b| a.id.cmp(&b.id));
        let whole = cut.iter().map(|container| {
            let before = self.cut.iter().position(|before| before == container)?;
            self.whole[before].clone()
        });
        self.whole = whole.collect();
        (self.listed, self.cut) = (listed, cut);
        self.containers()
    }

    /// Finds the missing digits of cut ids in the cgroup paths of all processes. Returns the containers with
    /// a complete id, sorted by id. Returns `None` if these containers are the same as before.
    pub fn complete<'a>(&mut self, processes: impl Iterator<Item = &'a Cgroups>) -> Option<Vec<Container>> {
        if self.cut.is_empty() {
            return None;
        }
        let whole = self.find(processes);
        if self.n_ambiguous > 0 && !std::mem::replace(&mut self.has_reported, true) {
            warn!(
                "{} containers are not exported: the kubelet cut the names of their links at 255 bytes, and \
                 the remaining digits of their ids match more than one container",
                self.n_ambiguous
            );
        }
        (std::mem::replace(&mut self.whole, whole) != self.whole).then(|| self.containers())
    }

    /// Returns the number of containers with an ambiguous id. The listing has only the first digits of such
    /// an id, and these digits do not identify the container. There are two cases: several ids in the cgroup
    /// paths begin with these digits, or an id in the cgroup paths that begins with them also begins with the
    /// listed digits of another container.
    pub fn n_ambiguous(&self) -> u64 {
        self.n_ambiguous
    }

    /// Returns the number of containers with an id that has not been completed yet.
    pub fn n_incomplete(&self) -> usize {
        self.whole.iter().filter(|whole| whole.is_none()).count()
    }

    fn find<'a>(&mut self, processes: impl Iterator<Item = &'a Cgroups>) -> Vec<Option<Box<str>>> {
        let mut by_digits: HashMap<&str, Vec<usize>> = HashMap::new();
        for (i, container) in self.cut.iter().enumerate() {
            by_digits.entry(&container.id).or_default().push(i);
        }
        let lengths: BTreeSet<usize> = by_digits.keys().map(|digits| digits.len()).collect();
        let matches = |id: &str| -> Vec<usize> {
            lengths.iter().filter_map(|&length| by_digits.get(&id[..length])).flatten().copied().collect()
        };
        let (mut whole, mut is_ambiguous) = (vec![None; self.cut.len()], vec![false; self.cut.len()]);
        let mut seen = HashSet::new();
        for path in processes.flat_map(Cgroups::paths).filter(|path| seen.insert(*path)) {
            for component in path.split(|&b| b == b'/') {
                let Some(id) = whole_id(component) else { continue };
                let is_listed = self.listed.binary_search_by(|known| known.id.as_str().cmp(id)).is_ok();
                let matched = matches(id);
                for &i in &matched {
                    let is_other = whole[i].as_deref().is_some_and(|known| known != id);
                    is_ambiguous[i] |= is_other || matched.len() > 1;
                    whole[i] = Some(id.into());
                }
                // The rest of the path is inside this container. It is skipped, because the workload chooses
                // the names there.
                if is_listed || !matched.is_empty() {
                    break;
                }
            }
        }
        self.n_ambiguous = is_ambiguous.iter().filter(|is_ambiguous| **is_ambiguous).count() as u64;
        whole.into_iter().zip(is_ambiguous).map(|(id, is_ambiguous)| id.filter(|_| !is_ambiguous)).collect()
    }

    fn containers(&self) -> Vec<Container> {
        let completed =
            self.cut.iter().zip(&self.whole).filter_map(|(container, id)| {
                Some(Container { id: id.as_deref()?.into(), ..container.clone() })
            });
        let mut containers: Vec<Container> = self.listed.iter().cloned().chain(completed).collect();
        containers.sort_by(|a, b| a.id.cmp(&b.id));
        containers.dedup_by(|a, b| a.id == b.id);
        containers
    }
}

/// Returns the complete container id in a component of a cgroup path, if there is one.
fn whole_id(component: &[u8]) -> Option<&str> {
    let id = std::str::from_utf8(id_of(component)).ok()?;
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (id.len() == ID_LEN && id.bytes().all(is_digit)).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, name: &str) -> Container {
        let (namespace, pod) = ("shop".into(), "web-0".into());
        Container { id: id.into(), init_pid: None, namespace, pod, name: name.into() }
    }

    fn id(first: &str, rest: char) -> String {
        format!("{first}{}", rest.to_string().repeat(ID_LEN - first.len()))
    }

    #[test]
    fn cut_id_is_completed_if_exactly_one_id_matches() {
        let (listed, a, b) = (id("1", '1'), id("aaaaaaaaaaaa", '0'), id("aaaaaaaaaaaa", '1'));
        // Each case has four parts: the cut ids that are listed, the cgroup paths of the processes, the names
        // of the containers with ids that can be completed, and the number of ambiguous ids.
        type Case<'a> = (&'a [&'a str], Vec<String>, &'a [&'a str], u64);
        let cases: [Case; 9] = [
            (&["aaaaaaaaaaaa"], vec![], &[], 0),
            (&["aaaaaaaaaaaa"], vec![format!("/kubepods/pod1/{a}/init")], &["0"], 0),
            (&["aaaaaaaaaaaa"], vec![format!("/pod1.slice/cri-containerd-{a}.scope")], &["0"], 0),
            (&["aaaaaaaaaaaa"], vec![format!("/pod1.slice:cri-containerd:{a}")], &["0"], 0),
            // The paths contain no id, or an id of another length.
            (
                &["aaaaaaaaaaaa"],
                vec![format!("/{}", &a[1..]), format!("/{a}0"), "/aaaaaaaaaaaa".into()],
                &[],
                0,
            ),
            (&["aaaaaaaaaaaa"], vec![format!("/pod1/{a}"), format!("/pod2/{b}")], &[], 1),
            // Both cut ids are the beginning of the same id in a cgroup path. They are equal in the first
            // case, and differ in length in the second case.
            (&["aaaaaaaaaaaa", "aaaaaaaaaaaa"], vec![format!("/pod1/{a}")], &[], 2),
            (&["aaaaaaaaaaaa", "aaaaaaaaaaaa0"], vec![format!("/pod1/{a}"), format!("/pod2/{b}")], &[], 2),
            // The workload chooses the names of cgroups inside its container's cgroup. So an id in these
            // names is ignored, because the workload may have invented it.
            (
                &["aaaaaaaaaaaa", "bbbbbbbbbbbb"],
                vec![
                    format!("/pod1/{a}"),
                    format!("/pod2/{listed}/{b}"),
                    format!("/pod3/{}/{b}", id("bbbbbbbbbbbb", '3')),
                ],
                &["0", "1"],
                0,
            ),
        ];
        for (digits, paths, expected, n_ambiguous) in cases {
            let mut ids = CutIds::default();
            let cut = digits.iter().enumerate().map(|(i, digits)| container(digits, &i.to_string()));
            assert_eq!(ids.take(vec![container(&listed, "listed")], cut.collect()).len(), 1);
            let cgroups: Vec<_> =
                paths.iter().map(|path| Cgroups::from(format!("0::{path}\n").as_str())).collect();
            let completed = ids.complete(cgroups.iter());
            let names = completed.iter().flatten().map(|container| container.name.as_str());
            let names: Vec<_> = names.filter(|name| *name != "listed").collect();
            assert_eq!((&names[..], ids.n_ambiguous()), (expected, n_ambiguous), "{digits:?} in {paths:?}");
            assert_eq!(ids.n_incomplete(), digits.len() - expected.len());
            assert_eq!(ids.complete(cgroups.iter()), None, "nothing has changed");
        }
    }

    #[test]
    fn completed_id_is_kept_until_its_process_ends() {
        let mut ids = CutIds::default();
        let (whole, cut) = (id("aaaaaaaaaaaa", '0'), || vec![container("aaaaaaaaaaaa", "app")]);
        ids.take(vec![], cut());
        let cgroups = Cgroups::from(format!("0::/pod1/{whole}\n").as_str());
        assert_eq!(ids.complete([&cgroups].into_iter()), Some(vec![container(&whole, "app")]));
        assert_eq!(ids.take(vec![], cut()), [container(&whole, "app")]);
        assert_eq!(ids.complete([].into_iter()), Some(vec![]));
        assert_eq!(ids.take(vec![container("1", "x")], vec![]), [container("1", "x")]);
        assert_eq!(ids.complete([&cgroups].into_iter()), None);
    }
}
