//! Finds out which mapped files are on tmpfs, from the `mountinfo` file of the process (man 5
//! proc_pid_mountinfo).

use std::os::fd::AsFd as _;

use super::errors::ReadError;
use super::files::{open_file, read_long};
use super::{Buffers, Proc};

/// At most this many bytes of a process's `mountinfo` are read. The file of a process in a container is far
/// shorter, because a container has only dozens of mounts.
const MAX_BYTES: usize = 1 << 20;
/// The maximum number of mounts that are kept for a process. A limit is needed because a workload may mount
/// any number of file systems. The limit is high enough for an agent that mounts the node's root, and that
/// sees two or three mounts for each pod.
const MAX_MOUNTS: usize = 512;
/// The maximum total length of the paths of these mounts.
const MAX_PATH_BYTES: usize = 64 << 10;

/// The tmpfs mounts that a process sees, and the mounts of other file systems at paths below a tmpfs mount.
#[derive(Debug, Default)]
pub struct Mounts {
    kept: Vec<Mount>,
    n_path_bytes: usize,
    is_cut: bool,
}

/// The id of the first mount that a process sees. Processes in one mount namespace have the same first mount,
/// unless a process has changed its root directory with chroot. `None` if `mountinfo` is empty or missing.
/// Recordings have this file only for processes that see a tmpfs.
pub type FirstMount = Option<u64>;

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    path: String,
    is_tmpfs: bool,
}

impl Mounts {
    /// Whether mounts are missing because a limit was reached.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Whether a file with this path lies on tmpfs.
    pub fn is_tmpfs(&self, path: &str) -> bool {
        let is_below = |mount: &&Mount| {
            mount.path == "/"
                || path
                    .strip_prefix(&*mount.path)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        // If several mounts contain the path, the mount with the longest path hides the others. If two mounts
        // have the same path, the later mount hides the earlier one.
        self.kept.iter().filter(is_below).max_by_key(|mount| mount.path.len()).is_some_and(|m| m.is_tmpfs)
    }

    /// Parses the text of a `mountinfo` file.
    fn parse(text: &[u8]) -> Self {
        let mut mounts = Self { is_cut: text.len() >= MAX_BYTES, ..Self::default() };
        text.split(|&b| b == b'\n').for_each(|line| _ = mounts.add(line));
        mounts
    }

    /// Adds a line of a `mountinfo` file. Returns whether the line was kept.
    fn add(&mut self, line: &[u8]) -> bool {
        let Some(mount) = Mount::parse(line) else { return false };
        if !mount.is_tmpfs && !self.is_tmpfs(&mount.path) {
            return false;
        }
        self.n_path_bytes += mount.path.len();
        let has_room = self.kept.len() < MAX_MOUNTS && self.n_path_bytes <= MAX_PATH_BYTES;
        if has_room {
            self.kept.push(mount);
        }
        self.is_cut |= !has_room;
        has_room
    }
}

impl Mount {
    /// Parses `36 35 98:0 /root /mount/point options optional fields - type source options`.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.split(|&b| b == b' ');
        let path = words.nth(4)?;
        let kind = words.skip_while(|word| *word != b"-").nth(1)?;
        let is_tmpfs = kind == b"tmpfs" || kind == b"devtmpfs";
        Some(Self { path: unescaped(path), is_tmpfs })
    }
}

/// Replaces the octal escapes in a path. In `mountinfo`, spaces, tabs, newlines and backslashes are escaped.
/// Newlines stay escaped, because smaps escapes them in the same way.
fn unescaped(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    [("\\040", " "), ("\\011", "\t"), ("\\134", "\\")]
        .iter()
        .fold(text.into_owned(), |text, (octal, plain)| text.replace(octal, plain))
}

impl Proc {
    /// Returns the tmpfs mounts that a process sees.
    ///
    /// Fails if the process has ended.
    pub fn mounts(&self, pid: u32, buffers: &mut Buffers) -> Result<Mounts, ReadError> {
        let process = self.process(pid, buffers)?;
        let mut text = Vec::new();
        let text = read_long(process.as_fd(), "mountinfo", MAX_BYTES, &mut text)?;
        Ok(Mounts::parse(text))
    }

    /// Returns the id of the first mount that a process sees. This takes 4 us.
    ///
    /// Fails if the process has ended.
    pub fn first_mount(&self, pid: u32, buffers: &mut Buffers) -> Result<FirstMount, ReadError> {
        let process = self.process(pid, buffers)?;
        let Ok(file) = open_file(process.as_fd(), "mountinfo") else { return Ok(None) };
        // The id of the first mount is the first word of the file, so a small buffer is enough. It also saves
        // time, because the kernel then prints only the first lines.
        let mut text = [0; 32];
        let n_bytes = rustix::io::read(&file, &mut text)?;
        let id = text[..n_bytes].split(|&b| b == b' ').next().and_then(|id| std::str::from_utf8(id).ok());
        Ok(id.and_then(|id| id.parse().ok()))
    }

