//! Drops all capabilities except those that the program needs. The most important of these allows reading the
//! memory maps of other processes.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::thread::{self, CapabilitySet, CapabilitySets};

use super::Needs;

/// The capabilities that allow reading the memory maps of other users' processes. One of them is enough.
/// CAP_PERFMON allows this only from Linux 6.15 on.
const READING: CapabilitySet = CapabilitySet::SYS_PTRACE.union(CapabilitySet::PERFMON);

/// Reduces the capabilities of this thread, and of the threads that it starts later, to those that the
/// program needs. No capability is added.
pub(super) fn reduce(needs: &Needs) -> io::Result<()> {
    let before = thread::capabilities(None)?.permitted;
    let kept = before & needed(needs);
    // Reducing the bounding set needs CAP_SETPCAP. Without this capability, the set may stay as it is,
    // because the set matters only for executing another program, and the sandbox forbids that.
    if before.contains(CapabilitySet::SETPCAP) {
        for capability in (CapabilitySet::all() - kept).iter() {
            if thread::capability_is_in_bounding_set(capability).unwrap_or(false) {
                thread::remove_capability_from_bounding_set(capability)?;
            }
        }
    }
    // Kernels before 4.3 have no ambient set, so the call may fail.
    let _ = thread::clear_ambient_capability_set();
    let inheritable = CapabilitySet::empty();
    Ok(thread::set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })?)
}

fn needed(needs: &Needs) -> CapabilitySet {
    // When an administrator runs the program as root, it may need other users' files. Examples are the socket
    // of a rootless containerd, and a home directory in which the recording is created.
    let is_foreign = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|metadata| metadata.uid() != rustix::process::geteuid().as_raw())
    };
    let mut needed = READING;
    if needs.sockets.iter().any(|path| is_foreign(path)) || needs.writes_in().is_some_and(is_foreign) {
        needed |= CapabilitySet::DAC_OVERRIDE;
    }
    if needs.sockets.is_empty() {
        needed |= CapabilitySet::DAC_READ_SEARCH;
    }
    needed
}

/// Whether CAP_PERFMON is the only capability that this thread has for reading other processes.
pub(super) fn reads_by_perfmon() -> bool {
    thread::capabilities(None).is_ok_and(|sets| sets.effective & READING == CapabilitySet::PERFMON)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `test` in a new thread, because capabilities belong to threads.
    fn in_thread<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(test).join().unwrap()
    }

    fn needs(sockets: &[&str]) -> Needs {
        Needs {
            proc_path: "/proc".into(),
            reads: Vec::new(),
            sockets: sockets.iter().map(Into::into).collect(),
            writes: None,
            serves: true,
        }
    }

    #[test]
    fn only_needed_capabilities_are_kept() {
        let (before, after) = in_thread(|| {
            let before = thread::capabilities(None).unwrap();
            reduce(&needs(&["/"])).unwrap();
            (before, thread::capabilities(None).unwrap())
        });
        assert_eq!(after.permitted, before.permitted & needed(&needs(&["/"])));
        assert_eq!(after.effective, after.permitted);
        assert_eq!(after.inheritable, CapabilitySet::empty());
        assert!(!after.permitted.intersects(CapabilitySet::SYS_ADMIN | CapabilitySet::SETPCAP));
    }

    #[test]
    fn needed_capabilities_depend_on_sockets() {
        let owner = rustix::process::geteuid().as_raw();
        let ours = format!("/proc/{}", std::process::id());
        assert_eq!(std::fs::metadata(&ours).unwrap().uid(), owner);
        assert_eq!(needed(&needs(&[&ours])), READING);
        assert_eq!(needed(&needs(&[])), READING | CapabilitySet::DAC_READ_SEARCH);
        if owner == 0 {
            assert_eq!(needed(&needs(&["/"])), READING);
        } else {
            assert_eq!(needed(&needs(&["/"])), READING | CapabilitySet::DAC_OVERRIDE);
        }
    }
}
