//! What the table of cgroup fields says of each field: its metric, its unit, and where it is kept. Pure.

/// One cgroup field.
#[derive(Debug)]
pub struct Field {
    /// The metric is `cgroup_<name>` and the suffix of the unit. Fields of one name follow each other, each with a label of its own.
    pub name: &'static str,
    /// How its label text ends: with a label of its own, if it has one, and the brace.
    pub labels: &'static str,
    /// What the number counts.
    pub unit: Unit,
    /// Where version 2 keeps it.
    pub v2: Place,
    /// Where version 1 keeps it.
    pub v1: Place,
    /// The metric's HELP text.
    pub help: &'static str,
}

/// What a number counts; that says how its metric is called, and whether it is a counter (Prometheus, "Metric and label naming").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Memory, a gauge.
    Bytes,
    /// Things, a gauge.
    Number,
    /// Events, a counter.
    Events,
    /// Time that adds up, a counter, kept in nanoseconds.
    Time,
}

impl Unit {
    /// What the metric's name ends with.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Bytes => "_bytes",
            Self::Number => "",
            Self::Events => "_total",
            Self::Time => "_seconds_total",
        }
    }

    /// Whether it only goes up.
    pub fn is_counter(self) -> bool {
        matches!(self, Self::Events | Self::Time)
    }
}

/// Where a version of the file system keeps a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file; none if that version does not have the field, or it is derived from others.
    pub file: &'static str,
    /// What its line begins with; empty in a file that is one number.
    pub key: &'static str,
    /// The kernel's number times this is ours.
    pub factor: u64,
}

/// A version of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy for each controller.
    V1,
    /// One hierarchy.
    V2,
}

/// A set of [`GROUPS`]: bit `i` stands for `GROUPS[i]`.
pub type GroupMask = u8;

/// Groups of fields: what the names in them begin with, and the controllers that they are of.
pub const GROUPS: [&str; 3] = ["memory", "cpu", "pids"];

impl Field {
    /// Where this version keeps it, if it does.
    pub fn place(&self, version: Version) -> Option<Place> {
        let place = if version == Version::V2 { self.v2 } else { self.v1 };
        (!place.file.is_empty()).then_some(place)
    }

    /// The group it is of, as a position in [`GROUPS`].
    pub fn group(&self) -> usize {
        let group = GROUPS.iter().position(|group| self.name.starts_with(group));
        group.expect("each name begins with its group")
    }
}
