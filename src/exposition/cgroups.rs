//! The containers' own accounts as Prometheus text: the families `cgroup_*`.

use super::text::{Family, Kind};
use crate::cgroupfs::fields::{FIELDS, Unit, Values};

/// Appends the families to `text`, those that have a sample.
///
/// `accounts` are the label text of each container, left open, and what its cgroup says, in the order in which they are exported.
pub fn render<'a>(text: &mut Vec<u8>, accounts: impl Iterator<Item = (&'a str, &'a Values)> + Clone) {
    let mut first = 0;
    for fields in FIELDS.chunk_by(|a, b| a.name == b.name) {
        let field = &fields[0];
        let kind = if field.unit.is_counter() { Kind::Counter } else { Kind::Gauge };
        let mut family = Family::new(text, "cgroup_", field.name, field.unit.suffix(), kind, field.help);
        for (labels, values) in accounts.clone() {
            for (i, field) in fields.iter().enumerate() {
                let Some(number) = values.get(first + i) else { continue };
                match field.unit {
                    Unit::Time => family.sample_of_time(labels, field.labels, number),
                    _ => family.sample(labels, field.labels, number),
                }
            }
        }
        first += fields.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroupfs::fields::values;

    #[test]
    fn families_that_have_a_sample() {
        let a = values(&[
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.events", "low 0\noom_kill 2\n"),
            ("memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\n"),
        ]);
        let b = values(&[("memory.current", "0\n"), ("memory.events", "oom_kill 0\n")]);
        let mut text = Vec::new();
        render(&mut text, [("{pod=\"a\"", &a), ("{pod=\"b\"", &b)].into_iter());
        let text = String::from_utf8(text).unwrap();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with("# HELP")).collect();
        assert_eq!(
            samples,
            [
                "# TYPE cgroup_memory_current_bytes gauge",
                r#"cgroup_memory_current_bytes{pod="a"} 4096"#,
                r#"cgroup_memory_current_bytes{pod="b"} 0"#,
                "# TYPE cgroup_memory_events_total counter",
                r#"cgroup_memory_events_total{pod="a",event="low"} 0"#,
                r#"cgroup_memory_events_total{pod="a",event="oom_kill"} 2"#,
                r#"cgroup_memory_events_total{pod="b",event="oom_kill"} 0"#,
                "# TYPE cgroup_memory_pressure_some_seconds_total counter",
                r#"cgroup_memory_pressure_some_seconds_total{pod="a"} 1.5"#,
            ]
        );
        assert_eq!(text.lines().count(), samples.len() + 3);
        let mut nothing = Vec::new();
        render(&mut nothing, [].into_iter());
        assert!(nothing.is_empty());
    }
}
