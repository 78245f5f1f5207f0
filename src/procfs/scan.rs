//! Reads smaps or maps, and splits the text into mappings. The memory, the number of mappings and the time of
//! a read are limited.

use std::io::{self, Read};
use std::time::Instant;

use super::errors::ReadError;
use crate::smaps::scanner::{Mapping, Next, Scanner};

/// The size of the chunks in which smaps is scanned. About ten reads fill a chunk, and the chunk is still in
/// the L1 cache when it is scanned.
pub const CHUNK: usize = 32 * 1024;
/// Each read requests one page minus this many bytes. The kernel prints whole mappings into a page until it
/// has printed at least the requested bytes (fs/seq_file.c). The last mapping usually still fits into the
/// page, because a mapping takes 700 to 850 bytes. If a whole page were requested, the last mapping would
/// usually not fit. The kernel would discard it, and print it again for the next read. Avoiding this saves
/// 6.5% of a scrape with 200 mappings per process.
const LAST_MAPPING: usize = 768;
/// Longer paths are cut to this many bytes. A program cannot open a file by a longer path, but the kernel
/// prints longer paths for files in deeply nested directories.
const MAX_PATH: usize = 4096;
/// The maximum length of a line. The rest of a longer line is skipped.
const MAX_LINE: usize = MAX_PATH + 512;
/// The maximum length of the text of a mapping. The kernel prints only about a thousand bytes and the path,
/// so a longer text is not smaps.
const MAX_MAPPING: usize = 1024 * 1024;

/// The limits of a read.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The maximum number of mappings. More mappings are an error.
    pub n_mappings: usize,
    /// The time at which the read is cancelled.
    pub deadline: Option<Instant>,
}

impl Limits {
    /// No limits.
    pub const NONE: Self = Self { n_mappings: usize::MAX, deadline: None };
}

