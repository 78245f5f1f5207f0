//! The program: turns what [`smaps_container_exporter::run`] returns into an exit code.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

use smaps_container_exporter::{Failure, run};

fn main() -> ExitCode {
    let (error, code) = match run(std::env::args_os().skip(1)) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(error)) => (error.to_string(), 2),
        Err(Failure::Start(error)) => (error, 1),
        Err(Failure::Signal(received)) => (format!("ended by {}", received.name), received.exit_code),
    };
    // eprintln! would panic where standard error takes nothing, and the exit code would be lost
    let _ = writeln!(std::io::stderr(), "smaps-container-exporter: {error}");
    ExitCode::from(code)
}
