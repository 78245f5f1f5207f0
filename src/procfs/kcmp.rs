//! Which processes share their memory, as `kcmp` tells (man 2 kcmp).

use std::cmp::Ordering;

/// How the address spaces of two processes compare in an order that stays the same until the next boot: equal is one and the same. `None`
/// where it is not told: one has ended, its memory may not be read (`CAP_PERFMON` does not help), or the kernel has no `kcmp`.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "no crate makes this call without it")]
pub fn compare_memory(a: u32, b: u32) -> Option<Ordering> {
    const KCMP_VM: libc::c_long = 1;
    let (a, b) = (libc::c_long::from(a), libc::c_long::from(b));
    // SAFETY: numbers go in, a number comes out; the call touches no memory of this process.
    match unsafe { libc::syscall(libc::SYS_kcmp, a, b, KCMP_VM, 0, 0) } {
        0 => Some(Ordering::Equal),
        1 => Some(Ordering::Less),
        2 => Some(Ordering::Greater),
        _ => None,
    }
}

/// Elsewhere only recordings are read.
#[cfg(not(target_os = "linux"))]
pub fn compare_memory(_: u32, _: u32) -> Option<Ordering> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::procfs::tests::live::Sleep;

    #[test]
    fn a_process_shares_its_memory_with_its_threads_and_nobody_else() {
        let (a, b) = (Sleep::new(), Sleep::new());
        let own = std::process::id();
        let thread = std::thread::spawn(crate::procfs::this_process::this_thread).join().unwrap();
        assert_eq!(compare_memory(own, own), Some(Ordering::Equal));
        let (ab, ba) = (compare_memory(a.pid(), b.pid()), compare_memory(b.pid(), a.pid()));
        assert!(ab.is_some() && ab != Some(Ordering::Equal) && ab == ba.map(Ordering::reverse), "{ab:?}");
        assert_eq!(compare_memory(own, thread), None, "it has ended");
    }
}
