//! Splits the memory that is charged to a cgroup into parts. These parts are the account of the cgroup. This
//! module does no I/O.
//!
//! Each part is a counter of the kernel, or a difference of such counters. The part `remainder` is the memory
//! that no counter covers.

use super::fields::{
    ACTIVE_ANON, ANON, CURRENT, FILE, FILE_MAPPED, HUGETLB, INACTIVE_ANON, KERNEL, KERNEL_STACK, PAGETABLES,
    PERCPU, SEC_PAGETABLES, SHMEM, SLAB, SOCK, SWAPCACHED, UNEVICTABLE, VMALLOC, Values, ZSWAP,
};

/// The label values of the parts of a cgroup's memory, in the order in which the parts are exported.
pub const PARTS: [&str; 15] = [
    "anon",
    "anon_unmapped",
    "page_cache",
    "shmem",
    "hugetlb",
    "slab",
    "page_tables",
    "sec_page_tables",
    "kernel_stacks",
    "percpu",
    "vmalloc",
    "zswap",
    "kernel_other",
    "sockets",
    "remainder",
];

/// What is exported about the memory that is charged to a cgroup.
#[derive(Clone, Copy, Debug)]
pub struct Exported<'a> {
    /// The label text of the cgroup's samples, without the closing brace.
    pub labels: &'a str,
    /// The values of the cgroup.
    pub values: &'a Values,
    /// The number of bytes of page cache that no process maps, and the number of bytes of tmpfs and shared
    /// memory that no process maps; `None` if these numbers are unknown.
    pub unmapped: Option<[u64; 2]>,
}

/// Returns the size of each of the [`PARTS`] in bytes. The size of a part that the kernel does not print is
/// `None`. The sizes add up to the charged memory. The last part, `remainder`, may be negative, because the
/// kernel does not update all its counters at the same moment.
///
/// Returns `None` for a cgroup that does not show how much memory is charged to it.
pub fn parts(values: &Values) -> Option<[Option<i64>; PARTS.len()]> {
    let get = |field| signed(values, field);
    let current = get(CURRENT)?;
    let shmem = get(SHMEM);
    // The kernel's `file` counts the whole page cache, including tmpfs and shared memory.
    let page_cache = get(FILE).map(|file| (file - shmem.unwrap_or(0)).max(0));
    // No kernel memory is counted twice: `vmalloc` does not include stacks that come from vmalloc
    // (mm/vmalloc.c), and `slab` does not include the compressed pages of zswap.
    let kernel = [SLAB, PAGETABLES, SEC_PAGETABLES, KERNEL_STACK, PERCPU, VMALLOC, ZSWAP].map(&get);
    let n_known: i64 = kernel.iter().flatten().fold(0, |sum: i64, bytes| sum.saturating_add(*bytes));
    let [slab, page_tables, sec_page_tables, stacks, percpu, vmalloc, zswap] = kernel;
    let other = get(KERNEL).map(|kernel| (kernel - n_known).max(0));
    let named = [
        get(ANON),
        anon_unmapped(values),
        page_cache,
        shmem,
        get(HUGETLB),
        slab,
        page_tables,
        sec_page_tables,
        stacks,
        percpu,
        vmalloc,
        zswap,
        other,
        get(SOCK),
    ];
    let sum = named.iter().flatten().fold(0, |sum: i64, bytes| sum.saturating_add(*bytes));
    let mut parts = [None; PARTS.len()];
    parts[..named.len()].copy_from_slice(&named);
    parts[named.len()] = Some(current - sum);
    Some(parts)
}

/// Returns how many bytes of anonymous memory are charged although no process maps them. Most of these bytes
/// belong to huge pages that a process has partly unmapped and the kernel has not split yet.
///
/// The kernel's active and inactive lists of anonymous memory count whole huge pages, but `anon` counts only
/// mapped pages. So the result is the size of both lists minus `anon`. The lists also include tmpfs, shared
/// memory and the swap cache, so the sizes of these are subtracted, too.
///
/// Returns `None` if the kernel does not print the size of the swap cache, because this size then cannot be
/// subtracted. Also returns `None` if the unevictable list exceeds 1% of `anon`. This list has the locked
/// memory, which `anon` includes, but the active and inactive lists do not.
fn anon_unmapped(values: &Values) -> Option<i64> {
    let get = |field| signed(values, field);
    let (anon, shmem, swap_cached) = (get(ANON)?, get(SHMEM)?, get(SWAPCACHED)?);
    if get(UNEVICTABLE)? > anon / 100 {
        return None;
    }
    let listed = get(ACTIVE_ANON)?.saturating_add(get(INACTIVE_ANON)?);
    // The result of this subtraction is negative if a process has freed memory by MADV_FREE: `anon` still
    // includes that memory, but the kernel has moved it from the lists of anonymous pages to the lists of
    // file pages.
    Some((listed - anon - shmem - swap_cached).max(0))
}

