//! The rows of the table of cgroup fields.

use super::field::Unit::{Bytes, Events, Number, Time};
use super::field::{Field, Place, Unit};

/// The number of fields.
pub const N_FIELDS: usize = 69;

const NOWHERE: Place = Place { file: "", key: "", factor: 1 };
const MICROSECONDS: u64 = 1_000;
/// The length of a clock tick in nanoseconds. `USER_HZ`, the number of ticks per second, is 100 wherever
/// containers run.
const TICKS: u64 = 10_000_000;

const fn file(file: &'static str) -> Place {
    Place { file, ..NOWHERE }
}

const fn line(file: &'static str, key: &'static str, factor: u64) -> Place {
    Place { file, key, factor }
}

/// Returns the table row of a field that has a file of its own. That file contains only the field's value.
const fn one(
    name: &'static str,
    unit: Unit,
    v2: &'static str,
    v1: &'static str,
    help: &'static str,
) -> Field {
    Field { name, labels: "}", unit, v2: file(v2), v1: file(v1), help }
}

/// Returns the table row of a field that is one line of `memory.stat`.
const fn stat(
    name: &'static str,
    unit: Unit,
    v2: &'static str,
    v1: &'static str,
    help: &'static str,
) -> Field {
    let v1 = if v1.is_empty() { NOWHERE } else { line("memory.stat", v1, 1) };
    Field { name, labels: "}", unit, v2: line("memory.stat", v2, 1), v1, help }
}

const fn event(key: &'static str, labels: &'static str) -> Field {
    Field {
        name: "memory_events",
        labels,
        unit: Events,
        v2: line("memory.events", key, 1),
        v1: NOWHERE,
        help: "Memory events: reclaim below memory.low (low), use above memory.high (high), use at the limit \
               (max), no memory left below the limit (oom), processes killed (oom_kill), kills of all \
               processes at once (oom_group_kill), sockets throttled (sock_throttled).",
    }
}

const fn local_event(key: &'static str, labels: &'static str) -> Field {
    Field {
        name: "memory_events_local",
        v2: line("memory.events.local", key, 1),
        help: "Memory events of the container's own cgroup, without those of cgroups above or below.",
        ..event(key, labels)
    }
}

const fn huge_pages(labels: &'static str, v2: &'static str, v1: &'static str) -> Field {
    Field { labels, ..one("memory_hugetlb_current", Bytes, v2, v1, "Huge pages of hugetlbfs, by page size.") }
}

const fn time(name: &'static str, v2: Place, v1: Place, help: &'static str) -> Field {
    Field { name, labels: "}", unit: Time, v2, v1, help }
}

