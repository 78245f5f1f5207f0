//! What the program still does after it has entered the sandbox.

use std::path::{Path, PathBuf};

/// What the sandbox must allow.
#[derive(Debug)]
pub struct Needs {
    /// The program reads the processes of this proc.
    pub proc_path: PathBuf,
    /// The program reads below these directories.
    pub reads: Vec<PathBuf>,
    /// The program connects to one of these sockets, and connects again after the server has restarted.
    pub sockets: Vec<PathBuf>,
    /// The program creates this directory, and files in it.
    pub writes: Option<PathBuf>,
    /// The program accepts connections and answers until a signal ends it.
    pub serves: bool,
}

impl Needs {
    /// Returns the directory in which the recording's directory is created.
    pub fn writes_in(&self) -> Option<&Path> {
        let parent = self.writes.as_deref()?.parent()?;
        Some(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
    }
}
