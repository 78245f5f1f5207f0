//! Divides the memory of the node into top-level cgroups, pods, and memory in no cgroup.

use std::path::Path;

use crate::cgroupfs::fields::{CURRENT, Values};
use crate::cgroupfs::memory_fs::{Directory, MemoryFiles, MemoryFs};
use crate::cgroupfs::node::{Uncharged, uncharged};
use crate::cgroupfs::pod::uid_of;
use crate::procfs::{Buffers, Proc, node_memory};
use crate::sources::recording::Writer;
use crate::totals::labels;

/// The names of the top-level cgroup that contains all pods. The kubelet uses the first name with the cgroup
/// driver `systemd`, and the second name with the cgroup driver `cgroupfs`.
const KUBEPODS: [&[u8]; 2] = [b"kubepods.slice", b"kubepods"];
/// The maximum number of top-level cgroups that are exported as separate parts. A node has about a dozen
/// top-level cgroups, unless a program makes one for each of its jobs. If there are more, the first ones in
/// alphabetical order are separate parts. The part `other_cgroups` contains the others, and all cgroups with
/// a name that is not UTF-8.
const MAX_PARTS: usize = 64;

/// A part of the node's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Free,
    Pods,
    EndedPods,
    /// The top-level cgroup at this position in the list `tops` of the [`Ledger`].
    Top(usize),
    OtherCgroups,
    RootCgroup,
    Kernel,
    HugetlbPool,
    Zram,
    Balloon,
    Remainder,
}

/// A cgroup that is read, and its memory use. The use is 0 if the cgroup was removed after the cgroups were
/// listed.
#[derive(Debug)]
struct Counted {
    path: Vec<u8>,
    files: Option<MemoryFiles>,
    bytes: u64,
}

/// Divides the node's memory into parts. The lists of cgroups and parts are kept from one read to the next,
/// until a top-level cgroup or a pod is created or removed. All other buffers are always reused.
#[derive(Debug)]
pub struct Ledger {
    /// The reader of the root and of the top-level cgroups.
    tops_fs: MemoryFs,
    /// The reader of the memory use of pods.
    pods_fs: MemoryFs,
    /// The directories that contain the top-level cgroups and the cgroups of pods.
    directories: Vec<Directory>,
    /// Whether a cgroup was removed. If so, the cgroups must be listed again.
    is_stale: bool,
    root: Option<MemoryFiles>,
    tops: Vec<Counted>,
    /// The values of the top-level cgroups.
    values: Vec<Values>,
    pods: Vec<Counted>,
    /// The parts of the node's memory, each with its label text.
    parts: Vec<(Part, String)>,
    /// The size of each part in bytes; empty if the memory of the node is unknown.
    bytes: Vec<Option<i64>>,
    buffers: Buffers,
}

impl Ledger {
    /// Creates a ledger. It reads the top-level cgroups with `tops_fs`, and the memory use of pods with
    /// `pods_fs`.
    pub fn new([tops_fs, pods_fs]: [MemoryFs; 2]) -> Self {
        Self {
            tops_fs,
            pods_fs,
            directories: Vec::new(),
            is_stale: true,
            root: None,
            tops: Vec::new(),
            values: Vec::new(),
            pods: Vec::new(),
            parts: Vec::new(),
            bytes: Vec::new(),
            buffers: Buffers::default(),
        }
    }

