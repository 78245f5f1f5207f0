//! The version, revision and target of this build, for `--version` and `smaps_exporter_build_info`.

/// The version in Cargo.toml.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that the program was built from. The Makefile passes the commit; a build without the Makefile
/// has `unknown`.
pub const REVISION: &str = match option_env!("SMAPS_EXPORTER_REVISION") {
    Some(revision) if !revision.is_empty() => revision,
    _ => "unknown",
};

/// The name of the image that a local build makes. `src/kubernetes/daemonset.yaml` contains this name.
pub const LOCAL_IMAGE: &str = concat!("localhost/smaps-container-exporter:", env!("CARGO_PKG_VERSION"));

/// The name of the image in which this program is released. A release build passes the name in an environment
/// variable. In any other build, this is the name of the local image.
pub const IMAGE: &str = match option_env!("SMAPS_EXPORTER_IMAGE") {
    Some(image) if !image.is_empty() => image,
    _ => LOCAL_IMAGE,
};

const LIBC: &str = if cfg!(target_env = "musl") {
    "-musl"
} else if cfg!(target_env = "gnu") {
    "-gnu"
} else {
    ""
};

/// Returns the target of this build: machine, system and C library, such as `x86_64-linux-musl`.
pub fn target() -> String {
    format!("{}-{}{LIBC}", std::env::consts::ARCH, std::env::consts::OS)
}
