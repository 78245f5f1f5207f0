#!/bin/sh
# Sets up what the browser tests need: Debian's chromium and promtool, and a Python environment under target/. Run as root, or
# with the two packages installed.
set -eu
cd "$(dirname "$0")/../.."

missing=
command -v chromium >/dev/null || missing="chromium fonts-dejavu-core"
command -v promtool >/dev/null || missing="$missing prometheus"
if [ -n "$missing" ]; then
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
fi
[ -d target/browser/venv ] || python3 -m venv target/browser/venv
target/browser/venv/bin/pip install -q -r tests/browser/requirements.txt
