//! Returns the files that `--print` prints: configuration for Kubernetes, Prometheus and Grafana that fits
//! this version of the program.

use std::ffi::OsStr;

pub(super) const EXPECTED: &str = "\"manifest\", \"manifest-without-socket\", \"podmonitor\", \
    \"prometheusrule\", \"rules\" or \"dashboard\"";

const MANIFEST: &str = include_str!("../kubernetes/daemonset.yaml");

/// Returns the text of the file with this name, or `None` if there is no such file.
pub(super) fn file(name: &OsStr) -> Option<String> {
    Some(match name.to_str()? {
        "manifest" => MANIFEST.into(),
        "manifest-without-socket" => without_socket(),
        "podmonitor" => include_str!("../kubernetes/podmonitor.yaml").into(),
        "prometheusrule" => include_str!("../kubernetes/prometheusrule.yaml").into(),
        "rules" => include_str!("../kubernetes/rules.yaml").into(),
        "dashboard" => include_str!("../http/dashboard.json").into(),
        _ => return None,
    })
}

/// Returns the manifest after the change that the kustomize component `without-socket` makes. A test checks
/// that the component makes the same change.
fn without_socket() -> String {
    MANIFEST
        .replace("--containerd-sock=/run/containerd/containerd.sock", "--container-logs=/var/log/containers")
        .replace("/run/containerd", "/var/log/containers")
}
