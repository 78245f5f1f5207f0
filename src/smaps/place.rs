//! Where an unnamed mapping lies in the address space, and what the kernel says about its use.

use std::ops::Range;

use super::lines::EACH;

/// Where a mapping lies in the address space, and what the kernel says about its use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The address of the first byte.
    pub begin: u64,
    /// The address after the last byte.
    pub end: u64,
    /// The permissions as the kernel prints them, such as `rw-p`.
    pub permissions: [u8; 4],
    /// The flags of the mapping: bits such as [`NO_HUGE_PAGES`].
    pub flags: u8,
    /// Whether the mapping begins where the previous mapping ends, even if the previous mapping has a name.
    pub is_adjacent: bool,
    /// Whether the next mapping begins where this mapping ends, even if the next mapping has a name.
    pub is_followed: bool,
}

/// `nh`: the mapping gets no transparent huge pages. From Linux 6.7 on, glibc's thread stacks have this flag.
pub const NO_HUGE_PAGES: u8 = 1;
/// `nr`: the mapping was made with MAP_NORESERVE. The kernel sets no such flag if `vm.overcommit_memory` is
/// 2.
pub const NO_RESERVE: u8 = 1 << 1;
/// `ac`: the kernel includes the mapping in `Committed_AS`, which it compares with the commit limit.
pub const ACCOUNTED: u8 = 1 << 2;
/// `dc`: fork does not copy the mapping (MADV_DONTFORK).
pub const NOT_FORKED: u8 = 1 << 3;
/// `gu`: the mapping contains guard pages (MADV_GUARD_INSTALL). Some kernels from 6.13 on do not print this
/// flag.
pub const GUARDED: u8 = 1 << 4;

/// Whether this address is in the area in which the kernel itself chooses addresses for mappings. By default,
/// this area begins at most 1 TiB (x86_64) or 17 GiB (arm64) below the main thread's stack, and grows
/// downwards. An arm64 kernel with pages of 16 KiB uses the same addresses as x86_64. If the kernel uses
/// 39-bit addresses, the result is always false.
pub fn is_mmap_address(address: u64) -> bool {
    const X86_64: Range<u64> = 0x7e00_0000_0000..0x8000_0000_0000;
    const ARM64: Range<u64> = 0xfe00_0000_0000..0x1_0000_0000_0000;
    X86_64.contains(&address) || ARM64.contains(&address)
}

/// The key of the line with the flags, which is the last line of a mapping.
const KEY: &[u8; 8] = b"VmFlags:";

impl Place {
    /// Returns the length in bytes.
    pub fn size(&self) -> u64 {
        self.end.saturating_sub(self.begin)
    }

    /// Whether the mapping is private, can be read and written, and cannot be executed.
    pub fn is_writable(&self) -> bool {
        self.permissions == *b"rw-p"
    }

    /// Whether the mapping has no permissions at all. Guard pages and reserved memory have no permissions.
    pub fn is_inaccessible(&self) -> bool {
        self.permissions == *b"---p"
    }

    /// Whether [`is_mmap_address`] is true for the first address.
    pub fn is_in_mmap_area(&self) -> bool {
        is_mmap_address(self.begin)
    }

    /// Whether all of these flags are set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// Whether none of these flags is set.
    pub fn lacks(&self, flags: u8) -> bool {
        self.flags & flags == 0
    }
}

/// The text from which the address range, permissions and flags of a mapping are parsed. Parsing them takes a
/// third as long as parsing the rest of a mapping, and most mappings do not need them. So they are parsed
/// only when they are needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlaceText<'a> {
    /// The header line. Its first `range_len` bytes are the address range.
    pub(super) header: &'a [u8],
    pub(super) range_len: usize,
    /// The last lines of the mapping, including the line with the flags.
    pub(super) lines: &'a [u8],
    /// Whether the mapping begins where the previous one ends.
    pub(super) is_adjacent: bool,
    /// Whether the next mapping begins where this one ends.
    pub(super) is_followed: bool,
}

impl PlaceText<'_> {
    /// Parses the address range, permissions and flags.
    #[inline]
    pub fn parse(&self) -> Place {
        let range = &self.header[..self.range_len];
        // In nearly all ranges, both addresses have twelve hexadecimal digits.
        let (begin, end) = match range {
            [begin @ .., _] if begin.len() == 25 && begin[12] == b'-' => (&begin[..12], &begin[13..]),
            _ => any_addresses(range),
        };
        Place {
            begin: number(begin),
            end: number(end),
            permissions: self.header[self.range_len..].first_chunk().copied().unwrap_or_default(),
            flags: flags(self.lines),
            is_adjacent: self.is_adjacent,
            is_followed: self.is_followed,
        }
    }
}

/// Splits `<address>-<address> `, which ends with a space, into the two addresses.
#[cold]
fn any_addresses(range: &[u8]) -> (&[u8], &[u8]) {
    let dash = range.iter().position(|&b| b == b'-').unwrap_or(0);
    (&range[..dash], range[dash..].get(1..).map_or(b"", |end| end.trim_ascii_end()))
}

