//! Searches bytes for the ends of lines, eight bytes at a time.

/// A word of eight bytes, each with the value 1.
pub const EACH: u64 = 0x0101_0101_0101_0101;
/// The high bit of each byte of a word.
pub const HIGH: u64 = 0x80 * EACH;

/// Returns the position after the end of the line that contains `at`.
#[inline]
pub fn line_end(bytes: &[u8], at: usize) -> Option<usize> {
    let (words, rest) = bytes[at..].as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let newlines = bytes_equal_to(b'\n', *word);
        if newlines != 0 {
            return Some(at + i * 8 + newlines.trailing_zeros() as usize / 8 + 1);
        }
    }
    let i = rest.iter().position(|&b| b == b'\n')?;
    Some(at + words.len() * 8 + i + 1)
}

/// Returns a word in which the high bit of each byte that equals `b` is set. The lowest of the set bits is
/// always correct. Bytes above it may be marked although they differ from `b` (Alan Mycroft's test for a zero
/// byte, 1987).
#[inline]
pub fn bytes_equal_to(b: u8, word: [u8; 8]) -> u64 {
    let differences = u64::from_le_bytes(word) ^ (EACH * u64::from(b));
    differences.wrapping_sub(EACH) & !differences & HIGH
}
