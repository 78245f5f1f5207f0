//! The attribution of a process: its container, and whether a filter selects it.

use std::sync::Arc;

use log::debug;

use crate::node::containers::cgroup_index::CgroupIndex;
use crate::node::containers::discovery::Discovery;
use crate::node::containers::table::Container;
use crate::procfs::cgroup::Cgroups;
use crate::sources;
use crate::totals::labels;

/// The container of a process, and whether a filter selects the process.
#[derive(Debug)]
pub struct Attribution {
    /// The cgroups that the process was last seen in.
    cgroups: Cgroups,
    /// The container that has these cgroups, according to the last look-up.
    container: Option<Arc<Container>>,
    /// Whether the process has moved to other cgroups since the last look-up.
    is_outdated: bool,
    is_selected: bool,
    /// Whether the log already says why no filter selects the process.
    is_logged: bool,
    /// The name of the process as the kernel printed it, without the newline at the end. It is kept up to
    /// date only while the process is selected.
    comm: Vec<u8>,
}

/// The result of [`Attribution::select`], which compares the name and the container of a process with the
/// filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing has changed. A filter still selects the process, and its name is the same.
    None,
    /// A filter now selects the process. Either no filter selected it before, or its name has changed.
    Selected,
    /// No filter selects the process.
    Deselected,
}

impl Attribution {
    /// Creates the attribution of a process with these cgroups. Its container has not been looked up yet.
    pub fn new(cgroups: Cgroups) -> Self {
        let comm = Vec::new();
        Self { cgroups, container: None, is_outdated: true, is_selected: false, is_logged: false, comm }
    }

    /// Returns the cgroups that the process was last seen in.
    pub fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// Returns the container of the process, according to the last look-up.
    pub fn container(&self) -> Option<&Arc<Container>> {
        self.container.as_ref()
    }

    /// Returns the name of the process. It is empty if the process was never selected.
    pub fn comm(&self) -> &[u8] {
        &self.comm
    }

    /// Whether a filter selects the process.
    pub fn is_selected(&self) -> bool {
        self.is_selected
    }

    /// Whether the process has moved to other cgroups since its container was last looked up.
    pub fn is_outdated(&self) -> bool {
        self.is_outdated
    }

    /// Whether a filter matches the container of the process, regardless of the name of the process.
    pub fn can_be_selected(&self) -> bool {
        self.container.as_ref().is_some_and(|container| container.is_selected)
    }

    /// Whether the log already says why no filter selects the process.
    pub fn is_logged(&self) -> bool {
        self.is_logged
    }

    /// Stores the cgroups that the process is in now.
    pub fn move_to(&mut self, cgroups: &Cgroups) {
        if self.cgroups != *cgroups {
            self.cgroups.clone_from(cgroups);
            self.is_outdated = true;
        }
    }

    /// Looks up the container of the process. Returns whether the process is now in another container. Such a
    /// process counts as not selected until [`select`](Self::select) compares it with the filters.
    pub fn look_up(&mut self, index: &CgroupIndex) -> bool {
        self.is_outdated = false;
        let container = index.container_of(&self.cgroups).map(|place| place.container);
        let is_same = match (container, &self.container) {
            (Some(container), Some(before)) => container.is_same(before),
            (container, before) => container.is_none() && before.is_none(),
        };
        if !is_same {
            self.is_selected = false;
            self.is_logged = false;
        }
        self.container = container.cloned();
        !is_same
    }

    /// Decides whether a filter selects the process, which has this name now.
    pub fn select(&mut self, comm: &[u8], discovery: &Discovery, scratch: &mut String) -> Change {
        if self.is_selected && self.comm == comm {
            return Change::None;
        }
        self.is_selected = self.would_be_selected(comm, discovery, scratch);
        if !self.is_selected {
            return Change::Deselected;
        }
        self.comm.clear();
        self.comm.extend_from_slice(comm);
        Change::Selected
    }

    /// Whether a filter would select the process if it had this name.
    pub fn would_be_selected(&self, comm: &[u8], discovery: &Discovery, scratch: &mut String) -> bool {
        let container = self.container.as_ref();
        container.is_some_and(|container| discovery.selects(container, labels::lossy(comm, scratch)))
    }

    /// Marks the process as not selected at the moment.
    pub fn deselect(&mut self) {
        self.is_selected = false;
    }

    /// Logs once why no filter selects the process.
    pub fn log_unselected(&mut self, pid: u32, comm: &[u8]) {
        self.is_logged = true;
        let comm = String::from_utf8_lossy(comm);
        match &self.container {
            None => {
                let cgroup = self.cgroups.main().or(self.cgroups.paths().next()).unwrap_or_default();
                let cgroup = String::from_utf8_lossy(cgroup);
                debug!("process {pid}, {comm:?}, is not exported: {cgroup:?} is no container's cgroup");
            }
            Some(container) => {
                let sources::Container { namespace, pod, name, .. } = &container.listed;
                debug!("process {pid} is not exported: no filter selects {namespace}/{pod}/{name}/{comm}");
            }
        }
    }

    /// Returns a description of the process for the log: its pid, name and container.
    pub fn describe(&self, pid: u32) -> String {
        let comm = self.comm.escape_ascii();
        match &self.container {
            Some(container) => {
                let sources::Container { namespace, pod, name, .. } = &container.listed;
                format!("process {pid} (\"{comm}\" in {namespace}/{pod}/{name})")
            }
            None => format!("process {pid}"),
        }
    }
}
