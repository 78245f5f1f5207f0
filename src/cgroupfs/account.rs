//! The account of a cgroup: what its memory consists of. Pure.
//!
//! Each part is the kernel's own counter, or the difference of two; what no counter says is the remainder.

use super::fields::{
    ANON, CURRENT, FILE, FILE_MAPPED, KERNEL, KERNEL_STACK, PAGETABLES, PERCPU, SHMEM, SLAB, SOCK, Values,
};

/// The parts, as label values, in the order in which they are exported.
pub const PARTS: [&str; 10] = [
    "anon",
    "page_cache",
    "shmem",
    "slab",
    "page_tables",
    "kernel_stacks",
    "percpu",
    "kernel_other",
    "sockets",
    "remainder",
];

/// The account of a cgroup as it is exported.
#[derive(Clone, Copy, Debug)]
pub struct Exported<'a> {
    /// The label text of its samples, left open.
    pub labels: &'a str,
    /// What the cgroup says.
    pub values: &'a Values,
    /// How many bytes of the page cache, and of tmpfs and shared memory, no process maps; none if that cannot be told.
    pub unmapped: Option<[u64; 2]>,
}

/// Bytes of each of the [`PARTS`]; none where the kernel does not print it. Together they are what is charged. The counters are not read at
/// one moment, so the remainder may be negative.
///
/// None at all for a cgroup that does not say what is charged to it.
pub fn parts(values: &Values) -> Option<[Option<i64>; PARTS.len()]> {
    let get = |field| values.get(field).map(|bytes| bytes.min(i64::MAX as u64) as i64);
    let current = get(CURRENT)?;
    let shmem = get(SHMEM);
    // What the kernel calls file is all that lies in the page cache: tmpfs and shared memory, too.
    let page_cache = get(FILE).map(|file| (file - shmem.unwrap_or(0)).max(0));
    let [slab, page_tables, stacks, percpu] = [SLAB, PAGETABLES, KERNEL_STACK, PERCPU].map(get);
    let told: i64 = [slab, page_tables, stacks, percpu].into_iter().flatten().sum();
    let other = get(KERNEL).map(|kernel| (kernel - told).max(0));
    let named = [get(ANON), page_cache, shmem, slab, page_tables, stacks, percpu, other, get(SOCK)];
    let sum = named.iter().flatten().fold(0, |sum: i64, bytes| sum.saturating_add(*bytes));
    let mut parts = [None; PARTS.len()];
    parts[..named.len()].copy_from_slice(&named);
    parts[named.len()] = Some(current - sum);
    Some(parts)
}

/// How much of the page cache, and of tmpfs and shared memory, no process maps: in bytes, in this order. `mapped_shmem` is how much of the
/// latter the container's processes map, by PSS.
///
/// The kernel counts what is mapped of both together; the split is a difference.
pub fn unmapped(values: &Values, mapped_shmem: u64) -> Option<[u64; 2]> {
    let [file, mapped, shmem] = [FILE, FILE_MAPPED, SHMEM].map(|field| values.get(field));
    let (file, shmem) = (file?, shmem?);
    let both = file.saturating_sub(mapped?);
    // Neither part is larger than what there is of it: what the processes map may be charged to somebody else.
    let page_cache = both.saturating_sub(shmem.saturating_sub(mapped_shmem)).min(file.saturating_sub(shmem));
    Some([page_cache, both - page_cache])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroupfs::fields::values;

    fn by_name(values: &Values) -> Vec<(&'static str, i64)> {
        let parts = parts(values).unwrap();
        PARTS.into_iter().zip(parts).filter_map(|(part, bytes)| Some((part, bytes?))).collect()
    }

    #[test]
    fn the_parts_are_what_is_charged() {
        let stat = "anon 100\nfile 70\nkernel 50\nkernel_stack 5\npagetables 7\npercpu 3\nsock 4\nshmem 20\nfile_mapped 30\nslab 25\n";
        let values = values(&[("memory.current", "230\n"), ("memory.stat", stat)]);
        let expected = [
            ("anon", 100),
            ("page_cache", 50),
            ("shmem", 20),
            ("slab", 25),
            ("page_tables", 7),
            ("kernel_stacks", 5),
            ("percpu", 3),
            ("kernel_other", 10),
            ("sockets", 4),
            ("remainder", 6),
        ];
        assert_eq!(by_name(&values), expected);
        assert_eq!(expected.iter().map(|(_, bytes)| bytes).sum::<i64>(), 230);
    }

    #[test]
    fn what_the_kernel_does_not_print_is_absent() {
        // Linux 5.10 says neither kernel nor pagetables.
        let older = values(&[("memory.current", "100\n"), ("memory.stat", "anon 60\nfile 10\nslab 40\n")]);
        assert_eq!(
            by_name(&older),
            [("anon", 60), ("page_cache", 10), ("slab", 40), ("remainder", -10)],
            "counters of different moments"
        );
        assert_eq!(by_name(&values(&[("memory.current", "7\n")])), [("remainder", 7)]);
        assert_eq!(parts(&values(&[("memory.stat", "anon 60\n")])), None);
        assert_eq!(unmapped(&older, 0), None);
    }

    #[test]
    fn what_nobody_maps() {
        for (file, mapped, shmem, mapped_shmem, expected) in [
            (70, 30, 20, 0, [20, 20]),
            (70, 30, 20, 15, [35, 5]),
            (70, 30, 20, 99, [40, 0]),
            // Counted as mapped, though others' processes map it: no more is unmapped than the kernel says.
            (20, 15, 20, 0, [0, 5]),
            (20, 25, 20, 0, [0, 0]),
            // They map what is charged to others.
            (20, 0, 20, 13, [0, 20]),
        ] {
            let stat = format!("file {file}\nfile_mapped {mapped}\nshmem {shmem}\n");
            assert_eq!(unmapped(&values(&[("memory.stat", &stat)]), mapped_shmem), Some(expected), "{stat}");
        }
    }
}
