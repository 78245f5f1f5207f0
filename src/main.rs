//! The program: turns what [`smaps_container_exporter::run`] returns into an exit code.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use smaps_container_exporter::{Failure, run};

fn main() -> ExitCode {
    run(std::env::args_os().skip(1)).map_or_else(Failure::report, |()| ExitCode::SUCCESS)
}
