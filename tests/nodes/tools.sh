# tools PACKAGE...: sourced; makes these Debian packages' programs callable, and $NODES_DIR/venv, a Python with pip.
#
# What is missing is unpacked below $NODES_DIR and not installed: bookworm's qemu-system-x86 and the qemu-utils of its backports
# exclude each other, and a test is no reason to remove something from a machine.
tools() {
    dir=$NODES_DIR/tools-$(echo "$*" | sha256sum | cut -c1-12)
    if [ ! -e "$dir/complete" ]; then
        echo "nodes: unpacking $*"
        rm -rf "$dir"
        mkdir -p "$dir/archives/partial"
        get="apt-get install -y -qq --no-install-recommends --download-only -o Dir::Cache::archives=$dir/archives -o APT::Sandbox::User=root"
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
