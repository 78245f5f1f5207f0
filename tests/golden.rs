//! Expositions of the fixtures, held against golden files.

use std::fs;

use crate::support::{Directory, assert_golden, fixture, once, smaps_fixtures};

#[test]
fn smaps_of_other_kernels() {
    for (name, text) in smaps_fixtures() {
        let recording = Directory::new();
        recording.one_container();
        recording.process(1, &name[..name.len().min(15)], &text);
        assert_golden(&format!("smaps/{name}.prom"), &once(recording.path(), &[]));
    }
}

/// Every golden file has a fixture: a renamed one leaves nothing behind.
#[test]
fn no_golden_file_is_left_over() {
    let names: Vec<String> = smaps_fixtures().into_iter().map(|(name, _)| name).collect();
    for entry in fs::read_dir(fixture("smaps")).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        assert!(names.iter().any(|name| name == stem), "{path:?}");
    }
}
