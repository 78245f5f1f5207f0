#!/bin/sh
# static.sh TARGET: builds the release binary for a musl TARGET, such as x86_64-unknown-linux-musl. Prints the
# path of the binary.
#
# The same commit and toolchain give the same bytes on every machine, because the binary contains no path of
# the machine. The standard library for the target comes with the toolchain or from rustup. If rustup cannot
# download the library, or if MUSL_STD=debian is set, the library is built from Debian's packages.
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

# The character 0x1f separates the flags, so paths may contain spaces. The flags apply only to code for the
# target, not to build scripts. The target directory is usually inside the current directory, so its paths
# match two --remap-path-prefix flags. The flag for the target directory comes last, because rustc uses the
# last flag that matches.
unit=$(printf '\037')
flags="-Clinker=$linker$unit--remap-path-prefix=$PWD=."
cargo fetch --quiet --locked
for from in "$cargo_home"/registry/src/*; do
    flags="$flags$unit--remap-path-prefix=$from=deps"
done
CARGO_ENCODED_RUSTFLAGS="$flags$unit--remap-path-prefix=$target_dir=target" \
    cargo build --locked --release --bin smaps-container-exporter --target "$target" >&2
echo "$target_dir/$target/release/smaps-container-exporter"
