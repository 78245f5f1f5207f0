//! Parses the values of options. Each function returns `None` if the value is invalid.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use super::duration;
use crate::cgroupfs::fields::{GROUPS, GroupMask};
use crate::http::is_host_name;
use crate::smaps::fields::{self, ALL_FIELDS, FieldMask};
use crate::totals::grouping::GroupBy;

pub(super) fn addr(value: &OsStr) -> Option<String> {
    let value = value.to_str()?;
    let (host, port) = value.rsplit_once(':')?;
    let host_is_a_name = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let port_is_a_number = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    (port_is_a_number && host_is_a_name || value.parse::<SocketAddr>().is_ok()).then(|| value.into())
}

pub(super) fn path(value: &OsStr) -> Option<PathBuf> {
    (!value.is_empty()).then(|| value.into())
}

/// Parses the path of a socket. It may be written as an address, as in the kubelet's options:
/// `unix:///run/crio/crio.sock`.
pub(super) fn socket(value: &OsStr) -> Option<PathBuf> {
    let path = match value.as_bytes().strip_prefix(b"unix://") {
        Some(path) => OsStr::from_bytes(path),
        None => value,
    };
    // tcp:// and npipe:// addresses are not paths.
    let is_address = path.to_str().is_some_and(|path| path.contains("://"));
    (!path.is_empty() && !is_address).then(|| path.into())
}

/// The shortest scrape interval that is accepted. A scrape of any node takes longer than this.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
pub(super) const LONGEST_INTERVAL: Duration = Duration::from_secs(24 * 3600);

pub(super) fn duration(value: &OsStr) -> Option<Duration> {
    duration::parse(value.to_str()?)
}

pub(super) fn scrape_interval(value: &OsStr) -> Option<Duration> {
    duration(value).filter(|interval| (SHORTEST_INTERVAL..=LONGEST_INTERVAL).contains(interval))
}

pub(super) fn log_level(value: &OsStr) -> Option<LevelFilter> {
    // Upper case is accepted, because the earlier version of this program, written in Go, accepted it.
    Some(match value.to_str()?.to_ascii_lowercase().as_str() {
        "debug" => LevelFilter::Debug,
        "info" => LevelFilter::Info,
        "warn" | "warning" => LevelFilter::Warn,
        "error" => LevelFilter::Error,
        "none" => LevelFilter::Off,
        _ => return None,
    })
}

/// Accepts only the characters that containerd allows in a namespace, because the namespace becomes a gRPC
/// header.
pub(super) fn containerd_namespace(value: &OsStr) -> Option<String> {
    let name = value.to_str()?;
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (!name.is_empty() && name.bytes().all(is_valid)).then(|| name.into())
}

pub(super) fn host_name(value: &OsStr) -> Option<String> {
    let name = value.to_str()?;
    is_host_name(name).then(|| name.to_ascii_lowercase())
}

pub(super) fn switch(value: &OsStr) -> Option<bool> {
    Some(match value.to_str()? {
        "on" => true,
        "off" => false,
        _ => return None,
    })
}

/// Accepts node names of up to 253 bytes, as Kubernetes does. All characters except control characters are
/// allowed, because the node need not belong to a Kubernetes cluster.
pub(super) fn node(value: &OsStr) -> Option<String> {
    let name = value.to_str()?;
    ((1..=253).contains(&name.len()) && !name.contains(char::is_control)).then(|| name.into())
}

/// Accepts a reference to an image. Rejects a URL. Also rejects upper-case letters in the name of the image,
/// because no kubelet accepts them. The registry, the tag and the digest may have upper-case letters.
/// `--print` inserts the reference into a quoted YAML string without escapes. None of the accepted characters
/// needs escaping there.
pub(super) fn image(value: &OsStr) -> Option<String> {
    let name = value.to_str()?;
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/:@".contains(&byte);
    let is_part = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphanumeric())
            && part.ends_with(|last: char| last.is_ascii_alphanumeric())
    };
    let (first, rest) = name.split_once('/').unwrap_or(("", name));
    let is_registry = first.contains(['.', ':']) || first == "localhost";
    let path = if is_registry { rest } else { name };
    let is_lower_case = !path.split([':', '@']).next()?.contains(|char: char| char.is_ascii_uppercase());
    (is_lower_case && name.bytes().all(is_valid) && name.split('/').all(is_part)).then(|| name.into())
}

