#!/bin/bash
# Writes docs/adr/002-carried-h2.patch and third_party/h2.sha256 anew: what third_party/h2 differs in from the crate of
# the same version in Cargo's registry. Run it after a change there, or after a renewal (docs/adr/002-carried-h2.md).
set -euo pipefail
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"/\1/p' third_party/h2/Cargo.toml | head -1)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# A package that depends on exactly that version makes Cargo fetch it, and check it against the registry's checksum.
mkdir "$work/src"
echo > "$work/src/lib.rs"
printf '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\nh2 = "=%s"\n[workspace]\n' "$version" \
    > "$work/Cargo.toml"
cargo fetch --quiet --manifest-path "$work/Cargo.toml"
theirs=$(cargo metadata --format-version 1 --manifest-path "$work/Cargo.toml" \
    | grep -o '[^"]*/h2-'"$version"'/Cargo.toml' | head -1)
theirs=${theirs%/Cargo.toml}
(cd "$theirs" && find src LICENSE -type f | LC_ALL=C sort | xargs sha256sum) > third_party/h2.sha256
ln -s "$theirs" "$work/a"
ln -s "$PWD/third_party/h2" "$work/b"
# Without times, so that the file is the same wherever it is written.
(cd "$work" && diff -ru a/src b/src || test $? -eq 1) \
    | sed -E 's/^((---|\+\+\+) [^\t]*)\t.*/\1/; s/^diff -ru /diff /' > docs/adr/002-carried-h2.patch
grep -c '^@@' docs/adr/002-carried-h2.patch | sed 's/$/ hunks/'