    /// Reads the node's memory. `known` takes the path of a pod's cgroup, and returns the memory use of the
    /// pod. It returns `None` if the caller did not read the pod immediately before this call. In this case,
    /// this function reads the memory use of the pod itself. The files of at most `max_open` top-level
    /// cgroups and of at most `max_open` pods stay open.
    pub fn read(&mut self, proc: &Proc, max_open: usize, known: impl Fn(&[u8]) -> Option<u64>) {
        self.bytes.clear();
        if self.is_stale || self.directories.iter().any(Directory::has_changed) {
            self.list(max_open);
        }
        let Self { tops_fs, pods_fs, root, tops, values, pods, is_stale, buffers, .. } = self;
        for (i, pod) in pods.iter_mut().enumerate() {
            let read = known(&pod.path).or_else(|| pod.read(pods_fs, i < max_open)?.get(CURRENT));
            *is_stale |= read.is_none();
            pod.bytes = read.unwrap_or(0);
        }
        let Some(memory) = proc.node_memory(buffers) else { return };
        let root = root.as_ref().and_then(|root| tops_fs.read(root, None)).unwrap_or_default();
        values.clear();
        for (i, top) in tops.iter_mut().enumerate() {
            let read = top.read(tops_fs, i < max_open).unwrap_or_default();
            *is_stale |= read.get(CURRENT).is_none();
            top.bytes = read.get(CURRENT).unwrap_or(0);
            values.push(read);
        }
        let uncharged = uncharged(&memory, &root, values.iter());
        self.divide(memory.total, &uncharged);
    }

    /// Sets the size of each part. The remainder comes last: it is `total` minus all other parts.
    fn divide(&mut self, total: u64, uncharged: &Uncharged) {
        let Self { tops, pods, parts, bytes, .. } = self;
        let sum_of = |bytes: &mut dyn Iterator<Item = u64>| bytes.fold(0, u64::saturating_add);
        let pods = sum_of(&mut pods.iter().map(|pod| pod.bytes));
        let kubepods = sum_of(&mut tops.iter().filter(|top| top.is_kubepods()).map(|top| top.bytes));
        let unnamed = tops.iter().enumerate().filter(|(i, top)| top.is_other(*i));
        let others = sum_of(&mut unnamed.map(|(_, top)| top.bytes));
        let mut rest = signed(total);
        for (part, _) in parts.iter() {
            let part = match *part {
                Part::Free => Some(uncharged.free),
                Part::Pods => Some(pods),
                Part::EndedPods => Some(kubepods.saturating_sub(pods)),
                Part::Top(i) => Some(tops[i].bytes),
                Part::OtherCgroups => Some(others),
                Part::RootCgroup => Some(uncharged.root_cgroup),
                Part::Kernel => Some(uncharged.kernel),
                Part::HugetlbPool => uncharged.hugetlb_pool,
                Part::Zram => uncharged.zram,
                Part::Balloon => uncharged.balloon,
                Part::Remainder => {
                    bytes.push(Some(rest));
                    continue;
                }
            };
            let part = part.map(signed);
            rest = rest.saturating_sub(part.unwrap_or(0));
            bytes.push(part);
        }
    }

    /// Lists the top-level cgroups and the pods, and opens their files.
    fn list(&mut self, max_open: usize) {
        let Self { tops_fs, pods_fs, directories, root, tops, pods, .. } = self;
        self.is_stale = false;
        (*root, *tops, *pods) = (tops_fs.open(b""), Vec::new(), Vec::new());
        directories.clear();
        let mut children_of = |path: &[u8]| {
            let Some(directory) = tops_fs.directory(path) else { return Vec::new() };
            let children = directory.children(path);
            directories.push(directory);
            children
        };
        let mut pod_paths = Vec::new();
        let top_paths = children_of(b"");
        for kubepods in top_paths.iter().filter(|path| KUBEPODS.contains(&path.as_slice())) {
            for path in children_of(kubepods) {
                match uid_of(&path) {
                    Some(_) => pod_paths.push(path),
                    // A cgroup without a pod's uid in its name is that of a quality-of-service class, such as
                    // `burstable`. The cgroups of pods are below it.
                    None => {
                        pod_paths.extend(children_of(&path).into_iter().filter(|path| uid_of(path).is_some()))
                    }
                }
            }
        }
        // A cgroup without the memory controller shows no memory use, so it is left out.
        let open = |fs: &mut MemoryFs, path, keeps_open| Counted::new(path).filter_read(fs, keeps_open);
        let top_paths = top_paths.into_iter().enumerate();
        tops.extend(top_paths.filter_map(|(i, path)| open(tops_fs, path, i < max_open)));
        // The files of pods are not kept open here. [`Ledger::read`] opens the files that it needs. If pods
        // are exported, it needs few files, because its caller has already read the memory use of most pods.
        pods.extend(pod_paths.into_iter().filter_map(|path| open(pods_fs, path, false)));
        self.name_parts();
    }

