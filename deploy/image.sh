#!/bin/sh
# Builds the image that needs no registry, and a file of it for machines elsewhere: image.sh BINARY TAR [TAG]
set -eu
binary=$1 tar=$2 tag=${3:-quorate}
deploy=$(dirname "$0")
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT

install -D -m 755 "$binary" "$context/rootfs/usr/local/bin/quorate"
mkdir "$context/data"
# Lines are "NAME => PATH (ADDRESS)" or "PATH (ADDRESS)"; the kernel's own library has no path. A static binary has none.
ldd "$binary" >"$context/libraries" 2>&1 || grep -q "not a dynamic" "$context/libraries"
if grep "not found" "$context/libraries" >&2; then exit 1; fi
grep -o '/[^ ]*' "$context/libraries" | while read -r library; do
    install -D -m 755 "$library" "$context/rootfs$library"
done

# Quiet, unless it fails: some builders tell that they are old.
said=$(docker build --quiet --tag "$tag" --file "$deploy/Dockerfile.scratch" "$context" 2>&1) || {
    echo "$said" >&2
    exit 1
}
docker save --output "$tar" "$tag"
echo "image $tag: $(docker image inspect --format '{{.Size}}' "$tag" | awk '{ printf "%.0f MB", $1 / 1e6 }');" \
    "elsewhere: docker load --input $tar"
