//! Writes the log to standard error, from a thread of its own.
//!
//! Standard error may be a pipe that nothing reads, for example while containerd is down. So a thread that
//! logs a line only puts the line into a queue, and never waits. When the queue is full, lines are dropped:
//! debug lines first, errors and OOM kills last.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// The target of log lines about OOM kills. These lines have the same rank as errors.
pub const OOM_KILL: &str = "oom_kill";

/// The maximum size of the queue in bytes. The queue has room for about 5,000 lines of 150 bytes, or for five
/// of the longest lines, which are about OOM kills and have at most 200 KiB.
const MAX_BYTES: usize = 1 << 20;
/// The memory that a queued line needs besides its text: its slot in the queue, and the allocator's overhead.
const LINE_OVERHEAD: usize = 64;
/// How long the program waits at its end for the queued lines to be written.
const MAX_FLUSH: Duration = Duration::from_millis(500);

/// The lines that are not written yet.
#[derive(Debug)]
struct Queue {
    /// The lines of each rank, beginning with the lowest rank. When the queue is full, lines of the lowest
    /// rank are dropped first. Within a rank, the oldest line comes first. The number of a line gives its
    /// place among the lines of all ranks.
    lines: [VecDeque<(u64, String)>; 4],
    n_bytes: usize,
    /// The number that the next line gets.
    next: u64,
    n_dropped: u64,
    /// The number of dropped lines that no log line has reported yet.
    n_unreported: u64,
}

impl Queue {
    const fn new() -> Self {
        Self { lines: [const { VecDeque::new() }; 4], n_bytes: 0, next: 0, n_dropped: 0, n_unreported: 0 }
    }

    /// Appends a line. Then, while the queue is too large, drops the oldest line of the lowest rank, which
    /// may be the appended line.
    fn push(&mut self, rank: usize, line: String) {
        self.n_bytes += line.len() + LINE_OVERHEAD;
        self.lines[rank].push_back((self.next, line));
        self.next += 1;
        while self.n_bytes > MAX_BYTES {
            let Some((_, dropped)) = self.lines.iter_mut().find_map(VecDeque::pop_front) else { return };
            self.n_bytes -= dropped.len() + LINE_OVERHEAD;
            self.n_dropped += 1;
            self.n_unreported += 1;
        }
    }

    /// Returns the next line to write. If lines were dropped, this is a line that reports their number;
    /// otherwise it is the oldest line.
    fn pop(&mut self) -> Option<String> {
        if self.n_unreported > 0 {
            let n_dropped = mem::take(&mut self.n_unreported);
            return Some(line(
                Level::Warn,
                format_args!("{n_dropped} log lines were dropped: standard error was not read"),
            ));
        }
        let oldest =
            self.lines.iter_mut().filter(|lines| !lines.is_empty()).min_by_key(|lines| lines[0].0)?;
        let (_, line) = oldest.pop_front()?;
        if oldest.is_empty() {
            oldest.shrink_to(16); // frees the memory of a full queue
        }
        self.n_bytes -= line.len() + LINE_OVERHEAD;
        Some(line)
    }

    fn is_empty(&self) -> bool {
        self.n_unreported == 0 && self.lines.iter().all(VecDeque::is_empty)
    }
}

/// Returns the rank of a line. A full queue drops lines of lower ranks first.
fn rank(level: Level, target: &str) -> usize {
    match level {
        _ if target == OOM_KILL => 3,
        Level::Error => 3,
        Level::Warn => 2,
        Level::Info => 1,
        Level::Debug | Level::Trace => 0,
    }
}

/// Returns the text of a line. Control characters are escaped, so that a name with a newline cannot begin
/// another line.
fn line(level: Level, message: std::fmt::Arguments<'_>) -> String {
    let message = message.to_string();
    let mut line = format!("[{level:<5}] ");
    for char in message.chars() {
        match char.is_control() {
            true => line.extend(char.escape_default()),
            false => line.push(char),
        }
    }
    line.push('\n');
    line
}

struct State {
    queue: Queue,
    /// Whether a line was removed from the queue and is still being written.
    is_writing: bool,
    has_thread: bool,
}

struct Logger {
    state: Mutex<State>,
    /// Notified when a line was queued.
    queued: Condvar,
    /// Notified when the queue is empty and the last line is written.
    written: Condvar,
}

static LOGGER: Logger = Logger {
    state: Mutex::new(State { queue: Queue::new(), is_writing: false, has_thread: false }),
    queued: Condvar::new(),
    written: Condvar::new(),
};

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.push(rank(record.level(), record.target()), line(record.level(), *record.args()));
        }
    }

    fn flush(&self) {}
}

