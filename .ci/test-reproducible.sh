#!/bin/sh
# test-reproducible.sh BINARY TARGET: builds the same commit again in another directory. Fails if the bytes
# differ.
set -eu
binary=$1 target=$2
cd "$(dirname "$0")/.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
mkdir "$copy/elsewhere"
git ls-files -z | xargs -0 cp --parents -t "$copy/elsewhere"
again=$(CARGO_TARGET_DIR="$copy/elsewhere/made" "$copy/elsewhere/.ci/static.sh" "$target")
cmp "$binary" "$again"
sum=$(sha256sum <"$binary" | cut -c1-64)
echo "$binary: the same $(wc -c <"$binary") bytes when built again in another directory, sha256 $sum"
