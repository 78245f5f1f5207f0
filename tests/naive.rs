//! A simple reader of smaps, with which tests and fuzz targets compare the scanner.

use std::cmp::Ordering;

use smaps_container_exporter::smaps::fields::{FIELDS, Values};
use smaps_container_exporter::smaps::scanner::{Next, Scanner};

/// The path and the values of each mapping. [`Next`] says where the next mapping begins, compared with the
/// address range of this mapping.
pub type Mappings = Vec<(Vec<u8>, Values, Next)>;

/// Returns the mappings in a text. Follows the rules in scanner.rs in the simplest way: splits the text into
/// lines, and each line into words.
pub fn mappings(text: &[u8]) -> Mappings {
    let mut mappings = Mappings::new();
    let mut before: Option<[Vec<u8>; 2]> = None;
    let lines = text.strip_suffix(b"\n").unwrap_or(text);
    for line in lines.split(|&b| b == b'\n') {
        if let Some(path) = naive_header(line) {
            let range = range(line);
            if let (Some(before), Some((.., next))) = (before, mappings.last_mut()) {
                *next = naive_next(&before, &range[0]);
            }
            before = Some(range);
            mappings.push((path, Values::default(), Next::Above));
            continue;
        }
        let Some((_, values, _)) = mappings.last_mut() else { continue };
        let Some(colon) = line.iter().position(|&b| b == b':') else { continue };
        let Some(field) = FIELDS.iter().position(|field| field.key.as_bytes() == &line[..colon]) else {
            continue;
        };
        let Ok(value) = std::str::from_utf8(&line[colon + 1..]) else { continue };
        let Some(digits) = value.trim_ascii().strip_suffix("kB").map(str::trim_ascii_end) else { continue };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let kib: u64 = digits.parse().unwrap_or(u64::MAX);
        values.present |= 1 << field;
        values.bytes[field] = kib.saturating_mul(1024);
    }
    mappings
}

fn naive_header(line: &[u8]) -> Option<Vec<u8>> {
    let is_address = |text: &[u8]| !text.is_empty() && text.iter().all(|b| b"0123456789abcdef".contains(b));
    let space = line.iter().position(|&b| b == b' ')?;
    let dash = line.iter().position(|&b| b == b'-')?;
    if dash > space || !is_address(&line[..dash]) || !is_address(&line[dash + 1..space]) {
        return None;
    }
    // The path comes after four words, and each of these words ends with a space.
    let mut rest = &line[space + 1..];
    for _ in 0..4 {
        let end = rest.iter().position(|&b| b == b' ').unwrap_or(rest.len());
        rest = &rest[(end + 1).min(rest.len())..];
    }
    Some(rest[rest.iter().take_while(|&&b| b == b' ').count()..].to_vec())
}

/// Returns the digits of the start address and of the end address in a header line.
fn range(line: &[u8]) -> [Vec<u8>; 2] {
    let mut addresses = line.split(|&b| b == b'-' || b == b' ').map(<[u8]>::to_vec);
    [addresses.next().unwrap(), addresses.next().unwrap()]
}

fn naive_next([begin, end]: &[Vec<u8>; 2], next: &[u8]) -> Next {
    let width = begin.len().max(end.len()).max(next.len());
    let padded = |address: &[u8]| [&vec![b'0'; width - address.len()][..], address].concat();
    match (padded(next).cmp(&padded(end)), padded(begin) == padded(next)) {
        (Ordering::Equal, _) => Next::Adjacent,
        (Ordering::Greater, _) => Next::Above,
        (Ordering::Less, true) => Next::Same,
        (Ordering::Less, false) => Next::Torn,
    }
}

/// Returns the mappings that a scanner finds. Fails if the scanner makes no progress.
pub fn scanned(scanner: &mut Scanner, text: &[u8]) -> Mappings {
    let mut mappings = Mappings::new();
    let mut at = 0;
    while let Some((mapping, n_bytes, next)) = scanner.next(&text[at..], true) {
        assert!(n_bytes > 0, "the scanner advances");
        mappings.push((mapping.path.to_vec(), *mapping.values, next));
        at += n_bytes;
    }
    mappings
}
