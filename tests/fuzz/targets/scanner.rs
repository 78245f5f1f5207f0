//! Compares the scanner with a naive reader of smaps. The scanner has two ways to parse a mapping. The fast
//! way compares the lines with those of an earlier mapping. The general way parses line by line. Both are
//! tested. Also checks that text in two parts gives the same result as text in one part.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smaps_container_exporter::smaps::scanner::Scanner;

#[path = "../../naive.rs"]
mod naive;

fuzz_target!(|bytes: &[u8]| {
    let Some((&cut, text)) = bytes.split_first() else { return };
    let expected = naive::mappings(text);
    assert_eq!(naive::scanned(&mut Scanner::general(), text), expected, "general");
    let mut learned = Scanner::default();
    for round in ["learning", "learned"] {
        assert_eq!(naive::scanned(&mut learned, text), expected, "{round}");
    }
    // The text is passed to the scanner in two parts, as after two reads.
    let cut = text.len() * usize::from(cut) / 255;
    let mut before = naive::Mappings::new();
    let mut at = 0;
    while let Some((mapping, n_bytes, next)) = learned.next(&text[at..cut], false) {
        before.push((mapping.path.to_vec(), *mapping.values, next));
        at += n_bytes;
    }
    before.extend(naive::scanned(&mut learned, &text[at..]));
    assert_eq!(before, expected, "cut at {cut}");
});
