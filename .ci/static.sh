#!/bin/sh
# static.sh TARGET: the release binary for a musl TARGET, such as x86_64-unknown-linux-musl; prints where it is.
#
# The same commit and toolchain give the same bytes wherever they are built: no path of the machine goes in.
# std for the target is the toolchain's, by rustup if need be. Where rustup cannot fetch it (or MUSL_STD=debian), one is made of
# Debian's packages.
set -eu
target=$1
cd "$(dirname "$0")/.."
target_dir=${CARGO_TARGET_DIR:-$PWD/target}
cargo_home=${CARGO_HOME:-$HOME/.cargo}

installed() { [ -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; }
if [ "${MUSL_STD:-rustup}" = rustup ] && { installed || rustup target add "$target" >&2; }; then
    linker=rust-lld # part of the toolchain and at home on every architecture
else
    sysroot=${MUSL_SYSROOT:-$PWD/target/musl}/$target
    .ci/musl-sysroot.sh "$target" "$sysroot" >&2
    RUSTC=$sysroot/bin/rustc
    linker=$sysroot/bin/ld
    export RUSTC
fi

# Separated by 0x1f, so that a path may hold spaces. They reach the target's code only, not build scripts. Of two prefixes that
# match, the later counts: the target directory is usually below this one.
unit=$(printf '\037')
flags="-Clinker=$linker$unit--remap-path-prefix=$PWD=."
cargo fetch --quiet --locked
for from in "$cargo_home"/registry/src/*; do
    flags="$flags$unit--remap-path-prefix=$from=deps"
done
CARGO_ENCODED_RUSTFLAGS="$flags$unit--remap-path-prefix=$target_dir=target" \
    cargo build --locked --release --bin smaps-container-exporter --target "$target" >&2
echo "$target_dir/$target/release/smaps-container-exporter"
