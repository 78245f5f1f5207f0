//! Checks the attribution of a process to a container. The attribution uses the cgroup file of the process,
//! `/proc/<pid>/cgroup`. The result is compared with the documented rules, which this file implements in
//! their simplest form.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use smaps_container_exporter::node::containers::cgroup_index::CgroupIndex;
use smaps_container_exporter::node::containers::table::{Container, ContainerId};
use smaps_container_exporter::procfs::cgroup::Cgroups;
use smaps_container_exporter::sources;

/// A container that the runtime lists. It has an id, and the lines of the cgroup file of its init process if
/// the input has them.
struct Listed {
    id: String,
    first: Option<Vec<Line>>,
}

#[derive(Clone)]
struct Line {
    controllers: Vec<u8>,
    path: Vec<u8>,
    is_unified: bool,
}

fuzz_target!(|bytes: &[u8]| {
    // NULs separate the parts of the input. The first part is the text of a cgroup file. The second part has
    // one line per container: an id, a space, and either one line of the cgroup file of its init process or
    // nothing. Each further part is the cgroup file of another process.
    let mut parts = bytes.split(|&b| b == 0);
    let text = parts.next().unwrap_or_default();
    let claims: Vec<(Listed, &[u8])> =
        parts.next().unwrap_or_default().split(|&b| b == b'\n').filter_map(parse_listed).collect();
    let others: Vec<&[u8]> = parts.collect();

    let mut index = CgroupIndex::default();
    for (i, (claim, first)) in claims.iter().enumerate() {
        let listed = sources::Container {
            id: claim.id.clone(),
            init_pid: None,
            namespace: String::new(),
            pod: String::new(),
            name: i.to_string(),
        };
        let mut cgroups = Cgroups::default();
        let first = cgroups.parse(first).then_some(&cgroups);
        let id = ContainerId(i as u32);
        index.insert(&Arc::new(Container::new(id, listed, true)), None, first);
    }
    let processes: Vec<Cgroups> = others.iter().copied().chain([text]).map(parse).collect();
    index.observe(processes.iter());

    let claims: Vec<Listed> = claims.into_iter().map(|(claim, _)| claim).collect();
    let files: Vec<Vec<Line>> = others.iter().copied().chain([text]).map(naive_lines).collect();
    let naive = Naive { claims: &claims, files: &files };
    for (cgroups, lines) in processes.iter().zip(&files) {
        let container = index.container_of(cgroups).map(|place| place.container.listed.name.parse().unwrap());
        assert_eq!(container, naive.container_of(lines), "{}", text.escape_ascii());
    }
});

fn parse(text: &[u8]) -> Cgroups {
    let mut cgroups = Cgroups::default();
    cgroups.parse(text);
    cgroups
}

fn parse_listed(line: &[u8]) -> Option<(Listed, &[u8])> {
    let space = line.iter().position(|&b| b == b' ')?;
    let id = String::from_utf8(line[..space].to_vec()).ok()?;
    let first = naive_lines(&line[space + 1..]);
    let first = Some(first).filter(|lines| !lines.is_empty());
    Some((Listed { id, first }, &line[space + 1..]))
}

fn naive_lines(text: &[u8]) -> Vec<Line> {
    let lines = text.split(|&b| b == b'\n').map(|line| line.splitn(3, |&b| b == b':').collect::<Vec<_>>());
    lines
        .filter(|parts| parts.len() == 3 && parts[2].starts_with(b"/"))
        .map(|parts| Line {
            is_unified: parts[0] == b"0" && parts[1].is_empty(),
            controllers: parts[1].into(),
            path: parts[2].into(),
        })
        .collect()
}

/// Returns 0 for the memory controller, 1 for name=systemd, 2 for other hierarchies, and 3 for version 2.
fn rank(line: &Line) -> u8 {
    match &line.controllers[..] {
        _ if line.is_unified => 3,
        b"name=systemd" => 1,
        names if names.split(|&b| b == b',').any(|name| name == b"memory") => 0,
        _ => 2,
    }
}

/// Returns the paths in the order in which attribution searches them for the id of a container. First comes
/// the path of the memory controller, and then the path of name=systemd. The paths of all other version 1
/// hierarchies follow, and the path of version 2 is last.
fn ordered(lines: &[Line]) -> Vec<&[u8]> {
    let of_rank =
        |wanted: u8| lines.iter().filter(move |line| rank(line) == wanted).map(|line| &line.path[..]);
    of_rank(0).take(1).chain(of_rank(1).take(1)).chain(of_rank(2)).chain(of_rank(3).take(1)).collect()
}

/// Returns the path that attribution uses if no path contains the id of a container.
///
/// If the file has a line for the memory controller, the candidates are the path in this line and the path
/// of name=systemd, in this order. Otherwise, the candidates are the path of name=systemd and the path of
/// version 2, in this order. The result is the first candidate that exists and is not `/`. If there is none,
/// but a candidate is `/`, the result is `/`.
fn main_path(lines: &[Line]) -> Option<&[u8]> {
    let has_memory = lines.iter().any(|line| rank(line) == 0);
    let wanted: &[u8] = if has_memory { &[0, 1] } else { &[1, 3] };
    let first = |wanted: u8| lines.iter().find(|line| rank(line) == wanted).map(|line| &line.path[..]);
    let paths: Vec<&[u8]> = wanted.iter().filter_map(|&wanted| first(wanted)).collect();
    paths.iter().find(|path| **path != b"/").or(paths.first()).copied()
}

