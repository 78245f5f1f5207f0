//! Capabilities: all go but those by which other processes are read.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::thread::{self, CapabilitySet, CapabilitySets};

use super::Needs;

/// Either shows the memory maps of other users' processes; the second from Linux 6.15 on.
const READING: CapabilitySet = CapabilitySet::SYS_PTRACE.union(CapabilitySet::PERFMON);

/// Leaves this thread, and the threads that it starts, the capabilities that are needed, if it has them.
pub(super) fn reduce(needs: &Needs) -> io::Result<()> {
    let before = thread::capabilities(None)?.permitted;
    let kept = before & needed(needs);
    // The bounding set counts only when a program is executed, which is forbidden anyway, and takes a right to change.
    if before.contains(CapabilitySet::SETPCAP) {
        for capability in (CapabilitySet::all() - kept).iter() {
            if thread::capability_is_in_bounding_set(capability).unwrap_or(false) {
                thread::remove_capability_from_bounding_set(capability)?;
            }
        }
    }
    // A kernel before 4.3 has no ambient set.
    let _ = thread::clear_ambient_capability_set();
    let inheritable = CapabilitySet::empty();
    Ok(thread::set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })?)
}

fn needed(needs: &Needs) -> CapabilitySet {
    // As root by hand: files of other users, such as a rootless containerd's socket or a recording in somebody's home.
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

/// Whether CAP_PERFMON is all there is to read by.
pub(super) fn reads_by_perfmon() -> bool {
    thread::capabilities(None).is_ok_and(|sets| sets.effective & READING == CapabilitySet::PERFMON)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a thread of its own, which is all that changes.
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
    fn only_reading_is_left() {
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
    fn what_is_needed() {
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
