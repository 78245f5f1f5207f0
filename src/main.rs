//! The program: turns what [`smaps_container_exporter::run`] returns into an exit code.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use smaps_container_exporter::{Failure, run};

fn main() -> ExitCode {
    match run(std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(error)) => {
            eprintln!("smaps-container-exporter: {error}");
            ExitCode::from(2)
        }
        Err(Failure::Start(error)) => {
            eprintln!("smaps-container-exporter: {error}");
            ExitCode::from(1)
        }
    }
}
