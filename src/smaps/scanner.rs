//! Converts bytes of `/proc/<pid>/smaps` into mappings: a line scanner that owns no buffer and cannot fail.
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
//! begins with `hex-hex `, in lower case, and the kernel escapes newlines in paths. A line that is neither a
//! header nor a known field in kB is skipped. A mapping ends where the next header begins, or at the end of
//! the input.
//!
//! Two paths lead to the same result. The general path takes one line at a time. The learned path relies on a
//! fact: on one kernel, the field lines are `%-16s%8lu kB\n`, 28 bytes, and their order does not change
//! within a boot. It remembers the run of such lines that the general path found after a header, each with
//! its value. After the next header, most lines are the same byte for byte (two of three values are 0), so
//! their values are the same. In the other lines, 16 bytes of key are compared and 8 bytes of digits are
//! decoded at once. A mapping that does not fit (a value of nine digits, another order) takes the general
//! path.
//!
//! Mappings come in address order. The kernel drops the memory-map lock between two `read` calls and
//! continues at the end of the last mapping. If that mapping has grown in the meantime, it is printed again
//! as a whole. So a mapping is returned only once the next header has been read, and [`Next`] says how the
//! two relate.

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
    /// The path as the kernel printed it: any bytes except a newline, with trailing spaces; empty for
    /// anonymous memory.
    pub path: &'a [u8],
    /// The values of the mapping's fields.
    pub values: &'a Values,
    /// From which the place of the mapping is parsed.
    pub place: PlaceText<'a>,
    /// The number of mappings that it stands for: 1, or more for the sum in smaps_rollup.
    pub count: u64,
}

/// The scanner. One scanner serves any number of files, and what it learns from one file speeds up the next.
#[derive(Debug, Default)]
pub struct Scanner {
    values: Values,
    learned: Learned,
    only_general: bool,
    /// Whether the next mapping begins where the previous one of the file ends.
    is_adjacent: bool,
}

impl Scanner {
    /// Returns a scanner that never takes the learned path, for tests and measurements.
    pub fn general() -> Self {
        Self { only_general: true, ..Self::default() }
    }

    /// Begins another file, of which the first mapping has no mapping before it. A file may have been left
    /// before its end.
    pub fn begin_file(&mut self) {
        self.is_adjacent = false;
    }

    /// Returns the first whole mapping in `bytes`, the number of bytes up to its end, and how the next
    /// mapping relates to it.
    ///
    /// Returns `None` if `bytes` does not hold a whole mapping yet: read more and call again with the same
    /// beginning. With `at_end`, `bytes` is the rest of the input: the last mapping ends with `bytes`, and
    /// `None` means that there is no mapping left.
    pub fn next<'a>(&'a mut self, bytes: &'a [u8], at_end: bool) -> Option<(Mapping<'a>, usize, Next)> {
        let (range, header_end) = find_header(bytes, at_end)?;
        if !at_end && bytes.len() - header_end < self.learned.run_len() {
            return None; // the mapping is most likely incomplete
        }
        let run = if self.only_general { Run::Unfit } else { self.learned.take(&bytes[header_end..]) };
        // The lines from `rest` on are not those of the learned run: among them is that of the flags.
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
        // A header begins at `end` unless the input ends there.
        let header = &bytes[range.start..header_end];
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

/// Takes field lines one by one from `at` to the next header. Returns the position of that header and the
/// length of its range, 0 at the end of the input.
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

/// Returns the end of the line at `at`, or `None` if more of it must be read.
#[inline]
fn end_of_line(bytes: &[u8], at: usize, at_end: bool) -> Option<usize> {
    line_end(bytes, at).or(at_end.then_some(bytes.len()))
}
