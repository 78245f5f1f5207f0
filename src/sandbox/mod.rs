//! The sandbox: once all files and sockets are open, the program drops the rights that it no longer needs.
//!
//! Reading other processes' memory maps needs a capability that allows much more than that. An attacker who
//! takes over the program should gain little from this capability. So the program drops all other
//! capabilities, and all system calls that it does not make ([`seccomp`]). It also restricts its access to
//! the file system ([`landlock`]), unless this would prevent it from reading other processes.
//!
//! If the kernel does not support a restriction, a warning is logged, and the program continues without the
//! restriction. A system call that the sandbox does not allow fails with `EPERM`, and the error message says
//! that the sandbox may be the reason.

mod capabilities;
mod landlock;
mod needs;
mod seccomp;

use log::{debug, warn};

pub use self::needs::Needs;
use crate::errors;

/// Drops all rights except `needs`, in this thread and the threads that it starts later. Before this call,
/// open everything that needs more rights: listening sockets and proc.
pub fn enter(needs: &Needs) {
    if let Err(error) = capabilities::reduce(needs) {
        warn!("cannot drop capabilities: {error}");
    }
    // Under Landlock, the program cannot trace processes outside the sandbox. To read these processes with
    // CAP_SYS_PTRACE, it needs the right to trace them. With CAP_PERFMON, it does not. So Landlock is used
    // only with CAP_PERFMON.
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
