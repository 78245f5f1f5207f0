//! Parses field lines of smaps: the field that a line names, and its value.

use super::fields::{FIELDS, N_FIELDS};
use super::lines::{EACH, HIGH};

/// The length of a key, its colon and the spaces after it.
pub const KEY_LEN: usize = 16;
/// The length of the digits and the spaces before them.
const DIGITS_LEN: usize = 8;
/// The length of a field line if its value has at most eight digits.
pub const LINE_LEN: usize = KEY_LEN + DIGITS_LEN + UNIT.len();
const UNIT: &[u8; 4] = b" kB\n";

/// Whether `line` is one of the frequent lines that are not exported. Comparing the first eight bytes is
/// enough, because all headers and all lines of exported fields begin with other bytes.
#[inline]
pub fn is_not_exported(line: &[u8]) -> bool {
    matches!(line.first_chunk(), Some(b"VmFlags:" | b"THPeligi" | b"Protecti"))
}

/// For each hash, the position of the field with a key that has this hash. No two keys have the same hash.
/// Any other text may have the hash of a key, so the whole key must be compared, too.
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

/// Returns the field that a line names, and its value in kB. A value that is too large becomes `u64::MAX`.
/// Returns `None` for any other line, and for any other unit.
#[inline]
pub fn field_of(line: &[u8]) -> Option<(usize, u64)> {
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

/// Returns the 16 bytes at the beginning of a fixed-length line, which contain the key.
#[inline]
pub fn key(line: &[u8; LINE_LEN]) -> &[u8; KEY_LEN] {
    line.first_chunk().expect("a line is longer than its key")
}

/// Returns the value of a fixed-length line, which ends with spaces, up to eight digits, ` kB` and a newline.
#[inline]
pub fn kib_of(line: &[u8; LINE_LEN]) -> Option<u64> {
    let [digits @ .., u0, u1, u2, u3] = line.last_chunk::<{ DIGITS_LEN + UNIT.len() }>()?;
    let text = u64::from_le_bytes(*digits);
    if [*u0, *u1, *u2, *u3] != *UNIT {
        return None;
    }
    // The bit 0x10 is set in a digit (0x30 to 0x39), but not in a space (0x20). Setting this bit turns a
    // space into the digit 0.
    let bit = 0x10 * EACH;
    let values = (text | bit) ^ (0x30 * EACH);
    // Adding 0x76 sets the high bit of every byte above 9. If the high bit of a byte was set before, the
    // addition may carry into the next byte. A byte with its high bit set is no digit, so the text is refused
    // in any case.
    let no_digits = ((values.wrapping_add(0x76 * EACH)) | values) & HIGH;
    // A byte of `spaces` is 0xff where the text has a space, and 0 where it has a digit. The first character
    // of the text is in the lowest byte. Spaces are allowed only before the digits, so all 0xff bytes must be
    // below all 0 bytes.
    let spaces = ((!text & bit) >> 4).wrapping_mul(0xff);
    let no_run = spaces & spaces.wrapping_add(1);
    let no_last_digit = spaces & 1 << 63;
    if no_digits | no_run | no_last_digit | values & spaces != 0 {
        return None;
    }
    // Combines digits into pairs, pairs into fours, and the two fours into one number (Daniel Lemire,
    // "Quickly parsing eight digits", 2018).
    let pairs = values * 10 + (values >> 8);
    const EVERY_OTHER: u64 = 0x0000_00ff_0000_00ff;
    let high = (pairs & EVERY_OTHER).wrapping_mul(0x000f_4240_0000_0064);
    let low = ((pairs >> 16) & EVERY_OTHER).wrapping_mul(0x0000_2710_0000_0001);
    Some(high.wrapping_add(low) >> 32)
}
