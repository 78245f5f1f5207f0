//! The files that `--print` prints: what belongs to this version on Kubernetes, in Prometheus and in Grafana.

use std::ffi::OsStr;

pub(super) const EXPECTED: &str =
    "\"manifest\", \"manifest-without-socket\", \"podmonitor\", \"rules\" or \"dashboard\"";

const MANIFEST: &str = include_str!("../kubernetes/daemonset.yaml");

/// Returns the text of a file by its name.
pub(super) fn file(name: &OsStr) -> Option<String> {
    Some(match name.to_str()? {
        "manifest" => MANIFEST.into(),
        "manifest-without-socket" => without_socket(),
        "podmonitor" => include_str!("../kubernetes/podmonitor.yaml").into(),
        "rules" => include_str!("../kubernetes/rules.yaml").into(),
        "dashboard" => include_str!("../http/dashboard.json").into(),
        _ => return None,
    })
}

/// The manifest as the component `without-socket` changes it; a test compares both.
fn without_socket() -> String {
    MANIFEST
        .replace("--containerd-sock=/run/containerd/containerd.sock", "--container-logs=/var/log/containers")
        .replace("/run/containerd", "/var/log/containers")
}
