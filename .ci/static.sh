#!/bin/sh
# static.sh TARGET: the release binary for a musl TARGET, such as x86_64-unknown-linux-musl; prints where it is.
#
# The same commit and toolchain give the same bytes wherever they are built: no path of the machine goes in.
# std for the target is rustup's or, where rustup cannot fetch it (or MUSL_STD=debian), made of Debian's packages.
set -eu
target=$1
cd "$(dirname "$0")/.."
target_dir=${CARGO_TARGET_DIR:-$PWD/target}
cargo_home=${CARGO_HOME:-$HOME/.cargo}

installed() { rustup target list --installed 2>/dev/null | grep -qx "$target"; }
if [ "${MUSL_STD:-rustup}" = rustup ] && { installed || rustup target add "$target" >&2; }; then
    linker=rust-lld # part of the toolchain and at home on every architecture
else
    sysroot=${MUSL_SYSROOT:-$PWD/target/musl}/$target
    .ci/musl-sysroot.sh "$target" "$sysroot" >&2
    RUSTC=$sysroot/bin/rustc
    linker=$sysroot/bin/ld
    export RUSTC
fi

# Separated by 0x1f, so that a path may hold spaces. They reach the target's code only, not build scripts.
unit=$(printf '\037')
flags="-Clinker=$linker"
cargo fetch --quiet --locked
for from in "$cargo_home"/registry/src/*; do
    flags="$flags$unit--remap-path-prefix=$from=deps"
done
CARGO_ENCODED_RUSTFLAGS="$flags$unit--remap-path-prefix=$target_dir=target$unit--remap-path-prefix=$PWD=." \
    cargo build --locked --release --bin smaps-container-exporter --target "$target" >&2
echo "$target_dir/$target/release/smaps-container-exporter"
