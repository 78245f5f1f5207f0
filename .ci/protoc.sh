#!/bin/sh
# Installs protoc, which the build of containerd-client needs. If that is impossible without a password,
# prints the command that installs protoc.
set -eu

# Each line of the table below has a package manager, a package, and options that prevent questions. All but
# brew need root.
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
