//! Checks the command line. Accepted arguments must be usable, and other arguments must be rejected with a
//! one-line error.
#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use libfuzzer_sys::fuzz_target;
use smaps_container_exporter::cli::args::{Command, parse};
use smaps_container_exporter::smaps::fields::ALL_FIELDS;

fuzz_target!(|bytes: &[u8]| {
    let args = bytes.split(|&b| b == 0).map(|arg| OsString::from_vec(arg.to_vec()));
    match parse(args) {
        Ok(Command::Run(options)) => {
            let interval = options.scrape_interval.as_secs_f64();
            assert!((0.01..=86_400.0).contains(&interval), "{interval}");
            assert!(options.addr.contains(':'));
            assert!(!options.filters.is_empty());
            assert!(options.fields != 0 && options.fields & !ALL_FIELDS == 0);
            assert!((0.0..=1024.0).contains(&options.cpu_budget) && options.cpu_budget.is_sign_positive());
            assert!(!(options.once && options.record.is_some()));
            let sources =
                [&options.fixture, &options.containerd_sock, &options.cri_sock, &options.container_logs];
            assert!(sources.iter().filter(|source| source.is_some()).count() <= 1);
            assert!(options.node.is_none_or(|name| !name.is_empty() && !name.contains(char::is_control)));
            assert!(!options.containerd_namespaces.is_empty());
            for name in &options.containerd_namespaces {
                let can_be_a_header = name.bytes().all(|b| b.is_ascii_graphic());
                assert!(!name.is_empty() && can_be_a_header, "{name:?}");
            }
        }
        Ok(Command::Help | Command::Version) => {}
        // With `--print`, the program prints a text that contains the argument of `--image`. If this argument
        // has control characters, `parse` must return an error instead.
        Ok(Command::Print(text)) => assert!(text.ends_with('\n') && !text.contains(['\r', '\u{1b}'])),
        Err(error) => {
            let error = error.to_string();
            assert!(!error.is_empty() && !error.contains(['\n', '\r', '\u{1b}']), "{error:?}");
        }
    }
});
