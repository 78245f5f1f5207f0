//! Reads the memory of one process: `smaps`, `smaps_rollup` and `maps`. Each file is read completely, or the
//! read fails.
//!
//! If the address space disappears during a read (exec, exit), the kernel reports a normal end of file, as if
//! the read were complete. So after a read, the first byte of the file is read again: if the address space is
//! gone, the file has no first byte.

use std::collections::hash_map::RandomState;
use std::fmt::Write as _;
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use rustix::io::Errno;

use super::errors::ReadError;
use super::files::open_file;
use super::scan::{CHUNK, Limits, scan};
use super::{Buffers, ProcessDir};
use crate::smaps::fields::Values;
use crate::smaps::scanner::{Mapping, Scanner};

/// Reads the memory files of processes, one process after another.
#[derive(Debug)]
pub struct MemoryReader {
    scanner: Scanner,
    chunk: Vec<u8>,
    /// The time at which the current read is cancelled; `None` means never.
    pub deadline: Option<Instant>,
    /// The smaps or maps file that was read last. [`MemoryReader::ensure_alive`] checks and closes this file.
    last: Option<File>,
    /// The text of the smaps_rollup file that was read last.
    rollup_text: Vec<u8>,
    /// Random keys for the hashes. Without random keys, a process could change its mappings in such a way
    /// that the hashes stay the same, and the change would not be noticed.
    keys: RandomState,
}

