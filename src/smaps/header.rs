//! Parses header lines of smaps. A header is the first line of a mapping. It begins with the address range,
//! and ends with the path.

use std::cmp::Ordering;
use std::ops::Range;

use super::lines::{EACH, HIGH, bytes_equal_to, line_end};

/// Where the next mapping in the file begins, compared with the address range of this mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next mapping begins where this one ends.
    Adjacent,
    /// The next mapping begins at a higher address than the end of this one, or there is no next mapping.
    Above,
    /// The next mapping begins at the same address as this one. It is the same mapping, printed again after a
    /// change, and replaces this one.
    Same,
    /// The next mapping overlaps this one or has lower addresses, and the two begin at different addresses.
    /// They cannot have existed at the same time, so the mappings were changed during the read.
    Torn,
}

/// Finds the first header line in `bytes`. Returns the position in `bytes` of its `<address>-<address> `,
/// including the space, and the position of the end of the line. Returns `None` if `bytes` contains no whole
/// header line. If `at_end` is true, the file ends where `bytes` ends, so the last line is whole.
#[inline]
pub fn find_header(bytes: &[u8], at_end: bool) -> Option<(Range<usize>, usize)> {
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

/// The bytes that are hexadecimal digits in lower case.
const IS_HEX: [bool; 256] = {
    let mut is_hex = [false; 256];
    let mut i = 0;
    while i < 16 {
        is_hex[b"0123456789abcdef"[i] as usize] = true;
        i += 1;
    }
    is_hex
};

/// Returns whether all these bytes are in [`IS_HEX`], testing eight bytes at once.
fn are_hex(digits: &[u8; 12]) -> bool {
    // Sets the high bit of each byte that is at least `b`. All bytes are below 0x80, so no sum overflows into
    // the next byte.
    let at_least = |text: u64, b: u8| text + EACH * u64::from(0x80 - b);
    let word = |at: usize| u64::from_le_bytes(*digits[at..].first_chunk().expect("eight bytes from here"));
    let are_hex = |text: u64| {
        let are_digits = at_least(text & !HIGH, b'0') & !at_least(text & !HIGH, b'9' + 1);
        let are_letters = at_least(text & !HIGH, b'a') & !at_least(text & !HIGH, b'f' + 1);
        (are_digits | are_letters) & !text & HIGH
    };
    are_hex(word(0)) & are_hex(word(4)) == HIGH
}

/// Returns the length of the `<address>-<address> ` with which a header begins, including the space. Returns
/// `None` if `bytes` does not begin with a header.
#[inline]
pub fn range_end(bytes: &[u8]) -> Option<usize> {
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

/// Does the same as [`range_end`], for addresses of any width.
#[cold]
fn any_range_end(bytes: &[u8]) -> Option<usize> {
    let hex_end = |from: usize| bytes[from..].iter().position(|&b| !IS_HEX[b as usize]).map(|n| from + n);
    let dash = hex_end(0).filter(|&at| at > 0 && bytes[at] == b'-')?;
    let space = hex_end(dash + 1).filter(|&at| at > dash + 1 && bytes[at] == b' ')?;
    Some(space + 1)
}

/// Returns where the next mapping begins, compared with this mapping (see [`Next`]). `header` is the header
/// of this mapping, and `following` begins with the header of the next one. Both headers begin with a text
/// `<address>-<address> `. `range_len` and `next_range_len` are the lengths of these two texts, including
/// the last space.
#[inline]
pub fn next(header: &[u8], following: &[u8], range_len: usize, next_range_len: usize) -> Next {
    // This fast path is for addresses of twelve digits. Nearly all addresses have twelve digits. They are
    // compared as text, because `0` to `9` come before `a` to `f` in ASCII, so the texts have the same order
    // as the numbers. The shift drops the four bytes after the twelve digits.
    let twelve_digits = |text: &[u8; 16]| u128::from_be_bytes(*text) >> 32;
    if let (Some(range), Some(begin)) = (header.first_chunk::<29>(), following.first_chunk::<16>())
        && (range_len, next_range_len) == (26, 26)
        && (range[12], begin[12]) == (b'-', b'-')
    {
        let (end, begin) = (twelve_digits(range.last_chunk().expect("29 bytes")), twelve_digits(begin));
        if end <= begin {
            return if end == begin { Next::Adjacent } else { Next::Above };
        }
    }
    any_next(header, following)
}

/// The slow path of [`next`]. It also handles addresses with more or fewer than twelve digits, and mappings
/// that begin below the end of the previous one.
#[cold]
fn any_next(header: &[u8], following: &[u8]) -> Next {
    // Returns the number of digits without leading zeros, and these digits. If two numbers are compared as
    // such pairs, the number with more digits is larger.
    fn number(digits: &[u8]) -> (usize, &[u8]) {
        let n_zeros = digits.iter().take_while(|&&b| b == b'0').count();
        (digits.len() - n_zeros, &digits[n_zeros..])
    }
    let mut addresses = header.split(|&b| b == b'-' || b == b' ').map(number);
    let (begin, end) = (addresses.next(), addresses.next());
    let next = following.split(|&b| b == b'-').next().map(number);
    match (next.cmp(&end), begin == next) {
        (Ordering::Equal, _) => Next::Adjacent,
        (Ordering::Greater, _) => Next::Above,
        (Ordering::Less, true) => Next::Same,
        (Ordering::Less, false) => Next::Torn,
    }
}

/// Returns the path in a header line. `header` is the header line without the address range: permissions,
/// offset, device, inode, path.
#[inline]
pub fn path_of(header: &[u8]) -> &[u8] {
    let mut rest = header.strip_suffix(b"\n").unwrap_or(header);
    let mut n_words = 4;
    // Permissions always have four letters, and nearly every offset has eight digits. If the offset has eight
    // digits, permissions and offset are skipped at once.
    if let Some((start, more)) = rest.split_first_chunk::<14>()
        && let (Some(begin), Some(end)) = (start.first_chunk(), start.last_chunk())
        && bytes_equal_to(b' ', *begin) == 0x80 << (4 * 8)
        && bytes_equal_to(b' ', *end) == 0x80 << (7 * 8)
    {
        (rest, n_words) = (more, 2);
    }
    for _ in 0..n_words {
        let word = rest.iter().position(|&b| b == b' ').unwrap_or(rest.len());
        rest = &rest[(word + 1).min(rest.len())..];
    }
    // The kernel pads the line with spaces up to column 73. Most of the spaces are skipped eight at a time.
    while let Some((b"        ", more)) = rest.split_first_chunk() {
        rest = more;
    }
    let n_spaces = rest.iter().position(|&b| b != b' ').unwrap_or(rest.len());
    &rest[n_spaces..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_mappings_are_recognized() {
        for (before, range, expected) in [
            ("7f71e799d000-7f71e7d7f000 ", "7f71e7d7f000-7f71e7d83000 ", true),
            ("7f71e799d000-7f71e7d7f000 ", "7f71e7d80000-7f71e7d83000 ", false),
            ("00400000-00452000 ", "00452000-00453000 ", true),
            ("e0000000-100000000 ", "100000000-100380000 ", true),
            ("1e0000000-100000000 ", "00000000-00380000 ", false),
            ("000123456789abc-123456789abcdef ", "123456789abcdef-123456789abcdff ", true),
            ("0-1 ", "1-2 ", true),
        ] {
            let header = format!("{before}rw-p 00000000 00:00 0 \n");
            let following = format!("{range}rw-p 00000000 00:00 0 \n");
            let next = next(header.as_bytes(), following.as_bytes(), before.len(), range.len());
            assert_eq!(next == Next::Adjacent, expected, "{before} and {range}");
        }
    }
}
