//! Compares the scanner, which parses smaps, with a simple reader. Tests every prefix of a text, several read
//! sizes, and generated texts.

use std::io::{self, Read};

use smaps_container_exporter::procfs::errors::ReadError;
use smaps_container_exporter::procfs::scan::{Limits, scan};
use smaps_container_exporter::smaps::fields::{FIELDS, N_FIELDS};
use smaps_container_exporter::smaps::scanner::{Mapping, Next, Scanner};

use crate::naive::{self, Mappings};
use crate::support::smaps_fixtures;

/// A text that is read like a file. The number is how many bytes one read returns at most.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.1.min(buffer.len()).min(self.0.len());
        let (piece, rest) = self.0.split_at(n);
        buffer[..n].copy_from_slice(piece);
        self.0 = rest;
        Ok(n)
    }
}

#[test]
fn scanners_agree_on_every_prefix_of_every_fixture() {
    let (mut general, mut learned) = (Scanner::general(), Scanner::default());
    for (name, text) in smaps_fixtures() {
        for end in 0..=text.len() {
            let prefix = &text[..end];
            let expected = naive::scanned(&mut general, prefix);
            assert_eq!(
                naive::scanned(&mut learned, prefix),
                expected,
                "{name} up to {end}, learned of others"
            );
            if end % 97 == 0 || end == text.len() {
                assert_eq!(naive::mappings(prefix), expected, "{name} up to {end}");
                assert_eq!(
                    naive::scanned(&mut Scanner::default(), prefix),
                    expected,
                    "{name} up to {end}, learned"
                );
            }
        }
    }
}

/// Reads `text` in pieces of `read_size` bytes, through a buffer of `buffer_size` bytes. Returns `None` if
/// the read is torn, which means that the mappings overlap.
fn read(scanner: &mut Scanner, text: &[u8], read_size: usize, buffer_size: usize) -> Option<Mappings> {
    let mut mappings = Mappings::new();
    let mut add = |mapping: Mapping<'_>| mappings.push((mapping.path.to_vec(), *mapping.values, Next::Above));
    let (mut buffer, pieces) = (vec![0; buffer_size], Pieces(text, read_size));
    match scan(pieces, &mut buffer, Limits::NONE, scanner, &mut add) {
        Ok(n) => assert_eq!(n, mappings.len()),
        Err(ReadError::Torn) => return None,
        Err(error) => panic!("{error}"),
    }
    Some(mappings)
}

/// Returns what [`read`] should return, found by the simple reader in `naive.rs`. If the second of two
/// mappings has the same start address, only the second one is returned. If two mappings overlap and have
/// different start addresses, returns `None`.
fn naively_read(text: &[u8]) -> Option<Mappings> {
    let mut mappings = naive::mappings(text);
    mappings.retain(|(.., next)| *next != Next::Same);
    // [`read`] sets `next` to `Above` in each mapping. `is_whole` does the same, so that the results can be
    // compared. `is_whole` returns false if `next` was `Torn`, which means that the mapping overlaps with the
    // following one.
    let is_whole = |(.., next): &mut (_, _, Next)| std::mem::replace(next, Next::Above) != Next::Torn;
    mappings.iter_mut().all(is_whole).then_some(mappings)
}

#[test]
fn scanners_agree_at_every_read_and_buffer_size() {
    let mut scanner = Scanner::default();
    let mut random = Random(0x5eed);
    let fixtures = smaps_fixtures();
    let generated = (0..1000).map(|i| (format!("record {i}"), generated(&mut random)));
    let mut n_torn = 0;
    for (name, text) in fixtures.into_iter().chain(generated) {
        let expected = naively_read(&text);
        n_torn += usize::from(expected.is_none());
        for read_size in [1, 7, 4096, usize::MAX] {
            for buffer_size in [0, 1, 700, 65536] {
                assert_eq!(
                    read(&mut scanner, &text, read_size, buffer_size),
                    expected,
                    "{name}, {read_size} bytes a read, {buffer_size} in the buffer"
                );
            }
        }
    }
    assert!((100..900).contains(&n_torn), "{n_torn} of 1,000 generated records are torn");
}

