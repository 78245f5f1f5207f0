//! Wakes another thread, which may wait for other events at the same time.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// A pair of connected sockets. A byte written to one socket wakes the thread that polls the other socket.
/// That thread may also poll other descriptors, or wait in an asynchronous runtime.
#[derive(Debug)]
pub struct Wake {
    sender: UnixStream,
    receiver: UnixStream,
}

impl Wake {
    /// Creates the two connected sockets. Fails with the system's error if no file descriptor is left.
    pub fn new() -> io::Result<Self> {
        let (sender, receiver) = UnixStream::pair()?;
        sender.set_nonblocking(true)?;
        receiver.set_nonblocking(true)?;
        Ok(Self { sender, receiver })
    }

    /// Wakes the thread that waits on this `Wake`. If no thread waits, the next wait ends immediately, unless
    /// [`Wake::clear`] is called before that wait.
    pub fn wake(&self) {
        // The write fails if the buffer is full; then the descriptor is readable already.
        let _ = (&self.sender).write(&[0]);
    }

    /// Makes the descriptor unreadable again. The thread that was woken must call this before it checks what
    /// has changed. Otherwise a later wake could be lost.
    pub fn clear(&self) {
        while (&self.receiver).read(&mut [0; 64]).is_ok_and(|n_bytes| n_bytes == 64) {}
    }

    /// Waits until the next wake or until `deadline`, and clears the wake. A signal may end the wait early.
    pub fn wait_until(&self, deadline: Instant) {
        let timeout = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        let _ = poll(&mut [PollFd::new(self, PollFlags::IN)], Some(&timeout));
        self.clear();
    }

    /// Waits for the next wake, and clears it. Meanwhile the asynchronous runtime runs its other tasks. Fails
    /// with the system's error if no file descriptor is left.
    pub async fn woken(&self) -> io::Result<()> {
        let receiver = tokio::net::UnixStream::from_std(self.receiver.try_clone()?)?;
        receiver.readable().await?;
        self.clear();
        Ok(())
    }
}

/// The descriptor becomes readable when [`Wake::wake`] is called.
impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NONE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

    fn is_readable(wake: &Wake) -> bool {
        poll(&mut [PollFd::new(wake, PollFlags::IN)], Some(&NONE)) == Ok(1)
    }

    #[test]
    fn many_wakes_end_one_wait() {
        let wake = Wake::new().unwrap();
        for n_wakes in [1, 2, 64, 65, 100_000] {
            assert!(!is_readable(&wake));
            (0..n_wakes).for_each(|_| wake.wake());
            assert!(is_readable(&wake), "{n_wakes} wakes");
            let begun = Instant::now();
            wake.wait_until(begun + Duration::from_secs(60));
            assert!(begun.elapsed() < Duration::from_secs(60), "{n_wakes} wakes");
        }
        assert!(!is_readable(&wake));
    }

    #[test]
    fn a_runtime_is_woken_before_and_during_its_wait() {
        let wake = Wake::new().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        wake.wake();
        runtime.block_on(wake.woken()).unwrap();
        assert!(!is_readable(&wake));
        std::thread::scope(|scope| {
            scope.spawn(|| runtime.block_on(wake.woken()).unwrap());
            wake.wake();
        });
        assert!(!is_readable(&wake));
    }

    #[test]
    fn a_wait_without_a_wake_ends_at_its_deadline() {
        let wake = Wake::new().unwrap();
        let deadline = Instant::now() + Duration::from_millis(1);
        wake.wait_until(deadline);
        assert!(Instant::now() >= deadline);
        wake.wait_until(deadline); // the deadline has passed
    }

    #[test]
    fn a_wake_from_another_thread_ends_a_wait() {
        let wake = Wake::new().unwrap();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| wake.wait_until(begun + Duration::from_secs(60)));
            wake.wake();
        });
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
}
