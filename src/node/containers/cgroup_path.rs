//! Splits the path of a cgroup into components, and finds the container ids in them.

/// Returns each component of `path`, together with the part of `path` that ends with that component.
pub fn components(path: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut end = 0;
    path.split(|&b| b == b'/').map(move |component| {
        let above = &path[..end + component.len()];
        end = above.len() + 1;
        (component, above)
    })
}

/// Returns `path`, or `/` if `path` is empty, because [`components`] returns the root as an empty path.
pub fn key(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"/" } else { path }
}

/// Returns the path of a container's own cgroup, given the container's id and the cgroup path of one of its
/// processes. The result is `path` up to the first component with this id. The container's limits are set on
/// that cgroup, even if the container has made cgroups below it. Returns `None` if no component has this id.
pub fn named_cgroup<'a>(id: &[u8], path: &'a [u8]) -> Option<&'a [u8]> {
    let found = components(path).find(|(component, _)| !id.is_empty() && id_of(component) == id);
    found.map(|(_, above)| above)
}

/// Returns the container id in a component of a cgroup path, or the whole component if it contains no id. The
/// function recognizes the forms `<id>`, `<runtime>-<id>.scope`, `<runtime>-<id>`, and
/// `<slice>:cri-containerd:<id>`. `<runtime>` is one of the names in `RUNTIMES`. runc makes the last form
/// when the kubelet uses the systemd driver and containerd does not.
///
/// Other forms are not recognized, because the cgroup may not belong to the container. For example,
/// `crio-conmon-<id>.scope` from CRI-O is the cgroup of the container's monitor.
pub fn id_of(component: &[u8]) -> &[u8] {
    const RUNTIMES: [&[u8]; 5] = [b"cri-containerd-", b"crio-", b"docker-", b"nerdctl-", b"libpod-"];
    if let Some(colon) = component.iter().rposition(|&b| b == b':') {
        return &component[colon + 1..];
    }
    let name = component.strip_suffix(b".scope").unwrap_or(component);
    RUNTIMES.iter().find_map(|runtime| name.strip_prefix(*runtime)).unwrap_or(component)
}

/// Returns the first id of a listed container in `path`. `is_listed` says whether an id is listed.
///
/// `is_first` says whether the cgroup at a path belongs to a container although the path does not contain the
/// container's id. If such a cgroup comes before the first id, returns `None`, because the id is then only
/// the name of a cgroup inside that container.
pub fn outermost_id(
    path: &[u8],
    is_listed: impl Fn(&[u8]) -> bool,
    is_first: impl Fn(&[u8]) -> bool,
) -> Option<&[u8]> {
    let mut found = None;
    for (component, above) in components(path) {
        if component == b".." {
            found = None;
        } else if found.is_none() {
            let id = Some(id_of(component)).filter(|id| is_listed(id));
            found = if is_first(key(above)) { Some(None) } else { id.map(Some) };
        }
    }
    found.flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_of_a_container_ends_with_its_id() {
        for (path, expected) in [
            ("/kubepods/pod1/abc", Some("/kubepods/pod1/abc")),
            ("/kubepods/pod1/abc/", Some("/kubepods/pod1/abc")),
            (
                "/kubepods.slice/cri-containerd-abc.scope/app/abc",
                Some("/kubepods.slice/cri-containerd-abc.scope"),
            ),
            ("/../../pod1/crio-abc.scope/container", Some("/../../pod1/crio-abc.scope")),
            ("/kubepods/pod1/abcd", None),
            ("/", None),
        ] {
            assert_eq!(named_cgroup(b"abc", path.as_bytes()), expected.map(str::as_bytes), "{path:?}");
        }
        assert_eq!(named_cgroup(b"", b"/a"), None);
    }
}
