//! The values of options: from the text that was given to what the program works with; `None` refuses.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;

use log::LevelFilter;

use super::options::Options;
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

pub(super) fn log_level(value: &OsStr) -> Option<LevelFilter> {
    // Any case, as the Go original takes it.
    Some(match value.to_str()?.to_ascii_lowercase().as_str() {
        "debug" => LevelFilter::Debug,
        "info" => LevelFilter::Info,
        "warn" | "warning" => LevelFilter::Warn,
        "error" => LevelFilter::Error,
        "none" => LevelFilter::Off,
        _ => return None,
    })
}

/// The letters that containerd allows; the name becomes a gRPC header. A namespace given twice is listed once.
pub(super) fn containerd_namespace(options: &mut Options, value: &OsStr) -> Option<()> {
    let name = value.to_str()?;
    let is_valid =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if is_valid && !options.containerd_namespaces.iter().any(|known| known == name) {
        options.containerd_namespaces.push(name.into());
    }
    is_valid.then_some(())
}

pub(super) fn host_name(value: &OsStr) -> Option<String> {
    let name = value.to_str()?;
    let is_valid =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    is_valid.then(|| name.to_ascii_lowercase())
}

pub(super) fn switch(value: &OsStr) -> Option<bool> {
    Some(match value.to_str()? {
        "on" => true,
        "off" => false,
        _ => return None,
    })
}

pub(super) fn field_mask(list: &str) -> Option<FieldMask> {
    if list == "all" {
        return Some(ALL_FIELDS);
    }
    list.split(',').try_fold(0, |mask, name| {
        let bit = 1 << fields::by_name(name)?;
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

pub(super) fn cpu_budget(value: &OsStr) -> Option<f64> {
    let fraction: f64 = value.to_str()?.parse().ok()?;
    // NaN is in no range; abs() makes -0 plain.
    (0.0..=1024.0).contains(&fraction).then_some(fraction.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
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
}
