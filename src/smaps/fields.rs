//! The table of smaps fields. For each field it has the kernel's key, the metric's short name, the help text,
//! and how the values of several mappings become one value.
//!
//! The scanner, the exposition, the option `--fields` and the documentation's list of metrics are made from
//! this table. The kernel defines the fields in Documentation/filesystems/proc.rst, section 1.1, "smaps".

/// One smaps field.
#[derive(Debug)]
pub struct Field {
    /// The kernel's key, without its colon.
    pub key: &'static str,
    /// The short name: the metric is `process_smaps_<name>_bytes`.
    pub name: &'static str,
    /// The metric's HELP text.
    pub help: &'static str,
    /// How the values of the mappings in one series become one value.
    pub combine: Combine,
}

/// How the values of the mappings in one series become one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combine {
    /// The values are added up, because they are amounts of memory.
    Sum,
    /// The largest value is used, because adding up page sizes means nothing.
    Largest,
}

/// The number of fields.
pub const N_FIELDS: usize = 22;

/// A set of fields: bit `i` stands for `FIELDS[i]`.
pub type FieldMask = u32;

/// Every field.
pub const ALL_FIELDS: FieldMask = (1 << N_FIELDS) - 1;

/// The position in [`FIELDS`] at which the fields with [`Combine::Largest`] begin. They are the last fields.
pub const FIRST_LARGEST: usize = 20;

/// The fields that are missing in `/proc/<pid>/smaps_rollup`: size and page sizes.
pub const NOT_IN_ROLLUP: FieldMask = 1 | 1 << FIRST_LARGEST | 1 << (FIRST_LARGEST + 1);

/// The fields that are shares of shared memory: `pss`, `pss_dirty`, `swap_pss`, `locked`. The kernel rounds
/// these fields down in each mapping.
pub const ROUNDED: FieldMask = 1 << 2 | 1 << 3 | 1 << 18 | 1 << 19;

/// The position of the resident set size in [`FIELDS`].
pub const RSS: usize = 1;
/// The position of the proportional set size in [`FIELDS`]. Paths with the smallest proportional set sizes
/// are the first to be summed as `[other]`.
pub const PSS: usize = 2;
/// The position of the field `Anonymous` in [`FIELDS`]. The field counts the resident memory that belongs to
/// no file.
pub const ANONYMOUS: usize = 9;

/// The values of one mapping, or the combined values of several mappings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Values {
    /// The fields that the kernel printed.
    pub present: FieldMask,
    /// The values in bytes; 0 if the field is not present. A value that is too large becomes `u64::MAX`.
    pub bytes: [u64; N_FIELDS],
}

/// Returns the position of the field with this short name in [`FIELDS`].
pub fn by_name(name: &str) -> Option<usize> {
    FIELDS.iter().position(|field| field.name == name)
}

const fn sum(key: &'static str, name: &'static str, help: &'static str) -> Field {
    Field { key, name, help, combine: Combine::Sum }
}

const fn largest(key: &'static str, name: &'static str, help: &'static str) -> Field {
    Field { key, name, help, combine: Combine::Largest }
}

/// The table of fields, in the order in which families are exported.
pub static FIELDS: [Field; N_FIELDS] = [
    sum("Size", "size", "Address space of the mappings, resident or not."),
    sum("Rss", "rss", "Resident memory."),
    sum(
        "Pss",
        "pss",
        "Proportional share of resident memory: each page divided by the number of processes that map it.",
    ),
    sum("Pss_Dirty", "pss_dirty", "Proportional share of dirty resident memory."),
    sum("Shared_Clean", "shared_clean", "Resident clean pages that more than one process maps."),
    sum("Shared_Dirty", "shared_dirty", "Resident dirty pages that more than one process maps."),
    sum("Private_Clean", "private_clean", "Resident clean pages that no other process maps."),
    sum("Private_Dirty", "private_dirty", "Resident dirty pages that no other process maps."),
    sum("Referenced", "referenced", "Resident memory marked as accessed."),
    sum(
        "Anonymous",
        "anonymous",
        "Resident memory that belongs to no file, copied private file pages included.",
    ),
    sum("KSM", "ksm", "Resident memory merged by kernel same-page merging."),
    sum("LazyFree", "lazyfree", "Memory freed with MADV_FREE that the kernel has not taken back yet."),
    sum("AnonHugePages", "anon_hugepages", "Anonymous memory in transparent huge pages."),
    sum("ShmemPmdMapped", "shmem_pmdmapped", "Shared memory mapped by transparent huge pages."),
    sum("FilePmdMapped", "file_pmdmapped", "File pages mapped by transparent huge pages."),
    sum("Shared_Hugetlb", "shared_hugetlb", "Shared hugetlbfs pages, which rss and pss leave out."),
    sum("Private_Hugetlb", "private_hugetlb", "Private hugetlbfs pages, which rss and pss leave out."),
    sum("Swap", "swap", "Anonymous memory that is swapped out."),
    sum("SwapPss", "swap_pss", "Proportional share of swapped-out memory."),
    sum("Locked", "locked", "Proportional share of memory locked into RAM."),
    largest("KernelPageSize", "kernel_page_size", "Largest page size that the kernel uses for the mappings."),
    largest("MMUPageSize", "mmu_page_size", "Largest page size that the MMU uses for the mappings."),
];

/// Returns values with these fields. Each field is given by its short name and bytes.
#[cfg(test)]
pub(crate) fn values(fields: &[(&str, u64)]) -> Values {
    let mut values = Values::default();
    for (name, bytes) in fields {
        let field = by_name(name).unwrap();
        values.present |= 1 << field;
        values.bytes[field] = *bytes;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_combine_by_largest_come_last() {
        for (i, field) in FIELDS.iter().enumerate() {
            assert_eq!(field.combine == Combine::Largest, i >= FIRST_LARGEST, "{}", field.key);
        }
        assert_eq!(FIELDS[RSS].key, "Rss");
        let missing = FIELDS.iter().enumerate().filter(|(i, _)| NOT_IN_ROLLUP & 1 << i != 0);
        assert!(missing.map(|(_, field)| field.key).eq(["Size", "KernelPageSize", "MMUPageSize"]));
    }

    #[test]
    fn keys_and_names_are_unique_and_found() {
        for (i, field) in FIELDS.iter().enumerate() {
            assert_eq!(by_name(field.name), Some(i));
            assert_eq!(FIELDS.iter().filter(|other| other.key == field.key).count(), 1);
        }
        assert_eq!(by_name("rsss"), None);
    }
}