/// Reads smaps from `file` to its end, and calls `each` with every mapping. Returns the number of mappings.
/// `chunk` is the buffer for the text. The buffer grows only for a mapping that does not fit into it, up to 1
/// MiB. Paths are cut at 4 KiB.
///
/// If the kernel prints a mapping twice, the mapping counts once, with the values that were printed last (see
/// [`Next`]).
///
/// Fails with [`ReadError::Torn`] if two mappings overlap, because the process changed between two `read`
/// calls. Fails with [`ReadError::Slow`] at the deadline.
///
/// Also fails if there are more mappings than a process can have. Without that limit, a process could keep
/// the reader busy for hours, because the kernel continues each read at the address where the previous read
/// stopped. The process could keep mapping memory above that address, and unmapping the memory below it.
pub fn scan(
    mut file: impl Read,
    chunk: &mut Vec<u8>,
    limits: Limits,
    scanner: &mut Scanner,
    each: &mut impl FnMut(Mapping<'_>),
) -> Result<usize, ReadError> {
    scanner.begin_file();
    let (mut n_mappings, mut n_replaced) = (0, 0);
    // Invariant: `chunk[..filled]` has been read, but not scanned. While `is_cut` is true, the rest of the
    // current line is skipped.
    let mut filled = 0;
    let mut is_cut = false;
    let mut at_end = false;
    let read_len = rustix::param::page_size() - LAST_MAPPING;
    while !at_end {
        if filled == chunk.len() {
            if filled >= MAX_MAPPING {
                return Err(io::Error::other("a mapping is longer than 1 MiB").into());
            }
            chunk.resize((2 * filled).max(64), 0);
        }
        while !at_end && filled < chunk.len() {
            let end = chunk.len().min(filled + read_len);
            match file.read(&mut chunk[filled..end])? {
                0 => at_end = true,
                n if is_cut => {
                    let Some(line_end) = chunk[filled..filled + n].iter().position(|&b| b == b'\n') else {
                        break; // a slow read may have reached its deadline
                    };
                    chunk.copy_within(filled + line_end..filled + n, filled);
                    filled += n - line_end;
                    is_cut = false;
                }
                n => filled += n,
            }
            if filled > MAX_LINE && !is_cut {
                let line = chunk[..filled].iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
                if filled - line > MAX_LINE {
                    filled = line + MAX_LINE;
                    is_cut = true;
                }
            }
        }
        let mut scanned = 0;
        while let Some((mut mapping, n_bytes, next)) = scanner.next(&chunk[scanned..filled], at_end) {
            scanned += n_bytes;
            match next {
                Next::Adjacent | Next::Above => {
                    mapping.path = &mapping.path[..mapping.path.len().min(MAX_PATH)];
                    each(mapping);
                    n_mappings += 1;
                }
                Next::Same => n_replaced += 1,
                Next::Torn => return Err(ReadError::Torn),
            }
        }
        chunk.copy_within(scanned..filled, 0);
        filled -= scanned;
        if n_mappings + n_replaced > limits.n_mappings {
            return Err(endless().into());
        }
        if !at_end && limits.deadline.is_some_and(|deadline| Instant::now() > deadline) {
            return Err(ReadError::Slow);
        }
    }
    if chunk.len() > CHUNK {
        chunk.truncate(CHUNK);
        chunk.shrink_to_fit();
    }
    Ok(n_mappings)
}

fn endless() -> io::Error {
    io::Error::other("more mappings than a process can have: they change faster than they can be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_mappings_than_the_kernel_allows_are_an_error() {
        let mapping = |begin| format!("{begin:x}-{:x} r--p 00000000 00:00 0 \nRss: 8 kB\n", begin + 4096);
        let scan_at_most = |max| {
            let text: String = (0..2000).map(|i| mapping(0x5598_af1c_e000_u64 + i * 4096)).collect();
            let limits = Limits { n_mappings: max, ..Limits::NONE };
            scan(text.as_bytes(), &mut vec![0; 4096], limits, &mut Scanner::default(), &mut |_| {})
        };
        assert_eq!(scan_at_most(2000).unwrap(), 2000);
        assert!(scan_at_most(1500).is_err());
        // The mapping grows at its end while it is read, so the kernel prints it again and again.
        let mapping = mapping(0x5598_af1c_e000);
        let endless = |limits| {
            let text = Forever(mapping.as_bytes(), 0);
            scan(text, &mut vec![0; 4096], limits, &mut Scanner::default(), &mut |_| {})
        };
        assert!(matches!(endless(Limits { n_mappings: 10_000, ..Limits::NONE }), Err(ReadError::Io(_))));
        let now = Limits { deadline: Some(Instant::now()), ..Limits::NONE };
        assert!(matches!(endless(now), Err(ReadError::Slow)));
    }

    #[test]
    fn first_mapping_of_a_file_is_not_adjacent() {
        let mapping = |range| format!("{range} rw-p 00000000 00:00 0 \nRss: 8 kB\n");
        let torn = mapping("7f0000000000-7f0000003000") + &mapping("7f0000001000-7f0000004000");
        let file = mapping("7f0000003000-7f0000005000") + &mapping("7f0000005000-7f0000006000");
        let (mut scanner, mut chunk) = (Scanner::default(), vec![0; 4096]);
        let ended = scan(torn.as_bytes(), &mut chunk, Limits::NONE, &mut scanner, &mut |_| {});
        assert!(matches!(ended, Err(ReadError::Torn)));
        for _ in 0..2 {
            let mut are_adjacent = Vec::new();
            let each = &mut |mapping: Mapping<'_>| are_adjacent.push(mapping.place.parse().is_adjacent);
            scan(file.as_bytes(), &mut chunk, Limits::NONE, &mut scanner, each).unwrap();
            assert_eq!(are_adjacent, [false, true]);
        }
    }

    #[test]
    fn endless_line_takes_no_memory() {
        let fields = "Rss:                   8 kB\nVmFlags: rd\n";
        for len in [0, MAX_PATH, MAX_PATH + 2, MAX_LINE, 8192, 40_000, 1_000_002] {
            let path = "/x".repeat(len / 2);
            let header = "5598af1ce000-5598af1d0000 r--p 00000000 00:00 0 ";
            let next = "5598af1d0000-5598af1d2000 r--p 00000000 00:00 0 /next";
            let text = format!("{header}{path}\n{fields}{next}\n{fields}");
            let (mut chunk, mut found) = (vec![0; CHUNK], Vec::new());
            let each = &mut |mapping: Mapping<'_>| {
                found.push((mapping.path.to_vec(), mapping.values.bytes[crate::smaps::fields::RSS]));
            };
            scan(text.as_bytes(), &mut chunk, Limits::NONE, &mut Scanner::default(), each).unwrap();
            let kept = &path.as_bytes()[..len.min(MAX_PATH)];
            assert!(found == [(kept.to_vec(), 8192), (b"/next".to_vec(), 8192)], "{len}");
            assert_eq!(chunk.len(), CHUNK);
        }
        // A recording may contain anything. Endless zeros are a line without an end, which is read until the
        // deadline. Endless short lines belong to the mapping above them, because no new header follows. A
        // mapping of more than 1 MiB is an error.
        let deadline = Some(Instant::now() + std::time::Duration::from_millis(50));
        for (text, deadline, expected) in
            [(&b"\0"[..], deadline, "took too long"), (b"Rss: 1 kB\n", None, "longer than 1 MiB")]
        {
            let limits = Limits { deadline, ..Limits::NONE };
            let mut text = Forever(text, 0);
            let header = b"5598af1ce000-5598af1d0000 r--p 00000000 00:00 0\n";
            let text = Read::chain(&header[..], &mut text);
            let mut chunk = vec![0; CHUNK];
            let error = scan(text, &mut chunk, limits, &mut Scanner::default(), &mut |_| {}).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(chunk.len() <= MAX_MAPPING);
        }
    }

    /// A text that repeats forever.
    struct Forever<'a>(&'a [u8], usize);

    impl Read for Forever<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            for b in buffer.iter_mut() {
                *b = self.0[self.1];
                self.1 = (self.1 + 1) % self.0.len();
            }
            Ok(buffer.len())
        }
    }
}
