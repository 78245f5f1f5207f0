//! Bytes of `/proc/<pid>/smaps` to mappings: a line scanner that owns no buffer and cannot fail.
//!
//! What the kernel prints for one mapping (fs/proc/task_mmu.c, `show_smap`):
//!
//! ```text
//! 5598af1ce000-5598af1d0000 r--p 00000000 fe:00 247282                     /usr/bin/head
//! Size:                  8 kB
//! ...
//! THPeligible:           0
//! VmFlags: rd mr mw me
//! ```
//!
//! The beginning of a line decides what it is, so text inside a path is never mistaken for a field: a header
//! begins with `hex-hex `, in lower case, and the kernel escapes a newline in a path. A line that is neither
//! a header nor a known field in kB is skipped. A mapping ends where the next header begins, or with the
//! input.
//!
//! Two ways lead to the same result. The general one takes a line at a time. The learned one rests on a fact: on one
//! kernel the field lines are `%-16s%8lu kB\n`, 28 bytes, and their order does not change within a boot. It remembers the
//! run of such lines that the general way met behind a header, each with its value. Behind the next header most lines are the same again, byte
//! for byte (two of three values are 0), so they say the same again; of the others 16 bytes of key are compared and 8 bytes of digits
//! decoded at once. A mapping that does not fit (a value of nine digits, another order) goes the general way.
//!
//! Mappings come in address order. The kernel drops the memory-map lock between two `read` calls and
//! continues at the end of the last mapping. If that mapping has grown meanwhile, it is printed again, whole.
//! So a mapping is returned only once the next header has been read, and [`Next`] says how the two relate.

use std::ops::Range;

use super::fields::{FIELDS, N_FIELDS, Values};

/// One smaps entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping<'a> {
    /// As the kernel printed it: any bytes but a newline, trailing spaces included, empty for anonymous memory.
    pub path: &'a [u8],
    /// Its fields.
    pub values: &'a Values,
    /// How many mappings it stands for: 1, but for the sum that smaps_rollup gives.
    pub count: u64,
}

/// How the mapping that is printed after a mapping relates to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next mapping begins at or above the end of this one, or there is none.
    Above,
    /// The next mapping begins at the same address: it is this mapping after a change, and replaces it.
    Same,
    /// The next mapping begins at another address below the end of this one: the two never existed at the
    /// same time.
    Torn,
}

/// The scanner. One serves any number of files; what it has learned of one helps with the next.
#[derive(Debug, Default)]
pub struct Scanner {
    values: Values,
    learned: Vec<LearnedLine>,
    /// What the lines of the learned run say.
    learned_values: Values,
    /// The lines behind the learned run that are not exported and hold the same for nearly every mapping.
    learned_tail: Vec<u8>,
    only_general: bool,
}

/// A line of the learned run, as it was in the mapping before, and which field it names.
#[derive(Debug)]
struct LearnedLine {
    text: [u8; LINE_LEN],
    field: usize,
}

/// `Rss:` padded with spaces.
const KEY_LEN: usize = 16;
/// The digits, padded with spaces on the left.
const DIGITS_LEN: usize = 8;
const LINE_LEN: usize = KEY_LEN + DIGITS_LEN + UNIT.len();
const UNIT: &[u8; 4] = b" kB\n";

/// One in each byte of a word, and the high bit of each.
const EACH: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x80 * EACH;

impl Scanner {
    /// A scanner that never takes the learned way: for tests and measurements.
    pub fn general() -> Self {
        Self { only_general: true, ..Self::default() }
    }

