//! The memory of one process: `smaps`, `smaps_rollup` and `maps`, each read to an end that is known to be the end.
//!
//! The kernel ends an address space while it is read (exec, exit) by a clean end of file, so a read that was cut short looks complete.
//! Reading the file's first byte again tells: there is none once the address space is gone.

use std::collections::hash_map::RandomState;
use std::fmt::Write as _;
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustix::io::Errno;

use super::errors::ReadError;
use super::files::open_file;
use super::{Buffers, ProcessDir};
use crate::smaps::fields::Values;
use crate::smaps::scanner::{Mapping, Next, Scanner};

/// As much of smaps as is scanned at a time: about ten reads, and still in the first cache when it is scanned.
const CHUNK: usize = 32 * 1024;
/// A read asks for a page less this. The kernel prints mappings into one page until it is full or holds what was asked for (fs/seq_file.c);
/// one that no longer fits is thrown away and printed anew by the next read. Most take 700 to 850 bytes: asked for less, it stops in
/// time, which saves 6.5% of a scrape of 200 mappings a process.
const LAST_MAPPING: usize = 768;
/// A longer path is cut: no program can open such, but directories nest without end.
const MAX_PATH: usize = 4096;
/// The rest of a longer line is passed over.
const MAX_LINE: usize = MAX_PATH + 512;
/// A mapping takes a thousand bytes and its path. What needs more is none.
const MAX_MAPPING: usize = 1024 * 1024;

/// Reads the memory of one process after the other.
#[derive(Debug)]
pub struct MemoryReader {
    scanner: Scanner,
    chunk: Vec<u8>,
    /// When a read is given up; none is never.
    pub deadline: Option<Instant>,
    /// The file that was read last and shows each mapping.
    last: Option<File>,
    /// What smaps_rollup printed last.
    rollup_text: Vec<u8>,
    /// Nobody knows them, so nobody can lay out memory to look like another.
    keys: RandomState,
}

/// Hashes of what `smaps_rollup` and `maps` print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prints {
    /// The kernel's sums.
    pub rollup: u64,
    /// Every mapping, without its values.
    pub maps: u64,
}

impl Default for MemoryReader {
    fn default() -> Self {
        Self {
            scanner: Scanner::default(),
            chunk: vec![0; CHUNK],
            deadline: None,
            last: None,
            rollup_text: Vec::new(),
            keys: RandomState::new(),
        }
    }
}

