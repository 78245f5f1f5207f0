//! Writes the memory of the node as Prometheus text: the family `cgroup_node_memory_bytes`.

use super::text::{Family, Kind};

/// The HELP text of `cgroup_node_memory_bytes`.
pub const HELP: &str = "Parts of the node's memory; their sum is MemTotal. The part of a top-level cgroup is \
                        named by its path; remainder is memory in no counter of the kernel.";

/// Appends the family `cgroup_node_memory_bytes` to `text`. `parts` has the label text and the bytes of each
/// part. Appends nothing if there are no parts.
pub fn render<'a>(text: &mut Vec<u8>, parts: impl Iterator<Item = (&'a str, i64)>) {
    let mut family = Family::new(text, "cgroup_", "node_memory", "_bytes", Kind::Gauge, HELP);
    parts.for_each(|(labels, bytes)| family.signed_sample(&[labels], bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_a_sample_and_no_parts_give_no_family() {
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