    /// Returns the first whole mapping in `bytes`, the number of bytes up to its end, and how the next
    /// mapping relates to it.
    ///
    /// Returns `None` if `bytes` does not hold a whole mapping yet: read more and call again with the same
    /// beginning. With `at_end`, `bytes` is all there is: the last mapping ends with `bytes`, and `None`
    /// means that there is none.
    pub fn next<'a>(&'a mut self, bytes: &'a [u8], at_end: bool) -> Option<(Mapping<'a>, usize, Next)> {
        let (range, header_end) = find_header(bytes, at_end)?;
        if !at_end && bytes.len() - header_end < self.learned.len() * LINE_LEN {
            return None; // most likely cut short: more bytes will tell
        }
        let run = if self.only_general { Run::Unfit } else { self.learned_run(&bytes[header_end..]) };
        let at = match run {
            Run::Taken(n_bytes) => {
                self.values = self.learned_values;
                header_end + n_bytes
            }
            Run::Unlike | Run::Unfit => {
                self.values = Values::default();
                header_end
            }
        };
        let end = self.general_lines(bytes, at, at_end)?;
        if let Run::Unlike = run {
            self.learn(&bytes[header_end..end]);
        }
        let path = path_of(&bytes[range.end..header_end]);
        // A header begins at `end` unless the input ends there.
        let next = if end == bytes.len() { Next::Above } else { next(&bytes[range], &bytes[end..]) };
        Some((Mapping { path, values: &self.values, count: 1 }, end, next))
    }

    /// Takes field lines one by one from `at` to the next header, whose position is returned.
    fn general_lines(&mut self, bytes: &[u8], mut at: usize, at_end: bool) -> Option<usize> {
        // Invariant: a line begins at `at`.
        while at < bytes.len() {
            let is_exported = !is_not_exported(&bytes[at..]);
            if is_exported && range_end(&bytes[at..]).is_some() {
                return Some(at);
            }
            let line_end = match line_end(bytes, at) {
                Some(end) => end,
                None if at_end => bytes.len(),
                None => return None,
            };
            if is_exported && let Some((field, kib)) = field_of(&bytes[at..line_end]) {
                self.values.present |= 1 << field;
                self.values.bytes[field] = kib.saturating_mul(1024);
            }
            at = line_end;
        }
        at_end.then_some(at)
    }

    /// Takes the learned run from the beginning of `bytes`, if all of it is there.
    fn learned_run(&mut self, bytes: &[u8]) -> Run {
        let (lines, _) = bytes.as_chunks::<LINE_LEN>();
        if self.learned.is_empty() {
            return Run::Unlike;
        }
        if lines.len() < self.learned.len() {
            return Run::Unfit;
        }
        for (line, learned) in lines.iter().zip(&mut self.learned) {
            if *line == learned.text {
                continue;
            }
            if key(line) != key(&learned.text) {
                return Run::Unlike;
            }
            let Some(kib) = kib_of(line) else { return Run::Unfit };
            self.learned_values.bytes[learned.field] = kib << 10; // below 10^8 kB: no overflow
            learned.text[KEY_LEN..].copy_from_slice(&line[KEY_LEN..]);
        }
        let n_bytes = self.learned.len() * LINE_LEN;
        let has_tail = bytes[n_bytes..].starts_with(&self.learned_tail);
        Run::Taken(n_bytes + if has_tail { self.learned_tail.len() } else { 0 })
    }

    /// Remembers the run of 28-byte lines of known fields with which the fields of a mapping begin, and the lines behind it.
    fn learn(&mut self, bytes: &[u8]) {
        self.learned.clear();
        self.learned_values = Values::default();
        let Values { present, bytes: values } = &mut self.learned_values;
        let known = |line: &[u8; LINE_LEN]| {
            let kib = kib_of(line)?;
            // No field twice: the last one counts, and a line that stays the same stores nothing.
            let (field, _) = field_of(line).filter(|(field, _)| *present & 1 << field == 0)?;
            // Nothing but spaces up to the eight digits: no ninth digit, and no second line within the 28 bytes.
            let padding = &key(line)[FIELDS[field].key.len() + 1..];
            if padding.iter().any(|&b| b != b' ') {
                return None;
            }
            *present |= 1 << field;
            values[field] = kib << 10;
            Some(LearnedLine { text: *line, field })
        };
        self.learned.extend(bytes.as_chunks::<LINE_LEN>().0.iter().map_while(known));
        self.learned_tail.clear();
        let mut rest = &bytes[self.learned.len() * LINE_LEN..];
        // VmFlags differs from mapping to mapping, and stands last.
        while let Some(end) = line_end(rest, 0)
            && is_not_exported(rest)
            && !rest.starts_with(b"VmFlags:")
        {
            self.learned_tail.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
        }
    }
}

/// Whether `line` is one that every kernel prints and nothing exports: no header and no field begins so.
#[inline]
fn is_not_exported(line: &[u8]) -> bool {
    matches!(line.first_chunk(), Some(b"VmFlags:" | b"THPeligi" | b"Protecti"))
}

/// What became of an attempt to take the learned run.
enum Run {
    /// All of it was there, so many bytes.
    Taken(usize),
    /// Other keys, or the same in another order: learn anew.
    Unlike,
    /// The same keys, but a value that is wider than usual, or bytes still to come.
    Unfit,
}

/// The 16 bytes of a fixed line that name its field.
fn key(line: &[u8; LINE_LEN]) -> &[u8; KEY_LEN] {
    line.first_chunk().expect("a line is longer than its key")
}

