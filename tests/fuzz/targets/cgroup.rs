//! Which cgroup a process is in, and whose it is: against the rules as they are told.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smaps_container_exporter::procfs::cgroup::{Owners, path_of};

fuzz_target!(|bytes: &[u8]| {
    // Up to a NUL the text of a cgroup file; then, a line each, the paths of the containers.
    let mut parts = bytes.splitn(2, |&b| b == 0);
    let text = parts.next().unwrap_or_default();
    let path = path_of(text);
    assert_eq!(path, naive_path(text));

    let claims: Vec<&[u8]> = parts
        .next()
        .unwrap_or_default()
        .split(|&b| b == b'\n')
        .filter(|claim| !claim.is_empty())
        .collect();
    let mut owners = Owners::default();
    for (container, claim) in claims.iter().enumerate() {
        owners.claim(claim, container as u32);
    }
    for path in claims.iter().copied().chain(path) {
        assert_eq!(owners.owner_of(path), naive_owner(&claims, path), "{}", path.escape_ascii());
    }
});

/// The 0:: line's unless that is `/`, else the memory controller's, else systemd's; the first of each kind.
fn naive_path(text: &[u8]) -> Option<&[u8]> {
    let lines: Vec<Vec<&[u8]>> = text
        .split(|&b| b == b'\n')
        .map(|line| line.splitn(3, |&b| b == b':').collect())
        .filter(|line: &Vec<&[u8]>| line.len() == 3 && line[2].starts_with(b"/"))
        .collect();
    let is_unified = |line: &[&[u8]]| line[0] == b"0" && line[1].is_empty();
    let is_memory = |line: &[&[u8]]| line[1] != b"name=systemd" && line[1].split(|&b| b == b',').any(|n| n == b"memory");
    let is_systemd = |line: &[&[u8]]| line[1] == b"name=systemd";
    let first = |is: &dyn Fn(&[&[u8]]) -> bool| lines.iter().find(|line| is(line)).map(|line| line[2]);
    first(&|line| is_unified(line) && line[2] != b"/")
        .or_else(|| first(&is_memory))
        .or_else(|| first(&is_systemd))
        .or_else(|| first(&is_unified))
}

/// The container at the path or at its longest ancestor; what lies above (`..`) is nobody's child.
fn naive_owner(claims: &[&[u8]], path: &[u8]) -> Option<u32> {
    let is_ancestor = |claim: &[u8]| match path.strip_prefix(claim) {
        Some([]) => true,
        Some(below) if claim == b"/" => is_below(below),
        Some([b'/', below @ ..]) => is_below(below),
        _ => false,
    };
    let longest = claims.iter().filter(|claim| is_ancestor(claim)).max_by_key(|claim| claim.len())?;
    claims.iter().position(|claim| claim == longest).map(|container| container as u32)
}

fn is_below(path: &[u8]) -> bool {
    path.split(|&b| b == b'/').all(|component| component != b"..")
}