    /// Returns the lines of a process's `mountinfo` for tmpfs mounts, and for the mounts below them. A
    /// recording contains only these lines, because [`Proc::mounts`] needs no others.
    ///
    /// Fails if the process has ended.
    pub fn raw_mounts(&self, pid: u32, buffers: &mut Buffers) -> Result<Vec<u8>, ReadError> {
        let process = self.process(pid, buffers)?;
        let mut text = Vec::new();
        let text = read_long(process.as_fd(), "mountinfo", MAX_BYTES, &mut text)?;
        let mut mounts = Mounts::default();
        let lines = text.split_inclusive(|&b| b == b'\n');
        Ok(lines.filter(|line| mounts.add(line.trim_ascii_end())).flatten().copied().collect())
    }

    /// Returns the number of OOM kills on the node since it was booted (`/proc/vmstat`, since Linux 4.13);
    /// `None` if the file does not contain this number.
    pub fn oom_kills(&self, buffers: &mut Buffers) -> Option<u64> {
        let text = read_long(self.root.as_fd(), "vmstat", MAX_BYTES, &mut buffers.text).ok()?;
        let mut lines = text.split(|&b| b == b'\n');
        let digits = lines.find_map(|line| line.strip_prefix(b"oom_kill "))?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
1000 900 0:100 / / rw,relatime master:300 - overlay overlay rw,lowerdir=/a - b
1001 1000 0:101 / /proc rw,nosuid - proc proc rw
1002 1000 0:102 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
1003 1002 0:103 / /dev/mqueue rw,nosuid - mqueue mqueue rw
1004 1002 0:104 / /dev/shm rw,nosuid shared:7 master:8 - tmpfs shm rw,size=65536k
1005 1000 8:1 /x /cache\\040two rw - tmpfs tmpfs rw
1006 1005 8:1 /x /cache\\040two/disk rw - ext4 /dev/sda1 rw
1007 1006 0:107 / /cache\\040two/disk/ram rw - tmpfs tmpfs rw
";

    #[test]
    fn the_nearest_mount_decides() {
        let mounts = Mounts::parse(MOUNTINFO.as_bytes());
        for (path, expected) in [
            ("/usr/lib/libc.so.6", false),
            ("/dev/shm/x", true),
            ("/dev/shm/x (deleted)", true),
            ("/dev/x", true),
            ("/dev/mqueue/x", false),
            ("/devices", false),
            ("/cache two/x", true),
            ("/cache two/disk", false),
            ("/cache two/disk/x", false),
            ("/cache two/disk/ram/x", true),
            ("/cache twofold", false),
            ("[heap]", false),
            ("", false),
        ] {
            assert_eq!(mounts.is_tmpfs(path), expected, "{path:?}");
        }
        assert_eq!((mounts.kept.len(), mounts.is_cut()), (6, false));
        assert!(Mounts::parse(b"1 0 0:1 / / rw - tmpfs none rw\n").is_tmpfs("/x"));
        let over = "1 0 8:1 / /x rw - tmpfs t rw\n2 1 8:1 / /x rw - ext4 d rw\n";
        assert!(!Mounts::parse(over.as_bytes()).is_tmpfs("/x/y"), "mounted over");
        assert_eq!(Mounts::parse(b"\nnonsense\n1 2 3 4 5 6 7\n").kept, []);
    }

    #[test]
    fn only_a_limited_number_of_mounts_is_kept() {
        let text = |n: usize, path: &str| -> String {
            (0..n).map(|i| format!("1 0 0:1 / /{i}{path} rw - tmpfs t rw\n")).collect()
        };
        let long = "x".repeat(4000);
        for (n, path, n_kept, is_cut) in [
            (MAX_MOUNTS, "", MAX_MOUNTS, false),
            (MAX_MOUNTS + 1, "", MAX_MOUNTS, true),
            (16, &*long, 16, false),
            (17, &long, 16, true),
        ] {
            let mounts = Mounts::parse(text(n, path).as_bytes());
            assert_eq!((mounts.kept.len(), mounts.is_cut()), (n_kept, is_cut), "{n} mounts");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn live_proc_shows_kills_and_mounts() {
        let proc = Proc::open(std::path::Path::new("/proc")).unwrap();
        let mut buffers = Buffers::default();
        proc.oom_kills(&mut buffers).expect("this kernel counts");
        let mounts = proc.mounts(std::process::id(), &mut buffers).unwrap();
        assert!(!mounts.is_tmpfs("/proc/x"));
        let first = |pid, buffers: &mut Buffers| proc.first_mount(pid, buffers);
        let own = first(std::process::id(), &mut buffers).unwrap();
        let child = super::super::tests::live::Sleep::new();
        assert_eq!((own.is_some(), first(child.pid(), &mut buffers).unwrap()), (true, own));
    }
}