/// The value of a fixed line: up to eight digits behind spaces, then ` kB` and a newline.
fn kib_of(line: &[u8; LINE_LEN]) -> Option<u64> {
    let [digits @ .., u0, u1, u2, u3] = line.last_chunk::<{ DIGITS_LEN + UNIT.len() }>()?;
    let text = u64::from_le_bytes(*digits);
    if [*u0, *u1, *u2, *u3] != *UNIT {
        return None;
    }
    // The bit 0x10 tells a digit (0x30 to 0x39) from a space (0x20). With it set, a space is a 0.
    let bit = 0x10 * EACH;
    let values = (text | bit) ^ (0x30 * EACH);
    // Adding 0x76 sets the high bit of every byte above 9. No byte carries into the next unless its own high bit is set.
    let no_digits = ((values.wrapping_add(0x76 * EACH)) | values) & HIGH;
    // The first byte is the lowest, so the spaces must be the low bytes: all bits of them form one run from the lowest.
    let spaces = ((!text & bit) >> 4).wrapping_mul(0xff);
    let no_run = spaces & spaces.wrapping_add(1);
    let no_last_digit = spaces & 1 << 63;
    if no_digits | no_run | no_last_digit | values & spaces != 0 {
        return None;
    }
    // Eight digits to a number by pairs (Daniel Lemire, "Quickly parsing eight digits", 2018).
    let pairs = values * 10 + (values >> 8);
    const EVERY_OTHER: u64 = 0x0000_00ff_0000_00ff;
    let high = (pairs & EVERY_OTHER).wrapping_mul(0x000f_4240_0000_0064);
    let low = ((pairs >> 16) & EVERY_OTHER).wrapping_mul(0x0000_2710_0000_0001);
    Some(high.wrapping_add(low) >> 32)
}

/// Returns the address range of the first header line in `bytes`, and the end of that line.
fn find_header(bytes: &[u8], at_end: bool) -> Option<(Range<usize>, usize)> {
    let mut at = 0;
    while at < bytes.len() {
        let range = range_end(&bytes[at..]);
        let end = match line_end(bytes, at + range.unwrap_or(0)) {
            Some(end) => end,
            None if at_end => bytes.len(),
            None => return None,
        };
        if let Some(range) = range {
            return Some((at..at + range, end));
        }
        at = end;
    }
    None
}

/// Where the line that contains `at` ends: behind its newline.
fn line_end(bytes: &[u8], at: usize) -> Option<usize> {
    let (words, rest) = bytes[at..].as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let newlines = places(b'\n', *word);
        if newlines != 0 {
            return Some(at + i * 8 + newlines.trailing_zeros() as usize / 8 + 1);
        }
    }
    let i = rest.iter().position(|&b| b == b'\n')?;
    Some(at + words.len() * 8 + i + 1)
}

/// The high bit of each byte of `word` that is `b`, the lowest such byte for sure; above it there may be a bit too many (Alan Mycroft's
/// test for a zero byte, 1987).
fn places(b: u8, word: [u8; 8]) -> u64 {
    let differences = u64::from_le_bytes(word) ^ (EACH * u64::from(b));
    differences.wrapping_sub(EACH) & !differences & HIGH
}

/// Which bytes an address is made of.
const IS_HEX: [bool; 256] = {
    let mut is_hex = [false; 256];
    let mut i = 0;
    while i < 16 {
        is_hex[b"0123456789abcdef"[i] as usize] = true;
        i += 1;
    }
    is_hex
};

/// Whether an address is made of these bytes: the same as [`IS_HEX`] says, of eight at once.
fn are_hex(digits: &[u8; 12]) -> bool {
    // The high bit of each byte that is at least `b`, if all are below 0x80: no byte carries into the next.
    let at_least = |text: u64, b: u8| text + EACH * u64::from(0x80 - b);
    let word = |at: usize| u64::from_le_bytes(*digits[at..].first_chunk().expect("eight bytes from here"));
    let are_hex = |text: u64| {
        let are_digits = at_least(text & !HIGH, b'0') & !at_least(text & !HIGH, b'9' + 1);
        let are_letters = at_least(text & !HIGH, b'a') & !at_least(text & !HIGH, b'f' + 1);
        (are_digits | are_letters) & !text & HIGH
    };
    are_hex(word(0)) & are_hex(word(4)) == HIGH
}

/// Where a header's range ends, `<address>-<address> `, space included; `None` if no header begins `bytes`.
#[inline]
fn range_end(bytes: &[u8]) -> Option<usize> {
    // Nearly all addresses of 64-bit processes have twelve digits.
    if let Some([begin @ .., b' ']) = bytes.first_chunk::<26>()
        && let Some((begin, [b'-', end @ ..])) = begin.split_first_chunk::<12>()
        && let Some(end) = end.first_chunk::<12>()
        && are_hex(begin) & are_hex(end)
    {
        return Some(26);
    }
    any_range_end(bytes)
}

/// The same for addresses of any width.
#[cold]
fn any_range_end(bytes: &[u8]) -> Option<usize> {
    let hex_end = |from: usize| bytes[from..].iter().position(|&b| !IS_HEX[b as usize]).map(|n| from + n);
    let dash = hex_end(0).filter(|&at| at > 0 && bytes[at] == b'-')?;
    let space = hex_end(dash + 1).filter(|&at| at > dash + 1 && bytes[at] == b' ')?;
    Some(space + 1)
}