/// Each case has the address ranges that the kernel printed in one read, and the indexes of the ranges that
/// count. If a mapping changes during the read, the kernel may print it again with the same start address.
/// Then only the last one counts. The indexes are `None` if the scanner must reject the read, because ranges
/// with different start addresses overlap.
#[test]
fn mapping_printed_again_counts_once() {
    for (ranges, counted) in [
        (&["00400000-00401000", "00401000-00402000"][..], Some(&[0, 1][..])),
        // brk extends the heap twice during the read.
        (
            &["1c2a3000-1c2c4000", "1c2a3000-1c2e5000", "1c2a3000-1c306000", "7ffd000ed000-7ffd000ef000"],
            Some(&[2, 3]),
        ),
        // mprotect extends a mapping into the next one during the read.
        (
            &["7f0000000000-7f0000021000", "7f0000000000-7f0000022000", "7f0000022000-7f0004000000"],
            Some(&[1, 2]),
        ),
        (&["7f0000000000-7f0000021000", "7f0000000000-7f0000020000"], Some(&[1])),
        // In the next three cases, a mapping has grown downwards, or two mappings have become one.
        (&["7f0000000000-7f0000021000", "7f0000020000-7f0004000000"], None),
        (&["7f0000000000-7f0000021000", "7f0000021000-7f0000022000", "7f0000000000-7f0000023000"], None),
        (&["7f0000000000-7f0000021000", "7effffff0000-7f0000022000"], None),
        // The next cases have addresses with more or fewer than twelve digits.
        (&["ffff0000-100000000", "100000000-100001000"], Some(&[0, 1])),
        (&["ffff0000-100001000", "100000000-100002000"], None),
        (&["ffff0000-100001000", "ffff0000-100000000"], Some(&[1])),
        (&["7ffd000ed000-7ffd000ef000", "ffffffffff600000-ffffffffff601000"], Some(&[0, 1])),
        (&["00000000-00001000", "00001000-00002000"], Some(&[0, 1])),
        (&["0-1000", "00000000-00002000"], Some(&[1])),
    ] {
        let text: String = (0..)
            .zip(ranges)
            .map(|(i, range)| format!("{range} rw-p 00000000 00:00 0 {i}\nRss:                   {i} kB\n"))
            .collect();
        for read_size in [1, 7, 4096] {
            let found = read(&mut Scanner::default(), text.as_bytes(), read_size, 700);
            let found: Option<Vec<usize>> = found.map(|mappings| {
                let number = |path: &[u8]| String::from_utf8_lossy(path).parse().unwrap();
                mappings.iter().map(|(path, ..)| number(path)).collect()
            });
            assert_eq!(found.as_deref(), counted, "{ranges:?}");
        }
    }
}

/// A generator of pseudorandom numbers (Marsaglia, "Xorshift RNGs", 2003). Each run has the same numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// Returns a text like the smaps of some kernel, sometimes with a small fault.
fn generated(random: &mut Random) -> Vec<u8> {
    let mut order: Vec<usize> = (0..N_FIELDS).collect();
    for _ in 0..random.below(4) {
        let (a, b) = (random.below(N_FIELDS as u64) as usize, random.below(N_FIELDS as u64) as usize);
        order.swap(a, b);
    }
    order.truncate(N_FIELDS - random.below(6) as usize);
    if random.below(4) == 0 {
        let again = order[random.below(order.len() as u64) as usize];
        // if a field is printed twice, the last value is used
        order.insert(random.below(order.len() as u64) as usize, again);
    }
    let mut text = Vec::new();
    let address_bits = random.of(&[&20, &33, &40, &46, &60]);
    let (mut begin, mut end) = (0, random.below(1 << address_bits));
    for _ in 0..1 + random.below(12) {
        (begin, end) = match random.below(60) {
            0..6 => (begin, end + 4096), // the mapping has grown
            6 => (begin, begin + 1),
            7 => (begin + 1, end),
            8 => (random.below(1 << address_bits), random.below(1 << address_bits)),
            _ => (end + 4096 * random.below(2), end + 4096 * (2 + random.below(4))),
        };
        let path = random.of(&[
            "",
            "[heap]",
            "/usr/lib/x.so",
            "/a b ",
            "/a:b/Rss: 12 kB",
            "/\u{fffd}\t\"",
            "[anon:x y]",
        ]);
        let inode_bits = random.of(&[&1, &20, &40]);
        let inode = random.below(1 << inode_bits);
        let header = format!("{begin:08x}-{end:08x} r--p {:08x} fe:00 {inode} ", random.below(1 << 33));
        text.extend_from_slice(format!("{header:<73}{path}\n").as_bytes());
        for &field in &order {
            let digits = random.below(11) as u32;
            let value = random.below(10_u64.pow(digits));
            let key = format!("{}:", FIELDS[field].key);
            let line = match random.below(200) {
                0 => format!("{key:<16}{value:>9} kB\n"),
                1 => format!("{key}\t{value} kB\n"),
                2 => format!("{key:<16}{value:>8} MB\n"),
                3 => format!("{key:<16}{:>8} kB\n", "1 2"),
                4 => format!("{key:<16}{:>8} kB\n", ""),
                5 => format!("{:<16}{value:>8} kB\n", "Unknown_Field:"),
                6 => String::new(),
                7 => format!("{key:<16}{:>8} kB\n", "12\u{e9}"),
                8 => format!("{key:<16}{}{value} kB\n", "9".repeat(20)),
                9 => format!("{key:<16}{value:08} kB\n"),
                // These two lines together have 28 bytes, as many as one usual line.
                10 => format!("{key}\n{:>1$} kB\n", value % 100_000_000, 23 - key.len()),
                // This line has 28 bytes, as many as a usual line, but its value has more than eight digits.
                11 => format!("{key}{:0>1$} kB\n", 123_456_789_u64 + value % 10, 24 - key.len()),
                12..40 => format!("{key:<16}{:>8} kB\n", 0),
                _ => format!("{key:<16}{:>8} kB\n", value % 100_000_000),
            };
            text.extend_from_slice(line.as_bytes());
        }
        text.extend_from_slice(
            random.of(&["", "VmFlags: rd \n", "THPeligible:           0\nVmFlags: rd wr \n"]).as_bytes(),
        );
    }
    if random.below(4) == 0 {
        let n = random.below(text.len() as u64) as usize;
        text.truncate(n);
    }
    if random.below(8) == 0 && !text.is_empty() {
        let at = random.below(text.len() as u64) as usize;
        text[at] = random.below(256) as u8;
    }
    text
}

