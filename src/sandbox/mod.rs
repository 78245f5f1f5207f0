//! Drops the capabilities, system calls ([`seccomp`]) and file accesses ([`landlock`]) that the program does
//! not need. The program may read all processes, but an attacker who takes it over should gain little else.
//!
//! If the kernel does not support a restriction, a warning is logged.

mod capabilities;
mod landlock;
mod needs;
mod seccomp;

use log::{debug, warn};

pub use self::needs::Needs;
use crate::errors;

/// Drops all rights except `needs`, in this thread and threads that it starts later. Open proc and listening
/// sockets before.
pub fn enter(needs: &Needs) {
    if let Err(error) = capabilities::reduce(needs) {
        warn!("cannot drop capabilities: {error}");
    }
    // In a Landlock domain, CAP_PERFMON allows reading processes outside, but CAP_SYS_PTRACE does not.
    if capabilities::reads_by_perfmon() {
        match landlock::enter(needs) {
            Ok(true) => debug!("sandbox: reading only below {:?}", needs.reads),
            Ok(false) => debug!("sandbox: no Landlock, because processes could not be read inside"),
            Err(error) => warn!("cannot restrict the file system: {error}"),
        }
    }
    match seccomp::enter(needs) {
        Ok(()) => errors::blame_sandbox(),
        Err(error) => warn!("cannot restrict system calls: {error}"),
    }
}
