//! One row of the table of cgroup fields: the metric, the unit and the files of a field. This module does no
//! I/O.

/// One cgroup field.
#[derive(Debug)]
pub struct Field {
    /// The part of the metric's name after `cgroup_` and before the unit's suffix. Fields that share a name
    /// are neighbours in the table, and each has its own label.
    pub name: &'static str,
    /// The end of the label text: the field's own label, if it has one, and then the closing brace.
    pub labels: &'static str,
    /// The unit of the field's value.
    pub unit: Unit,
    /// The file and the line that contain the field in version 2 of the cgroup file system.
    pub v2: Place,
    /// The file and the line that contain the field in version 1 of the cgroup file system.
    pub v1: Place,
    /// The metric's HELP text.
    pub help: &'static str,
}

/// The unit of a field. It decides the suffix of the metric's name, and whether the metric is a counter or a
/// gauge (Prometheus, "Metric and label naming").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Memory in bytes; a gauge.
    Bytes,
    /// A number of things; a gauge.
    Number,
    /// A number of events; a counter.
    Events,
    /// A total of time in nanoseconds; a counter.
    Time,
}

impl Unit {
    /// Returns the suffix of the metric's name.
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

/// The file and the line in which one version of the cgroup file system prints a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The name of the file. It is empty if this version of the cgroup file system lacks the field, or if the
    /// exporter computes the field from other fields.
    pub file: &'static str,
    /// The word that begins the field's line. It is empty for a file that contains only one number.
    pub key: &'static str,
    /// The factor that converts the number that the kernel prints into the field's unit.
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

/// The groups of cgroup metrics that can be exported. The groups `memory`, `pod` and `node` contain the
/// metrics about the memory of containers, of pods and of the node. The other two groups contain what the
/// controllers `cpu` and `pids` count for containers. The name of each container field begins with the name
/// of its group.
pub const GROUPS: [&str; 5] = ["memory", "pod", "node", "cpu", "pids"];
/// The bit in a [`GroupMask`] for the group `memory`, which contains the metrics about the memory of
/// containers.
pub const MEMORY: GroupMask = 1;
/// The bit in a [`GroupMask`] for the group `pod`, which contains the metrics about the memory of pods.
pub const POD: GroupMask = 1 << 1;
/// The bit in a [`GroupMask`] for the group `node`, which contains the metrics about the memory of the node.
pub const NODE: GroupMask = 1 << 2;

impl Field {
    /// Returns the place of the field in this version of the cgroup file system; `None` if no file contains
    /// the field.
    pub fn place(&self, version: Version) -> Option<Place> {
        let place = if version == Version::V2 { self.v2 } else { self.v1 };
        (!place.file.is_empty()).then_some(place)
    }

    /// Returns the position of the field's group in [`GROUPS`].
    pub fn group(&self) -> usize {
        let group = GROUPS.iter().position(|group| self.name.starts_with(group));
        group.expect("each name begins with its group")
    }
}
