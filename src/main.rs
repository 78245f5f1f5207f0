//! The program's entry point: turns the result of [`smaps_container_exporter::run`] into an exit code.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use smaps_container_exporter::{Failure, run};

fn main() -> ExitCode {
    run(std::env::args_os().skip(1)).map_or_else(Failure::report, |()| ExitCode::SUCCESS)
}
