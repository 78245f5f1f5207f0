//! Lists containers by the names of the links that the kubelet makes for their logs. This needs no socket.
//!
//! Each container has a link `<pod>_<namespace>_<container>-<id>.log` in `/var/log/containers`. The link may
//! exist before the container runs, and after the container has ended; then the container has no process.
//! Only the names of the links are read, and the links are never followed. The kubelet cuts a long name to
//! 255 bytes, including `.log` (pkg/kubelet/kuberuntime/legacy.go, `logSymlink`). The end of the id is then
//! missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use log::warn;

use crate::demand::Wake;
use crate::errors::plain;
use crate::sources::{Container, Listing, Source};

/// The number of hexadecimal digits in the id of a container, in all runtimes. An id that is not cut must
/// have exactly this many digits. If shorter ids were accepted, another cgroup could be taken for the cgroup
/// of a container, because the name of any cgroup may consist of a few hexadecimal digits.
const ID_LEN: usize = 64;
/// The length of a name that the kubelet has cut, `.log` included.
const MAX_NAME_LEN: usize = 255;
/// The minimum number of digits of a cut id. Runtimes print short ids with 12 digits. Fewer digits may be the
/// beginning of several ids.
const MIN_CUT_LEN: usize = 12;

/// A source that lists containers by the links that the kubelet makes for container logs. The result of the
/// last listing is stored until the caller takes it.
#[derive(Debug)]
pub struct ContainerLogs {
    directory: PathBuf,
    listed: Option<Result<Listing, String>>,
    has_reported: bool,
}

impl ContainerLogs {
    /// Creates a source that reads the links in `directory`.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), listed: None, has_reported: false }
    }

    fn list(&mut self) -> Result<Listing, String> {
        let fail = |cause: String| format!("cannot list {:?}: {cause}", self.directory);
        let mut listing = Listing::default();
        let (mut n_unrecognized, mut example) = (0, None);
        let links = fs::read_dir(&self.directory).map_err(|error| fail(plain(&error)))?;
        for link in links {
            let name = link.map_err(|error| fail(plain(&error)))?.file_name();
            match name.to_str().and_then(container) {
                Some(container) if container.id.len() == ID_LEN => listing.containers.push(container),
                Some(container) => listing.cut.push(container),
                None => {
                    n_unrecognized += 1;
                    example.get_or_insert(name);
                }
            }
        }
        if let Some(name) = example
            && !std::mem::replace(&mut self.has_reported, true)
        {
            warn!(
                "{n_unrecognized} names in {:?} are not names of container links, for example \
                   {name:?}",
                self.directory
            );
        }
        listing.n_unrecognized = Some(n_unrecognized);
        listing.containers.sort_by(|a, b| a.id.cmp(&b.id));
        listing.containers.dedup_by(|a, b| a.id == b.id);
        Ok(listing)
    }
}

impl Source for ContainerLogs {
    fn lister(&self) -> Option<&'static str> {
        Some("the kubelet")
    }

    fn describe(&self) -> String {
        format!("containers are listed by the names of the kubelet's links in {:?}", self.directory)
    }

    /// Returns true, because the kubelet keeps the link of a container that has ended, until the kubelet
    /// removes the container.
    fn lists_ended_containers(&self) -> bool {
        true
    }

    /// Lists the directory before the call returns. This is fast, because the directory is on a local disk.
    fn begin_listing(&mut self) {
        self.listed = Some(self.list());
    }

    fn is_listing(&self) -> bool {
        false
    }

    fn take_listing(&mut self) -> Option<Result<Listing, String>> {
        self.listed.take()
    }

    fn has_runtime_ended(&mut self) -> bool {
        false
    }

    fn wait_for_listing(&mut self, _: Instant) {}

    fn wait_until(&mut self, deadline: Instant, wake: &Wake) {
        wake.wait_until(deadline);
    }
}