impl Logger {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, rank: usize, line: String) {
        self.lock().queue.push(rank, line);
        self.queued.notify_one();
    }

    /// Writes the queued lines, waits for further lines, and never returns.
    fn run(&self) {
        let mut state = self.lock();
        loop {
            state = self.drain(state);
            state = self.queued.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes lines until the queue is empty. The lock is not held while a line is written.
    fn drain<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while let Some(line) = state.queue.pop() {
            state.is_writing = true;
            drop(state);
            write(line.as_bytes());
            state = self.lock();
            state.is_writing = false;
        }
        self.written.notify_all();
        state
    }
}

/// Makes this module the logger for lines that are at least as severe as `level`. Lines stay in the queue
/// until [`start`] is called.
pub fn init(level: LevelFilter) {
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(level);
    }
}

/// Starts the thread that writes the queued lines. Drop capabilities before this call, because the new thread
/// inherits the capabilities of the calling thread.
///
/// Fails with the system's error if the thread cannot be started.
pub fn start() -> io::Result<()> {
    let mut state = LOGGER.lock();
    if !state.has_thread {
        thread::Builder::new().name("log".into()).spawn(|| LOGGER.run())?;
        state.has_thread = true;
    }
    Ok(())
}

/// Waits until all queued lines are written. Waits at most half a second, because there may be nothing that
/// reads standard error.
pub fn flush() {
    if start().is_err() {
        drop(LOGGER.drain(LOGGER.lock()));
    }
    let is_left = |state: &mut State| state.is_writing || !state.queue.is_empty();
    let _ = LOGGER.written.wait_timeout_while(LOGGER.lock(), MAX_FLUSH, is_left);
}

/// Queues the last line of the program, and waits until all lines are written, at most half a second.
pub fn end_with(line: String) {
    LOGGER.push(rank(Level::Error, ""), line + "\n");
    flush();
}

/// Returns the number of lines that were dropped since the start of the program.
pub fn n_dropped() -> u64 {
    LOGGER.lock().queue.n_dropped
}

/// Writes to standard error without locking Rust's handle of it, because a thread that holds that lock may be
/// blocked for good. Text that cannot be written is lost.
fn write(mut text: &[u8]) {
    let stderr = io::stderr();
    while !text.is_empty() {
        match rustix::io::write(&stderr, text) {
            Ok(n) => text = &text[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                // This error means that standard error is a full pipe, and that another program has made the
                // pipe non-blocking. poll() waits until there is room in the pipe.
                if poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None)
                    .is_err_and(|error| error != Errno::INTR)
                {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn lines_are_written_in_their_order() {
        let mut queue = Queue::new();
        for (i, rank) in [1, 0, 3, 1, 2, 0].into_iter().enumerate() {
            queue.push(rank, i.to_string());
        }
        assert_eq!(drain(&mut queue), ["0", "1", "2", "3", "4", "5"]);
        assert!(queue.is_empty() && queue.n_bytes == 0);
    }

    #[test]
    fn a_full_queue_drops_debug_lines_first_and_oom_kills_last() {
        let mut queue = Queue::new();
        let long = |name: &str| name.repeat((MAX_BYTES / 5 - LINE_OVERHEAD) / name.len());
        // The queue has room for five lines.
        for (level, target, name) in [
            (Level::Warn, "x", "w"),
            (Level::Debug, "x", "d"),
            (Level::Info, "x", "i"),
            (Level::Warn, OOM_KILL, "o"),
            (Level::Error, "x", "e"),
            (Level::Debug, "x", "D"),
            (Level::Info, "x", "I"),
            (Level::Info, "x", "J"),
            (Level::Trace, "x", "t"),
            (Level::Warn, "x", "W"),
            (Level::Error, "x", "E"),
        ] {
            queue.push(rank(level, target), long(name));
        }
        let written = drain(&mut queue);
        assert_eq!(written[0], "[WARN ] 6 log lines were dropped: standard error was not read\n");
        let names: String = written[1..].iter().map(|line| &line[..1]).collect();
        assert_eq!(names, "woeWE");
        assert_eq!((queue.n_dropped, queue.n_bytes), (6, 0));
        queue.push(0, "next".into());
        assert_eq!(drain(&mut queue), ["next"], "it is reported once");
    }

    #[test]
    fn a_line_that_is_longer_than_the_queue_is_dropped() {
        let mut queue = Queue::new();
        queue.push(3, "x".repeat(MAX_BYTES + 1));
        assert_eq!((drain(&mut queue).len(), queue.n_dropped, queue.n_bytes), (1, 1, 0));
    }

    #[test]
    fn a_message_is_one_line() {
        let text = line(Level::Info, format_args!("pod {}", "a\nb\u{1b}[31m\u{e9}\u{85}"));
        assert_eq!(text, "[INFO ] pod a\\nb\\u{1b}[31m\u{e9}\\u{85}\n");
    }
}
