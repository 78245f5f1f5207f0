#!/bin/sh
# static.sh TARGET: builds the release binary for a musl TARGET, and prints its path. The bytes depend only on
# the commit and the toolchain. If rustup cannot install the target, or with MUSL_STD=debian, the standard
# library is built from Debian's packages.
set -eu
target=$1
cd "$(dirname "$0")/.."
target_dir=${CARGO_TARGET_DIR:-$PWD/target}
cargo_home=${CARGO_HOME:-$HOME/.cargo}

installed() { [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; }
if [ "${MUSL_STD:-rustup}" = rustup ] && { installed || rustup target add "$target" >&2; }; then
    linker=rust-lld # rust-lld is part of the toolchain and links for each architecture
else
    sysroot=${MUSL_SYSROOT:-$PWD/target/musl}/$target
    .ci/musl-sysroot.sh "$target" "$sysroot" >&2
    RUSTC=$sysroot/bin/rustc
    linker=$sysroot/bin/ld
    export RUSTC
fi

# 0x1f separates the flags, so that paths may contain spaces.
unit=$(printf '\037')
flags="-Clinker=$linker$unit--remap-path-prefix=$PWD=."
cargo fetch --quiet --locked
for from in "$cargo_home"/registry/src/*; do
    flags="$flags$unit--remap-path-prefix=$from=deps"
done
# The flag for the target directory comes last, because rustc uses the last match, and this directory is
# usually inside $PWD.
CARGO_ENCODED_RUSTFLAGS="$flags$unit--remap-path-prefix=$target_dir=target" \
    cargo build --locked --release --bin smaps-container-exporter --target "$target" >&2
echo "$target_dir/$target/release/smaps-container-exporter"
