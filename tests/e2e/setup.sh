#!/bin/sh
# setup.sh [SUITE...]: installs what the end-to-end tests need on a bare Debian 12, except Rust. If everything
# is already installed, it does nothing.
#
# containerd, runc, prometheus, busybox, nginx, haproxy, strace and HTTP clients are not installed, but only
# unpacked below .debs. So their services never start, and a containerd of the host is not changed. SUITE is a
# release of Debian: containerd from that release is unpacked into .debs/SUITE, so that containerd of several
# releases can be used side by side. The suite sid has containerd 2.x.
set -eu
cd "$(dirname "$0")"
mkdir -p .debs
exec 9>.debs/.lock
flock 9 # groups of tests may run this script at the same time

install() {
    echo "setup: installing $*"
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 ||
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }
}

# unpack NAME SUITE PACKAGE...: unpacks packages into .debs/NAME. The packages come from the mirror of the
# host, but the package lists are separate from those of the host.
unpack() {
    dir=$PWD/.debs/$1
    suite=$2
    shift 2
    [ ! -e "$dir/.complete" ] || return 0
    echo "setup: unpacking $* of Debian $suite"
    rm -rf "$dir" "$dir.apt"
    mkdir -p "$dir" "$dir.apt/lists/partial" "$dir.apt/archives/partial"
    mirror=$(cat /etc/apt/sources.list.d/*.sources 2>/dev/null | sed -n 's/^URIs: *//p' | head -1)
    [ -n "$mirror" ] ||
        mirror=$(sed -n 's/^deb  *\(\[[^]]*\] *\)\{0,1\}\([^ ]*\).*/\2/p' /etc/apt/sources.list | head -1)
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb [signed-by=$keyring] $mirror $suite main" >"$dir.apt/sources.list"
    cat >"$dir.apt/apt.conf" <<EOF
Dir::Etc::sourcelist "$dir.apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$dir.apt/lists";
Dir::State::status "/dev/null";
Dir::Cache "$dir.apt";
Acquire::Languages "none";
APT::Sandbox::User "root";
EOF
    APT_CONFIG=$dir.apt/apt.conf apt-get update -qq
    (cd "$dir.apt/archives" && APT_CONFIG=$dir.apt/apt.conf apt-get download -qq "$@")
    for deb in "$dir.apt"/archives/*.deb; do dpkg-deb -x "$deb" "$dir"; done
    rm -rf "$dir.apt"
    touch "$dir/.complete"
}

command -v protoc >/dev/null || install protobuf-compiler
command -v python3 >/dev/null && python3 -c 'import ensurepip' 2>/dev/null || install python3 python3-venv
# `make image` needs podman or buildah, and the test of `make image` uses both.
command -v podman >/dev/null && command -v buildah >/dev/null || install podman buildah
# programs/stuck.c is a FUSE file system, so it needs this header.
[ -e /usr/include/fuse3/fuse_lowlevel.h ] || install libfuse3-dev
# test_anonymous.py needs Java, Go and Node.js. Java is installed instead of unpacked, because Debian's Java
# needs its configuration in /etc. Go and Node.js are installed in the same way.
command -v javac >/dev/null || install openjdk-17-jdk-headless
command -v go >/dev/null || install golang-go
command -v node >/dev/null || install nodejs
unpack bookworm bookworm containerd runc prometheus busybox-static
# Unpacks HTTP clients, proxies and strace, and their libraries, which a minimal Debian does not have.
unpack clients bookworm apache2-utils libapr1 libaprutil1 libexpat1 wrk libluajit-5.1-2 nginx libpcre2-8-0 \
    libssl3 haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1 strace libunwind8
for suite; do unpack "$suite" "$suite" containerd; done

if ! cmp -s requirements.txt .venv/installed.txt; then
    echo "setup: making tests/e2e/.venv"
    rm -rf .venv
    python3 -m venv .venv
    .venv/bin/python -m pip install -q --disable-pip-version-check -r requirements.txt
    cp requirements.txt .venv/installed.txt
fi
