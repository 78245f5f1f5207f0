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
//! Values that are the same as in the previous mapping are not parsed again (see the module `learned`).

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
    /// The path as the kernel printed it, with trailing spaces; empty for unnamed anonymous memory. It may
    /// have any bytes except a newline.
    pub path: &'a [u8],
    /// The values of the mapping's fields.
    pub values: &'a Values,
    /// The text from which the mapping's address range, permissions and flags can be parsed.
    pub place: PlaceText<'a>,
    /// The number of mappings that `values` sums up: 1 in smaps, more in smaps_rollup.
    pub count: u64,
}

/// Parses any number of smaps files. What it learns from one file makes parsing the next file faster.
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

    /// Begins another file, whether or not the previous file was parsed to its end.
    pub fn begin_file(&mut self) {
        self.is_adjacent = false;
    }

    /// Returns the first mapping, its length in bytes, and what follows it. Returns `None` if `bytes` end in
    /// the middle of a mapping; the caller then appends more bytes. `at_end`: the file has no more.
    pub fn next<'a>(&'a mut self, bytes: &'a [u8], at_end: bool) -> Option<(Mapping<'a>, usize, Next)> {
        let (range, header_end) = find_header(bytes, at_end)?;
        if !at_end && bytes.len() - header_end < self.learned.run_len() {
            return None; // the mapping is most likely incomplete
        }
        let run = if self.only_general { Run::Unfit } else { self.learned.take(&bytes[header_end..]) };
        // The mapping ends at `end`. Only the lines from `rest` on need parsing, and the line of flags is one
        // of them.
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
        // If a mapping grew between two `read` calls, the kernel prints it again. Only the next header, at
        // `end`, shows this.
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

/// Parses lines one by one from `at`. Returns where the next header begins and the length of its address
/// range, 0 without a header.
fn general_lines(values: &mut Values, bytes: &[u8], mut at: usize, at_end: bool) -> Option<(usize, usize)> {
    // Invariant: a line begins at `at`. No path can contain a line, because the kernel escapes newlines in
    // paths.
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
