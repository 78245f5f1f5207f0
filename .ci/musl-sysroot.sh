#!/bin/sh
# musl-sysroot.sh TARGET DIR: makes a Rust toolchain in DIR that builds for the musl TARGET. It is for
# machines that cannot download the target with `rustup target add TARGET`, but can install Debian's packages.
# Afterwards this command works as usual:
#   RUSTC=DIR/bin/rustc CARGO_TARGET_..._LINKER=DIR/bin/ld cargo build --release --target TARGET
# The script needs Debian and cargo. It runs as root, because it installs binutils. It takes less than two
# minutes.
#
# The toolchain only builds programs that abort on panic, as this project does in its release profile. The
# toolchain's libunwind is empty, so the stack cannot be unwound.
set -eu
target=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
[ ! -e "$dir/complete" ] || exit 0

case $target in
x86_64-*) arch=amd64 binutils=binutils ld=ld ;;
aarch64-*) arch=arm64 binutils=binutils-aarch64-linux-gnu ld=aarch64-linux-gnu-ld ;;
*)
    echo "unknown target \"$target\": expected x86_64-unknown-linux-musl or aarch64-unknown-linux-musl" >&2
    exit 1
    ;;
esac

# The packages are unpacked instead of installed, because Debian's rustc and rustup conflict.
debs=$dir/debs root=$dir/debian
rm -rf "$debs" "$root"
mkdir -p "$debs" "$root"
[ -n "$(apt-cache madison rustc-web)" ] || apt-get -q update
apt-get -q install -y --no-install-recommends "$binutils"
command -v "$ld" >/dev/null || ld=ld # the ld of the host has no prefix
version=$(apt-cache madison rustc-web | awk '{ split($3, part, "."); print part[1] "." part[2]; exit }')
llvm=$(apt-cache depends "libstd-rust-web-$version" | grep -o 'libllvm[0-9.]*$')
cd "$debs"
apt-get -q download rustc-web rust-web-src "libstd-rust-web-$version" libstd-rust-web-dev "$llvm"
if [ "$arch" = "$(dpkg --print-architecture)" ]; then
    apt-get -q download musl-dev
else
    # This script uses its own package lists, so the system's apt need not support the architecture.
    mkdir -p lists/partial cache/archives/partial
    foreign="-o APT::Architecture=$arch -o APT::Architectures=$arch -o Dir::State::lists=$debs/lists
        -o Dir::Cache=$debs/cache -o Dir::State::status=/dev/null"
    apt-get -q $foreign update
    apt-get -q $foreign download "musl-dev:$arch"
fi
for deb in *.deb; do dpkg-deb -x "$deb" "$root"; done
libs=$(dirname "$(find "$root/usr/lib" -name 'librustc_driver-*.so' | head -1)")
host=$(LD_LIBRARY_PATH=$libs "$root/usr/bin/rustc" -vV | sed -n 's/^host: //p')
sources=$root/usr/lib/rustlib/src/rust
mkdir -p "$(dirname "$sources")"
ln -sfn "$(find "$root/usr/src" -maxdepth 1 -name 'rustc-*')" "$sources"

# Builds the standard library and its dependencies for the target. The libraries must contain bitcode, because
# the project's release profile has lto = "fat".
mkdir -p "$dir/seed/src"
: >"$dir/seed/src/lib.rs"
cat >"$dir/seed/Cargo.toml" <<'TOML'
[package]
name = "seed"
edition = "2024"

[profile.release]
panic = "abort"
codegen-units = 1

[workspace]
TOML
cd "$dir/seed"
registry=${CARGO_HOME:-$HOME/.cargo}/registry
LD_LIBRARY_PATH=$libs RUSTC=$root/usr/bin/rustc RUSTC_BOOTSTRAP=1 \
    RUSTFLAGS="-Cembed-bitcode=yes --remap-path-prefix=$sources=rust --remap-path-prefix=$registry=deps" \
    cargo build --quiet --release -Zbuild-std=std,panic_abort -Zbuild-std-features= \
    --target "$target" --target-dir "$dir/std"

# Makes a sysroot with two standard libraries. The one that was just built is for the target. The host's is
# for build scripts.
sysroot=$dir/lib/rustlib
lib=$sysroot/$target/lib
rm -rf "$sysroot"
mkdir -p "$dir/bin" "$lib/self-contained"
ln -sfn "$root/usr/lib/rustlib/$host" "$sysroot/$host"
find "$dir/std/$target/release/deps" -name 'lib*.rlib' ! -name 'libseed-*' -exec cp {} "$lib/" \;
ln -sfn "$(command -v $ld)" "$dir/bin/ld"
cat >"$dir/bin/rustc" <<SH
#!/bin/sh
LD_LIBRARY_PATH=$libs exec $root/usr/bin/rustc --sysroot $dir "\$@"
SH
chmod +x "$dir/bin/rustc"

# For a static binary, rustc links musl, the C compiler's start files (crtbegin.o and crtend.o), and a library
# that unwinds the stack. In this sysroot, the start files and that library are empty. Empty files are enough,
# because the program aborts on a panic and does not unwind the stack.
musl=$(dirname "$(find "$root/usr/lib" -name rcrt1.o)")
for file in crt1.o rcrt1.o crti.o crtn.o libc.a; do cp "$musl/$file" "$lib/self-contained/"; done
for file in crtbegin.o crtbeginS.o crtend.o crtendS.o; do
    echo '#![no_std]' | "$dir/bin/rustc" --target "$target" --crate-type lib --crate-name start \
        -Cpanic=abort --emit obj -o "$lib/self-contained/$file" -
done
printf '!<arch>\n' >"$lib/self-contained/libunwind.a"
rm -rf "$dir/std" "$debs"
touch "$dir/complete"
