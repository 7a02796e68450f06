#!/usr/bin/env bash
# Builds, from their Go modules, what the tests and the benchmark compare quorate with:
#
#   etcd, etcdctl, etcdutl   etcd 3.7.3
#   etcd-3.5, etcd-3.6       servers of the releases before, which clusters are taken over from (3.5.35, 3.6.16)
#   benchmark                etcd's load generator (v3.7.1, the newest version of its module)
#   common.test              etcd's own end-to-end suite tests/common, compiled with -tags e2e
#   etcd-suite-count         counts the leaf tests of its verbose output (./count)
#   walcheck                 reads and writes WAL directories with etcd's own code (../wal-go)
#   bboltcheck               checks, makes and changes bbolt files with bbolt itself (crates/bbolt/tests/go)
#
# usage: build.sh [OUTDIR]      default: $QUORATE_GO_DIR, else ~/.cache/quorate/go
#
# A target that is there and was built from the same go.sum and sources, by the same Go, is left alone.
# `build.sh --only "etcd walcheck" [OUTDIR]` builds some of them. The last line is `go tools: OUTDIR`.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
all="etcd etcdctl etcdutl etcd-3.5 etcd-3.6 benchmark common.test etcd-suite-count walcheck bboltcheck"
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
build_flags='-mod=readonly -trimpath -buildvcs=false -ldflags=-s'

# key MODULE_DIR [SOURCE...]: what a target is made of. go.mod and go.sum pin all fetched source; our
# own sources are named.
key() {
    (
        cd "$1"
        echo "$go_version $build_flags"
        shift
        sha256sum go.mod go.sum "$@"
    ) | sha256sum | cut -d' ' -f1
}

# target NAME MODULE_DIR KEY COMMAND... PACKAGE: builds $out/NAME unless it is up to date.
target() {
    local name=$1 dir=$2 want=$3
    shift 3
    [[ " $only " == *" $name "* ]] || return 0
    if [[ -x $out/$name && $(cat "$out/.$name.key" 2>/dev/null) == "$want" ]]; then
        return 0
    fi
    echo "building $name"
    # shellcheck disable=SC2086
    (cd "$dir" && CGO_ENABLED=0 GOFLAGS= nice -n 5 "${@:1:$#-1}" $build_flags -o "$out/$name.new" "${@: -1}")
    if [[ $name == common.test ]]; then
        # The certificates that the suite starts its servers with.
        rm -rf "$out/fixtures"
        cp -R "$(cd "$dir" && go list -mod=readonly -m -f '{{.Dir}}' go.etcd.io/etcd/tests/v3)/fixtures" "$out/fixtures"
        chmod -R u+w "$out/fixtures"
    fi
    mv "$out/$name.new" "$out/$name"
    echo "$want" >"$out/.$name.key"
}

for name in $only; do
    [[ " $all " == *" $name "* ]] || { echo "build.sh: no target $name; there are: $all" >&2; exit 2; }
done

suite=$(key "$here")
target etcd "$here" "$suite" go build go.etcd.io/etcd/server/v3
target etcdctl "$here" "$suite" go build go.etcd.io/etcd/etcdctl/v3
target etcdutl "$here" "$suite" go build go.etcd.io/etcd/etcdutl/v3
for release in 3.5 3.6; do
    target "etcd-$release" "$here/etcd-$release" "$(key "$here/etcd-$release")" go build go.etcd.io/etcd/server/v3
done
target common.test "$here" "$suite" go test -c -tags e2e go.etcd.io/etcd/tests/v3/common
target etcd-suite-count "$here" "$(key "$here" count/main.go)" go build ./count
target walcheck "$here/../wal-go" "$(key "$here/../wal-go" main.go)" go build .
bbolt=$here/../../crates/bbolt/tests/go
target bboltcheck "$bbolt" "$(key "$bbolt" main.go)" go build .
target benchmark "$here/benchmark" "$(key "$here/benchmark")" go build go.etcd.io/etcd/v3/tools/benchmark

echo "go tools: $out"
