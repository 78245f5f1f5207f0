//! Checks that the parser of containers.tsv either returns the exact values in the file, or fails with a
//! one-line error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smaps_container_exporter::sources::recording::parse;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    match parse(bytes) {
        Ok(containers) => {
            let mut expected: Vec<[String; 5]> = text
                .split_inclusive('\n')
                // A carriage return is part of the line's end only if a newline follows.
                .map(|line| line.strip_suffix("\r\n").or(line.strip_suffix('\n')).unwrap_or(line))
                .skip(1)
                .filter(|line| line.contains('\t'))
                .map(|line| {
                    let cells: Vec<String> = line.split('\t').map(String::from).collect();
                    cells.try_into().expect("five columns")
                })
                .collect();
            expected.sort_by(|a, b| a[0].cmp(&b[0]));
            assert_eq!(containers.len(), expected.len());
            for (container, [id, pid, namespace, pod, name]) in containers.iter().zip(&expected) {
                assert_ne!(container.init_pid, Some(0));
                assert_eq!(container.init_pid, (pid != "-").then(|| pid.parse::<u32>().unwrap()));
                let found = [&container.id, &container.namespace, &container.pod, &container.name];
                assert_eq!(found, [id, namespace, pod, name]);
            }
        }
        Err(error) => assert!(error.starts_with("line ") && !error.contains('\n'), "{error:?}"),
    }
});
