//! What the table of cgroup fields contains for each field: the metric, the unit, and the files. Pure.

/// One cgroup field.
#[derive(Debug)]
pub struct Field {
    /// The metric is `cgroup_<name>` followed by the suffix of the unit. Fields with the same name are
    /// consecutive, each with its own label.
    pub name: &'static str,
    /// The end of the label text: the field's own label if it has one, and the brace.
    pub labels: &'static str,
    /// The unit of the number.
    pub unit: Unit,
    /// The place of the field in version 2.
    pub v2: Place,
    /// The place of the field in version 1.
    pub v1: Place,
    /// The metric's HELP text.
    pub help: &'static str,
}

/// The unit of a number, which decides the suffix of the metric's name, and whether it is a counter
/// (Prometheus, "Metric and label naming").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Memory, a gauge.
    Bytes,
    /// A number of things, a gauge.
    Number,
    /// A number of events, a counter.
    Events,
    /// A total of time, a counter, kept in nanoseconds.
    Time,
}

impl Unit {
    /// Returns the end of the metric's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Bytes => "_bytes",
            Self::Number => "",
            Self::Events => "_total",
            Self::Time => "_seconds_total",
        }
    }

    /// Whether the value only increases.
    pub fn is_counter(self) -> bool {
        matches!(self, Self::Events | Self::Time)
    }
}

/// The place of a field in a version of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file; empty if that version does not have the field, or if the field is derived from others.
    pub file: &'static str,
    /// The beginning of the field's line; empty in a file that consists of one number.
    pub key: &'static str,
    /// The factor from the kernel's number to the field's unit.
    pub factor: u64,
}

/// A version of the cgroup file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Version 1: one hierarchy for each controller.
    V1,
    /// Version 2: one hierarchy.
    V2,
}

/// A set of [`GROUPS`]: bit `i` stands for `GROUPS[i]`.
pub type GroupMask = u8;

/// What can be exported of cgroups: the memory of containers, pods and the node, and what the controllers of
/// CPU time and of processes count for containers. The names of a container's fields begin with their group.
pub const GROUPS: [&str; 5] = ["memory", "pod", "node", "cpu", "pids"];
/// The group of the containers' memory.
pub const MEMORY: GroupMask = 1;
/// The group of the pods' memory.
pub const POD: GroupMask = 1 << 1;
/// The group of the node's memory.
pub const NODE: GroupMask = 1 << 2;

impl Field {
    /// Returns the field's place in this version, if it has one.
    pub fn place(&self, version: Version) -> Option<Place> {
        let place = if version == Version::V2 { self.v2 } else { self.v1 };
        (!place.file.is_empty()).then_some(place)
    }

    /// Returns the group of the field, as a position in [`GROUPS`].
    pub fn group(&self) -> usize {
        let group = GROUPS.iter().position(|group| self.name.starts_with(group));
        group.expect("each name begins with its group")
    }
}
