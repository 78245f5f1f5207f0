//! The table of all cgroup fields. For each field, the table contains the metric's name, the unit and the
//! help text. It also contains the field's place in each version of the file system, which is a file and a
//! line in this file. A field has a place in version 1 only if the kernel prints the same quantity there as
//! in version 2.
//!
//! The reader, the exposition, `--cgroup-metrics` and the table of metrics all use this one table. This
//! module does no I/O. The kernel documents what the fields mean in Documentation/admin-guide/cgroup-v2.rst,
//! and for version 1 in cgroup-v1/memory.rst, cpuacct.rst and pids.rst.

use super::field::Place;
pub use super::field::{GROUPS, GroupMask, MEMORY, NODE, POD, Unit, Version};
pub use super::field_table::FIELDS;
use super::field_table::N_FIELDS;

/// `FIELDS[CURRENT]`: all memory that is charged to the cgroup.
pub const CURRENT: usize = 0;
/// `FIELDS[PEAK]`: the peak of the charged memory.
pub const PEAK: usize = 1;
/// `FIELDS[MAX]`: the cgroup's own limit.
pub const MAX: usize = 4;
/// `FIELDS[LIMIT]`: the limit that applies to the cgroup. It is the smallest of the limits of the cgroup and
/// of all cgroups above it. Version 2 does not print this limit.
pub const LIMIT: usize = 5;
/// `FIELDS[WORKING_SET]`: charged memory without inactive page cache.
pub const WORKING_SET: usize = 6;
pub(super) const ANON: usize = 9;
pub(super) const FILE: usize = 10;
pub(super) const KERNEL: usize = 11;
pub(super) const KERNEL_STACK: usize = 12;
pub(super) const PAGETABLES: usize = 13;
pub(super) const SEC_PAGETABLES: usize = 14;
pub(super) const PERCPU: usize = 15;
pub(super) const SOCK: usize = 16;
pub(super) const VMALLOC: usize = 17;
/// `FIELDS[SHMEM]`: tmpfs and shared memory.
pub const SHMEM: usize = 18;
pub(super) const FILE_MAPPED: usize = 19;
pub(super) const SWAPCACHED: usize = 21;
pub(super) const ZSWAP: usize = 22;
pub(super) const HUGETLB: usize = 23;
pub(super) const INACTIVE_ANON: usize = 26;
/// `FIELDS[INACTIVE_FILE]`: page cache that the kernel can reclaim at once.
pub const INACTIVE_FILE: usize = 27;
pub(super) const ACTIVE_ANON: usize = 28;
pub(super) const UNEVICTABLE: usize = 30;
pub(super) const SLAB: usize = 33;
/// `FIELDS[OOM_KILLS]`: the number of OOM kills in the cgroup.
pub const OOM_KILLS: usize = 40;

/// On version 1, a limit of this many bytes or more means "no limit". If there is no limit, the kernel prints
/// 2^63 minus the size of one page (`PAGE_COUNTER_MAX`), and a page has at most 64 KiB.
pub(super) const UNLIMITED: u64 = i64::MAX as u64 - 0xffff;

/// The values of the fields of one cgroup, as far as they are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Values {
    /// The set of the fields with a known value. Bit `i` stands for `FIELDS[i]`.
    present: u128,
    numbers: [u64; N_FIELDS],
}

impl Default for Values {
    fn default() -> Self {
        Self { present: 0, numbers: [0; N_FIELDS] }
    }
}

impl Values {
    /// Returns the value of the field at this position of the table. Returns `None` if the kernel did not
    /// print the field, or printed that there is no limit.
    pub fn get(&self, field: usize) -> Option<u64> {
        (self.present & 1 << field != 0).then_some(self.numbers[field])
    }

    /// Copies the values of the fields in `file` from `earlier`, the values of an earlier read.
    pub(super) fn keep(&mut self, file: &File, earlier: &Self) {
        for field in file.lines.iter().map(|line| line.field) {
            if let Some(number) = earlier.get(field) {
                self.set(field, number);
            }
        }
    }

    /// Whether the fields in `file` have the same values in `self` and in `other`.
    pub(super) fn is_equal(&self, file: &File, other: &Self) -> bool {
        file.lines.iter().all(|line| self.get(line.field) == other.get(line.field))
    }

    fn set(&mut self, field: usize, number: u64) {
        self.present |= 1 << field;
        self.numbers[field] = number;
    }

