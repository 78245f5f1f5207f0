//! The texts of `--help` and `--version`.

use std::fmt::Write;

use super::build_info;
use super::table::OPTIONS;

const SOURCES: &str = "
Without --containerd-sock, --cri-sock, --container-logs and --fixture, the first existing socket is used:
/run/containerd/containerd.sock by containerd's API, /run/crio/crio.sock or /run/cri-dockerd.sock by CRI.
";

/// Returns the text of `--help`.
pub fn help() -> String {
    let mut text = format!(
        "{}.\n\nusage: {} [OPTION]...; -addr VALUE and -addr=VALUE mean --addr VALUE\n\n",
        "Exports to Prometheus where the memory of containers is, from /proc/<pid>/smaps",
        env!("CARGO_PKG_NAME"),
    );
    for spec in OPTIONS {
        let name = format!("--{} {}", spec.name, spec.value);
        let default = if spec.default.is_empty() { String::new() } else { format!(" [{}]", spec.default) };
        writeln!(text, "  {name:<28}{}{default}", spec.help).expect("writing to a string cannot fail");
    }
    text.push_str("  -h, --help                  show this help (defaults in brackets)\n");
    text.push_str("  -V, --version               show version, revision and target\n");
    text.push_str(SOURCES);
    text
}

/// Returns the text of `--version`.
pub(crate) fn version() -> String {
    let (name, target) = (env!("CARGO_PKG_NAME"), build_info::target());
    format!("{name} {} (revision {}, {target})\n", build_info::VERSION, build_info::REVISION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_names_the_build() {
        assert!(version().starts_with("smaps-container-exporter 0.2.0 (revision "), "{}", version());
        assert!(version().ends_with(&format!(", {})\n", build_info::target())), "{}", version());
    }

    #[test]
    fn help_fits_one_screen() {
        let help = help();
        assert!(help.lines().count() <= 39 && help.lines().all(|line| line.len() <= 110), "{help}");
        for spec in OPTIONS {
            let line =
                help.lines().find(|line| line.starts_with(&format!("  --{} ", spec.name))).expect(spec.name);
            assert!(line.contains(spec.help), "{line}");
            assert_eq!(line.ends_with(&format!(" [{}]", spec.default)), !spec.default.is_empty(), "{line}");
        }
    }
}