/// Returns the container that a link stands for. If the name is cut, the id of the container has only its
/// first digits. Returns `None` if the name is not the name of a log link.
fn container(file_name: &str) -> Option<Container> {
    let (names, id) = file_name.strip_suffix(".log")?.rsplit_once('-')?;
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_cut = file_name.len() == MAX_NAME_LEN && (MIN_CUT_LEN..ID_LEN).contains(&id.len());
    if !(id.len() == ID_LEN || is_cut) || !id.bytes().all(is_digit) {
        return None;
    }
    // Kubernetes allows no underscore in the names of pods, namespaces and containers.
    let mut names = names.split('_').filter(|name| !name.is_empty());
    let (Some(pod), Some(namespace), Some(name), None) =
        (names.next(), names.next(), names.next(), names.next())
    else {
        return None;
    };
    Some(Container {
        id: id.into(),
        init_pid: None,
        namespace: namespace.into(),
        pod: pod.into(),
        name: name.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn link_names_are_parsed() {
        for (names, expected) in [
            ("web-0_shop_app", ["shop", "web-0", "app"]),
            ("a.b-c_kube-system_side-car-1", ["kube-system", "a.b-c", "side-car-1"]),
        ] {
            let Container { id, init_pid, namespace, pod, name } =
                container(&format!("{names}-{ID}.log")).expect(names);
            assert_eq!((id.as_str(), init_pid), (ID, None));
            assert_eq!([namespace, pod, name], expected);
        }
        for name in [
            String::new(),
            ".log".into(),
            "README".into(),
            "web-0_shop_app.log".into(),
            format!("web-0_shop_app-{ID}"),
            format!("web-0_shop_app-{ID}.log.1"),
            format!("web-0_shop_app-{ID}.LOG"),
            format!("web-0_shop_app-{}.log", &ID[1..]),
            format!("web-0_shop_app-0{ID}.log"),
            format!("web-0_shop_app-{}.log", ID.to_uppercase()),
            format!("web-0_shop_app_{ID}.log"),
            format!("web-0_shop-{ID}.log"),
            format!("web-0_shop__app-{ID}.log").replace("shop", ""),
            format!("a_web-0_shop_app-{ID}.log"),
            format!("-{ID}.log"),
            format!("{ID}.log"),
            "x_y_z-kubepods.log".into(),
        ] {
            assert_eq!(container(&name), None, "{name}");
        }
    }

    #[test]
    fn name_cut_at_255_bytes_has_the_first_digits_of_an_id() {
        let name = |n_digits: usize, len: usize| {
            let names = "_shop_app-";
            let pod = "p".repeat(len - names.len() - n_digits - ".log".len());
            format!("{pod}{names}{}.log", &ID[..n_digits])
        };
        for (n_digits, len, is_known) in [
            (64, 255, true),
            (63, 255, true),
            (12, 255, true),
            (11, 255, false),
            (63, 254, false),
            (63, 256, false),
        ] {
            let found = container(&name(n_digits, len)).map(|container| container.id);
            assert_eq!(
                found.as_deref(),
                is_known.then_some(&ID[..n_digits]),
                "{n_digits} digits, {len} bytes"
            );
        }
    }

    #[test]
    fn unrecognized_names_are_counted() {
        let directory = std::env::temp_dir().join(format!("smaps-links-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let cut = format!("{}_shop_app-{}.log", "p".repeat(255 - 10 - 20 - 4), &ID[..20]);
        for name in [format!("web-0_shop_app-{ID}.log"), cut, "README".into(), "x.log".into()] {
            fs::write(directory.join(name), "").unwrap();
        }
        let Listing { containers, cut, n_unrecognized, .. } = ContainerLogs::new(&directory).list().unwrap();
        assert_eq!((containers.len(), cut.len(), n_unrecognized), (1, 1, Some(2)));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn missing_directory_is_reported_in_one_line() {
        let mut logs = ContainerLogs::new(Path::new("/does/not/exist"));
        assert!(logs.take_listing().is_none());
        logs.begin_listing();
        let error = logs.take_listing().expect("it was listed").unwrap_err();
        assert_eq!(error, r#"cannot list "/does/not/exist": no such file or directory"#);
    }
}
