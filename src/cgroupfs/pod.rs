//! The memory of a pod, and how much of it is charged to none of the pod's running containers. This module
//! does no I/O.

use super::fields::{ANON, CURRENT, FILE, KERNEL, SHMEM, Values};

/// The label values of the parts of a pod's memory outside its running containers, in the order in which the
/// parts are exported.
pub const PARTS: [&str; 5] = ["anon", "page_cache", "shmem", "kernel", "remainder"];

/// The memory of a pod outside its running containers, in bytes for each of the [`PARTS`]. The size of a part
/// that the kernel does not print is `None`.
pub type Outside = [Option<i64>; PARTS.len()];

/// What is exported about a pod.
#[derive(Clone, Copy, Debug)]
pub struct Exported<'a> {
    /// The label text of the pod's samples, without the closing brace.
    pub labels: &'a str,
    /// The label with the pod's uid, and the closing brace. If the cgroup's name does not show the uid, this
    /// text is empty, and the pod has no sample of `smaps_exporter_pod_info`.
    pub uid_label: &'a str,
    /// The values of the pod's cgroup.
    pub values: &'a Values,
    /// The memory that is charged to the pod but to none of its running containers; `None` if a container of
    /// the pod could not be read.
    pub outside: Option<Outside>,
}

/// Returns the memory that is charged to a pod but to none of its running containers, divided into the
/// [`PARTS`]. The sum of the parts is the memory charged to the pod minus the memory charged to its
/// containers. The part `remainder` may be negative, because the cgroups are not read at the same moment.
///
/// Returns `None` if one of the cgroups does not show how much memory is charged to it.
pub fn outside<'a>(pod: &Values, containers: impl Iterator<Item = &'a Values>) -> Option<Outside> {
    let mut rest = kinds(pod);
    for container in containers {
        for (rest, bytes) in rest.iter_mut().zip(kinds(container)) {
            *rest = rest.zip(bytes).map(|(rest, bytes)| rest.saturating_sub(bytes));
        }
    }
    let [all, named @ ..] = rest;
    let named = named.map(|bytes| bytes.map(|bytes| bytes.max(0)));
    let sum: i64 = named.iter().flatten().sum();
    let [anon, page_cache, shmem, kernel] = named;
    Some([anon, page_cache, shmem, kernel, Some(all?.saturating_sub(sum))])
}

/// Returns the charged bytes in this order: all memory, anonymous memory, page cache, tmpfs with shared
/// memory, kernel memory.
fn kinds(values: &Values) -> [Option<i64>; PARTS.len()] {
    let get = |field| values.get(field).map(|bytes| bytes.min(i64::MAX as u64 / 8) as i64);
    let shmem = get(SHMEM);
    // The kernel's `file` includes tmpfs and shared memory.
    let page_cache = get(FILE).map(|file| file - shmem.unwrap_or(0));
    [get(CURRENT), get(ANON), page_cache, shmem, get(KERNEL)]
}

/// Returns the uid of a pod from the name of its cgroup. The kubelet names the cgroup `pod<uid>`. With the
/// systemd driver the name is `kubepods-burstable-pod<uid>.slice`, and the uid has underscores in place of
/// dashes. The uid of a static pod is a hash of its manifest, without dashes.
pub fn uid_of(path: &[u8]) -> Option<String> {
    let name = path.rsplit(|&b| b == b'/').next().unwrap_or_default();
    let name = std::str::from_utf8(name).ok()?;
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let (before, uid) = name.rsplit_once("pod")?;
    let uid = uid.replace('_', "-");
    let is_uid = match uid.len() {
        36 => {
            uid.char_indices().all(|(i, c)| if [8, 13, 18, 23].contains(&i) { c == '-' } else { is_hex(c) })
        }
        32 => uid.chars().all(is_hex),
        _ => false,
    };
    (is_uid && (before.is_empty() || before.ends_with('-'))).then_some(uid)
}

fn is_hex(c: char) -> bool {
    matches!(c, '0'..='9' | 'a'..='f')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroupfs::fields::values;

    fn of(current: u64, stat: &str) -> Values {
        values(&[("memory.current", &format!("{current}\n")), ("memory.stat", stat)])
    }

    #[test]
    fn memory_outside_the_containers_is_the_difference() {
        // The pod has 91 bytes of tmpfs. An ended container has left 90 of them, and a running one uses 1.
        let pod = of(100, "anon 3\nfile 93\nshmem 91\nkernel 2\n");
        let containers =
            [of(4, "anon 2\nfile 1\nshmem 1\nkernel 1\n"), of(1, "anon 1\nfile 0\nshmem 0\nkernel 0\n")];
        for (containers, expected) in [
            (&containers[..], [Some(0), Some(2), Some(90), Some(1), Some(2)]),
            (&[], [Some(3), Some(2), Some(91), Some(2), Some(2)]),
            (
                &[of(97, "anon 9\nfile 80\nshmem 80\nkernel 1\n")],
                [Some(0), Some(2), Some(11), Some(1), Some(-11)],
            ),
        ] {
            let parts = outside(&pod, containers.iter()).unwrap();
            assert_eq!(parts, expected);
            let charged: u64 = containers.iter().filter_map(|values| values.get(CURRENT)).sum();
            assert_eq!(parts.iter().flatten().sum::<i64>(), 100 - charged as i64);
        }
        let older = of(100, "anon 3\nfile 93\nshmem 91\n");
        assert_eq!(outside(&older, [].into_iter()), Some([Some(3), Some(2), Some(91), None, Some(4)]));
        assert_eq!(outside(&Values::default(), [].into_iter()), None);
        assert_eq!(outside(&pod, [Values::default()].iter()), None, "a container is unknown");
    }

    #[test]
    fn the_name_of_a_pods_cgroup_has_its_uid() {
        let uid = "0f3a1b2c-4d5e-6f70-8192-a3b4c5d6e7f8";
        let escaped = uid.replace('-', "_");
        for (path, expected) in [
            (format!("kubepods/burstable/pod{uid}"), Some(uid)),
            (format!("kubepods/pod{uid}"), Some(uid)),
            (format!("kubepods.slice/kubepods-pod{escaped}.slice"), Some(uid)),
            (format!("a/kubepods-besteffort-pod{escaped}.slice"), Some(uid)),
            (format!("kubepods/pod{}", "0a".repeat(16)), Some(&*"0a".repeat(16))),
            (format!("kubepods/xpod{uid}"), None),
            (format!("kubepods/pod{}", &uid[1..]), None),
            (format!("kubepods/pod{}", uid.replace('a', "A")), None),
            ("kubepods.slice".to_owned(), None),
            ("system.slice/docker-1.scope".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(uid_of(path.as_bytes()).as_deref(), expected, "{path}");
        }
    }
}