fn signed(values: &Values, field: usize) -> Option<i64> {
    values.get(field).map(|bytes| bytes.min(i64::MAX as u64 / 8) as i64)
}

/// Returns two sizes in bytes: the page cache, and the tmpfs and shared memory. Both count only memory that
/// no process maps. `mapped_shmem` is the PSS of the tmpfs and shared memory that the container's processes
/// map.
///
/// The kernel prints only one number for the mapped page cache and the mapped tmpfs and shared memory
/// together. `mapped_shmem` shows how much of that number is tmpfs and shared memory.
pub fn unmapped(values: &Values, mapped_shmem: u64) -> Option<[u64; 2]> {
    let [file, mapped, shmem] = [FILE, FILE_MAPPED, SHMEM].map(|field| values.get(field));
    let (file, shmem) = (file?, shmem?);
    let both = file.saturating_sub(mapped?);
    // `mapped_shmem` may include memory that is charged to another cgroup. Without the `min`, the result
    // could then exceed the page cache that is charged to this cgroup.
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
    fn parts_add_up_to_the_charged_memory() {
        let stat = "anon 100\nfile 70\nkernel 50\nkernel_stack 5\npagetables 7\npercpu 3\nsock 4\nshmem 20\n\
                    file_mapped 30\nslab 25\n";
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
    fn rare_kinds_of_memory_are_parts() {
        // The values include swap, zswap, hugetlb, the page tables of a virtual machine, and huge pages that
        // are not split yet.
        let stat = "anon 100\nfile 30\nkernel 90\nkernel_stack 5\npagetables 7\nsec_pagetables 8\npercpu 3\n\
                    sock 4\nvmalloc 11\nshmem 20\nzswap 13\nswapcached 6\nhugetlb 200\ninactive_anon 140\n\
                    active_anon 30\nunevictable 1\nslab 25\n";
        let values = values(&[("memory.current", "500\n"), ("memory.stat", stat)]);
        let expected = [
            ("anon", 100),
            ("anon_unmapped", 44),
            ("page_cache", 10),
            ("shmem", 20),
            ("hugetlb", 200),
            ("slab", 25),
            ("page_tables", 7),
            ("sec_page_tables", 8),
            ("kernel_stacks", 5),
            ("percpu", 3),
            ("vmalloc", 11),
            ("zswap", 13),
            ("kernel_other", 18),
            ("sockets", 4),
            ("remainder", 32),
        ];
        assert_eq!(by_name(&values), expected);
        assert_eq!(expected.iter().map(|(_, bytes)| bytes).sum::<i64>(), 500);
    }

    #[test]
    fn unmapped_anonymous_memory_is_the_difference_to_the_lru_lists() {
        for (active, inactive, unevictable, swap_cached, expected, why) in [
            (300, 1000, 0, Some(0), Some(200), "huge pages that wait to be split"),
            (300, 1000, 10, Some(0), Some(200), "1% is locked"),
            (300, 1000, 11, Some(0), None, "more than 1% is locked, and so on another list"),
            (300, 1000, 0, Some(50), Some(150), "swap cache is subtracted"),
            (300, 1000, 0, None, None, "an old kernel does not print the swap cache"),
            (0, 600, 0, Some(0), Some(0), "memory freed by MADV_FREE is on the list of files"),
        ] {
            let swap_cached = swap_cached.map_or(String::new(), |bytes| format!("swapcached {bytes}\n"));
            let stat = format!(
                "anon 1000\nshmem 100\nactive_anon {active}\ninactive_anon {inactive}\n\
                 unevictable {unevictable}\n{swap_cached}"
            );
            assert_eq!(anon_unmapped(&values(&[("memory.stat", &stat)])), expected, "{why}");
        }
    }

    #[test]
    fn parts_without_a_counter_are_absent() {
        // Linux 5.10 prints neither kernel nor pagetables.
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
    fn unmapped_page_cache_and_shared_memory_are_separated() {
        for (file, mapped, shmem, mapped_shmem, expected) in [
            (70, 30, 20, 0, [20, 20]),
            (70, 30, 20, 15, [35, 5]),
            (70, 30, 20, 99, [40, 0]),
            // Only other containers map the shared memory that is charged to this container.
            (20, 15, 20, 0, [0, 5]),
            (20, 25, 20, 0, [0, 0]),
            // The kernel counts no mapped memory in this cgroup. So the 13 mapped bytes are charged to other
            // cgroups.
            (20, 0, 20, 13, [0, 20]),
        ] {
            let stat = format!("file {file}\nfile_mapped {mapped}\nshmem {shmem}\n");
            assert_eq!(unmapped(&values(&[("memory.stat", &stat)]), mapped_shmem), Some(expected), "{stat}");
        }
    }
}
