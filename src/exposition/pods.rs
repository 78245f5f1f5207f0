//! Writes the memory of pods as Prometheus text: the families `cgroup_pod_*` and `smaps_exporter_pod_info`.

use super::text::{Family, Kind};
use crate::cgroupfs::fields::{CURRENT, FIELDS, LIMIT, WORKING_SET};
use crate::cgroupfs::pod::{Exported, PARTS};

/// The families that have one value per pod. Each row has the name, the cgroup field that the value is read
/// from, and the HELP text.
pub const FAMILIES: [(&str, usize, &str); 3] = [
    ("memory_current", CURRENT, "All memory charged to the pod."),
    (
        "memory_limit",
        LIMIT,
        "The effective limit: the smallest of the pod's own and those of all cgroups above it.",
    ),
    (
        "memory_working_set",
        WORKING_SET,
        "Charged memory of the pod without inactive page cache, as the kubelet counts it for eviction.",
    ),
];
/// The HELP text of `cgroup_pod_memory_events_total`.
pub const EVENTS: &str =
    "Memory events in the pod and in its containers, named as in cgroup_memory_events_total.";
/// The HELP text of `cgroup_pod_memory_outside_containers_bytes`.
pub const OUTSIDE: &str = "Memory charged to the pod but to none of its running containers: tmpfs and page \
                           cache left by containers that have ended, and the sandbox.";
/// The HELP text of `smaps_exporter_pod_info`.
pub const INFO: &str =
    "The uid of each pod, from the name of its cgroup; for a static pod, the hash of its manifest.";

/// The last label and the closing brace of the sample of each part. The order is that of [`PARTS`].
const PART_LABELS: [&str; PARTS.len()] = [
    ",part=\"anon\"}",
    ",part=\"page_cache\"}",
    ",part=\"shmem\"}",
    ",part=\"kernel\"}",
    ",part=\"remainder\"}",
];

/// Appends these pods' families to `text`, except families without samples. The samples of a family have the
/// same order as `pods`.
pub fn render<'a>(text: &mut Vec<u8>, pods: impl Iterator<Item = Exported<'a>> + Clone) {
    for (name, field, help) in FAMILIES {
        let mut family = Family::new(text, "cgroup_pod_", name, "_bytes", Kind::Gauge, help);
        for Exported { labels, values, .. } in pods.clone() {
            if let Some(bytes) = values.get(field) {
                family.sample(&[labels, "}"], bytes);
            }
        }
    }
    let mut family = Family::new(text, "cgroup_pod_", "memory_events", "_total", Kind::Counter, EVENTS);
    for Exported { labels, values, .. } in pods.clone() {
        for (i, field) in FIELDS.iter().enumerate().filter(|(_, field)| field.name == "memory_events") {
            if let Some(number) = values.get(i) {
                family.sample(&[labels, field.labels], number);
            }
        }
    }
    let mut family =
        Family::new(text, "cgroup_pod_", "memory_outside_containers", "_bytes", Kind::Gauge, OUTSIDE);
    for Exported { labels, outside, .. } in pods.clone() {
        family.parts(labels, &PART_LABELS, outside.unwrap_or_default());
    }
    let mut family = Family::new(text, "smaps_exporter_", "pod_info", "", Kind::Gauge, INFO);
    for Exported { labels, uid_label, .. } in pods.filter(|pod| !pod.uid_label.is_empty()) {
        family.sample(&[labels, uid_label], 1);
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
    fn families_of_pods_skip_unknown_values() {
        let mut a = values(&[
            ("memory.current", "4096\n"),
            ("memory.max", "8192\n"),
            ("memory.stat", "inactive_file 96\n"),
            ("memory.events", "low 0\nmax 7\n"),
        ]);
        a.derive(Some(10_000));
        let b = values(&[("memory.current", "5\n")]);
        let outside = Some([Some(1), None, Some(3), Some(0), Some(-2)]);
        let pods = [
            Exported { labels: "{pod=\"a\"", uid_label: ",uid=\"1\"}", values: &a, outside },
            Exported { labels: "{pod=\"b\"", uid_label: "", values: &b, outside: None },
        ];
        let mut text = Vec::new();
        render(&mut text, pods.into_iter());
        let text = String::from_utf8(text).unwrap();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with("# HELP")).collect();
        assert_eq!(
            samples,
            [
                "# TYPE cgroup_pod_memory_current_bytes gauge",
                r#"cgroup_pod_memory_current_bytes{pod="a"} 4096"#,
                r#"cgroup_pod_memory_current_bytes{pod="b"} 5"#,
                "# TYPE cgroup_pod_memory_limit_bytes gauge",
                r#"cgroup_pod_memory_limit_bytes{pod="a"} 8192"#,
                "# TYPE cgroup_pod_memory_working_set_bytes gauge",
                r#"cgroup_pod_memory_working_set_bytes{pod="a"} 4000"#,
                "# TYPE cgroup_pod_memory_events_total counter",
                r#"cgroup_pod_memory_events_total{pod="a",event="low"} 0"#,
                r#"cgroup_pod_memory_events_total{pod="a",event="max"} 7"#,
                "# TYPE cgroup_pod_memory_outside_containers_bytes gauge",
                r#"cgroup_pod_memory_outside_containers_bytes{pod="a",part="anon"} 1"#,
                r#"cgroup_pod_memory_outside_containers_bytes{pod="a",part="shmem"} 3"#,
                r#"cgroup_pod_memory_outside_containers_bytes{pod="a",part="kernel"} 0"#,
                r#"cgroup_pod_memory_outside_containers_bytes{pod="a",part="remainder"} -2"#,
                "# TYPE smaps_exporter_pod_info gauge",
                r#"smaps_exporter_pod_info{pod="a",uid="1"} 1"#,
            ]
        );
    }
}
