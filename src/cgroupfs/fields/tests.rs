use super::*;
use crate::cgroupfs::field::Field;

/// `memory.stat` as Linux 6.12 prints it, with zswap and huge pages built in.
const STAT_6_12: &str = "anon 18653184
file 41410560
kernel 3604480
kernel_stack 131072
pagetables 430080
sec_pagetables 0
percpu 1440
sock 8192
vmalloc 16384
shmem 20971520
zswap 4096
zswapped 12288
file_mapped 10637312
file_dirty 135168
file_writeback 0
swapcached 28672
anon_thp 6291456
file_thp 2097152
shmem_thp 0
inactive_anon 39616512
active_anon 8192
inactive_file 14680064
active_file 5758976
unevictable 61440
slab_reclaimable 1890520
slab_unreclaimable 939104
slab 2829624
workingset_refault_anon 0
workingset_refault_file 12
pgscan 0
pgsteal 0
pgfault 48213
pgmajfault 167
pgrefill 0
pgactivate 1407
thp_fault_alloc 3
";

/// `memory.stat` as Linux 5.10 prints it: without kernel, pagetables, swapcached, file_thp and zswap.
const STAT_5_10: &str = "anon 2027520
file 675840
kernel_stack 98304
percpu 0
sock 0
shmem 0
file_mapped 405504
file_dirty 0
file_writeback 0
anon_thp 0
inactive_anon 1892352
active_anon 0
inactive_file 540672
active_file 0
unevictable 0
slab_reclaimable 181936
slab_unreclaimable 158080
slab 340016
workingset_refault_anon 0
pgfault 3729
pgmajfault 0
";

/// `memory.stat` of cgroup version 1, as Linux 6.18 prints it. Only the lines that begin with `total_`
/// include the memory of child cgroups.
const STAT_V1: &str = "cache 10108928
rss 5439488
rss_huge 0
shmem 8998912
mapped_file 7487488
dirty 20480
swap 0
swapcached 0
pgfault 97607
pgmajfault 0
inactive_anon 0
active_anon 1531904
inactive_file 110592
active_file 999424
unevictable 12906496
hierarchical_memory_limit 67108864
hierarchical_memsw_limit 9223372036854771712
total_cache 41410560
total_rss 18653184
total_rss_huge 6291456
total_shmem 20971520
total_mapped_file 10637312
total_dirty 135168
total_writeback 0
total_swap 12288
total_swapcached 28672
total_pgpgin 188986939
total_pgfault 48213
total_pgmajfault 167
total_inactive_anon 39616512
total_active_anon 8192
total_inactive_file 14680064
total_active_file 5758976
total_unevictable 61440
";

fn parsed(version: Version, texts: &[(&str, &str)]) -> Vec<(String, u64)> {
    let mut values = Values::default();
    for file in files(version, u8::MAX) {
        for (_, text) in texts.iter().filter(|(name, _)| *name == file.name) {
            file.parse(text.as_bytes(), &mut values);
        }
    }
    let name = |field: &Field| {
        let event = field.labels.split('"').nth(1).map_or(String::new(), |event| format!(" {event}"));
        format!("{}{}{event}", field.name, field.unit.suffix())
    };
    FIELDS.iter().enumerate().filter_map(|(i, field)| Some((name(field), values.get(i)?))).collect()
}

#[track_caller]
fn assert_parsed(version: Version, texts: &[(&str, &str)], expected: &[(&str, u64)]) {
    let parsed = parsed(version, texts);
    let parsed: Vec<(&str, u64)> = parsed.iter().map(|(name, number)| (name.as_str(), *number)).collect();
    assert_eq!(parsed, expected);
}

