//! Checks the parser of request heads: when a head is complete or malformed, further bytes do not change the
//! result.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smaps_container_exporter::head::{Parsed, parse_head};

fuzz_target!(|bytes: &[u8]| {
    // Parsing every prefix of a long head would take too long, so only the 512 longest prefixes are parsed.
    let first = bytes.len().saturating_sub(512);
    let mut decided: Option<(usize, Parsed<'_>)> = None;
    for end in first..=bytes.len() {
        let parsed = parse_head(&bytes[..end]);
        if let Parsed::Complete(head, n_bytes) = &parsed {
            assert!((1..=end).contains(n_bytes));
            assert!(bytes[..*n_bytes].ends_with(b"\n"));
            assert!(!head.method.is_empty() && !head.path.is_empty());
            assert!(end == first || *n_bytes == end || decided.is_some(), "it was complete before");
        }
        if let Some((at, before)) = &decided {
            assert_eq!(parsed, *before, "the result at {end} differs from that at {at}");
        } else if parsed != Parsed::Incomplete {
            decided = Some((end, parsed));
        }
    }
});
