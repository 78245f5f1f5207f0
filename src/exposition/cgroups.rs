//! Writes the cgroup values of containers, such as memory and CPU, and their memory accounts as Prometheus
//! text: the families `cgroup_*`. An account is the memory that is charged to a container, split into parts.

use super::text::{Family, Kind};
use crate::cgroupfs::account::{Exported, PARTS, parts};
use crate::cgroupfs::fields::{FIELDS, GroupMask, MEMORY, Unit};

/// The HELP text of `cgroup_memory_account_bytes`.
pub const ACCOUNT: &str =
    "Parts of the memory charged to the container; their sum is cgroup_memory_current_bytes.";
/// The HELP text of `cgroup_memory_unmapped_bytes`.
pub const UNMAPPED: &str =
    "Page cache, tmpfs and shared memory that are charged to the container but that no process maps.";

/// The label `part` of each sample of `cgroup_memory_account_bytes`, with the closing brace of the labels.
const PART_LABELS: [&str; PARTS.len()] = [
    ",part=\"anon\"}",
    ",part=\"anon_unmapped\"}",
    ",part=\"page_cache\"}",
    ",part=\"shmem\"}",
    ",part=\"hugetlb\"}",
    ",part=\"slab\"}",
    ",part=\"page_tables\"}",
    ",part=\"sec_page_tables\"}",
    ",part=\"kernel_stacks\"}",
    ",part=\"percpu\"}",
    ",part=\"vmalloc\"}",
    ",part=\"zswap\"}",
    ",part=\"kernel_other\"}",
    ",part=\"sockets\"}",
    ",part=\"remainder\"}",
];

/// The label `part` of the two samples of `cgroup_memory_unmapped_bytes`, in the order of
/// [`Exported::unmapped`].
const UNMAPPED_LABELS: [&str; 2] = [",part=\"page_cache\"}", ",part=\"shmem\"}"];

/// Appends the families `cgroup_*` of containers to `text`. `groups` selects families, for example those of
/// memory or CPU. `accounts` has the values of each container, and each family lists the containers in this
/// order. A family without samples is omitted.
pub fn render<'a>(
    text: &mut Vec<u8>,
    groups: GroupMask,
    accounts: impl Iterator<Item = Exported<'a>> + Clone,
) {
    let mut first = 0;
    for fields in FIELDS.chunk_by(|a, b| a.name == b.name) {
        let (field, n_before) = (&fields[0], first);
        first += fields.len();
        if groups & 1 << field.group() == 0 {
            continue;
        }
        let kind = if field.unit.is_counter() { Kind::Counter } else { Kind::Gauge };
        let mut family = Family::new(text, "cgroup_", field.name, field.unit.suffix(), kind, field.help);
        for Exported { labels, values, .. } in accounts.clone() {
            for (i, field) in fields.iter().enumerate() {
                let Some(number) = values.get(n_before + i) else { continue };
                match field.unit {
                    Unit::Time => family.sample_of_time(&[labels, field.labels], number),
                    _ => family.sample(&[labels, field.labels], number),
                }
            }
        }
    }
    if groups & MEMORY == 0 {
        return;
    }
    let mut family = Family::new(text, "cgroup_", "memory_account", "_bytes", Kind::Gauge, ACCOUNT);
    for Exported { labels, values, .. } in accounts.clone() {
        family.parts(labels, &PART_LABELS, parts(values).unwrap_or_default());
    }
    let mut family = Family::new(text, "cgroup_", "memory_unmapped", "_bytes", Kind::Gauge, UNMAPPED);
    for Exported { labels, unmapped, .. } in accounts {
        for (part, bytes) in UNMAPPED_LABELS.iter().zip(unmapped.into_iter().flatten()) {
            family.sample(&[labels, part], bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroupfs::fields::values;

    #[test]
    fn each_part_has_its_label() {
        for (label, part) in PART_LABELS.into_iter().zip(PARTS) {
            assert_eq!(label, format!(",part=\"{part}\"}}"));
        }
    }

    #[test]
    fn only_families_with_samples_are_written() {
        let a = values(&[
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.stat", "anon 5000\n"),
            ("memory.events", "low 0\noom_kill 2\n"),
            ("memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\n"),
        ]);
        let b = values(&[("memory.current", "0\n"), ("memory.events", "oom_kill 0\n")]);
        let mut text = Vec::new();
        let accounts = [
            Exported { labels: "{pod=\"a\"", values: &a, unmapped: Some([7, 0]) },
            Exported { labels: "{pod=\"b\"", values: &b, unmapped: None },
        ];
        let mut nothing = Vec::new();
        render(&mut nothing, 0, accounts.into_iter());
        assert!(nothing.is_empty(), "no group is exported");
        render(&mut text, MEMORY, accounts.into_iter());
        let text = String::from_utf8(text).unwrap();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with("# HELP")).collect();
        assert_eq!(
            samples,
            [
                "# TYPE cgroup_memory_current_bytes gauge",
                r#"cgroup_memory_current_bytes{pod="a"} 4096"#,
                r#"cgroup_memory_current_bytes{pod="b"} 0"#,
                "# TYPE cgroup_memory_stat_anon_bytes gauge",
                r#"cgroup_memory_stat_anon_bytes{pod="a"} 5000"#,
                "# TYPE cgroup_memory_events_total counter",
                r#"cgroup_memory_events_total{pod="a",event="low"} 0"#,
                r#"cgroup_memory_events_total{pod="a",event="oom_kill"} 2"#,
                r#"cgroup_memory_events_total{pod="b",event="oom_kill"} 0"#,
                "# TYPE cgroup_memory_pressure_some_seconds_total counter",
                r#"cgroup_memory_pressure_some_seconds_total{pod="a"} 1.5"#,
                "# TYPE cgroup_memory_account_bytes gauge",
                r#"cgroup_memory_account_bytes{pod="a",part="anon"} 5000"#,
                r#"cgroup_memory_account_bytes{pod="a",part="remainder"} -904"#,
                r#"cgroup_memory_account_bytes{pod="b",part="remainder"} 0"#,
                "# TYPE cgroup_memory_unmapped_bytes gauge",
                r#"cgroup_memory_unmapped_bytes{pod="a",part="page_cache"} 7"#,
                r#"cgroup_memory_unmapped_bytes{pod="a",part="shmem"} 0"#,
            ]
        );
        assert_eq!(text.lines().count(), samples.len() + 6);
        render(&mut nothing, MEMORY, [].into_iter());
        assert!(nothing.is_empty(), "there is no container");
    }
}
