#!/bin/sh
# protoc.sh: installs protoc, which the build of containerd-client needs. The script never asks for a password
# or for an answer. If it cannot install protoc without them, it prints one line that says how to install
# protoc, and fails.
set -eu

# Each line of the table below has a package manager, a package, and options with which the package manager
# asks no question. brew refuses to run as root. The other package managers need root.
while read -r manager package options; do
    command -v "$manager" > /dev/null || continue
    hint="$manager ${options%% *} $package"
    if [ "$manager" = brew ] || [ "$(id -u)" = 0 ]; then
        [ "$manager" != apt-get ] || apt-get update -qq
        # shellcheck disable=SC2086 # $options has several words
        "$manager" $options "$package" > /dev/null && exit 0
    fi
    [ "$manager" = brew ] || hint="sudo $hint"
    echo "protoc is missing: $hint" >&2
    exit 1
done <<'END'
apt-get protobuf-compiler install -y -qq
dnf protobuf-compiler install -y -q
apk protoc add --quiet
pacman protobuf -S --noconfirm --quiet
zypper protobuf-devel install -y --quiet
brew protobuf install --quiet
END
echo "protoc is missing: install the protobuf compiler, or put protoc on the PATH" >&2
exit 1
