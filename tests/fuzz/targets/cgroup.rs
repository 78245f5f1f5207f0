//! Which cgroup a process is in, and whose it is: against the rules as they are told.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use smaps_container_exporter::node::owners::{Container, Owners};
use smaps_container_exporter::procfs::cgroup::path_of;
use smaps_container_exporter::sources;

fuzz_target!(|bytes: &[u8]| {
    // Up to a NUL the text of a cgroup file; then a line for each container: its id, a space, the first cgroup of its init process.
    let mut parts = bytes.splitn(2, |&b| b == 0);
    let text = parts.next().unwrap_or_default();
    let path = path_of(text);
    assert_eq!(path, naive_path(text));

    let claims: Vec<(String, Vec<u8>)> = parts
        .next()
        .unwrap_or_default()
        .split(|&b| b == b'\n')
        .filter_map(|line| {
            let space = line.iter().position(|&b| b == b' ')?;
            Some((String::from_utf8(line[..space].to_vec()).ok()?, line[space + 1..].to_vec()))
        })
        .collect();
    let mut owners = Owners::default();
    for (i, (id, first_cgroup)) in claims.iter().enumerate() {
        let listed = sources::Container {
            id: id.clone(),
            init_pid: None,
            namespace: String::new(),
            pod: String::new(),
            name: i.to_string(),
        };
        owners.claim(&Arc::new(Container::new(listed, true)), Some(first_cgroup));
    }
    for path in claims.iter().map(|(_, path)| path.as_slice()).chain(path) {
        let owner = owners.owner_of(path).map(|owner| owner.listed.name.parse().unwrap());
        assert_eq!(owner, naive_owner(&claims, path), "{}", path.escape_ascii());
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

/// From the innermost component outwards: the container whose first cgroup ends there and is not named by its id, or the one whose
/// id stands there. What lies above (`..`) is nobody's child.
fn naive_owner(claims: &[(String, Vec<u8>)], path: &[u8]) -> Option<usize> {
    let components: Vec<&[u8]> = path.split(|&b| b == b'/').collect();
    for n in (2..=components.len()).rev() {
        let (above, last) = (components[..n].join(&b'/'), components[n - 1]);
        let is_named = |id: &str, path: &[u8]| {
            let stands_for = |component: &[u8]| match without_runtime(component) {
                Some(rest) => rest == id.as_bytes(),
                None => component == id.as_bytes(),
            };
            !id.is_empty() && path.split(|&b| b == b'/').any(stands_for)
        };
        let by_path = claims.iter().position(|(id, first)| {
            let is_root = first.split(|&b| b == b'/').all(|c| c.is_empty() || c == b"..");
            *first == above && !is_root && !is_named(id, first)
        });
        if let Some(owner) = by_path.or_else(|| claims.iter().position(|(id, _)| is_named(id, last))) {
            return Some(owner);
        }
        if last == b".." {
            return None;
        }
    }
    None
}

/// What follows a runtime's name, in the name of a scope or of a directory.
fn without_runtime(component: &[u8]) -> Option<&[u8]> {
    let name = component.strip_suffix(b".scope").unwrap_or(component);
    let runtimes: [&[u8]; 5] = [b"libpod-", b"nerdctl-", b"docker-", b"crio-", b"cri-containerd-"];
    runtimes.iter().find_map(|runtime| name.strip_prefix(*runtime))
}