/// Hashes of what `smaps_rollup` and `maps` print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashes {
    /// The hash of `smaps_rollup`, the kernel's sums over all mappings.
    pub rollup: u64,
    /// The hash of `maps`, which lists all mappings, but not how much memory each of them uses.
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
    /// Calls `each` with every mapping of the process. Returns the number of mappings, which is 0 for a
    /// zombie or a kernel thread.
    ///
    /// The mappings are valid only if [`MemoryReader::ensure_alive`] returns `Ok` afterwards. `Ok` means that
    /// all mappings belong to one address space, and that none is missing.
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

    /// Calls `each` once, with the kernel's own sum over all mappings of the process, as if the sum were one
    /// mapping. Returns `false` if there is no sum. That is the case on kernels before 4.14, in recordings of
    /// proc, and for processes without memory.
    pub fn rollup(
        &mut self,
        process: &ProcessDir,
        each: &mut impl FnMut(Mapping<'_>),
    ) -> Result<bool, ReadError> {
        self.last = None;
        let Some(rollup) = open_address_space(process.as_fd(), "smaps_rollup")? else { return Ok(false) };
        match scan(&rollup, &mut self.chunk, Limits::NONE, &mut self.scanner, each) {
            // If the process has memory, `smaps_rollup` has one entry, the sum over all mappings. The sum is
            // complete even if the process ends meanwhile, because the kernel keeps the address space alive
            // while it computes the sum. If the process has no memory, the file is empty.
            Ok(n_given) => Ok(n_given > 0),
            // While the file was open, the process has ended or has executed another program. In the second
            // case, `maps` has the mappings of the other program. So `exec_or_gone` reads `maps` to find out
            // which of the two has happened.
            Err(ReadError::Gone) => Err(exec_or_gone(process.as_fd(), "maps")),
            Err(error) => Err(error),
        }
    }

    /// Returns the hashes of `smaps_rollup` and `maps`, without reading `smaps`. Returns `None` if the kernel
    /// has no `smaps_rollup`, and for a process without memory. If a mapping grows during the read, the
    /// kernel prints the mapping twice. This changes the hash, and as a result the process is read in full.
    ///
    /// Afterwards, [`MemoryReader::ensure_alive`] must confirm that both files showed one address space.
    /// [`MemoryReader::sums`] returns the kernel's sums.
    pub fn hashes(&mut self, process: &ProcessDir) -> Result<Option<Hashes>, ReadError> {
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
        Ok(Some(Hashes { rollup: self.keys.hash_one(&self.rollup_text), maps: hasher.finish() }))
    }

    /// Returns the kernel's sums from the text that [`MemoryReader::hashes`] read last.
    pub fn sums(&mut self) -> Values {
        let mut scanner = Scanner::default();
        scanner.next(&self.rollup_text, true).map_or_else(Values::default, |(sum, ..)| *sum.values)
    }

    /// Counts the mappings of the process in `maps`. A mapping that grows during the read may be printed
    /// twice, but is counted once.
    pub fn count(&mut self, process: &ProcessDir) -> Result<u64, ReadError> {
        let Some(maps) = open_address_space(process.as_fd(), "maps")? else { return Ok(0) };
        let limits = Limits { n_mappings: process.max_mappings, ..Limits::NONE };
        match scan(&maps, &mut self.chunk, limits, &mut Scanner::default(), &mut |_| {})? {
            0 => Ok(0), // a zombie
            count => ensure_alive(process.as_fd(), "maps", &maps).map(|()| count as u64),
        }
    }

    /// Checks that the address space from which mappings were read last still exists. If it does not, the
    /// process has ended or has executed another program. In both cases the read may have stopped early. If
    /// the process runs another program now, its current name does not belong to the mappings.
    pub fn ensure_alive(&mut self, process: &ProcessDir) -> Result<(), ReadError> {
        self.last.take().map_or(Ok(()), |smaps| ensure_alive(process.as_fd(), "smaps", &smaps))
    }

    /// Closes the file of the last process. While it is open, the kernel keeps the directory of that process
    /// in memory.
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

    /// Reads the mappings through another thread. This is needed if the first thread has exited while other
    /// threads still run.
    fn mappings_of_a_thread(
        &mut self,
        process: &ProcessDir,
        buffers: &mut Buffers,
        limits: Limits,
        each: &mut impl FnMut(Mapping<'_>),
    ) -> Result<usize, ReadError> {
        let tasks = match process.threads(buffers) {
            Err(ReadError::Gone) => return Ok(0), // a recording has no threads
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

/// Opens a file that shows the address space of a process. Returns `None` if the process has no address
/// space. Also returns `None` if the file does not exist, unless its name is `smaps`. If `smaps` does not
/// exist, the process has ended, and the result is an error. Other files can be missing for other reasons,
/// for example `smaps_rollup` before Linux 4.14.
fn open_address_space(process: BorrowedFd<'_>, name: &str) -> Result<Option<File>, ReadError> {
    match open_file(process, name) {
        Ok(file) => Ok(Some(file.into())),
        // The process has no address space. Recent kernels return this error. Older kernels show an empty
        // file.
        Err(Errno::SRCH) => Ok(None),
        Err(Errno::NOENT) if name != "smaps" => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Checks that the address space of `file` still exists. If it does not, the file is now empty, and an
/// earlier read may have stopped before the real end of the file. The check is cheap, because the kernel
/// prints a single mapping for a read of one byte.
fn ensure_alive(process: BorrowedFd<'_>, name: &str, file: &File) -> Result<(), ReadError> {
    if rustix::io::pread(file, &mut [0; 1], 0).unwrap_or(0) > 0 {
        return Ok(());
    }
    Err(exec_or_gone(process, name))
}

/// Returns the reason why the address space of a process is gone: the process has executed another program,
/// or it has ended.
fn exec_or_gone(process: BorrowedFd<'_>, name: &str) -> ReadError {
    let now = open_file(process, name).and_then(|now| rustix::io::read(now, &mut [0; 1]));
    if now.unwrap_or(0) > 0 { ReadError::Exec } else { ReadError::Gone }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::procfs::tests::live::{Sleep, proc};
    use std::process::Command;

    /// Returns the number of mappings of the process, and whether one of them is its stack.
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
    fn exec_during_a_read_is_noticed() {
        use std::io::Write as _;
        // The shell waits for a line, and then executes another program.
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