    /// Adds the fields that the kernel does not print. They are computed from the fields that were read and
    /// from `limit_above`, the smallest limit of the cgroups above.
    pub fn derive(&mut self, limit_above: Option<u64>) {
        let limits = [limit_above, self.get(MAX), self.get(LIMIT)];
        if let Some(limit) = limits.into_iter().flatten().min() {
            self.set(LIMIT, limit);
        }
        if let (Some(current), Some(inactive)) = (self.get(CURRENT), self.get(INACTIVE_FILE)) {
            self.set(WORKING_SET, current.saturating_sub(inactive));
        }
    }
}

/// A file of a cgroup, and the fields in it.
#[derive(Debug)]
pub struct File {
    /// The name of the file.
    pub name: &'static str,
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    key: &'static [u8],
    factor: u64,
    field: usize,
}

/// Returns the files of this version that contain fields of these groups. Each file is listed once, in the
/// order of the table of fields.
pub fn files(version: Version, groups: GroupMask) -> Vec<File> {
    let mut files: Vec<File> = Vec::new();
    for (field, row) in FIELDS.iter().enumerate().filter(|(_, row)| groups & 1 << row.group() != 0) {
        let Some(Place { file, key, factor }) = row.place(version) else { continue };
        let line = Line { key: key.as_bytes(), factor, field };
        match files.iter_mut().find(|known| known.name == file) {
            Some(known) => known.lines.push(line),
            None => files.push(File { name: file, lines: vec![line] }),
        }
    }
    files
}

impl File {
    /// Returns the hierarchy of version 1 that contains the file.
    pub fn hierarchy(&self) -> &'static str {
        self.name.split('.').next().unwrap_or_default()
    }

    /// Whether the file is included only in every tenth read of a cgroup. That is true for the files of
    /// settings other than the limit, because these settings rarely change, and for the files about huge
    /// pages, because their values are of little use.
    pub(super) fn is_slow(&self) -> bool {
        const SETTINGS: [&str; 5] =
            ["memory.low", "memory.high", "memory.min", "memory.oom.group", "memory.swap.max"];
        SETTINGS.contains(&self.name) || self.hierarchy() == "hugetlb"
    }

    /// Whether the file contains the field at this position of the table.
    pub fn has(&self, field: usize) -> bool {
        self.lines.iter().any(|line| line.field == field)
    }

    /// Drops the fields for which `is_used` is false, because parsing is faster without them.
    pub(super) fn retain(&mut self, is_used: impl Fn(usize) -> bool) {
        self.lines.retain(|line| is_used(line.field));
    }

    /// Parses the fields in the file's text. Lines that do not have the kernel's form are skipped.
    pub fn parse(&self, text: &[u8], values: &mut Values) {
        for line in text.split(|&b| b == b'\n') {
            let (key, rest) = match line.iter().position(|&b| b == b' ') {
                Some(at) if at > 0 => (&line[..at], &line[at + 1..]),
                _ => (&[][..], line),
            };
            let Some(&Line { factor, field, .. }) = self.lines.iter().find(|line| line.key == key) else {
                continue;
            };
            let is_bytes = FIELDS[field].unit == Unit::Bytes;
            if let Some(number) = total(rest).or_else(|| number(rest))
                && !(is_bytes && number >= UNLIMITED)
                && let Some(number) = number.checked_mul(factor)
            {
                values.set(field, number);
            }
        }
    }
}

/// Returns the limit that a `memory.max` file contains, if there is one.
pub fn limit(text: &[u8]) -> Option<u64> {
    number(text.strip_suffix(b"\n").unwrap_or(text))
}

/// Returns the number after `total=` in a line of a pressure file. Such a line has the form
/// `avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn total(text: &[u8]) -> Option<u64> {
    let averages = text.strip_prefix(b"avg10=")?;
    let word = averages.rsplit(|&b| b == b' ').next()?;
    number(word.strip_prefix(b"total=")?)
}

/// Parses a number that is written in digits only. Returns `None` for any other text, and for a number that
/// does not fit into 64 bits.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let digit = |number: u64, byte: &u8| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    };
    if text.is_empty() { None } else { text.iter().try_fold(0, digit) }
}

/// Parses files of version 2 and returns the values in them. `texts` has the name and the text of each file.
#[cfg(test)]
pub(crate) fn values(texts: &[(&str, &str)]) -> Values {
    let mut values = Values::default();
    for file in files(Version::V2, u8::MAX) {
        if let Some((_, text)) = texts.iter().find(|(name, _)| *name == file.name) {
            file.parse(text.as_bytes(), &mut values);
        }
    }
    values
}

#[cfg(test)]
mod tests;