/// The table of fields, in the order in which families are exported.
pub static FIELDS: [Field; N_FIELDS] = [
    one(
        "memory_current",
        Bytes,
        "memory.current",
        "memory.usage_in_bytes",
        "All memory charged to the container.",
    ),
    one("memory_peak", Bytes, "memory.peak", "memory.max_usage_in_bytes", "Peak of the charged memory."),
    one("memory_low", Bytes, "memory.low", "", "Best-effort memory protection."),
    one(
        "memory_high",
        Bytes,
        "memory.high",
        "",
        "Throttling limit: above it the kernel slows the container down.",
    ),
    one("memory_max", Bytes, "memory.max", "memory.limit_in_bytes", "The container's own limit."),
    Field {
        v1: line("memory.stat", "hierarchical_memory_limit", 1),
        ..one(
            "memory_limit",
            Bytes,
            "",
            "",
            "The effective limit: the smallest of the container's own and those of all cgroups above it.",
        )
    },
    one(
        "memory_working_set",
        Bytes,
        "",
        "",
        "Charged memory without inactive page cache, as the kubelet counts it for eviction.",
    ),
    Field {
        v1: line("memory.stat", "total_swap", 1),
        ..one("memory_swap_current", Bytes, "memory.swap.current", "", "Swap in use.")
    },
    one("memory_swap_max", Bytes, "memory.swap.max", "", "The container's swap limit."),
    stat("memory_stat_anon", Bytes, "anon", "total_rss", "Anonymous memory."),
    stat("memory_stat_file", Bytes, "file", "total_cache", "Page cache, including tmpfs and shared memory."),
    Field {
        v1: file("memory.kmem.usage_in_bytes"),
        ..stat(
            "memory_stat_kernel",
            Bytes,
            "kernel",
            "",
            "Kernel memory: stacks, page tables, slab and the rest.",
        )
    },
    stat("memory_stat_kernel_stack", Bytes, "kernel_stack", "", "Kernel stacks."),
    stat("memory_stat_pagetables", Bytes, "pagetables", "", "Page tables."),
    stat("memory_stat_sec_pagetables", Bytes, "sec_pagetables", "", "Page tables of KVM and IOMMUs."),
    stat("memory_stat_percpu", Bytes, "percpu", "", "Per-CPU kernel data."),
    stat("memory_stat_sock", Bytes, "sock", "", "Network buffers."),
    stat("memory_stat_vmalloc", Bytes, "vmalloc", "", "Kernel memory from vmalloc, for example BPF maps."),
    stat("memory_stat_shmem", Bytes, "shmem", "total_shmem", "Tmpfs and shared memory."),
    stat("memory_stat_file_mapped", Bytes, "file_mapped", "total_mapped_file", "Page cache that is mapped."),
    stat(
        "memory_stat_file_dirty",
        Bytes,
        "file_dirty",
        "total_dirty",
        "Page cache that is not written to disk yet.",
    ),
    stat(
        "memory_stat_swapcached",
        Bytes,
        "swapcached",
        "total_swapcached",
        "Swap cache: swapped pages that are in memory, too.",
    ),
    stat("memory_stat_zswap", Bytes, "zswap", "", "Memory that holds compressed swap."),
    stat("memory_stat_hugetlb", Bytes, "hugetlb", "", "Hugetlbfs, with memory_hugetlb_accounting."),
    stat(
        "memory_stat_anon_thp",
        Bytes,
        "anon_thp",
        "total_rss_huge",
        "Anonymous memory in transparent huge pages.",
    ),
    stat("memory_stat_file_thp", Bytes, "file_thp", "", "Page cache in transparent huge pages."),
    stat(
        "memory_stat_inactive_anon",
        Bytes,
        "inactive_anon",
        "total_inactive_anon",
        "Anonymous memory, tmpfs and shared memory not used lately.",
    ),
    stat(
        "memory_stat_inactive_file",
        Bytes,
        "inactive_file",
        "total_inactive_file",
        "Page cache of files not used lately.",
    ),
    stat(
        "memory_stat_active_anon",
        Bytes,
        "active_anon",
        "total_active_anon",
        "Anonymous memory, tmpfs and shared memory used lately.",
    ),
    stat(
        "memory_stat_active_file",
        Bytes,
        "active_file",
        "total_active_file",
        "Page cache of files used lately.",
    ),
    stat(
        "memory_stat_unevictable",
        Bytes,
        "unevictable",
        "total_unevictable",
        "Memory that cannot be reclaimed, for example locked memory.",
    ),
    stat(
        "memory_stat_slab_reclaimable",
        Bytes,
        "slab_reclaimable",
        "",
        "Slab that can be reclaimed, for example directory entries.",
    ),
    stat("memory_stat_slab_unreclaimable", Bytes, "slab_unreclaimable", "", "Slab that cannot be reclaimed."),
    stat("memory_stat_slab", Bytes, "slab", "", "Slab: kernel objects."),
    stat("memory_stat_pgfault", Events, "pgfault", "total_pgfault", "Page faults."),
    stat("memory_stat_pgmajfault", Events, "pgmajfault", "total_pgmajfault", "Page faults that needed I/O."),
    event("low", ",event=\"low\"}"),
    event("high", ",event=\"high\"}"),
    event("max", ",event=\"max\"}"),
    event("oom", ",event=\"oom\"}"),
    Field { v1: line("memory.oom_control", "oom_kill", 1), ..event("oom_kill", ",event=\"oom_kill\"}") },
    event("oom_group_kill", ",event=\"oom_group_kill\"}"),
    event("sock_throttled", ",event=\"sock_throttled\"}"),
    time(
        "memory_pressure_some",
        line("memory.pressure", "some", MICROSECONDS),
        NOWHERE,
        "Time in which some of the container's tasks waited for memory.",
    ),
    time(
        "memory_pressure_full",
        line("memory.pressure", "full", MICROSECONDS),
        NOWHERE,
        "Time in which all non-idle tasks of the container waited for memory.",
    ),
    one(
        "memory_min",
        Bytes,
        "memory.min",
        "",
        "Hard memory protection: the kernel never reclaims this much.",
    ),
    one(
        "memory_oom_group",
        Number,
        "memory.oom.group",
        "",
        "1 if an OOM kill ends all processes of the container, otherwise 0.",
    ),
    local_event("high", ",event=\"high\"}"),
    local_event("max", ",event=\"max\"}"),
    local_event("oom", ",event=\"oom\"}"),
    local_event("oom_kill", ",event=\"oom_kill\"}"),
    stat(
        "memory_stat_workingset_refault_anon",
        Events,
        "workingset_refault_anon",
        "total_workingset_refault_anon",
        "Pages of anonymous memory that were needed again soon after they were swapped out.",
    ),
    stat(
        "memory_stat_workingset_refault_file",
        Events,
        "workingset_refault_file",
        "total_workingset_refault_file",
        "Pages of files that were needed again soon after they were dropped.",
    ),
    stat("memory_stat_pgscan", Events, "pgscan", "", "Pages scanned for reclaim."),
    stat("memory_stat_pgsteal", Events, "pgsteal", "", "Pages reclaimed."),
    huge_pages(",pagesize=\"64KB\"}", "hugetlb.64KB.current", "hugetlb.64KB.usage_in_bytes"),
    huge_pages(",pagesize=\"2MB\"}", "hugetlb.2MB.current", "hugetlb.2MB.usage_in_bytes"),
    huge_pages(",pagesize=\"32MB\"}", "hugetlb.32MB.current", "hugetlb.32MB.usage_in_bytes"),
    huge_pages(",pagesize=\"512MB\"}", "hugetlb.512MB.current", "hugetlb.512MB.usage_in_bytes"),
    huge_pages(",pagesize=\"1GB\"}", "hugetlb.1GB.current", "hugetlb.1GB.usage_in_bytes"),
    time("cpu_usage", line("cpu.stat", "usage_usec", MICROSECONDS), file("cpuacct.usage"), "CPU time."),
    time(
        "cpu_user",
        line("cpu.stat", "user_usec", MICROSECONDS),
        line("cpuacct.stat", "user", TICKS),
        "CPU time in user space.",
    ),
    time(
        "cpu_system",
        line("cpu.stat", "system_usec", MICROSECONDS),
        line("cpuacct.stat", "system", TICKS),
        "CPU time in the kernel.",
    ),
    Field {
        v2: line("cpu.stat", "nr_periods", 1),
        v1: line("cpu.stat", "nr_periods", 1),
        ..one("cpu_nr_periods", Events, "", "", "Periods of the CPU limit in which the container ran.")
    },
    Field {
        v2: line("cpu.stat", "nr_throttled", 1),
        v1: line("cpu.stat", "nr_throttled", 1),
        ..one("cpu_nr_throttled", Events, "", "", "Periods in which the container was throttled.")
    },
    time(
        "cpu_throttled",
        line("cpu.stat", "throttled_usec", MICROSECONDS),
        line("cpu.stat", "throttled_time", 1),
        "Time in which the container was throttled.",
    ),
    one("pids_current", Number, "pids.current", "pids.current", "Processes and threads."),
    one("pids_max", Number, "pids.max", "pids.max", "The container's own limit of processes and threads."),
    one("pids_peak", Number, "pids.peak", "pids.peak", "Peak number of processes and threads."),
];
