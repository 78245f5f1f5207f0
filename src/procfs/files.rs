//! Reads small files and directory listings through descriptors, into buffers that are reused.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::path::Arg;

/// The maximum length of a small file. The kernel prints far less, but a recording may contain anything.
const MAX_RECORD: usize = 64 << 10;

/// Returns the whole content of a small file (`comm`, `cgroup`, `stat`) in `directory`. The file is read into
/// `text`, which grows as needed.
///
/// Fails with the system's error, or with `EFBIG` if the file is longer than 64 KiB.
pub(crate) fn read_file<'a>(
    directory: BorrowedFd<'_>,
    name: impl Arg,
    text: &'a mut Vec<u8>,
) -> Result<&'a [u8], Errno> {
    let file = open_file(directory, name)?;
    let mut filled = 0;
    loop {
        if filled == text.len() {
            if filled >= MAX_RECORD {
                return Err(Errno::FBIG);
            }
            text.resize((2 * filled).max(4096), 0);
        }
        filled += rustix::io::read(&file, &mut text[filled..])?;
        // The kernel prints a small file in one read (fs/seq_file.c, `single_open`). A read that does not
        // fill the buffer has therefore reached the end of the file.
        if filled < text.len() {
            return Ok(&text[..filled]);
        }
    }
}

/// Reads a long file in `directory` into `text`, and returns its content. If the file is longer than
/// `max_bytes`, only the beginning of the file is returned.
///
/// Fails with the system's error.
pub(super) fn read_long<'a>(
    directory: BorrowedFd<'_>,
    name: impl Arg,
    max_bytes: usize,
    text: &'a mut Vec<u8>,
) -> Result<&'a [u8], Errno> {
    let file = open_file(directory, name)?;
    let mut filled = 0;
    loop {
        if filled == text.len() {
            text.resize((2 * filled).max(8192), 0);
        }
        let n_read = rustix::io::read(&file, &mut text[filled..])?;
        filled += n_read;
        if n_read == 0 || filled >= max_bytes {
            return Ok(&text[..filled]);
        }
    }
}

/// Opens a regular file for reading. Returns an error for anything else, such as a pipe or a device in a
/// recording. Opening never blocks.
pub(crate) fn open_file(directory: BorrowedFd<'_>, name: impl Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = openat(directory, name, flags, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        _ => Err(Errno::INVAL),
    }
}

/// Opens a directory to list the entries in it.
pub(crate) fn open_listable(directory: BorrowedFd<'_>, name: impl Arg) -> Result<OwnedFd, Errno> {
    openat(directory, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a directory to open files in it by name. The entries of the directory cannot be listed.
#[cfg(target_os = "linux")]
pub(crate) fn open_directory(directory: BorrowedFd<'_>, name: impl Arg) -> Result<OwnedFd, Errno> {
    openat(directory, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(not(target_os = "linux"))]
pub(crate) use open_listable as open_directory;

/// A buffer for directory listings. With the standard library, a listing would allocate memory for each name.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub struct Entries(Vec<std::mem::MaybeUninit<u8>>);

#[cfg(target_os = "linux")]
impl Default for Entries {
    fn default() -> Self {
        Self(vec![std::mem::MaybeUninit::uninit(); 32 * 1024])
    }
}

#[cfg(target_os = "linux")]
impl Entries {
    /// Calls `each` with the name and the inode number of each entry of `directory`. The listing begins with
    /// the first entry, even if `directory` was listed before.
    pub fn list(&mut self, directory: BorrowedFd<'_>, mut each: impl FnMut(&[u8], u64)) -> io::Result<()> {
        rustix::fs::seek(directory, rustix::fs::SeekFrom::Start(0))?;
        let mut listing = rustix::fs::RawDir::new(directory, &mut self.0);
        while let Some(entry) = listing.next() {
            let entry = entry?;
            each(entry.file_name().to_bytes(), entry.ino());
        }
        Ok(())
    }
}

/// Takes the place of the listing buffer on systems other than Linux. There the program only reads
/// recordings, so a listing may allocate memory for each name.
#[cfg(not(target_os = "linux"))]
#[derive(Debug, Default)]
pub struct Entries;

#[cfg(not(target_os = "linux"))]
impl Entries {
    /// Calls `each` with the name and the inode number of each entry of `directory`.
    pub fn list(&mut self, directory: BorrowedFd<'_>, mut each: impl FnMut(&[u8], u64)) -> io::Result<()> {
        for entry in rustix::fs::Dir::read_from(directory)? {
            let entry = entry?;
            each(entry.file_name().to_bytes(), entry.ino());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    #[test]
    fn files_of_one_record_are_read_whole_or_fail() {
        let directory = std::env::temp_dir().join(format!("smaps-files-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let handle = File::open(&directory).unwrap();
        let mut text = Vec::new();
        for len in [0, 1, 4095, 4096, 4097, 40_000, MAX_RECORD - 1] {
            fs::write(directory.join("file"), vec![b'x'; len]).unwrap();
            assert_eq!(read_file(handle.as_fd(), "file", &mut text), Ok(&vec![b'x'; len][..]));
        }
        fs::write(directory.join("file"), vec![b'x'; MAX_RECORD]).unwrap();
        assert_eq!(read_file(handle.as_fd(), "file", &mut text), Err(Errno::FBIG));
        assert_eq!(read_file(handle.as_fd(), "nothing", &mut text), Err(Errno::NOENT));
        assert_eq!(read_long(handle.as_fd(), "file", 1 << 20, &mut text), Ok(&vec![b'x'; MAX_RECORD][..]));
        assert_eq!(read_long(handle.as_fd(), "file", 100, &mut text).unwrap().len() % 4096, 0, "in pieces");
        assert_eq!(read_file(handle.as_fd(), ".", &mut text), Err(Errno::INVAL), "a directory is no file");
        fs::remove_dir_all(&directory).unwrap();
    }
}