#[test]
fn all_fields_of_version_2_are_parsed() {
    assert_parsed(
        Version::V2,
        &[
            ("memory.current", "67096576\n"),
            ("memory.peak", "67108864\n"),
            ("memory.low", "0\n"),
            ("memory.high", "max\n"),
            ("memory.max", "67108864\n"),
            ("memory.swap.current", "12288\n"),
            ("memory.swap.max", "max\n"),
            ("memory.stat", STAT_6_12),
            ("memory.events", "low 0\nhigh 0\nmax 291\noom 3\noom_kill 2\noom_group_kill 1\n"),
            ("memory.min", "4096\n"),
            ("memory.oom.group", "1\n"),
            ("memory.events.local", "low 0\nmax 7\noom_kill 0\n"),
            ("hugetlb.2MB.current", "2097152\n"),
            (
                "memory.pressure",
                "some avg10=0.12 avg60=0.04 avg300=0.00 total=1234567\n\
                 full avg10=0.00 avg60=0.00 avg300=0.00 total=89\n",
            ),
            (
                "cpu.stat",
                "usage_usec 2500000\nuser_usec 1500000\nsystem_usec 1000000\nnice_usec 0\n\
                 core_sched.force_idle_usec 0\nnr_periods 100\nnr_throttled 7\n\
                 throttled_usec 350000\nnr_bursts 0\nburst_usec 0\n",
            ),
            ("pids.current", "5\n"),
            ("pids.max", "100\n"),
            ("pids.peak", "9\n"),
        ],
        &[
            ("memory_current_bytes", 67096576),
            ("memory_peak_bytes", 67108864),
            ("memory_low_bytes", 0),
            ("memory_max_bytes", 67108864),
            ("memory_swap_current_bytes", 12288),
            ("memory_stat_anon_bytes", 18653184),
            ("memory_stat_file_bytes", 41410560),
            ("memory_stat_kernel_bytes", 3604480),
            ("memory_stat_kernel_stack_bytes", 131072),
            ("memory_stat_pagetables_bytes", 430080),
            ("memory_stat_sec_pagetables_bytes", 0),
            ("memory_stat_percpu_bytes", 1440),
            ("memory_stat_sock_bytes", 8192),
            ("memory_stat_vmalloc_bytes", 16384),
            ("memory_stat_shmem_bytes", 20971520),
            ("memory_stat_file_mapped_bytes", 10637312),
            ("memory_stat_file_dirty_bytes", 135168),
            ("memory_stat_swapcached_bytes", 28672),
            ("memory_stat_zswap_bytes", 4096),
            ("memory_stat_anon_thp_bytes", 6291456),
            ("memory_stat_file_thp_bytes", 2097152),
            ("memory_stat_inactive_anon_bytes", 39616512),
            ("memory_stat_inactive_file_bytes", 14680064),
            ("memory_stat_active_anon_bytes", 8192),
            ("memory_stat_active_file_bytes", 5758976),
            ("memory_stat_unevictable_bytes", 61440),
            ("memory_stat_slab_reclaimable_bytes", 1890520),
            ("memory_stat_slab_unreclaimable_bytes", 939104),
            ("memory_stat_slab_bytes", 2829624),
            ("memory_stat_pgfault_total", 48213),
            ("memory_stat_pgmajfault_total", 167),
            ("memory_events_total low", 0),
            ("memory_events_total high", 0),
            ("memory_events_total max", 291),
            ("memory_events_total oom", 3),
            ("memory_events_total oom_kill", 2),
            ("memory_events_total oom_group_kill", 1),
            ("memory_pressure_some_seconds_total", 1_234_567_000),
            ("memory_pressure_full_seconds_total", 89_000),
            ("memory_min_bytes", 4096),
            ("memory_oom_group", 1),
            ("memory_events_local_total max", 7),
            ("memory_events_local_total oom_kill", 0),
            ("memory_stat_workingset_refault_anon_total", 0),
            ("memory_stat_workingset_refault_file_total", 12),
            ("memory_stat_pgscan_total", 0),
            ("memory_stat_pgsteal_total", 0),
            ("memory_hugetlb_current_bytes 2MB", 2_097_152),
            ("cpu_usage_seconds_total", 2_500_000_000),
            ("cpu_user_seconds_total", 1_500_000_000),
            ("cpu_system_seconds_total", 1_000_000_000),
            ("cpu_nr_periods_total", 100),
            ("cpu_nr_throttled_total", 7),
            ("cpu_throttled_seconds_total", 350_000_000),
            ("pids_current", 5),
            ("pids_max", 100),
            ("pids_peak", 9),
        ],
    );
}

