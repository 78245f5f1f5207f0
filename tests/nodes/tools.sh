# Scripts source this file. `tools PACKAGE...` puts the programs of Debian packages on the PATH, and makes a
# Python environment with pip in $NODES_DIR/venv.
#
# Missing packages are only unpacked, below $NODES_DIR. Installing a package could remove another package from
# the machine. For example, bookworm's qemu-system-x86 conflicts with the qemu-utils of bookworm-backports.
tools() {
    dir=$NODES_DIR/tools-$(echo "$*" | sha256sum | cut -c1-12)
    if [ ! -e "$dir/complete" ]; then
        echo "nodes: unpacking $*"
        rm -rf "$dir"
        mkdir -p "$dir/archives/partial"
        get="apt-get install -y -qq --no-install-recommends --download-only"
        get="$get -o Dir::Cache::archives=$dir/archives -o APT::Sandbox::User=root"
        $get "$@" >/dev/null 2>&1 || { apt-get update -qq && $get "$@" >/dev/null; }
        for deb in "$dir"/archives/*.deb; do
            [ ! -e "$deb" ] || dpkg-deb -x "$deb" "$dir"
        done
        rm -rf "$dir/archives"
        touch "$dir/complete"
    fi
    PATH=$dir/usr/sbin:$dir/usr/bin:$dir/sbin:$dir/bin:$PATH
    libraries=$dir/usr/lib/$(uname -m)-linux-gnu:$dir/lib/$(uname -m)-linux-gnu
    LD_LIBRARY_PATH=$libraries:$libraries/pulseaudio
    export PATH LD_LIBRARY_PATH
    [ -x "$NODES_DIR/venv/bin/pip" ] || python3 -m venv "$NODES_DIR/venv"
}
