//! The version, revision and target of this build, for `--version` and `smaps_exporter_build_info`.

/// The version in Cargo.toml.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit, as the Makefile passes it; `unknown` if cargo was called without it.
pub const REVISION: &str = match option_env!("SMAPS_EXPORTER_REVISION") {
    Some(revision) if !revision.is_empty() => revision,
    _ => "unknown",
};

/// The image in `src/kubernetes/daemonset.yaml`, which a local build makes.
pub const LOCAL_IMAGE: &str = concat!("localhost/smaps-container-exporter:", env!("CARGO_PKG_VERSION"));

/// The image that this program is released in, as the build passes it in; the local one without that.
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

/// The machine, system and C library, such as `x86_64-linux-musl`.
pub fn target() -> String {
    format!("{}-{}{LIBC}", std::env::consts::ARCH, std::env::consts::OS)
}
