//! Waits for SIGTERM and SIGINT, which end the program.
//!
//! In a container, the program usually has pid 1. To a process with pid 1, the kernel delivers these signals
//! only if the process has installed handlers for them. So the program installs the handlers before it does
//! anything else.

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
    /// The exit code if the signal interrupts a command that would end by itself, such as `--help`. As in
    /// shells, it is 128 plus the number of the signal.
    pub exit_code: u8,
}

/// The installed signal handlers. A signal that arrives before the program waits for signals is kept until
/// then.
#[derive(Debug)]
pub struct Signals {
    runtime: Runtime,
    handlers: [(Received, Signal); 2],
}

impl Signals {
    /// Installs the signal handlers.
    ///
    /// Fails if the system refuses. The error is a one-line message.
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

    /// Blocks until a signal arrives.
    pub fn wait(mut self) -> Received {
        self.runtime.block_on(poll_fn(|context| poll(&mut self.handlers, context)))
    }

    /// Runs `work` on another thread. Returns the result of `work`, or the signal if a signal arrives first.
    pub fn wait_for<T: Send + 'static>(
        mut self,
        work: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<Result<T, String>, Received> {
        let (sender, receiver) = oneshot::channel();
        // After a signal, nothing receives the result of `work`. Then send() fails, and the error is ignored.
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
