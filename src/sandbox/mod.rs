//! The sandbox: once everything is open, the program drops the rights that it no longer needs.
//!
//! Reading other processes' memory maps needs a capability that allows much more. To limit what an attacker
//! who takes over the program can do, it drops all capabilities except those for reading, and all system
//! calls that it does not make ([`seccomp`]). Where reading still works then, it also restricts the file
//! system ([`landlock`]).
//!
//! A restriction that the kernel does not support is logged as a warning, and the program continues without
//! it. A system call that is not listed fails with `EPERM`, and the error message names the sandbox as a
//! possible reason.

mod capabilities;
mod landlock;
mod needs;
mod seccomp;

use log::{debug, warn};

pub use self::needs::Needs;
use crate::errors;

/// Drops all rights except `needs`, for this thread and those that it starts. Call this after everything that
/// needs more rights is open: listening sockets and proc.
pub fn enter(needs: &Needs) {
    if let Err(error) = capabilities::reduce(needs) {
        warn!("cannot drop capabilities: {error}");
    }
    // CAP_SYS_PTRACE has no effect across a Landlock domain's border, so Landlock is used only with
    // CAP_PERFMON.
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
