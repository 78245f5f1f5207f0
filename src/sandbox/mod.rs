//! The sandbox: once everything is open, the program gives up what it does not need.
//!
//! Reading other processes' memory maps takes a capability that can do much more. So that whoever takes the
//! program over gains little: capabilities go except those that reading needs, system calls go except those
//! that the program makes ([`seccomp`]), and where that does not get in the way of reading, so does the rest
//! of the file system ([`landlock`]).
//!
//! What a kernel cannot do is warned of once; the program goes on without it. A system call that the list
//! lacks fails with `EPERM`, and whatever fails so says that the sandbox may be the reason.

mod capabilities;
mod landlock;
mod needs;
mod seccomp;

use log::{debug, warn};

pub use self::needs::Needs;
use crate::errors;

/// Gives up everything else than `needs`, for this thread and those that it starts. Everything that takes
/// more rights must be open already: sockets that are listened on, proc.
pub fn enter(needs: &Needs) {
    if let Err(error) = capabilities::reduce(needs) {
        warn!("cannot give up capabilities: {error}");
    }
    // Inside a Landlock domain CAP_SYS_PTRACE is worth nothing, so it is for those who read by CAP_PERFMON.
    if capabilities::reads_by_perfmon() {
        match landlock::enter(needs) {
            Ok(true) => debug!("sandbox: reading only below {:?}", needs.reads),
            Ok(false) => debug!("sandbox: no Landlock, processes could not be read inside"),
            Err(error) => warn!("cannot restrict what is read: {error}"),
        }
    }
    match seccomp::enter(needs) {
        Ok(()) => errors::blame_sandbox(),
        Err(error) => warn!("cannot restrict system calls: {error}"),
    }
}
