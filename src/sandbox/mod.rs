//! The sandbox: once everything is open, the program gives up what it does not need.
//!
//! Reading other processes' memory maps takes a capability that can do much more. So that whoever takes the program over
//! gains little: capabilities go except those that reading needs, system calls go except those that the program makes
//! ([`seccomp`]), and where that does not get in the way of reading, so does the rest of the file system ([`landlock`]).
//!
//! What a kernel cannot do is warned of once; the program goes on without it. A system call that the list lacks fails with
//! `EPERM`, and whatever fails so says that the sandbox may be the reason.

mod capabilities;
mod landlock;
mod seccomp;

use std::path::{Path, PathBuf};

use log::{debug, warn};

use crate::cli::options::Options;
use crate::errors;
use crate::scrape::open;

/// What the program still does inside.
struct Needs {
    /// It reads below these directories.
    reads: Vec<PathBuf>,
    /// It connects to one of these sockets, again whenever its server restarts.
    sockets: Vec<PathBuf>,
    /// It makes a directory here, and files in it.
    writes: Option<PathBuf>,
    /// It accepts connections and answers until it is told to end.
    serves: bool,
}

impl Needs {
    fn of(options: &Options) -> Self {
        let mut reads = vec![PathBuf::from("/proc"), PathBuf::from("/sys/fs/cgroup")];
        reads.push(options.fixture.clone().unwrap_or_else(|| options.proc_path.clone()));
        reads.extend(options.container_logs.clone());
        if options.cgroup_metrics != 0 {
            reads.push(open::cgroup_path(options));
        }
        Needs {
            reads,
            sockets: open::sockets(options),
            writes: options.record.clone(),
            serves: options.record.is_none() && !options.once,
        }
    }

    /// The directory in which the recording's directory is made.
    fn writes_in(&self) -> Option<&Path> {
        let parent = self.writes.as_deref()?.parent()?;
        Some(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
    }
}

/// Gives up what `options` do not need, for this thread and those that it starts; nothing with `--sandbox off`.
///
/// It is called when everything is open that takes more rights than going on: sockets that are listened on, proc.
pub fn enter(options: &Options) {
    if !options.sandbox {
        return;
    }
    let needs = Needs::of(options);
    if let Err(error) = capabilities::reduce(&needs) {
        warn!("cannot give up capabilities: {error}");
    }
    // Inside a Landlock domain CAP_SYS_PTRACE is worth nothing, so it is for those who read by CAP_PERFMON.
    if capabilities::reads_by_perfmon() {
        match landlock::enter(&needs, &options.proc_path) {
            Ok(true) => debug!("sandbox: reading only below {:?}", needs.reads),
            Ok(false) => debug!("sandbox: no Landlock, processes could not be read inside"),
            Err(error) => warn!("cannot restrict what is read: {error}"),
        }
    }
    match seccomp::enter(&needs) {
        Ok(()) => errors::blame_sandbox(),
        Err(error) => warn!("cannot restrict system calls: {error}"),
    }
}