impl MemoryReader {
    /// Calls `each` with every mapping of the process; says how many there were: 0 for a zombie or a kernel thread.
    ///
    /// The mappings count only once [`MemoryReader::ensure_alive`] has returned `Ok`: then they are of one address space, read to its end.
    pub fn mappings(
        &mut self,
        process: &ProcessDir,
        buffers: &mut Buffers,
        each: &mut impl FnMut(Mapping<'_>),
    ) -> Result<usize, ReadError> {
        self.last = None;
        let limits = Limits { n_mappings: process.max_mappings, deadline: self.deadline };
        match self.file(process.as_fd(), "smaps", limits, each)? {
            0 => self.mappings_of_a_thread(process, buffers, limits, each),
            n_mappings => Ok(n_mappings),
        }
    }

    /// Calls `each` with the kernel's own sum over the mappings of the process, as one mapping whose count is 1; `false` where
    /// there is none: on kernels before 4.14, in recordings, for a process without memory.
    pub fn rollup(
        &mut self,
        process: &ProcessDir,
        each: &mut impl FnMut(Mapping<'_>),
    ) -> Result<bool, ReadError> {
        self.last = None;
        let Some(rollup) = open_address_space(process.as_fd(), "smaps_rollup")? else { return Ok(false) };
        match scan(&rollup, &mut self.chunk, Limits::NONE, &mut self.scanner, each) {
            // The kernel holds the address space while it sums, so the sum is whole.
            Ok(n_given) => Ok(n_given > 0),
            // What exec has left says "no such process", too.
            Err(ReadError::Gone) => Err(exec_or_gone(process.as_fd(), "maps")),
            Err(error) => Err(error),
        }
    }

    /// Hashes what `smaps_rollup` and `maps` print, without reading `smaps`. Returns `None` where the kernel
    /// has no `smaps_rollup`, and for a process without memory. A mapping that grows and is printed twice
    /// changes the hash, so its process is read.
    ///
    /// [`MemoryReader::ensure_alive`] must confirm afterwards that both files showed one address space.
    /// [`MemoryReader::sums`] returns the sums.
    pub fn prints(&mut self, process: &ProcessDir) -> Result<Option<Prints>, ReadError> {
        self.last = None;
        let Some(mut file) = open_address_space(process.as_fd(), "smaps_rollup")? else { return Ok(None) };
        self.rollup_text.clear();
        match file.read_to_end(&mut self.rollup_text) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => {
                return Err(exec_or_gone(process.as_fd(), "maps"));
            }
            Err(error) => return Err(error.into()),
        }
        let Some(mut maps) = open_address_space(process.as_fd(), "maps")? else { return Ok(None) };
        let mut hasher = self.keys.build_hasher();
        loop {
            match maps.read(&mut self.chunk)? {
                0 => break,
                n => hasher.write(&self.chunk[..n]),
            }
            if self.deadline.is_some_and(|deadline| Instant::now() > deadline) {
                return Err(ReadError::Slow);
            }
        }
        self.last = Some(maps);
        Ok(Some(Prints { rollup: self.keys.hash_one(&self.rollup_text), maps: hasher.finish() }))
    }

    /// Returns the kernel's sums as the last [`MemoryReader::prints`] read them.
    pub fn sums(&mut self) -> Values {
        let mut scanner = Scanner::default();
        scanner.next(&self.rollup_text, true).map_or_else(Values::default, |(sum, ..)| *sum.values)
    }

    /// Counts the mappings of the process in `maps`. That file is scanned like smaps, because mappings that
    /// grow are printed twice there, too.
    pub fn count(&mut self, process: &ProcessDir) -> Result<u64, ReadError> {
        let Some(maps) = open_address_space(process.as_fd(), "maps")? else { return Ok(0) };
        let limits = Limits { n_mappings: process.max_mappings, ..Limits::NONE };
        match scan(&maps, &mut self.chunk, limits, &mut Scanner::default(), &mut |_| {})? {
            0 => Ok(0), // a zombie
            count => ensure_alive(process.as_fd(), "maps", &maps).map(|()| count as u64),
        }
    }

    /// Makes sure that the address space whose mappings were read last is not gone: then the end that was read may not have been its
    /// end, and what the process is called since may be the name of another.
    pub fn ensure_alive(&mut self, process: &ProcessDir) -> Result<(), ReadError> {
        self.last.take().map_or(Ok(()), |smaps| ensure_alive(process.as_fd(), "smaps", &smaps))
    }

    /// Closes what is open of the process that was read last: it would keep that process's directory in memory.
    pub fn close(&mut self) {
        self.last = None;
    }

    /// Reads one smaps file to its end.
    fn file(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &str,
        limits: Limits,
        each: &mut impl FnMut(Mapping<'_>),
    ) -> Result<usize, ReadError> {
        let Some(smaps) = open_address_space(directory, name)? else { return Ok(0) };
        let n_mappings = scan(&smaps, &mut self.chunk, limits, &mut self.scanner, each)?;
        self.last = (n_mappings > 0).then_some(smaps);
        Ok(n_mappings)
    }

    /// The same through any other thread, for a process whose leader has exited while others live on.
    fn mappings_of_a_thread(
        &mut self,
        process: &ProcessDir,
        buffers: &mut Buffers,
        limits: Limits,
        each: &mut impl FnMut(Mapping<'_>),
    ) -> Result<usize, ReadError> {
        let tasks = match process.threads(buffers) {
            Err(ReadError::Gone) => return Ok(0), // a recording has none
            threads => threads?,
        };
        for i in 0..buffers.tids.len() {
            buffers.name.clear();
            let _ = write!(buffers.name, "{}/smaps", buffers.tids[i]); // writing to a String cannot fail
            match self.file(tasks.as_fd(), &buffers.name, limits, each) {
                Ok(0) => {}
                other => return other,
            }
        }
        Ok(0)
    }
}

/// Where a read ends that has not come to its end.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// More mappings than this are an error.
    pub n_mappings: usize,
    /// The time at which it is given up.
    pub deadline: Option<Instant>,
}

impl Limits {
    /// No limits.
    pub const NONE: Self = Self { n_mappings: usize::MAX, deadline: None };
}

/// Reads smaps from `file` to its end through `chunk`, calls `each` with each mapping, and returns their
/// number. The buffer grows only for a mapping that does not fit, up to 1 MiB; a path is cut at 4 KiB.
///
/// A mapping that is printed again counts once, with the values printed last (see [`Next`]).
///
/// Fails with [`ReadError::Torn`] if two mappings overlap because the process changed between two `read`
/// calls, and with [`ReadError::Slow`] at the deadline. More mappings than a process can have are an error,
/// too: the kernel continues at the address where it stopped, so a process that maps memory ahead of the
/// reader and unmaps it behind would be read for hours.
pub fn scan(
    mut file: impl Read,
    chunk: &mut Vec<u8>,
    limits: Limits,
    scanner: &mut Scanner,
    each: &mut impl FnMut(Mapping<'_>),
) -> Result<usize, ReadError> {
    let (mut n_mappings, mut n_replaced) = (0, 0);
    // Invariant: `chunk[..filled]` is read and not yet scanned. If the line is cut, what comes is passed over up to its end.
    let mut filled = 0;
    let mut is_cut = false;
    let mut at_end = false;
    let read_len = rustix::param::page_size() - LAST_MAPPING;
    while !at_end {
        if filled == chunk.len() {
            if filled >= MAX_MAPPING {
                return Err(io::Error::other("what should be a mapping takes more than 1 MiB").into());
            }
            chunk.resize((2 * filled).max(64), 0);
        }
        while !at_end && filled < chunk.len() {
            let end = chunk.len().min(filled + read_len);
            match file.read(&mut chunk[filled..end])? {
                0 => at_end = true,
                n if is_cut => {
                    let Some(line_end) = chunk[filled..filled + n].iter().position(|&b| b == b'\n') else {
                        break; // it may take long: is there time?
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
                Next::Above => {
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
    io::Error::other("more mappings than a process can have: it changes faster than it can be read")
}

/// Opens a file that shows the address space of a process; `None` if it has none, or no such file.
fn open_address_space(process: BorrowedFd<'_>, name: &str) -> Result<Option<File>, ReadError> {
    match open_file(process, name) {
        Ok(file) => Ok(Some(file.into())),
        // No address space: recent kernels say so at once, others by an empty file.
        Err(Errno::SRCH) => Ok(None),
        Err(Errno::NOENT) if name != "smaps" => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes sure that the address space which `file` shows is not gone: then it reads as empty, and the end that was read may
/// not have been its end. The kernel prints a single mapping for this one byte.
fn ensure_alive(process: BorrowedFd<'_>, name: &str, file: &File) -> Result<(), ReadError> {
    if rustix::io::pread(file, &mut [0; 1], 0).unwrap_or(0) > 0 {
        return Ok(());
    }
    Err(exec_or_gone(process, name))
}

/// What has become of a process whose address space is gone: it has another one, or none.
fn exec_or_gone(process: BorrowedFd<'_>, name: &str) -> ReadError {
    let now = open_file(process, name).and_then(|now| rustix::io::read(now, &mut [0; 1]));
    if now.unwrap_or(0) > 0 { ReadError::Exec } else { ReadError::Gone }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_mappings_than_there_can_be_are_an_error() {
        let mapping = |begin| format!("{begin:x}-{:x} r--p 00000000 00:00 0 \nRss: 8 kB\n", begin + 4096);
        let scan_at_most = |max| {
            let text: String = (0..2000).map(|i| mapping(0x5598_af1c_e000_u64 + i * 4096)).collect();
            let limits = Limits { n_mappings: max, ..Limits::NONE };
            scan(text.as_bytes(), &mut vec![0; 4096], limits, &mut Scanner::default(), &mut |_| {})
        };
        assert_eq!(scan_at_most(2000).unwrap(), 2000);
        assert!(scan_at_most(1500).is_err());
        // A mapping that grows ahead of the reader would be printed forever.
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
    fn a_line_without_end_takes_no_memory() {
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
        // A recording may hold anything: zeros without end, or lines without a header. Only the zeros need a
        // deadline: the lines end the read at 1 MiB, however slow the machine is.
        let deadline = Some(Instant::now() + std::time::Duration::from_millis(50));
        for (text, deadline, expected) in
            [(&b"\0"[..], deadline, "takes too long"), (b"Rss: 1 kB\n", None, "more than 1 MiB")]
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

    /// A text again and again.
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

    #[cfg(target_os = "linux")]
    mod live {
        use super::super::*;
        use crate::procfs::tests::live::{Sleep, proc};
        use std::process::Command;

        /// How many mappings the process has, and whether its stack is among them.
        fn read(pid: u32) -> Result<(usize, bool), ReadError> {
            let mut buffers = Buffers::default();
            let process = proc().process(pid, &mut buffers)?;
            let mut has_stack = false;
            let mut reader = MemoryReader::default();
            let n = reader
                .mappings(&process, &mut buffers, &mut |mapping| has_stack |= mapping.path == b"[stack]")?;
            Ok((n, has_stack))
        }

        #[test]
        fn a_process_is_read_whole_or_not_at_all() {
            let mut child = Sleep::new();
            let pid = child.pid();
            let (n_mappings, has_stack) = read(pid).unwrap();
            assert!(n_mappings > 5 && has_stack);
            let process = proc().process(pid, &mut Buffers::default()).unwrap();
            let mut reader = MemoryReader::default();
            assert_eq!(reader.count(&process).unwrap(), n_mappings as u64);
            let mut rss = 0;
            let has_rollup = reader.rollup(&process, &mut |sum| {
                rss = sum.values.bytes[crate::smaps::fields::RSS];
            });
            assert!(has_rollup.unwrap() && rss > 0);
            child.0.kill().unwrap();
            let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            while !stat().contains(") Z ") {
                std::thread::yield_now();
            }
            assert!(matches!(read(pid), Ok((0, false))), "a zombie has no mappings");
            assert_eq!(reader.count(&process).unwrap(), 0);
            child.0.wait().unwrap();
            assert!(matches!(read(pid), Err(ReadError::Gone)));
        }

        #[test]
        fn an_address_space_that_exec_leaves_is_noticed() {
            use std::io::Write as _;
            // The shell waits for a line, then becomes another program.
            let mut shell = Command::new("sh")
                .args(["-c", "read line; exec sleep 1000"])
                .stdin(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut buffers = Buffers::default();
            let process = proc().process(shell.id(), &mut buffers).unwrap();
            let smaps = open_address_space(process.as_fd(), "smaps").unwrap().unwrap();
            assert!(ensure_alive(process.as_fd(), "smaps", &smaps).is_ok());
            shell.stdin.take().unwrap().write_all(b"\n").unwrap();
            while process.comm(&mut buffers).unwrap() != b"sleep" {
                std::thread::yield_now();
            }
            assert!(matches!(ensure_alive(process.as_fd(), "smaps", &smaps), Err(ReadError::Exec)));
            shell.kill().unwrap();
            shell.wait().unwrap();
            assert!(matches!(ensure_alive(process.as_fd(), "smaps", &smaps), Err(ReadError::Gone)));
        }
    }
}