struct Naive<'a> {
    claims: &'a [Listed],
    /// The lines of `/proc/<pid>/cgroup` for each process.
    files: &'a [Vec<Line>],
}

impl Naive<'_> {
    fn container_of(&self, lines: &[Line]) -> Option<usize> {
        for path in ordered(lines) {
            if path.split(|&b| b == b'/').any(|component| self.by_id(component).is_some()) {
                return self.container_of_path(path);
            }
        }
        self.container_of_path(main_path(lines)?)
    }

    /// Returns the container with the id that this component of a path stands for.
    fn by_id(&self, component: &[u8]) -> Option<usize> {
        self.claims.iter().position(|claim| stands_for(component, &claim.id))
    }

    /// Returns the container that has its init process in the cgroup at exactly this path. A container counts
    /// only if no cgroup path of its init process contains its id. Returns `None` if several such containers
    /// have their init process there, or if the path is a path of the root, such as `/` or `/../..`.
    fn by_path(&self, path: &[u8]) -> Option<usize> {
        let is_root = path.split(|&b| b == b'/').all(|component| component.is_empty() || component == b"..");
        let has_it = |claim: &Listed| {
            let Some(first) = &claim.first else { return false };
            let is_named = ordered(first).iter().any(|path| named(path, &claim.id).is_some());
            !is_root && !is_named && main_path(first) == Some(path)
        };
        let all: Vec<usize> = (0..self.claims.len()).filter(|&i| has_it(&self.claims[i])).collect();
        if let [one] = all[..] { Some(one) } else { None }
    }

    /// Finds the container recursively, from the last component of the path to the first.
    fn container_of_path(&self, path: &[u8]) -> Option<usize> {
        let slash = path.iter().rposition(|&b| b == b'/')?;
        let component = &path[slash + 1..];
        if component == b".." {
            return None;
        }
        if let Some(container) = self.by_path(path)
            && self.by_id(component).is_none()
        {
            return Some(container);
        }
        let outer = self.container_of_path(&path[..slash]);
        let outer = self.by_path(path).or(outer);
        match (self.by_id(component), outer) {
            (Some(named), None) => Some(named),
            (Some(named), Some(outer)) if self.is_placed_at(named, path) => {
                Some(if named == outer { outer } else { named })
            }
            _ => outer,
        }
    }

    fn is_placed_at(&self, i: usize, path: &[u8]) -> bool {
        let Listed { id, first } = &self.claims[i];
        match first {
            Some(first) => ordered(first).iter().any(|first| named(first, id) == Some(path)),
            None => !self.is_seen_outside(i),
        }
    }

    /// Returns whether container `i` is the outermost container in the cgroup path of some process. The path
    /// is searched from the root. It leads to a container at a component that stands for the container's id,
    /// or at the path at which `by_path` finds the container. After a `..`, the search starts over.
    fn is_seen_outside(&self, i: usize) -> bool {
        self.files.iter().flat_map(|lines| ordered(lines)).any(|path| {
            let ends = (0..=path.len()).filter(|&end| end == path.len() || path[end] == b'/');
            let mut outermost = None;
            for end in ends {
                let above = &path[..end];
                let component = above.rsplit(|&b| b == b'/').next().unwrap_or_default();
                if component == b".." {
                    outermost = None;
                } else if outermost.is_none() {
                    // `Some(Some(j))` means that `component` stands for the id of container `j`. `Some(None)`
                    // means that the init process of a container is in the cgroup `above`. That container
                    // cannot be `i`, because this function is called only if the input has no cgroup of the
                    // init process of `i`.
                    outermost = self.by_path(above).map(|_| None).or(self.by_id(component).map(Some));
                }
            }
            outermost == Some(Some(i))
        })
    }
}

/// Returns the path up to and including the first component that stands for this id.
fn named<'a>(path: &'a [u8], id: &str) -> Option<&'a [u8]> {
    let ends = (0..=path.len()).filter(|&end| end == path.len() || path[end] == b'/');
    ends.map(|end| &path[..end]).find(|above| stands_for(above.rsplit(|&b| b == b'/').next().unwrap(), id))
}

/// Returns whether a component of a path stands for this id. The component may be the id alone, or the id
/// after a colon or after the name of a runtime. A component with the name of a runtime may also end with
/// `.scope`.
fn stands_for(component: &[u8], id: &str) -> bool {
    if id.is_empty() || component == b".." {
        return false;
    }
    if component.contains(&b':') {
        return component.rsplit(|&b| b == b':').next() == Some(id.as_bytes());
    }
    let name = component.strip_suffix(b".scope").unwrap_or(component);
    let runtimes: [&[u8]; 5] = [b"libpod-", b"nerdctl-", b"docker-", b"crio-", b"cri-containerd-"];
    match runtimes.iter().find_map(|runtime| name.strip_prefix(*runtime)) {
        Some(rest) => rest == id.as_bytes(),
        None => component == id.as_bytes(),
    }
}
