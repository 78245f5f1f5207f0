//! Suggests the known option that is closest to an unknown one.

/// Returns the known name that is closest to `given`, if their [`distance`] is at most a third of the length
/// of the shorter one. Otherwise returns a known name that contains `given`, if there is one and `given` has
/// at least four letters.
pub(super) fn nearest(
    given: &str,
    names: impl Iterator<Item = &'static str> + Clone,
) -> Option<&'static str> {
    let given = given.to_ascii_lowercase().replace('_', "-");
    let near = names.clone().map(|name| (distance(&given, name), name));
    let near = near.min().filter(|(distance, name)| *distance <= given.len().min(name.len()) / 3);
    let part_of = |name: &&str| given.len() >= 4 && name.contains(&given);
    near.map(|(_, name)| name).or_else(|| names.clone().find(part_of))
}

/// Returns how many single changes turn `a` into `b`. A change inserts, removes or replaces a letter, or
/// swaps two neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    // Before step i, `row` has the distance between the first i - 1 letters of a and each prefix of b. The
    // step computes the `next` row.
    let (mut before, mut row) = (vec![], (0..=b.len()).collect::<Vec<_>>());
    for i in 1..=a.len() {
        let mut next = vec![i];
        for j in 1..=b.len() {
            let replaced = row[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(row[j] + 1).min(next[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                let before: &Vec<usize> = &before;
                least = least.min(before[j - 2] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("filter", "filter", 0),
            ("filer", "filter", 1),
            ("fitler", "filter", 1),
            ("filtre", "filter", 1),
            ("flter", "filters", 2),
            ("abc", "xyz", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn similar_names_are_suggested() {
        let names = [
            "addr",
            "cri-sock",
            "containerd-sock",
            "containerd-namespace",
            "filter",
            "scrape-interval",
            "pid",
        ];
        for (given, expected) in [
            ("filer", Some("filter")),
            ("FILTER", Some("filter")),
            ("filters", Some("filter")),
            ("adr", Some("addr")),
            ("scrape_interval", Some("scrape-interval")),
            ("scape-intervall", Some("scrape-interval")),
            ("interval", Some("scrape-interval")),
            ("namespace", Some("containerd-namespace")),
            ("containerd-socket", Some("containerd-sock")),
            ("pod", Some("pid")),
            ("p", None),
            ("", None),
            ("bogus", None),
            ("web.listen-address", None),
            ("caf\u{e9}", None),
        ] {
            assert_eq!(nearest(given, names.into_iter()), expected, "{given}");
        }
    }
}