/// Compares the address range of a mapping with the header at the beginning of `following`.
#[inline]
fn next(range: &[u8], following: &[u8]) -> Next {
    // Hexadecimal digits in lower case sort like the numbers. Nearly all addresses have twelve of them.
    if let (Some([begin @ .., b'-']), Some([next @ .., b'-'])) =
        (range.first_chunk::<13>(), following.first_chunk::<13>())
        && let [b'-', end @ .., b' '] = &range[12..]
        && let Ok(end) = <&[u8; 12]>::try_from(end)
    {
        let number = |digits: &[u8; 12]| {
            let (high, low) = digits.split_first_chunk::<8>().expect("twelve bytes");
            let low = u32::from_be_bytes(*low.first_chunk().expect("four bytes"));
            u128::from(u64::from_be_bytes(*high)) << 32 | u128::from(low)
        };
        let [begin, end, next] = [begin, end, next].map(number);
        return decide(begin == next, end > next);
    }
    any_next(range, following)
}

fn decide(begins_the_same: bool, begins_inside: bool) -> Next {
    match (begins_the_same, begins_inside) {
        (true, _) => Next::Same,
        (false, true) => Next::Torn,
        (false, false) => Next::Above,
    }
}

/// Does the same for addresses of any width.
#[cold]
fn any_next(range: &[u8], following: &[u8]) -> Next {
    // Without leading zeros, the number with more digits is the larger one.
    fn number(digits: &[u8]) -> (usize, &[u8]) {
        let n_zeros = digits.iter().take_while(|&&b| b == b'0').count();
        (digits.len() - n_zeros, &digits[n_zeros..])
    }
    let mut addresses = range.split(|&b| b == b'-' || b == b' ').map(number);
    let (begin, end) = (addresses.next(), addresses.next());
    let next = following.split(|&b| b == b'-').next().map(number);
    decide(begin == next, end > next)
}

/// The path in a header line, given what follows its range: it stands behind permissions, offset, device and inode.
fn path_of(header: &[u8]) -> &[u8] {
    let mut rest = header.strip_suffix(b"\n").unwrap_or(header);
    let mut n_words = 4;
    // Permissions have four letters, nearly all offsets eight digits.
    if let Some((start, more)) = rest.split_first_chunk::<14>()
        && let (Some(begin), Some(end)) = (start.first_chunk(), start.last_chunk())
        && places(b' ', *begin) == 0x80 << (4 * 8)
        && places(b' ', *end) == 0x80 << (7 * 8)
    {
        (rest, n_words) = (more, 2);
    }
    for _ in 0..n_words {
        let word = rest.iter().position(|&b| b == b' ').unwrap_or(rest.len());
        rest = &rest[(word + 1).min(rest.len())..];
    }
    // Padding to column 73: up to three words of spaces.
    while let Some((b"        ", more)) = rest.split_first_chunk() {
        rest = more;
    }
    let n_spaces = rest.iter().position(|&b| b != b' ').unwrap_or(rest.len());
    &rest[n_spaces..]
}

/// Which field has a key of this length, first and last byte: at most one has, and the whole key decides.
const FIELD_BY_HASH: [u8; 64] = {
    let mut fields = [u8::MAX; 64];
    let mut i = 0;
    while i < N_FIELDS {
        let slot = hash(FIELDS[i].key.as_bytes());
        assert!(fields[slot] == u8::MAX, "two keys collide: choose another hash");
        fields[slot] = i as u8;
        i += 1;
    }
    fields
};

const fn hash(key: &[u8]) -> usize {
    (2 * key[0] as usize + key[key.len() - 1] as usize + 2 * key.len()) % 64
}

/// The field that a line names, and its value in kB (saturated); `None` for any other line, and for another unit.
fn field_of(line: &[u8]) -> Option<(usize, u64)> {
    let colon = line.iter().take(KEY_LEN).position(|&b| b == b':')?;
    let key = &line[..colon];
    let field = match key {
        [] => return None,
        key => usize::from(FIELD_BY_HASH[hash(key)]),
    };
    FIELDS.get(field).filter(|field| field.key.as_bytes() == key)?;
    let value = line[colon + 1..].trim_ascii();
    let digits = value.strip_suffix(b"kB")?.trim_ascii_end();
    if digits.is_empty() {
        return None;
    }
    let mut kib = 0_u64;
    for &b in digits {
        if !b.is_ascii_digit() {
            return None;
        }
        kib = kib.saturating_mul(10).saturating_add(u64::from(b - b'0'));
    }
    Some((field, kib))
}
