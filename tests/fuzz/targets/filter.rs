//! Checks that filters match the same labels as a simpler implementation of `*`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smaps_container_exporter::node::containers::filter::Filter;

fuzz_target!(|bytes: &[u8]| {
    // NULs separate the parts of the input. The parts are a filter and the labels of a process.
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut parts = text.split('\0');
    let pattern = parts.next().unwrap_or_default();
    let segments: Vec<&str> = pattern.splitn(4, '/').collect();
    let filter = match Filter::parse(pattern) {
        Ok(filter) => filter,
        Err(error) => {
            assert!(segments.len() < 4 && !error.to_string().contains('\n'));
            return;
        }
    };
    assert_eq!(filter.to_string(), pattern);
    let labels = [(); 4].map(|()| parts.next().unwrap_or_default());
    let [namespace, pod, container, comm] = labels;
    let matched: Vec<bool> = segments
        .iter()
        .zip(labels)
        .map(|(pattern, text)| by_definition(pattern.as_bytes(), text.as_bytes()))
        .collect();
    assert_eq!(filter.matches_container(namespace, pod, container), matched[..3] == [true; 3]);
    assert_eq!(filter.matches(namespace, pod, container, comm), matched == [true; 4]);
});

/// Returns whether `pattern` matches `text`, by this definition: `*` matches the empty text, or one byte and
/// then whatever `*` matches. To be fast, this decides only once for each pair of a suffix of `pattern` and a
/// suffix of `text` whether they match. A `row` has the results for one suffix of `pattern`.
fn by_definition(pattern: &[u8], text: &[u8]) -> bool {
    let mut below = vec![false; text.len() + 1];
    below[text.len()] = true;
    for letter in pattern.iter().rev() {
        let mut row = vec![false; text.len() + 1];
        for i in (0..=text.len()).rev() {
            let one_more = i < text.len();
            row[i] = match letter {
                b'*' => below[i] || one_more && row[i + 1],
                letter => one_more && text[i] == *letter && below[i + 1],
            };
        }
        below = row;
    }
    below[0]
}
