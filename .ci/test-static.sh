#!/bin/sh
# test-static.sh BINARY: proves that the binary needs only a kernel. Needs root, for chroot.
set -eu
binary=$1
cd "$(dirname "$0")/.."

# ldd is not enough: it reports a static-pie binary as static even if the binary has an interpreter.
! readelf -lW "$binary" | grep INTERP || { echo "$binary has an interpreter" >&2 && exit 1; }
! readelf -dW "$binary" | grep NEEDED || { echo "$binary needs a shared library" >&2 && exit 1; }
for path in "$PWD/" "${CARGO_HOME:-$HOME/.cargo}/" "${CARGO_TARGET_DIR:-$PWD/target}/"; do
    ! grep -aqF "$path" "$binary" || { echo "$binary contains the local path $path" >&2 && exit 1; }
done

# Runs the binary in an otherwise empty directory. The mounts disappear with their mount namespace.
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/proc" "$root/fixtures" "$root/live"
cp "$binary" "$root/smaps-container-exporter"
printf 'id\tinit_pid\tnamespace\tpod\tcontainer\n' >"$root/live/containers.tsv"
printf 'self\t%s\tdefault\tlive\tself\n' $$ >>"$root/live/containers.tsv"
ln -s /proc "$root/live/proc"
run() {
    unshare --mount sh -c \
        'mount --bind /proc "$0/proc" && mount --bind fixtures "$0/fixtures" && exec chroot "$0" "$@"' \
        "$root" /smaps-container-exporter "$@"
}
run --version
run --once --fixture /fixtures/node --filter '*/*/*/*' | cmp - fixtures/golden/plain.prom
run --once --fixture /live --filter '*/*/*/*' >"$root/live.prom"
series='process_smaps_rss_bytes{namespace="default",pod="live",container="self",comm="test-static.sh",'
grep "^$series" "$root/live.prom" >/dev/null
echo "$binary: static, without local paths, runs in an empty chroot, $(wc -c <"$binary") bytes"