/// Tests that both ways to parse field lines agree with the simple reader. The general way parses each line
/// by itself. The learned way compares the lines with those of earlier mappings.
#[test]
fn scanners_agree_on_generated_records() {
    let mut random = Random(0x5eed);
    let (mut general, mut learned) = (Scanner::general(), Scanner::default());
    let mut n_mappings = 0;
    for i in 0..20_000 {
        let text = generated(&mut random);
        let expected = naive::mappings(&text);
        assert_eq!(
            naive::scanned(&mut general, &text),
            expected,
            "record {i}, general\n{}",
            text.escape_ascii()
        );
        assert_eq!(
            naive::scanned(&mut learned, &text),
            expected,
            "record {i}, learned\n{}",
            text.escape_ascii()
        );
        n_mappings += expected.len();
    }
    assert!(n_mappings > 50_000, "the records are not mostly refused: {n_mappings}");
}

/// Replaces one byte of an address range at a time by each of the 256 possible bytes. The simple reader in
/// `naive.rs` accepts only lower-case hexadecimal digits in an address. The scanner must accept and reject
/// the same lines as this reader.
#[test]
fn addresses_have_lower_case_hexadecimal_digits() {
    let header = b"7f123456000a-7f12345a9f0c r--p 00000000 fe:00 1 /x\nRss:                   4 kB\n";
    let mut n_headers = 0;
    for at in 0..26 {
        for b in 0..=255 {
            let mut text = header.to_vec();
            text[at] = b;
            let expected = naive::mappings(&text);
            assert_eq!(naive::scanned(&mut Scanner::default(), &text), expected, "{}", text.escape_ascii());
            n_headers += expected.len();
        }
    }
    // If one of the 24 digits is replaced by any of the 16 digits, the line is still a header. The minus and
    // the space must stay, which gives two more headers. A few more lines are headers with a shorter address,
    // because a space or a newline replaced a digit.
    assert!((24 * 16 + 2..24 * 16 + 30).contains(&n_headers), "{n_headers}");
}

#[test]
fn known_file_has_known_values() {
    let (_, text) = smaps_fixtures().into_iter().find(|(name, _)| name == "wide-values").unwrap();
    let mappings = naive::scanned(&mut Scanner::default(), &text);
    let value = |i: usize, name: &str| {
        let field = smaps_container_exporter::smaps::fields::by_name(name).unwrap();
        (mappings[i].1.present & 1 << field != 0).then_some(mappings[i].1.bytes[field])
    };
    assert_eq!(
        mappings.iter().map(|(path, ..)| path.as_slice()).collect::<Vec<_>>(),
        [&b""[..], b"/data/huge", b"/data/overflow"]
    );
    assert_eq!(value(0, "size"), Some(137_438_953_472 * 1024));
    assert_eq!(value(0, "private_dirty"), Some(99_999_999 * 1024));
    assert_eq!(value(1, "rss"), Some(4096));
    assert_eq!(value(2, "size"), Some(u64::MAX));
    assert_eq!(value(2, "rss"), Some(u64::MAX));
    assert_eq!(value(2, "pss"), Some(18_014_398_509_481_983 * 1024));
    assert_eq!(value(2, "swap"), Some(u64::MAX));
}
