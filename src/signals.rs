//! SIGTERM and SIGINT, which end the program.
//!
//! In a container, the program usually has the pid 1. The kernel delivers these signals to such a process
//! only if it has handlers for them. So the handlers are installed before anything else.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use std::thread;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::errors::plain;

/// A signal that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The name of the signal, such as `SIGTERM`.
    pub name: &'static str,
    /// The exit code if the signal ends the program before its work is done: 128 plus the signal's number, as
    /// in shells.
    pub exit_code: u8,
}

/// The signal handlers. They stay installed, so a signal that arrives before the program waits for it is
/// kept.
#[derive(Debug)]
pub struct Signals {
    runtime: Runtime,
    handlers: [(Received, Signal); 2],
}

impl Signals {
    /// Installs the handlers.
    ///
    /// Fails with one line if the system refuses.
    pub fn install() -> Result<Self, String> {
        let install = || -> io::Result<Self> {
            let runtime = Builder::new_current_thread().enable_io().build()?;
            let inside = runtime.enter();
            let terminate = (Received { name: "SIGTERM", exit_code: 143 }, signal(SignalKind::terminate())?);
            let interrupt = (Received { name: "SIGINT", exit_code: 130 }, signal(SignalKind::interrupt())?);
            drop(inside);
            Ok(Self { runtime, handlers: [terminate, interrupt] })
        };
        install().map_err(|error| format!("cannot handle signals: {}", plain(&error)))
    }

    /// Waits for a signal.
    pub fn wait(mut self) -> Received {
        self.runtime.block_on(poll_fn(|context| poll(&mut self.handlers, context)))
    }

    /// Runs `work` on another thread. Returns its result, or the signal if one arrives first.
    pub fn wait_for<T: Send + 'static>(
        mut self,
        work: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<Result<T, String>, Received> {
        let (sender, receiver) = oneshot::channel();
        // After a signal the receiver is gone, so the result is dropped.
        let work = move || _ = sender.send(work());
        if let Err(error) = thread::Builder::new().spawn(work) {
            return Ok(Err(format!("cannot start a thread: {}", plain(&error))));
        }
        let mut receiver = pin!(receiver);
        self.runtime.block_on(poll_fn(|context| match receiver.as_mut().poll(context) {
            Poll::Ready(result) => {
                Poll::Ready(Ok(result.unwrap_or_else(|_| Err("a thread ended without a result".into()))))
            }
            Poll::Pending => poll(&mut self.handlers, context).map(Err),
        }))
    }
}

fn poll(handlers: &mut [(Received, Signal)], context: &mut Context<'_>) -> Poll<Received> {
    for (received, signal) in handlers {
        if signal.poll_recv(context).is_ready() {
            return Poll::Ready(*received);
        }
    }
    Poll::Pending
}