#[test]
fn fields_that_an_older_kernel_does_not_print_are_absent() {
    let parsed = parsed(Version::V2, &[("memory.stat", STAT_5_10)]);
    assert_eq!(parsed.len(), 20);
    for absent in ["kernel", "pagetables", "swapcached", "zswap", "file_thp"] {
        assert!(!parsed.iter().any(|(name, _)| *name == format!("memory_stat_{absent}_bytes")), "{absent}");
    }
}

#[test]
fn all_fields_of_version_1_are_parsed() {
    assert_parsed(
        Version::V1,
        &[
            ("memory.usage_in_bytes", "67096576\n"),
            ("memory.max_usage_in_bytes", "67108864\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.kmem.usage_in_bytes", "3604480\n"),
            ("memory.stat", STAT_V1),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
            ("cpuacct.usage", "2500000001\n"),
            ("cpuacct.stat", "user 150\nsystem 100\n"),
            ("cpu.stat", "nr_periods 100\nnr_throttled 7\nthrottled_time 350000000\n"),
            ("pids.current", "5\n"),
            ("pids.max", "max\n"),
        ],
        &[
            ("memory_current_bytes", 67096576),
            ("memory_peak_bytes", 67108864),
            ("memory_limit_bytes", 67108864),
            ("memory_swap_current_bytes", 12288),
            ("memory_stat_anon_bytes", 18653184),
            ("memory_stat_file_bytes", 41410560),
            ("memory_stat_kernel_bytes", 3604480),
            ("memory_stat_shmem_bytes", 20971520),
            ("memory_stat_file_mapped_bytes", 10637312),
            ("memory_stat_file_dirty_bytes", 135168),
            ("memory_stat_swapcached_bytes", 28672),
            ("memory_stat_anon_thp_bytes", 6291456),
            ("memory_stat_inactive_anon_bytes", 39616512),
            ("memory_stat_inactive_file_bytes", 14680064),
            ("memory_stat_active_anon_bytes", 8192),
            ("memory_stat_active_file_bytes", 5758976),
            ("memory_stat_unevictable_bytes", 61440),
            ("memory_stat_pgfault_total", 48213),
            ("memory_stat_pgmajfault_total", 167),
            ("memory_events_total oom_kill", 2),
            ("cpu_usage_seconds_total", 2_500_000_001),
            ("cpu_user_seconds_total", 1_500_000_000),
            ("cpu_system_seconds_total", 1_000_000_000),
            ("cpu_nr_periods_total", 100),
            ("cpu_nr_throttled_total", 7),
            ("cpu_throttled_seconds_total", 350_000_000),
            ("pids_current", 5),
        ],
    );
    for no_limit in ["9223372036854771712", "9223372036854710272", "9223372036854775807"] {
        assert_parsed(Version::V1, &[("memory.limit_in_bytes", no_limit)], &[]);
    }
}

#[test]
fn malformed_text_is_skipped() {
    for text in
        ["", "\n", " ", "max", "-1", "+1", "1 ", "1 2", " 1", "0x1", "18446744073709551616", "1\0", "total=1"]
    {
        assert_parsed(Version::V2, &[("memory.current", text)], &[]);
    }
    let malformed = "anon\nanon \nanon x\nanon  1\nanon 1 2\nanon\t1\nanonymous 1\nANON 1\n\0\u{ff}\n99999\n\
                     future_key 7\nfile 8";
    assert_parsed(Version::V2, &[("memory.stat", malformed)], &[("memory_stat_file_bytes", 8)]);
    for text in ["some avg10=0.00 total=x", "some total=1", "full", "some avg10=0.00 total=1 x"] {
        assert_parsed(Version::V2, &[("memory.pressure", text)], &[]);
    }
    // In nanoseconds, this time does not fit into 64 bits.
    assert_parsed(
        Version::V2,
        &[("cpu.stat", "usage_usec 18446744073709551615\nnr_periods 18446744073709551615")],
        &[("cpu_nr_periods_total", u64::MAX)],
    );
    assert_eq!([limit(b"4096\n"), limit(b"max\n"), limit(b"")], [Some(4096), None, None]);
}

