//! The memory of the node as Prometheus text: the family `cgroup_node_memory_bytes`.

use super::text::{Family, Kind};

/// What the family shows.
pub const HELP: &str = "Parts of all memory of the node; together they are MemTotal. Each top-level cgroup has its path as part; remainder is what no counter of the kernel shows.";

/// Appends the family to `text`, given the label text of each part and its bytes; nothing without parts.
pub fn render<'a>(text: &mut Vec<u8>, parts: impl Iterator<Item = (&'a str, i64)>) {
    let mut family = Family::new(text, "cgroup_", "node_memory", "_bytes", Kind::Gauge, HELP);
    parts.for_each(|(labels, bytes)| family.signed_sample(&[labels], bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_samples() {
        let mut text = Vec::new();
        render(&mut text, [].into_iter());
        assert!(text.is_empty());
        render(&mut text, [("{part=\"free\"}", 7), ("{part=\"remainder\"}", -2)].into_iter());
        let expected = format!(
            "# HELP cgroup_node_memory_bytes {HELP}\n# TYPE cgroup_node_memory_bytes gauge\n\
             cgroup_node_memory_bytes{{part=\"free\"}} 7\ncgroup_node_memory_bytes{{part=\"remainder\"}} -2\n"
        );
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }
}
