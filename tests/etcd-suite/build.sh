#!/usr/bin/env bash
# Builds, from their Go modules, what the tests and the benchmark compare quorate with:
#
#   etcd, etcdctl, etcdutl   etcd 3.7.3
#   benchmark                etcd's load generator (v3.7.1, the newest version of its module)
#   common.test              etcd's own end-to-end suite tests/common, compiled with -tags e2e
#   etcd-suite-count         counts the leaf tests of its verbose output (./count)
#   walcheck                 reads and writes WAL directories with etcd's own code (../wal-go)
#
# usage: build.sh [OUTDIR]      default: $QUORATE_GO_DIR, else ~/.cache/quorate/go
#
# A target that is there and was built from the same go.sum, by the same Go, is left alone.
# `build.sh --only "etcd walcheck" [OUTDIR]` builds some of them. The last line is `go tools: OUTDIR`.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
all="etcd etcdctl etcdutl benchmark common.test etcd-suite-count walcheck"
only=$all
if [[ ${1-} == --only ]]; then
    only=$2
    shift 2
fi
out=${1:-${QUORATE_GO_DIR:-${HOME:?}/.cache/quorate/go}}

if ! command -v go >/dev/null; then
    echo "build.sh: Go 1.26 or newer is needed and 'go' is not in PATH (https://go.dev/dl)" >&2
    exit 1
fi

mkdir -p "$out"
out=$(cd "$out" && pwd)
# Two builds into one folder wait for each other.
exec 9>"$out/.lock"
flock 9

go_version=$(go env GOVERSION GOOS GOARCH | tr '\n' ' ')

# key MODULE_DIR: what a target of that module is built from. Our own sources count, fetched ones are
# pinned by go.sum.
key() {
    (
        cd "$1"
        echo "$go_version"
        find . -maxdepth 2 \( -name '*.go' -o -name go.mod -o -name go.sum \) -print0 |
            LC_ALL=C sort -z | xargs -0 sha256sum
        sha256sum <"$here/build.sh"
    ) | sha256sum | cut -d' ' -f1
}

# target NAME MODULE_DIR COMMAND...: runs COMMAND -o FILE in MODULE_DIR unless FILE is up to date.
target() {
    local name=$1 dir=$2
    shift 2
    [[ " $only " == *" $name "* ]] || return 0
    local want
    want=$(key "$dir")
    if [[ -x $out/$name && $(cat "$out/.$name.key" 2>/dev/null) == "$want" ]]; then
        return 0
    fi
    echo "building $name"
    local package=${*: -1}
    (cd "$dir" && CGO_ENABLED=0 GOFLAGS= nice -n 5 "${@:1:$#-1}" \
        -mod=readonly -trimpath -buildvcs=false -ldflags='-s -w' -o "$out/$name.new" "$package")
    mv "$out/$name.new" "$out/$name"
    echo "$want" >"$out/.$name.key"
}

for name in $only; do
    [[ " $all " == *" $name "* ]] || { echo "build.sh: no target $name; there are: $all" >&2; exit 2; }
done

target etcd "$here" go build go.etcd.io/etcd/server/v3
target etcdctl "$here" go build go.etcd.io/etcd/etcdctl/v3
target etcdutl "$here" go build go.etcd.io/etcd/etcdutl/v3
target walcheck "$here/../wal-go" go build .
target etcd-suite-count "$here" go build ./count
target common.test "$here" go test -c -tags e2e go.etcd.io/etcd/tests/v3/common
target benchmark "$here/benchmark" go build go.etcd.io/etcd/v3/tools/benchmark

echo "go tools: $out"