#[test]
fn limit_and_working_set_are_derived() {
    let derived = |texts: &[(&str, &str)], limit_above| {
        let mut values = values(texts);
        values.derive(limit_above);
        (values.get(LIMIT), values.get(WORKING_SET))
    };
    let used = ("memory.current", "100\n");
    assert_eq!(derived(&[used, ("memory.max", "max\n")], None), (None, None));
    assert_eq!(derived(&[used, ("memory.max", "200\n")], None), (Some(200), None));
    assert_eq!(derived(&[used, ("memory.max", "200\n")], Some(150)), (Some(150), None));
    assert_eq!(derived(&[used, ("memory.max", "max\n")], Some(300)), (Some(300), None));
    assert_eq!(derived(&[used, ("memory.stat", "inactive_file 30\n")], None), (None, Some(70)));
    assert_eq!(derived(&[used, ("memory.stat", "inactive_file 101\n")], None), (None, Some(0)));
    assert_eq!(derived(&[("memory.stat", "inactive_file 1\n")], None), (None, None));
}

#[test]
fn positions_names_and_places_in_the_table_are_right() {
    for (i, name) in [
        (CURRENT, "memory_current"),
        (MAX, "memory_max"),
        (LIMIT, "memory_limit"),
        (WORKING_SET, "memory_working_set"),
        (ANON, "memory_stat_anon"),
        (FILE, "memory_stat_file"),
        (KERNEL, "memory_stat_kernel"),
        (KERNEL_STACK, "memory_stat_kernel_stack"),
        (PAGETABLES, "memory_stat_pagetables"),
        (SEC_PAGETABLES, "memory_stat_sec_pagetables"),
        (PERCPU, "memory_stat_percpu"),
        (SOCK, "memory_stat_sock"),
        (VMALLOC, "memory_stat_vmalloc"),
        (SHMEM, "memory_stat_shmem"),
        (FILE_MAPPED, "memory_stat_file_mapped"),
        (SWAPCACHED, "memory_stat_swapcached"),
        (ZSWAP, "memory_stat_zswap"),
        (HUGETLB, "memory_stat_hugetlb"),
        (INACTIVE_ANON, "memory_stat_inactive_anon"),
        (INACTIVE_FILE, "memory_stat_inactive_file"),
        (ACTIVE_ANON, "memory_stat_active_anon"),
        (UNEVICTABLE, "memory_stat_unevictable"),
        (SLAB, "memory_stat_slab"),
        (OOM_KILLS, "memory_events"),
    ] {
        assert_eq!(FIELDS[i].name, name);
    }
    assert_eq!(FIELDS[OOM_KILLS].v2.key, "oom_kill");
    for (i, field) in FIELDS.iter().enumerate() {
        assert!(field.name.starts_with(GROUPS[field.group()]) && field.help.ends_with('.'), "{}", field.name);
        let same = FIELDS.iter().filter(|other| (other.name, other.labels) == (field.name, field.labels));
        assert_eq!(same.count(), 1, "{}", field.name);
        let is_derived = [LIMIT, WORKING_SET].contains(&i);
        assert_eq!(field.place(Version::V2).is_none(), is_derived, "{}", field.name);
        // In version 1 the file's name begins with its hierarchy.
        let hierarchy = field.v1.file.split('.').next().unwrap();
        assert!(["", "memory", "cpuacct", "cpu", "pids", "hugetlb"].contains(&hierarchy), "{}", field.name);
    }
    let names = |groups| files(Version::V1, groups).iter().map(|file| file.name).collect::<Vec<_>>();
    assert_eq!(names(0), [""; 0]);
    assert_eq!(names(1 << 4), ["pids.current", "pids.max", "pids.peak"]);
    assert_eq!(names(1 << 3), ["cpuacct.usage", "cpuacct.stat", "cpu.stat"]);
    assert_eq!(files(Version::V2, MEMORY).len(), 18);
}
