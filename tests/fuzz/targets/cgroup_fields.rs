//! Checks the parsers of cgroup files: each value comes from one line, and the other lines do not change it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smaps_container_exporter::cgroupfs::fields::{FIELDS, Values, Version, files, limit};

fuzz_target!(|bytes: &[u8]| {
    for version in [Version::V1, Version::V2] {
        for file in files(version, u8::MAX) {
            let mut whole = Values::default();
            file.parse(bytes, &mut whole);
            // Parsing each line separately gives the same result.
            let mut by_lines = Values::default();
            bytes.split(|&b| b == b'\n').for_each(|line| file.parse(line, &mut by_lines));
            assert_eq!(whole, by_lines);
            for (i, field) in FIELDS.iter().enumerate() {
                let Some(number) = whole.get(i) else { continue };
                let place = field.place(version).expect("a parsed field has a file");
                assert_eq!(place.file, file.name);
                let digits = (number / place.factor).to_string();
                assert!(bytes.windows(digits.len()).any(|window| window == digits.as_bytes()) || number == 0);
            }
        }
    }
    if let Some(limit) = limit(bytes) {
        assert!(
            std::str::from_utf8(bytes).unwrap().trim_start_matches('0').trim_end() == limit.to_string()
                || limit == 0
        );
    }
});
