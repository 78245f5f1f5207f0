//! Parses the bytes of `/proc/<pid>/smaps` into mappings. The scanner owns no buffer and cannot fail.
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
//! The beginning of a line decides what the line is. A header begins with `hex-hex `, in lower case. The
//! kernel escapes newlines in paths, so text inside a path is never mistaken for a line. A line that is
//! neither a header nor the value in kB of an exported field is skipped. A mapping ends where the next header
//! begins, or at the end of the input.
//!
//! There are two ways to parse field lines, with the same result. The general way takes one line at a time.
//! The learned way is faster: it compares each line with the same line of the previous mapping. Most lines
//! are the same byte for byte, because two thirds of all values are 0. The value of such a line is known
//! without parsing. In the other lines, the 16 bytes of the key are compared, and the 8 bytes of the digits
//! are decoded at once. The learned way needs lines as the kernel prints them: `%-16s%8lu kB\n`, 28 bytes, in
//! an order that does not change until the next boot. A mapping with a value of nine digits, or with its
//! lines in another order, is parsed in the general way.
//!
//! Mappings come in the order of their addresses. Between two `read` calls, the kernel drops the memory-map
//! lock; then it continues at the end of the last mapping. If that mapping has grown in the meantime, the
//! kernel prints it again as a whole. Only the next header shows whether this has happened, so a mapping is
//! returned only after the next header was read. [`Next`] says how the two mappings relate.

use super::field_line::{field_of, is_not_exported};
use super::fields::Values;
pub use super::header::Next;
use super::header::{find_header, next, path_of, range_end};
use super::learned::{Learned, Run};
use super::lines::line_end;
use super::place::PlaceText;

/// One smaps entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping<'a> {
    /// The path as the kernel printed it, with trailing spaces. The path may have any bytes except a newline.
    /// It is empty for anonymous memory without a name.
    pub path: &'a [u8],
    /// The values of the mapping's fields.
    pub values: &'a Values,
    /// The text from which the mapping's address range, permissions and flags can be parsed.
    pub place: PlaceText<'a>,
    /// The number of mappings that `values` sums up: 1 in smaps, more in smaps_rollup.
    pub count: u64,
}

/// Parses smaps files. One scanner can parse any number of files. What it learns from one file makes parsing
/// the next file faster.
#[derive(Debug, Default)]
pub struct Scanner {
    values: Values,
    learned: Learned,
    only_general: bool,
    /// Whether the next mapping to be returned begins where the previous mapping ends. False at the beginning
    /// of a smaps file.
    is_adjacent: bool,
}

impl Scanner {
    /// Returns a scanner that parses every line, without comparing it with the previous mapping. It is for
    /// tests and measurements.
    pub fn general() -> Self {
        Self { only_general: true, ..Self::default() }
    }

    /// Begins another file. The first mapping of a file has no previous mapping. The previous file need not
    /// have been parsed to its end.
    pub fn begin_file(&mut self) {
        self.is_adjacent = false;
    }

    /// Returns the first whole mapping in `bytes`, the position of its end in `bytes`, and where the next
    /// mapping begins compared with this one.
    ///
    /// Returns `None` if `bytes` does not contain a whole mapping yet. Then read more, and call this again
    /// with the same bytes followed by the new ones. If `at_end` is true, the file ends where `bytes` ends,
    /// and `None` means that there are no more mappings.
    pub fn next<'a>(&'a mut self, bytes: &'a [u8], at_end: bool) -> Option<(Mapping<'a>, usize, Next)> {
        let (range, header_end) = find_header(bytes, at_end)?;
        if !at_end && bytes.len() - header_end < self.learned.run_len() {
            return None; // the mapping is most likely incomplete
        }
        let run = if self.only_general { Run::Unfit } else { self.learned.take(&bytes[header_end..]) };
        // `end` and `rest` are positions in `bytes`. The mapping ends at `end`. The lines between the header
        // and `rest` have the same fields, in the same order, as the lines that `learned` remembers. They
        // need no parsing, because `take` has already stored the values that differ. If there are no such
        // lines, `rest` is the end of the header. The line of flags is at `rest` or after it.
        let (values, rest, (end, next_range_len)) = match run {
            Run::Taken(n_bytes) => {
                let rest = header_end + n_bytes;
                let mut at = rest;
                while is_not_exported(&bytes[at..]) {
                    at = end_of_line(bytes, at, at_end)?;
                }
                if let Some(range_len) = range_end(&bytes[at..]) {
                    (&self.learned.values, rest, (at, range_len))
                } else {
                    self.values = self.learned.values;
                    let end = general_lines(&mut self.values, bytes, at, at_end)?;
                    (&self.values, rest, end)
                }
            }
            Run::Unlike | Run::Unfit => {
                self.values = Values::default();
                let end = general_lines(&mut self.values, bytes, header_end, at_end)?;
                if let Run::Unlike = run {
                    self.learned.learn(&bytes[header_end..end.0]);
                }
                (&self.values, header_end, end)
            }
        };
        let path = path_of(&bytes[range.end..header_end]);
        let header = &bytes[range.start..header_end];
        // The next mapping begins at `end`, unless the input ends there.
        let next = match end == bytes.len() {
            true => Next::Above,
            false => next(header, &bytes[end..], range.len(), next_range_len),
        };
        let (lines, is_adjacent) = (&bytes[rest..end], self.is_adjacent);
        let is_followed = next == Next::Adjacent;
        let place = PlaceText { header, range_len: range.len(), lines, is_adjacent, is_followed };
        if next != Next::Same {
            self.is_adjacent = is_followed;
        }
        Some((Mapping { path, values, place, count: 1 }, end, next))
    }
}

/// Parses field lines one by one, from `at` to the next header. Returns the position of that header and the
/// length of its address range. At the end of the input, returns the end and the length 0.
fn general_lines(values: &mut Values, bytes: &[u8], mut at: usize, at_end: bool) -> Option<(usize, usize)> {
    // Invariant: a line begins at `at`.
    while at < bytes.len() {
        let is_exported = !is_not_exported(&bytes[at..]);
        if is_exported && let Some(range_len) = range_end(&bytes[at..]) {
            return Some((at, range_len));
        }
        let end = end_of_line(bytes, at, at_end)?;
        if is_exported && let Some((field, kib)) = field_of(&bytes[at..end]) {
            values.present |= 1 << field;
            values.bytes[field] = kib.saturating_mul(1024);
        }
        at = end;
    }
    at_end.then_some((at, 0))
}

/// Returns the end of the line at `at`, or `None` if the end is not read yet.
#[inline]
fn end_of_line(bytes: &[u8], at: usize, at_end: bool) -> Option<usize> {
    line_end(bytes, at).or(at_end.then_some(bytes.len()))
}
