//! What the program still does after it has entered the sandbox.

use std::path::{Path, PathBuf};

/// What the sandbox must allow.
#[derive(Debug)]
pub struct Needs {
    /// The proc file system in which the program reads processes.
    pub proc_path: PathBuf,
    /// The directories below which the program reads.
    pub reads: Vec<PathBuf>,
    /// The program connects to one of these sockets, and connects to it again after the server has restarted.
    pub sockets: Vec<PathBuf>,
    /// The directory that the program creates for `--record`, and in which it creates files.
    pub writes: Option<PathBuf>,
    /// Whether the program accepts connections and answers requests until a signal ends it.
    pub serves: bool,
}

impl Needs {
    /// Returns the parent of the directory that the program creates. Returns `None` if the program creates no
    /// directory.
    pub fn writes_in(&self) -> Option<&Path> {
        let parent = self.writes.as_deref()?.parent()?;
        Some(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
    }
}