pub(super) fn field_mask(value: &OsStr) -> Option<FieldMask> {
    let list = value.to_str()?;
    if list == "all" {
        return Some(ALL_FIELDS);
    }
    list.split(',').try_fold(0, |mask, name| {
        let bit = 1 << fields::by_name(name)?;
        (mask & bit == 0).then_some(mask | bit)
    })
}

pub(super) fn cgroup_metrics(value: &OsStr) -> Option<GroupMask> {
    let list = value.to_str()?;
    if list == "none" {
        return Some(0);
    }
    list.split(',').try_fold(0, |mask, name| {
        let bit = 1 << GROUPS.iter().position(|group| *group == name)?;
        (mask & bit == 0).then_some(mask | bit)
    })
}

pub(super) fn group_by(value: &OsStr) -> Option<GroupBy> {
    Some(match value.to_str()? {
        "path" => GroupBy::Path,
        "kind" => GroupBy::Kind,
        "process" => GroupBy::Process,
        _ => return None,
    })
}

pub(super) fn max_samples(value: &OsStr) -> Option<usize> {
    value.to_str()?.parse().ok()
}

pub(super) fn max_label_bytes(value: &OsStr) -> Option<usize> {
    value.to_str()?.parse().ok().filter(|n_bytes| (64..=4096).contains(n_bytes))
}

pub(super) fn cpu_budget(value: &OsStr) -> Option<f64> {
    let fraction: f64 = value.to_str()?.parse().ok()?;
    // NaN is in no range, so it is rejected. abs() turns -0 into 0.
    (0.0..=1024.0).contains(&fraction).then_some(fraction.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        let taken = [
            ":8080",
            ":0",
            ":65535",
            "localhost:80",
            "127.0.0.1:80",
            "[::1]:80",
            "[::]:80",
            "a-b.c_d.svc:80",
        ];
        for text in taken {
            assert_eq!(addr(text.as_ref()).as_deref(), Some(text), "{text}");
        }
        let refused = [
            "",
            ":",
            "8080",
            "localhost",
            ":65536",
            ":-1",
            ":+1",
            ":http",
            "::1:80",
            "[::1]",
            "[::1:80",
            "::1]:80",
            "[x]:80",
            "a b:80",
            "http://a:80",
            "a/b:80",
            ":80 ",
            "[127.0.0.1]:80",
            "a:b:80",
        ];
        for text in refused {
            assert_eq!(addr(text.as_ref()), None, "{text}");
        }
    }

    #[test]
    fn socket_paths_are_checked() {
        let cases = [
            ("/run/crio/crio.sock", Some("/run/crio/crio.sock")),
            ("unix:///run/crio/crio.sock", Some("/run/crio/crio.sock")),
            ("unix://run/crio.sock", Some("run/crio.sock")),
            ("a:b", Some("a:b")),
            ("", None),
            ("unix://", None),
            ("unix://unix:///run/x", None),
            ("tcp://localhost:2376", None),
            ("npipe:////./pipe/containerd", None),
        ];
        for (text, path) in cases {
            assert_eq!(socket(text.as_ref()), path.map(PathBuf::from), "{text}");
        }
    }

    #[test]
    fn node_names_are_checked() {
        let longest = "x".repeat(253);
        for name in ["a", "ip-10-0-0-1.ec2.internal", "caf\u{e9} 1", &longest] {
            assert_eq!(node(name.as_ref()).as_deref(), Some(name));
        }
        for name in ["", "a\nb", "\u{1b}[2J", &format!("{longest}x")] {
            assert_eq!(node(name.as_ref()), None, "{name:?}");
        }
    }

    #[test]
    fn images_are_checked() {
        for name in ["x", "x:1", "localhost/x:0.2.0-RC1", "registry.example:5000/a/b_c@sha256:0f"] {
            assert_eq!(image(name.as_ref()).as_deref(), Some(name));
        }
        let refused = [
            "",
            "x y",
            "a\"b",
            "a\nb",
            "$(NODE)",
            "/x",
            "x/",
            "x:",
            "https://a/x:1",
            "a//x",
            "a/X:1",
            "-x",
            "x.io/A/b",
        ];
        for name in refused {
            assert_eq!(image(name.as_ref()), None, "{name:?}");
        }
    }
}