/// Returns the number that lower-case hexadecimal digits stand for. If there are more than 16 digits, only
/// the last 16 are used.
#[inline]
fn number(digits: &[u8]) -> u64 {
    if let Some((high, low)) = digits.split_first_chunk::<8>()
        && let Ok(low) = <&[u8; 4]>::try_from(low)
    {
        return eight(*high) << 16 | eight([b'0', b'0', b'0', b'0', low[0], low[1], low[2], low[3]]);
    }
    digits.iter().fold(0, |number, &b| (number << 4) | (u64::from(b & 0xf) + 9 * u64::from(b >> 6)))
}

/// Returns the number that eight hexadecimal digits stand for.
fn eight(digits: [u8; 8]) -> u64 {
    let text = u64::from_be_bytes(digits);
    // A digit is a byte from 0x30 to 0x39, and its low four bits are its value. A letter is a byte from 0x61
    // to 0x66, and its value is 9 more than its low four bits. Only letters have the bit 0x40.
    let mut value = (text & (0xf * EACH)) + 9 * (text >> 6 & EACH);
    value = (value >> 4 | value) & 0x00ff_00ff_00ff_00ff;
    value = (value >> 8 | value) & 0x0000_ffff_0000_ffff;
    (value >> 16 | value) & 0xffff_ffff
}

/// Returns the flags in the last line of `lines`. Returns no flags if the last line is not the one with the
/// flags.
#[inline]
fn flags(lines: &[u8]) -> u8 {
    // The line of flags is usually the only line in `lines`. The scanner leaves out the field lines if the
    // mapping has the same fields in the same order as the previous mapping. It then also leaves out the
    // lines between the fields and the flags, if they are the same as before. It never leaves out the flags.
    let Some(words) = lines.strip_prefix(KEY).or_else(|| last_line(lines).strip_prefix(KEY)) else {
        return 0;
    };
    words.as_chunks().0.iter().fold(0, |flags, word| {
        flags
            | match word {
                b" nh" => NO_HUGE_PAGES,
                b" nr" => NO_RESERVE,
                b" ac" => ACCOUNTED,
                b" dc" => NOT_FORKED,
                b" gu" => GUARDED,
                _ => 0,
            }
    })
}

fn last_line(lines: &[u8]) -> &[u8] {
    let line_end = lines.len().saturating_sub(1);
    &lines[lines[..line_end].iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(header: &str, range_len: usize, lines: &str) -> Place {
        let (header, lines) = (header.as_bytes(), lines.as_bytes());
        PlaceText { header, range_len, lines, ..PlaceText::default() }.parse()
    }

    #[test]
    fn addresses_of_every_width_are_parsed() {
        for (text, expected) in [
            ("00400000-00452000 ", (0x40_0000, 0x45_2000)),
            ("c000000000-c004000000 ", (0xc0_0000_0000, 0xc0_0400_0000)),
            ("7f71e799d000-7f71e7d7f000 ", (0x7f71_e799_d000, 0x7f71_e7d7_f000)),
            ("ffffa0000-100000000000 ", (0xf_fffa_0000, 0x1000_0000_0000)),
            ("0123456789ab-0123456789abcdef ", (0x0123_4567_89ab, 0x0123_4567_89ab_cdef)),
            ("ffffffffff600000-ffffffffff601000 ", (0xffff_ffff_ff60_0000, 0xffff_ffff_ff60_1000)),
            ("0-1 ", (0, 1)),
        ] {
            let header = format!("{text}rw-p 00000000 00:00 0 \n");
            let place = place(&header, text.len(), "");
            assert_eq!((place.begin, place.end), expected, "{text}");
            assert_eq!((place.permissions, place.is_adjacent), (*b"rw-p", false));
            assert_eq!(place.size(), expected.1 - expected.0);
        }
    }

    #[test]
    fn flags_are_those_of_the_last_line() {
        for (lines, expected) in [
            ("VmFlags: rd wr mr mw me ac sd \n", ACCOUNTED),
            ("VmFlags: rd wr mr mw me nr dc nh gu \n", NO_RESERVE | NOT_FORKED | NO_HUGE_PAGES | GUARDED),
            ("THPeligible:    0\nVmFlags: mr mw me nr sd", NO_RESERVE),
            ("VmFlags: rd ac \nRss:    8 kB\nVmFlags: rd nh \n", ACCOUNTED), // no kernel prints this
            ("VmFlags:\n", 0),
            ("VmFlagsnh: nh \n", 0),
            ("Rss:                   8 kB\n", 0),
            ("", 0),
        ] {
            let place = place("0-1 ", 4, lines);
            assert_eq!(place.flags, expected, "{lines:?}");
            assert_eq!((place.has(expected), place.lacks(!expected)), (true, true));
        }
    }
}