    /// Makes the label text of each part of the node's memory.
    fn name_parts(&mut self) {
        let Self { tops, parts, .. } = self;
        parts.clear();
        let mut add = |part, name: &str| {
            let mut text = String::new();
            labels::push(&mut text, "{part=\"", name);
            text.push('}');
            parts.push((part, text));
        };
        add(Part::Free, "free");
        if tops.iter().any(Counted::is_kubepods) {
            add(Part::Pods, "pods");
            add(Part::EndedPods, "ended_pods");
        }
        for (i, top) in tops.iter().enumerate() {
            if let Some(name) = top.name(i) {
                add(Part::Top(i), &format!("/{name}"));
            }
        }
        if tops.iter().enumerate().any(|(i, top)| top.is_other(i)) {
            add(Part::OtherCgroups, "other_cgroups");
        }
        for (part, name) in [
            (Part::RootCgroup, "root_cgroup"),
            (Part::Kernel, "kernel"),
            (Part::HugetlbPool, "hugetlb_pool"),
            (Part::Zram, "zram"),
            (Part::Balloon, "balloon"),
            (Part::Remainder, "remainder"),
        ] {
            add(part, name);
        }
    }

    /// Returns the label text and the size in bytes of each part of the node's memory. The iterator is empty
    /// if the memory of the node is unknown.
    pub fn exported(&self) -> impl Iterator<Item = (&str, i64)> + Clone {
        let parts = self.parts.iter().zip(&self.bytes);
        parts.filter_map(|((_, labels), bytes)| Some((labels.as_str(), (*bytes)?)))
    }

    /// Writes the files from which the node's memory is computed to the recording `to`.
    ///
    /// Fails with a one-line message if a file cannot be written.
    pub fn record(&mut self, proc: &Proc, to: &mut Writer) -> Result<(), String> {
        let Self { tops_fs, pods_fs, tops, pods, buffers, .. } = self;
        for name in node_memory::FILES {
            if let Ok(text) = proc.raw_node_file(name, buffers) {
                to.node_file(name, &text)?;
            }
        }
        let mut write = |name: &Path, text: &[u8]| to.cgroup_file(name, text);
        tops_fs.record_root(&mut write)?;
        tops_fs.record(b"", &mut write)?;
        tops.iter().try_for_each(|top| tops_fs.record(&top.path, &mut write))?;
        pods.iter().try_for_each(|pod| pods_fs.record(&pod.path, &mut write))
    }
}

impl Counted {
    fn new(path: Vec<u8>) -> Self {
        Self { path, files: None, bytes: 0 }
    }

    fn is_kubepods(&self) -> bool {
        KUBEPODS.contains(&self.path.as_slice())
    }

    /// Returns the name under which the top-level cgroup at position `i` is exported as a separate part.
    /// Returns `None` if the cgroup is not such a part. Names that are not UTF-8 are left out, because two of
    /// them could become the same label.
    fn name(&self, i: usize) -> Option<&str> {
        let name = std::str::from_utf8(&self.path).ok()?;
        (i < MAX_PARTS && !self.is_kubepods()).then_some(name)
    }

    /// Whether the top-level cgroup at position `i` belongs to the part `other_cgroups`.
    fn is_other(&self, i: usize) -> bool {
        self.name(i).is_none() && !self.is_kubepods()
    }

    /// Reads the cgroup. If `keeps_open` is true, its files stay open. Returns `None` if the cgroup has been
    /// removed.
    fn read(&mut self, fs: &mut MemoryFs, keeps_open: bool) -> Option<Values> {
        let files = self.files.take().or_else(|| fs.open(&self.path))?;
        let values = fs.read(&files, None);
        self.files = Some(files).filter(|_| keeps_open);
        values
    }

    /// Returns this cgroup if its memory use can be read, and `None` otherwise.
    fn filter_read(mut self, fs: &mut MemoryFs, keeps_open: bool) -> Option<Self> {
        self.read(fs, keeps_open)?.get(CURRENT)?;
        Some(self)
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
